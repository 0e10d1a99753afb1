"""What a server says went wrong, in whatever shape: is the prompt too long, is a setting or a role
unknown to it? Servers share no codes and no wording; these are the ones that were met.
"""

import json
import re
from contextlib import suppress
from typing import Any, NamedTuple

SETTINGS = ("temperature", "max_tokens", "max_completion_tokens", "seed", "stop")
SYSTEM = "system"  # the role
CHARACTERS = 20_000  # that are read of a message

_TOO_LONG_CODE = re.compile(
    r"context.?(length|size|window)|string_above_max|model_max_prompt"
    r"|(prompt|input|request)_(is_)?too_(long|large)", re.IGNORECASE,
)  # fmt: skip
_TOO_LONG = re.compile(
    r"context.{0,10}(length|size|window|limit)"
    r"|\b(prompt|input|messages?|request|text|conversation|sequence)s?\b.{0,40}\btoo (long|large)"
    r"|too (long|large) for \w+( \w+)? model|too many( input| prompt)? tokens"
    r"|\b(prompt|input|sequence|(?<!max_)tokens?)\b.{0,60}"
    r"(exceed|longer than|greater than|larger than|must be <=|must have less than)"
    r"|exceed.{0,40}\b(prompt|input|sequence|(?<!max_)tokens?)\b"
    r"|(maximum|max) (prompt|input|sequence|model) length|range of input length"
    r"|(reduce|shorten) (the length|your (message|prompt|input))|exceeds max length",
    re.IGNORECASE,
)
_LIMITS = re.compile(r"rate.?limit|quota|throttl|per.?(minute|min|day|hour)\b|billing|credit|"
                     r"too many requests|wait before", re.IGNORECASE)  # fmt: skip
_REFUSES = re.compile(
    r"support|unknown|unrecogni[sz]ed|permitted|allowed|unexpected|extra|invalid|deprecated|must|"
    r"should|only|cannot|accept|available|implemented|enabled|not .{0,9}(used|valid|set)|removed?",
    re.IGNORECASE,
)
_NAMED = (  # a field's name as a name: quoted, beside such a word, or where a sentence begins
    r"[\"'`‘“]{0}[\"'`’”]"
    r"|\b(parameter|param|argument|field|option|property|setting|body|key|input)s?\W+(\w+\W+)?{0}\b"
    r"|(?<![\w-]){0} (parameter|param|argument|field|option|setting|sequences?)\b"
    r"|(^|[.>(\[/,]\s*){0}( ?[:=]| is | are | must | does | should | can)"
    r"|: {0}$"
)
_ROLE = re.compile(r"system.{0,40}(role|messages?|instruction|prompt)|roles?\b.{0,60}system|"
                   r"(developer|system) instruction|roles must alternate|only user.{0,40} roles|"
                   r"messages(\[0\]|\.0)\.role|'user'.{0,9}'assistant'", re.IGNORECASE)  # fmt: skip

class Problem(NamedTuple):
    """An error as a server tells it."""

    message: str
    code: str = ""  # its code, type and status
    param: str = ""  # what it is about
    status: int = 0  # HTTP's; 200 where the answer itself is an error

    def too_long(self) -> bool:
        """The prompt and its answer do not fit the model's context, or a request's size."""
        if _TOO_LONG_CODE.search(self.code) or self.status == 413:
            return True
        if self.status == 429:
            return "request too large" in self.message.lower()
        by_words = self.status in (200, 400, 422, 500) and not _LIMITS.search(self.message)
        return bool(by_words and _TOO_LONG.search(self.message))

    def unknown(self) -> str:
        """The setting, or SYSTEM, that the request has to do without; "" if there is none."""
        if self.status not in (200, 400, 422, 500, 501):
            return ""
        if self.param in SETTINGS:
            return self.param
        if not _REFUSES.search(self.message):
            return ""
        for name in SETTINGS:
            if re.search(_NAMED.format(name), self.message, re.IGNORECASE):
                return name
        if re.search(r"\btemperature\b", self.message, re.IGNORECASE):  # no other word means it
            return "temperature"
        return SYSTEM if _ROLE.search(f"{self.param} {self.message}") else ""

def problem_in(value: Any, status: int) -> Problem:
    """Of an error's JSON: {"error": {"message", "code", "type", "param"}}, {"error": "..."},
    {"message": "..."}, {"detail": [{"loc", "msg"}]} and [{"error": ...}].
    """
    while isinstance(value, list) and value or isinstance(value, dict) and nested(value):
        value = value[0] if isinstance(value, list) else nested(value)
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value)
        return Problem(text[:CHARACTERS], status=status)
    told = [value[key] for key in ("message", "error", "detail", "msg") if value.get(key)]
    message = told[0] if told and isinstance(told[0], str) else json.dumps(value)
    with suppress(AttributeError, KeyError, TypeError):  # what a router was told in its turn
        message += f" ({value['metadata']['raw']})"
    code = " ".join(str(value.get(key) or "") for key in ("code", "type", "status"))
    where = value.get("param") or value.get("loc") or ""
    param = where[-1] if isinstance(where, list) and where else where
    if status == 200 and re.fullmatch("[45][0-9][0-9]", str(value.get("code"))):
        status = int(value["code"])  # of the server behind this one
    return Problem(message[:CHARACTERS], code, str(param), status)

def nested(value: dict) -> dict | list | None:
    """The error inside an error."""
    inside = (value.get(key) for key in ("error", "detail", "errors"))
    return next((one for one in inside if one and isinstance(one, (dict, list))), None)
