"""A language model behind an OpenAI-compatible endpoint: prompts in, texts out. Each answer is kept
on disk, one file a request: a repeated run costs nothing. The key, from OPENAI_API_KEY, goes into
the request's header and nowhere else. Read before: post.py (one request), spoken.py.
"""

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_plus, urlsplit, urlunsplit

from retro.interop.post import Passing, Refused, failure, post_json, without
from retro.interop.problem import SYSTEM, Problem, problem_in
from retro.interop.spoken import spoken
from retro.run.cli import Spent
from retro.run.files import check_writable, read_json, write_json
from retro.run.printable import printable_lines, visible

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
FAILED = re.compile("error|abort|cancel|insufficient|overload|timeout")  # answers that ended so
FAULTS = {"length": re.compile("length|max.?(output.?)?tokens|context|incomplete|truncated"),
          "content_filter": re.compile("filter|safety|sensitive|recit|refus|block|prohib|spii")}

class Budget:
    """What all clients that share it may spend (0: no limit) and have spent. Checked before each
    try: requests under way may take `tokens` above its limit.
    """

    def __init__(self, max_requests: int = 0, max_tokens: int = 0):
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.requests = self.tokens = self.cached = 0
        self.lock = threading.Lock()

    def request(self) -> None:
        """Count a request about to be sent; Spent if the budget has none left."""
        with self.lock:
            for option, spent, limit in (("--max-requests", self.requests, self.max_requests),
                                         ("--max-tokens", self.tokens, self.max_tokens)):
                if limit and spent >= limit:
                    raise Spent(f"budget spent: {option} {limit} ({self}); what was answered is "
                                "kept, the same command goes on from there")  # fmt: skip
            self.requests += 1

    def __str__(self) -> str:
        return f"{self.requests} requests, {self.tokens} tokens, {self.cached} answers from disk"

class Answer(NamedTuple):
    """What the model said aloud (spoken.py); None: its context can't hold the prompt."""

    text: str | None
    fault: str = ""  # why it is no whole answer, and not kept: context, length, empty, ...

class Client:
    """`ask(prompts) -> answers`. A prompt is a string, for chat a list of {"role", "content"}."""

    def __init__(self, base_url: str, model: str, api: str = "chat", *, cache: str, budget: Budget,
                 concurrency: int = 8, timeout: float = 60.0, tries: int = 6):  # fmt: skip
        if api not in PATHS:
            raise ValueError(f"--api {api!r}: must be one of {', '.join(PATHS)}")
        if not model:
            raise ValueError("--actor-model: an endpoint needs the name of a model")
        self.url, self.model, self.api = endpoint_url(base_url, PATHS[api]), model, api
        self.cache, self.budget = Path(cache), budget
        self.concurrency, self.timeout, self.tries = concurrency, timeout, tries
        self._secrets = [key_in("OPENAI_API_KEY"), *secrets_in(self.url)]
        self._refused: set[str] = set()  # settings, a role, "context": each was told to the user
        check_writable(self.cache / "answer.json")

    def ask(self, prompts: Sequence, max_tokens: int, temperature: float,
            seeds: Sequence[int | None], stop: str = "",
            whole: Callable[[str], bool] = lambda text: False) -> list[Answer]:  # fmt: skip
        """The model's answer to each prompt. With another seed a prompt is another request. An
        answer that was cut off is as good as any other if its text is `whole`. ValueError (Refused,
        Spent) ends it, and all answers so far are kept.
        """
        bodies, order = {}, []
        for prompt, seed in zip(prompts, seeds, strict=True):
            body = {"model": self.model, "messages" if self.api == "chat" else "prompt": prompt,
                    "max_tokens": max_tokens, "temperature": temperature}  # fmt: skip
            body |= ({"stop": [stop]} if stop else {}) | ({} if seed is None else {"seed": seed})
            text = json.dumps([self.url, body], sort_keys=True)
            name = hashlib.sha256(text.encode()).hexdigest()
            order.append(self.cache / name[:2] / f"{name}.json")
            bodies[order[-1]] = body
        kept = ((path, self._kept(path, body)) for path, body in bodies.items())
        answers = {path: answer for path, answer in kept if answer}
        missing = [path for path in bodies if path not in answers]
        with self.budget.lock:
            self.budget.cached += len(answers)
        woken, errors, shared = threading.Event(), [], iter(missing)

        def fetch() -> None:
            try:
                for path in shared:
                    if woken.is_set():
                        break
                    answers[path] = self._fetch(path, bodies[path], woken, whole)
            except BaseException as error:
                errors.append(error)
                woken.set()  # requests under way end and are kept, no other one starts

        # daemons: at Ctrl-C nobody waits for them
        threads = [threading.Thread(target=fetch, daemon=True)
                   for _ in range(min(self.concurrency, len(missing)))]  # fmt: skip
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            woken.set()
        if errors:
            raise errors[0]
        return [answers[path] for path in order]

    def _fetch(self, path: Path, body: dict, woken: threading.Event,
               whole: Callable[[str], bool], refused: dict[str, str] | None = None) -> Answer:
        refused = refused or {}  # name -> note; left out by all once it is answered without
        sent = self._known(body, refused)
        try:
            text, fault, tokens = post_json(
                self.url, sent, self._read, secrets=self._secrets, tries=self.tries,
                timeout=self.timeout, before=self.budget.request, sleep=woken.wait,
            )  # fmt: skip
        except Refused as error:
            if (fault := error.problem.fault()) == "context":
                self._note(fault, f"{error}; such a trial ends, the others go on")
            if fault:
                return Answer(None if fault == "context" else "", fault)
            unknown = error.problem.unknown()
            refused |= {unknown: f"{error}; sent without {unknown!r} from here on"}
            if sent == self._known(body, refused):
                raise
            return self._fetch(path, body, woken, whole, refused)
        for name, note in refused.items():
            self._note(name, note)
        text = without(self._secrets, printable_lines(text))
        with self.budget.lock:
            self.budget.tokens += tokens or len(json.dumps(sent) + text) // 4  # 4 letters each
        said = spoken(text)
        if not said or fault and not whole(said):
            return Answer(said, fault or "empty")
        write_json(path, {"url": public_url(self.url), "request": body, "answer": text,
                          "tokens": tokens})  # fmt: skip
        return Answer(said)

    def _note(self, what: str, text: str) -> None:
        """Tell the user, once."""
        with self.budget.lock:
            if what not in self._refused:
                print(f"note: {visible(text)}", file=sys.stderr)
            self._refused.add(what)

    def _known(self, body: dict, refused: Iterable[str]) -> dict:
        """The request without what the endpoint does not know, and without what is `refused`."""
        left_out = self._refused.union(refused)
        sent = {key: value for key, value in body.items() if key not in left_out}
        if "max_tokens" in left_out and "max_completion_tokens" not in left_out:
            sent["max_completion_tokens"] = body["max_tokens"]
        if SYSTEM in left_out and "messages" in body and body["messages"][0]["role"] == SYSTEM:
            system, user, *others = body["messages"]  # the user says it in its place
            text = f"{system['content']}\n\n{user['content']}"
            sent["messages"] = [user | {"content": text}, *others]
        return sent

    def _read(self, answer: Any) -> tuple[str, str, int]:
        """(text, fault if it was cut off or is absent, tokens or 0) of an answer; ValueError if it
        has another shape, Passing if the server failed at it.
        """
        try:
            choice = answer["choices"][0]
            ended = str(choice.get("finish_reason") or "").lower()
        except (TypeError, KeyError, IndexError, AttributeError):
            if isinstance(error := failure(problem_in(answer, 200)), Refused):
                raise error from None
            shown = json.dumps(answer)[:200]
            raise ValueError(f"expected an object with choices, got {shown}") from None
        text = text_of(choice)
        if choice.get("error") or not text and answer.get("error"):
            raise failure(problem_in(choice if choice.get("error") else answer, 200))
        if FAILED.search(ended):
            raise Passing(f"the server ended the answer with {ended!r}")
        if not text and "context" in ended:
            raise Refused("the context is full", Problem("", "context_length", status=200))
        fault = next((name for name, ends in FAULTS.items() if ends.search(ended)), "")
        usage = answer.get("usage")
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        return text, fault, total if type(total) is int and total > 0 else 0

    def _kept(self, path: Path, body: dict) -> Answer | None:
        """The answer to this request on disk, or None. A damaged file, and one that has another
        request, is reported and counts as none.
        """
        if not path.exists():
            return None
        try:
            kept = read_json(path)
            if kept.get("request") != body or kept.get("url") != public_url(self.url):
                raise ValueError(f"{path}: holds the answer to another request")
        except ValueError as error:
            print(f"note: {visible(str(error))}; asked anew", file=sys.stderr)
            return None
        text = kept.get("answer")
        said = spoken(printable_lines(text)) if isinstance(text, str) else ""
        return Answer(said) if said else None

def text_of(choice: dict) -> str:
    """The text of an answer, "" if there is none: null, absent, a text, or a list of parts, of
    which thinking and refusals are not said. ValueError if it is something else.
    """
    message = choice.get("message")
    content = message.get("content") if isinstance(message, dict) else choice.get("text")
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, dict):
            said = (part.get("type") or "text") in ("text", "output_text")
            part = part.get("text") if said else ""
            part = part.get("value") if isinstance(part, dict) else part
        if not isinstance(part, str | None):
            raise ValueError(f"expected a text, got {json.dumps(content)[:200]}")
        texts.append(part or "")
    return "".join(texts)

def key_in(variable: str) -> str:
    """The key in a variable of the environment, "" where there is none."""
    key = os.environ.get(variable, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{variable}: holds a character that no HTTP header can carry")
    return key

def endpoint_url(base_url: str, path: str, option: str = "--base-url",
                 key: str = "OPENAI_API_KEY") -> str:  # fmt: skip
    """`base_url` with the API's path after its own; ValueError, which names the option, if it is no
    HTTP address. `key`: the variable where a key belongs.
    """
    form = "must be http://HOST/v1 or https://HOST/v1"
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018  (raises ValueError when it is no number)
    except ValueError:
        raise ValueError(f"{option}: {form}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{option}: holds a name or password; a key goes into {key}")
    plain = re.fullmatch("[!-~]+", base_url)  # printable ASCII without spaces
    named = re.fullmatch(r"[^.]{1,63}(\.[^.]{1,63})*\.?", parts.hostname or "")
    if parts.scheme not in ("http", "https") or not plain or not named:
        raise ValueError(f"{option} {public_url(base_url)!r}: {form}")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))

def public_url(url: str) -> str:
    """An address without what may be a secret in it: name and password, query, fragment."""
    return re.sub(r"^((?:[\w+.-]+:)?/+)?[^/?#]*@|[?#].*", r"\1", url, flags=re.DOTALL)

def secrets_in(url: str) -> list[str]:
    """The values in an address's query, as they stand there and as they are meant."""
    pairs = [part.partition("=") for part in urlsplit(url).query.split("&")]
    values = [value if sign else name for name, sign, value in pairs if name != "api-version"]
    return [*values, *map(unquote_plus, values)]
