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
TOLD = ("message", "error", "detail", "msg", "status_msg", "error_msg")  # keys of a message
NEVER = (401, 402, 404, 429)  # statuses of another trouble, whatever the words

_TOO_LONG_CODE = re.compile(
    r"context.?(length|size|window|overflow)|string_above_max|model_max_prompt"
    r"|(context|input.?length|(prompt|input).?tokens?|token.?limit)_exceeded"
    r"|(prompt|input|request)_(is_)?too_(long|large)", re.IGNORECASE,
)  # fmt: skip
_TOO_LONG = re.compile(
    r"context.{0,10}(length|size|window|limit|overflow|full)|\bn_ctx\b"
    r"|\b(prompt|input|messages?|request|text|conversation|sequence)s?\b.{0,40}\btoo (long|large)"
    r"|too (long|large) for \w+( \w+)? model|too many( input| prompt)? tokens"
    r"|\b(prompt|input|sequence|(?<!max_)tokens?)\b.{0,80}"
    r"(exceed|longer than|greater than|larger than|must be <=|must have less than)"
    r"|exceed.{0,40}\b(prompt|input|sequence|(?<!max_)tokens?)\b"
    r"|\b(prompt|input)\b.{0,40}only supports|tokens,? but (your|the) (prompt|input)"
    r"|requested \d+ tokens|max_\w*tokens\b.{0,30}\bgot (-|0\b)"
    r"|(maximum|max) (\w+ )?(prompt|input|sequence|model) length|range of input length"
    r"|(reduce|shorten) (the length|your (message|prompt|input))|exceeds max length", re.IGNORECASE,
)  # fmt: skip
_OTHERWISE = re.compile(  # limits of a rate, of money, of time and of other things
    r"rate.?limit|quota|throttl|per.?(minute|min|day|hour)\b|(month|week|dai|hour)ly\b|allowance"
    r"|billing|credit|too many requests|wait before|\btook\b|longer than \d+ ?(m?s|sec|min)"
    r"|\btimed? ?out|\btime.{0,9}(exceed|limit)|limit of time"
    r"|\b(images?|audio|file|name|url|header|jwt|stop|queue|bucket)"
    r"( (input|size|sequences?|length))?( is)? (too (large|long)|exceed)", re.IGNORECASE,
)  # fmt: skip
_FILTERED = re.compile(
    r"content.?(filter|management|policy|exists)|safety system|data.?inspection|high risk|"
    r"requires moderation|\b(prompt|input|content|message)\b.{0,30}\bflagged", re.IGNORECASE,
)  # fmt: skip
_USED_UP = re.compile("could not finish the message|output limit was reached", re.IGNORECASE)
_REFUSES_ROLE = r"support|permitted|allowed|must|should|only|accept|enabled"  # also on a status 500
_REFUSES = re.compile(
    _REFUSES_ROLE + r"|unknown|unrecogni[sz]ed|unexpected|extra|valid|deprecated|has to|range|"
    r"cannot|available|implemented|ensure|not .{0,9}(used|set)|removed?", re.IGNORECASE,
)  # fmt: skip
_NAMED = (  # a field's name as a name: quoted, beside such a word, or where a sentence begins
    r"[\"'`‘“]([\w.]*\.)?{0}[\"'`’”]"
    r"|\b(?i:parameter|param|argument|field|option|property|setting|body|key)s?\W+(\w+\W+)?{0}\b"
    r"|(?<![\w-]){0} (parameter|param|argument|field|option|setting|sequences?)\b"
    r"|(^|[.>(\[,]\s*|(?<!\w)/){0}( ?[:=]| is | are | must | does | should | can| not )"
    r"|^(?i:{0}) (sequences )?(is |are |must |does |not )|: {0}$"
)
_NAMES = {name: re.compile(_NAMED.format(name)) for name in SETTINGS[:-1]}
_NAMES["stop"] = re.compile(_NAMED.format("stop(?:_?[sS]equences?)?"))
_NAMES["temperature"] = re.compile(  # no other word means it, but "room temperature" does not
    _NAMED.format("temperature") + r"|(?i:(^|[.,:;]\s*|\b(invalid|sampling|unsupported|the) )"
    r"temperature\b|\btemperature ?[=\d])"
)
_ROLE = re.compile(r"\b(system|developer)\W{1,3}(role|message|instruction|prompt)s?\b|"
                   r"\broles?\W{1,3}(is )?\W{0,2}system|valid role|\broles? (must|should)|"
                   r"first (message|role) (must|should|is)|only user.{0,40} roles|"
                   r"messages(\[0\]|\.0)\.role|'user'.{0,9}'assistant'", re.IGNORECASE)  # fmt: skip

class Problem(NamedTuple):
    """An error as a server tells it."""

    message: str
    code: str = ""  # its code, type and status
    param: str = ""  # what it is about
    status: int = 0  # HTTP's; 200 where the answer itself is an error

    def too_long(self) -> bool:
        """The prompt and its answer do not fit the model's context, or a request's size."""
        if self.status == 429:
            return "request too large" in self.message.lower()
        if self.status in (*NEVER, 403, 413):
            return self.status == 413
        told = _TOO_LONG_CODE.search(self.code) or _TOO_LONG.search(self.message)
        return bool(told and not _OTHERWISE.search(self.message))

    def fault(self) -> str:
        """Why this request stays unanswered, where the next one need not: context, content_filter,
        length; "" on another error.
        """
        told = "" if self.status in NEVER else f"{self.code} {self.message}"
        if self.too_long() or _USED_UP.search(told):
            return "context" if self.too_long() else "length"
        return "content_filter" if _FILTERED.search(told) else ""

    def unknown(self) -> str:
        """The setting, or SYSTEM, that the request has to do without; "" if there is none."""
        if self.status not in (200, 400, 422, 500, 501) or self.fault():
            return ""
        if self.param in SETTINGS:
            return self.param
        if not _REFUSES.search(self.message):
            return ""
        for name, named in _NAMES.items():
            if named.search(self.message):
                return name
        refused = self.status < 500 or re.search(_REFUSES_ROLE, self.message, re.IGNORECASE)
        return SYSTEM if refused and _ROLE.search(f"{self.param} {self.message}") else ""

def problem_in(value: Any, status: int) -> Problem:
    """Of an error's JSON: {"error": {"message", "code", "type", "param"}}, {"error": "..."},
    {"message": "..."}, {"detail": [{"loc", "msg"}]} and [{"error": ...}].
    """
    while isinstance(value, list) and value or isinstance(value, dict) and nested(value):
        value = value[0] if isinstance(value, list) else nested(value)
    if not isinstance(value, dict):
        text = value if isinstance(value, str) else json.dumps(value)
        return Problem(text[:CHARACTERS], status=status)
    told = [value[key] for key in TOLD if value.get(key)]
    message = told[0] if told and isinstance(told[0], str) else json.dumps(value)
    with suppress(AttributeError, KeyError, TypeError):  # what a router was told in its turn
        message += f" ({value['metadata']['raw']})"
    code = " ".join(str(value.get(key) or "") for key in ("code", "type", "status"))
    where = next((value[key] for key in ("param", "loc", "field") if value.get(key)), "")
    param = where[-1] if isinstance(where, list) and where else where
    if status == 200 and re.fullmatch("[45][0-9][0-9]", str(value.get("code"))):
        status = int(value["code"])  # of the server behind this one
    return Problem(message[:CHARACTERS], code, str(param), status)

def nested(value: dict) -> dict | list | None:
    """The error inside an error."""
    inside = (value.get(key) for key in ("error", "detail", "errors", "base_resp"))
    return next((one for one in inside if one and isinstance(one, (dict, list))), None)
