"""One JSON request over HTTP that ends in a value or in one clear line, whatever the server does.
Tried again, after a back-off or the server's Retry-After: no connection, timeouts, transient
statuses (429, 5xx, ...), and a 200 whose body is cut off or not what was asked for. Refused at
once: other statuses, redirects (they would carry the key to another host), a long answer. No
message shows a secret. Read before: problem.py.
"""

import http.client
import json
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from itertools import count
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

from retro.interop.problem import Problem, problem_in
from retro.run.printable import one_printable_line

MAX_BODY = 8 << 20  # bytes of an answer
MAX_WAIT = 300.0  # seconds; a server that asks for more is not waited for
PASSING = {408, 409, 425, 429}  # and 5xx: transient errors, worth another try
LOCAL = ("localhost", "127.0.0.1", "::1")  # no proxy knows the way there
T = TypeVar("T")  # what an answer is read as

class Refused(ValueError):
    """A request that fails for good. `problem`: what the server says, if it does."""

    def __init__(self, message: str, problem: Problem | None = None):
        super().__init__(message)
        self.problem = problem or Problem("")

class Passing(Exception):
    """An error that may pass. `wait`: seconds that the server asks for, or None."""

    def __init__(self, message: str, wait: float | None = None):
        super().__init__(message)
        self.wait = wait

class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: object) -> None:
        return None

class _Kept(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Of an opener: another thread can shut the sockets that it connects."""

    def __init__(self, sockets: list[socket.socket]):
        super().__init__()
        self.sockets = sockets

    def do_open(self, http_class: Any, req: urllib.request.Request, **more: Any) -> Any:
        sockets = self.sockets

        class Connection(http_class):
            def connect(self) -> None:
                super().connect()
                sockets.append(self.sock)

        return super().do_open(Connection, req, **more)

def post_json(url: str, body: dict, read: Callable[[Any], T], **more: Any) -> T:
    """`post`, where the answer is JSON."""

    def parsed(data: bytes) -> T:
        value = json.loads(data)
        if isinstance(value, dict) and value.get("error") and not value.get("choices"):
            raise failure(problem_in(value, 200))
        return read(value)

    return post(url, body, parsed, **more)

def post(url: str, body: dict, read: Callable[[bytes], T], *, secrets: Sequence[str] = ("",),
         timeout: float = 60.0, tries: int = 6, before: Callable[[], None] = lambda: None,
         sleep: Callable[[float], bool | None] = time.sleep) -> T:  # fmt: skip
    """read(what the server answered to `body`); Refused when no try can help, or all have failed.

    read: raises Passing or another ValueError on a wrong answer. secrets: the key, then what else
    no message may show. timeout: seconds that a try may take from its connection to its answer's
    last byte. before: called ahead of each try. sleep: true if woken: no further try.
    """
    headers = {"Content-Type": "application/json", "User-Agent": "retroformer"}
    headers |= {"Authorization": f"Bearer {secrets[0]}"} if secrets[0] else {}
    data = json.dumps(body, ensure_ascii=False).encode(errors="ignore")  # no lone surrogates
    request = urllib.request.Request(url, data, headers, method="POST")
    for number in count(1):
        before()
        try:
            answer = _once(request, timeout)
            try:
                return read(answer)
            except Refused:
                raise
            except (ValueError, RecursionError) as error:
                raise Passing(f"not an answer that can be read ({error})") from error
        except (Refused, Passing) as error:
            # a query may hold a secret; a message is cut only when all are out of it
            message = without(secrets, one_printable_line(without(secrets, str(error)), 3000))[:300]
            message = f"{without(secrets, url.partition('?')[0])}: {message}"
            if isinstance(error, Refused):
                raise Refused(message, error.problem) from None
            backoff = min(60.0, 2.0 ** (number - 1)) * random.uniform(0.5, 1.0)  # a second at first
            wait = backoff if error.wait is None else error.wait
        if wait > MAX_WAIT:
            asked = f"it asks to wait {wait:.0f} seconds, at most {MAX_WAIT:.0f} are waited"
            raise Refused(f"{message}; {asked}")
        if number >= tries or sleep(wait):
            break
    raise Refused(f"{message}; given up after {number} tries")

def _once(request: urllib.request.Request, timeout: float) -> bytes:
    """One try: the body of a 200. Raises Passing or Refused, at the latest after `timeout` seconds:
    then its socket is shut, whatever the server still drips.
    """
    sockets: list[socket.socket] = []
    results: SimpleQueue[bytes | Exception] = SimpleQueue()
    exchange = lambda: results.put(_exchange(request, timeout, sockets))
    Thread(target=exchange, daemon=True).start()
    try:
        result = results.get(timeout=timeout)
    except Empty:
        result = Passing(f"no answer within {timeout:g} seconds")
    for one in sockets:
        with suppress(OSError):
            socket.socket.shutdown(one, socket.SHUT_RDWR)  # without a word of TLS
    if isinstance(result, Exception):
        raise result
    return result

def _exchange(request: urllib.request.Request, timeout: float,
              sockets: list[socket.socket]) -> bytes | Exception:  # fmt: skip
    """The body of a 200, or what went wrong."""
    proxies: dict | None = {} if urlsplit(request.full_url).hostname in LOCAL else None  # as usual
    opener = urllib.request.build_opener(_NoRedirect(), urllib.request.ProxyHandler(proxies),
                                         _Kept(sockets))  # fmt: skip
    try:
        with opener.open(request, timeout=timeout) as response:
            return _read(response)
    except urllib.error.HTTPError as error:
        with error:
            return _status(error)
    except (Refused, Passing) as error:
        return error
    except Exception as error:  # http.client and its parsers raise more than they tell
        reason = error.reason if isinstance(error, urllib.error.URLError) else None
        if isinstance(reason, ssl.SSLCertVerificationError):
            return Refused(f"its certificate is not accepted ({reason})")
        if isinstance(reason or error, TimeoutError):
            return Passing(f"no answer within {timeout:g} seconds")
        if reason:
            return Passing(f"no connection ({reason})")
        return Passing(f"the answer broke off ({type(error).__name__}: {error})")

def _read(response: Any, limit: int = MAX_BODY) -> bytes:
    """The whole body."""
    data = bytearray()
    promised = response.length  # by Content-Length; None without one
    while len(data) != promised and (part := response.read1(1 << 16)):
        data += part
        if len(data) > limit:
            raise Refused(f"its answer is longer than {limit} bytes")
    if promised is not None and len(data) < promised:
        raise Passing(f"the answer broke off ({promised - len(data)} bytes are missing)")
    return bytes(data)

def _status(error: urllib.error.HTTPError) -> Exception:
    """What an answer other than 200 means."""
    text = ""  # the status says enough
    with suppress(http.client.HTTPException, OSError, ValueError, Passing):
        text = _read(error, 1 << 16).decode(errors="replace")
    if 300 <= error.code < 400:
        to = error.headers.get("Location", "nowhere").partition("?")[0]
        return Refused(f"HTTP {error.code}: it redirects to {to}, which is not followed")
    try:
        problem = problem_in(json.loads(text), error.code)
    except (ValueError, RecursionError):
        problem = problem_in(text.strip() or str(error.reason), error.code)
    return failure(problem, retry_after(error.headers.get("Retry-After", "")))

def failure(problem: Problem, wait: float | None = None) -> Refused | Passing:
    """Refused, or Passing where another try of the same request may be answered."""
    status, settled = problem.status, problem.fault() or problem.unknown()
    passes = status in PASSING or status >= 500 or status == 200
    message = f"HTTP {status}: {problem.message}"
    if passes and not settled and "insufficient_quota" not in problem.code:
        return Passing(message, wait)
    return Refused(message, problem)

def retry_after(text: str) -> float | None:
    """Seconds that a Retry-After header asks for: a whole number or a date; None if neither."""
    if re.fullmatch("[0-9]{1,9}", text.strip()):
        return float(text.strip())
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None

def without(secrets: Sequence[str], text: str) -> str:
    """`text` without any of them. One below 8 characters ("x", for a local server) protects
    nothing.
    """
    for secret in secrets:
        text = text.replace(secret, "[key]") if len(secret) >= 8 else text
    return text
