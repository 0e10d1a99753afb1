"""One JSON request over HTTP that ends in a value or in one clear line, whatever the server does.
Tried again, after a back-off or the server's Retry-After: no connection, timeouts, transient
statuses (429, 5xx, ...), and a 200 whose body is cut off or not what was asked for. Refused at
once: other statuses, redirects (they would carry the key to another host), a long answer. No
message shows the key.
"""

import http.client
import json
import random
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from typing import Any, TypeVar
from urllib.parse import urlsplit

MAX_BODY = 8 << 20  # bytes of an answer
MAX_WAIT = 300.0  # seconds; a server that asks for more is not waited for
PASSING = {408, 409, 425, 429}  # and 5xx: transient errors, worth another try
LOCAL = ("localhost", "127.0.0.1", "::1")  # no proxy knows the way there
T = TypeVar("T")  # what an answer is read as
_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|.)?|\x9b[0-?]*[@-~]")

class Refused(ValueError):
    """A request that fails for good. `status` is HTTP's, or 0 without an answer."""

    def __init__(self, message: str, status: int = 0):
        super().__init__(message)
        self.status = status

class Passing(Exception):
    """An error that may pass. `wait`: seconds that the server asks for, or None."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait

class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None

def post_json(url: str, body: dict, read: Callable[[Any], T], *, key: str = "",
              timeout: float = 60.0, tries: int = 6, before: Callable[[], None] = lambda: None,
              sleep: Callable[[float], bool | None] = time.sleep) -> T:  # fmt: skip
    """read(what the server answered to `body`); Refused when no try can help, or all have failed.

    read: raises ValueError on a wrong answer. timeout: seconds until a try's answer begins, and
    again until it ends. before: called ahead of each try. sleep: true if woken: no further try.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "retroformer"}
    headers |= {"Authorization": f"Bearer {key}"} if key else {}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
    for number in count(1):
        before()
        try:
            data = _once(request, timeout)
            try:
                return read(json.loads(data))
            except (ValueError, RecursionError) as error:
                raise Passing(f"not an answer that can be read ({error})") from error
        except (Refused, Passing) as error:
            message = without_key(one_printable_line(without_key(str(error), key)), key)
            message = f"{url.partition('?')[0]}: {message}"  # a query may hold a secret
            if isinstance(error, Refused):
                raise Refused(message, error.status) from None
            backoff = min(60.0, 2.0 ** (number - 1)) * random.uniform(0.5, 1.0)  # a second at first
            wait = backoff if error.wait is None else error.wait
        if wait > MAX_WAIT:
            asked = f"it asks to wait {wait:.0f} seconds, at most {MAX_WAIT:.0f} are waited"
            raise Refused(f"{message}; {asked}")
        if number >= tries or sleep(wait):
            break
    raise Refused(f"{message}; given up after {number} tries")

def _once(request: urllib.request.Request, timeout: float) -> bytes:
    """One try: the body of a 200. Raises Passing or Refused."""
    proxies: dict | None = {} if urlsplit(request.full_url).hostname in LOCAL else None  # as usual
    opener = urllib.request.build_opener(_NoRedirect(), urllib.request.ProxyHandler(proxies))
    try:
        with opener.open(request, timeout=timeout) as response:
            return _read(response, timeout)
    except urllib.error.HTTPError as error:
        with error:
            raise _status(error, timeout) from None
    except TimeoutError:
        raise Passing(f"no answer within {timeout:g} seconds") from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise Refused(f"its certificate is not accepted ({error.reason})") from None
        slow = isinstance(error.reason, TimeoutError)
        why = f"within {timeout:g} seconds" if slow else f"({error.reason})"
        raise Passing(f"no connection {why}") from None
    except (http.client.HTTPException, OSError) as error:
        raise Passing(f"the answer broke off ({type(error).__name__}: {error})") from None

def _read(response: Any, timeout: float, limit: int = MAX_BODY) -> bytes:
    """The whole body, in at most twice `timeout` seconds."""
    data, end = bytearray(), time.monotonic() + timeout
    promised = response.length  # by Content-Length; None without one
    while len(data) != promised and (part := response.read1(1 << 16)):
        data += part
        if len(data) > limit:
            raise Refused(f"its answer is longer than {limit} bytes")
        if time.monotonic() > end:
            raise TimeoutError
    if promised is not None and len(data) < promised:
        raise Passing(f"the answer broke off ({promised - len(data)} bytes are missing)")
    return bytes(data)

def _status(error: urllib.error.HTTPError, timeout: float) -> Exception:
    """What an answer other than 200 means."""
    text, code = "", None  # the status says enough
    with suppress(http.client.HTTPException, OSError, Passing, Refused):
        text = _read(error, timeout, 1 << 16).decode(errors="replace")
    # {"error": {"message": ..., "code": ...}}, {"error": "..."}, {"message": "..."} or text
    with suppress(ValueError, RecursionError, AttributeError):
        value = json.loads(text)
        value = value.get("error", value)
        text = value if isinstance(value, str) else str(value.get("message", text))
        code = value.get("code")
    message = f"HTTP {error.code}: {text.strip() or error.reason}"
    if 300 <= error.code < 400:
        to = error.headers.get("Location", "nowhere").partition("?")[0]
        message = f"HTTP {error.code}: it redirects to {to}, which is not followed"
    elif (error.code in PASSING or error.code >= 500) and code != "insufficient_quota":
        return Passing(message, retry_after(error.headers.get("Retry-After", "")))
    return Refused(message, error.code)

def retry_after(text: str) -> float | None:
    """Seconds that a Retry-After header asks for: a whole number or a date; None if neither."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text.strip())
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

def one_printable_line(text: str, limit: int = 300) -> str:
    """One printable line of at most `limit` characters, whatever a server or a model wrote."""
    line = " ".join(_ESCAPES.sub("", text[: 20 * limit]).split())
    return "".join(c for c in line if c.isprintable())[:limit].strip()

def without_key(text: str, key: str) -> str:
    """`text` without the key. One below 8 characters ("x", for a local server) protects nothing."""
    return text.replace(key, "[key]") if len(key) >= 8 else text
