"""A language model behind an OpenAI-compatible endpoint: prompts in, texts out. Each answer is kept
on disk, one file a request: a repeated run costs nothing. The key, from OPENAI_API_KEY, goes into
the request's header and nowhere else. Read before: post.py (one request).
"""

import hashlib
import json
import os
import re
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from retro.interop.post import Refused, post_json, without_key
from retro.run.files import read_json, write_json

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
TOO_LONG = re.compile(r"context.?(length|size|window)|(prompt|input) is too long", re.IGNORECASE)

class Budget:
    """What all clients that share it may spend (0: no limit) and have spent. Checked before each
    try: requests under way may take `tokens` above its limit.
    """

    def __init__(self, max_requests: int = 0, max_tokens: int = 0):
        self.max_requests, self.max_tokens = max_requests, max_tokens
        self.requests = self.tokens = self.cached = 0
        self.lock = threading.Lock()

    def request(self) -> None:
        """Count a request about to be sent; ValueError if the budget has none left."""
        with self.lock:
            for option, spent, limit in (("--max-requests", self.requests, self.max_requests),
                                         ("--max-tokens", self.tokens, self.max_tokens)):
                if limit and spent >= limit:
                    raise ValueError(f"budget spent: {option} {limit} ({self}); what was answered "
                                     "is kept, the same command goes on from there")  # fmt: skip
            self.requests += 1

    def __str__(self) -> str:
        return f"{self.requests} requests, {self.tokens} tokens, {self.cached} answers from disk"

class Client:
    """`ask(prompts) -> texts`. A prompt is a string, for chat a list of {"role", "content"}."""

    def __init__(self, base_url: str, model: str, api: str = "chat", *, cache: str, budget: Budget,
                 concurrency: int = 8, timeout: float = 60.0, tries: int = 6):  # fmt: skip
        if api not in PATHS:
            raise ValueError(f"--api {api!r}: must be one of {', '.join(PATHS)}")
        if not model:
            raise ValueError("--actor-model: an endpoint needs the name of a model")
        self.url, self.model, self.api = endpoint_url(base_url, PATHS[api]), model, api
        self.cache, self.budget = Path(cache), budget
        self.concurrency, self.timeout, self.tries = concurrency, timeout, tries
        self._key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError("OPENAI_API_KEY: holds a character that no HTTP header can carry")
        self._refused: set[str] = set()  # fields that this endpoint does not know

    def ask(self, prompts: Sequence, max_tokens: int, temperature: float,
            seeds: Sequence[int | None], stop: str = "") -> list[str | None]:  # fmt: skip
        """The model's text on each prompt; None where the prompt is longer than its context. With
        another seed a prompt is another request. ValueError (Refused, "budget spent") ends it, and
        all answers so far are kept.
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
        answers = {path: _kept(path) for path in bodies}
        missing = [path for path, answer in answers.items() if answer is None]
        with self.budget.lock:
            self.budget.cached += len(bodies) - len(missing)
        woken, errors = threading.Event(), []

        def fetch(path: Path) -> None:
            try:
                if not woken.is_set():
                    answers[path] = self._fetch(path, bodies[path], woken)
            except BaseException as error:
                errors.append(error)
                woken.set()  # requests under way end and are kept, no other one starts

        with ThreadPoolExecutor(self.concurrency) as pool:
            try:
                list(pool.map(fetch, missing))
            finally:  # on Ctrl-C too
                woken.set()
        if errors:
            raise errors[0]
        return [answers[path] for path in order]

    def _fetch(self, path: Path, body: dict, woken: threading.Event) -> str | None:
        sent = {k: v for k, v in body.items() if k not in self._refused}
        if "max_tokens" not in sent:
            sent["max_completion_tokens"] = body["max_tokens"]
        try:
            text, tokens = post_json(self.url, sent, self._read, key=self._key, tries=self.tries,
                                     timeout=self.timeout, before=self.budget.request,
                                     sleep=woken.wait)  # fmt: skip
        except Refused as error:
            if error.status in (400, 413, 422) and TOO_LONG.search(str(error)):
                return None
            fields = [f for f in ("max_tokens", "seed", "stop") if f in sent and f in str(error)]
            if error.status not in (400, 422) or not fields:
                raise
            if fields[0] not in self._refused:
                print(f"note: {error}; sent without {fields[0]!r} from here on", file=sys.stderr)
                self._refused.add(fields[0])
            return self._fetch(path, body, woken)
        text = without_key(text, self._key)
        with self.budget.lock:
            self.budget.tokens += tokens or len(json.dumps(sent) + text) // 4  # 4 letters each
        write_json(path, {"url": self.url.partition("?")[0], "request": body, "answer": text,
                          "tokens": tokens})  # fmt: skip
        return text

    def _read(self, answer: Any) -> tuple[str, int]:
        """(text, tokens or 0) of an answer; ValueError if it has another shape."""
        try:
            choice = answer["choices"][0]
            text = choice["message"]["content"] if self.api == "chat" else choice["text"]
        except (TypeError, KeyError, IndexError):
            shown = json.dumps(answer)[:200]
            raise ValueError(f"expected an object with choices, got {shown}") from None
        if not isinstance(text, str | None):
            raise ValueError(f"expected a text, got {json.dumps(text)[:200]}")
        usage = answer.get("usage")
        total = usage.get("total_tokens") if isinstance(usage, dict) else None
        return text or "", total if type(total) is int and total > 0 else 0

def _kept(path: Path) -> str | None:
    """The answer on disk, or None. A damaged file is reported and counts as none."""
    answer = None
    try:
        answer = read_json(path).get("answer") if path.exists() else None
    except ValueError as error:
        print(f"note: {error}; asked anew", file=sys.stderr)
    return answer if isinstance(answer, str) else None

def endpoint_url(base_url: str, path: str) -> str:
    """`base_url` with the API's path after its own; ValueError if it is no HTTP address."""
    form = "must be http://HOST/v1 or https://HOST/v1"
    try:
        parts = urlsplit(base_url)
        parts.port  # noqa: B018  (raises ValueError when it is no number)
    except ValueError:
        raise ValueError(f"--base-url: {form}") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError("--base-url: holds a name or password; a key goes into OPENAI_API_KEY")
    plain = re.fullmatch("[!-~]+", base_url)  # printable ASCII without spaces
    if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
        raise ValueError(f"--base-url {base_url.partition('?')[0]!r}: {form}")
    return urlunsplit(parts._replace(path=parts.path.rstrip("/") + path, fragment=""))
