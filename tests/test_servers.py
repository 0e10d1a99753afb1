"""Hostile and odd servers: each answers a few turns well, then it does what it does. The run ends
in time, with its trials or with one line; no key is anywhere; no answer is lost.
"""

import json
import re
import time

import pytest
from served import KEY, actor_of, client
from server import ERRORS, ODD

import envs
from retro.interop.post import MAX_BODY
from retro.run.processes import ALONE
from retro.trial import run_trials

pytestmark = pytest.mark.usefixtures("key")

# name -> what the run says in the end; "" where it plays on
CUT = "^most turns go unanswered: .* turns unanswered: length .its tokens were used up"
FULL = "^most turns go unanswered: .* turns unanswered: context .the prompt is longer"
WRONG = "not an answer that can be read .*; given up after 2 tries$"
LATE = "no answer within 2 seconds; given up after 1 tries$"
BROKEN = "the answer broke off .*; given up after 2 tries$"
NOTHING = "most turns go unanswered: .* turns unanswered: empty"
SERVERS = dict.fromkeys(
    ["think", "lone_think", "prefixed_think", "harmony", "end_token", "start_token", "parts",
     "null_part", "value_part", "sentence_token", "reasoning", "legacy", "cut_late", "null_error",
     "bom", "usage", "http10",
     "key_inside", "key_hidden", "slow_chunks", "temperature", "stop", "stop_500", "tokens",
     "tokens_2", "system", "alternate"], "",
) | dict.fromkeys(["null", "cut_think", "cut_thought", "cut_action", "cut_plain",
     "cut_next", "incomplete", "truncated", "used_up"], CUT) | dict.fromkeys(
    ["absent", "null_message", "blank", "no_parts", "refusal", "tool_calls", "only_end",
     "key_ends"], NOTHING,
) | dict.fromkeys(["no_message", "filter", "prohibited", "spii", "azure"],
                  "turns unanswered: content_filter") | dict.fromkeys(
    ["error_code", "error_raw", "code", "llama", "413", "tgi", "gemini", "window", "context",
     "base_resp", "object", "no_choices", "negative_tokens"], FULL,
) | dict.fromkeys(
    ["204", "sse", "twice", "detail", "notjson", "deep", "list", "empty", "number", "zipped",
     "negative", "ends_error", "ends_abort"], "given up after 2 tries$",
) | dict.fromkeys(
    ["hang", "drip", "drip_status", "drip_header", "drip_continue", "flood_continue", "drip_size",
     "drip_chunks", "drip_trailers", "drip_error"], LATE,
) | dict.fromkeys(
    ["half", "chunk", "drop", "garbage", "reset", "long_header", "many_headers"], BROKEN,
) | {
    "drip_headers": LATE, "bad_size": "given up after 2 tries$",
    "flood": f"its answer is longer than {MAX_BODY} bytes$", "huge": "its answer is longer than",
    "choice_error": "HTTP 502: up; given up", "late_error": "HTTP 503: overloaded; given up",
    "error_401": r"HTTP 401: no such key: \[key\]$",
    "error200": "HTTP 200: upstream; given up", "429now": "HTTP 429: slow down; given up",
    "429hours": "asks to wait 7200 seconds", "quota": "HTTP 429: no credit$",
    "500": "HTTP 500: .*oh.*no.*; given up", "503": "HTTP 503: loading; given up",
    "404": "HTTP 404: the model `base` does not exist$", "302": "which is not followed$",
    "unrelated": "HTTP 400: Please stop sending images: unsupported content$",
    "403": r"HTTP 403: no \[key\] for you$", "key": r"HTTP 401: wrong key: Bearer \[key\]$",
    "key_escaped": r"HTTP 401: wrong key: \[key\]$", "key_cut": r"HTTP 401: x{290,}\[?k?e?y?\]?$",
    "418": "HTTP 418: ",
}  # fmt: skip

@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No pauses between two tries."""
    monkeypatch.setattr("retro.interop.post.random.uniform", lambda low, high: 0.0)

def test_there_are_enough_and_all_are_tried():
    assert len(SERVERS) >= 60 and FAST < {*SERVERS}
    assert set(ODD) | set(ERRORS) - {"429"} <= {*SERVERS}

FAST = {"think", "end_token", "parts", "key_inside", "temperature", "stop_500", "null",
        "cut_plain", "used_up", "azure", "base_resp", "cut_thought", "absent",
        "filter", "error_code", "llama", "413", "204", "deep", "drip",
        "half", "drop",
        "many_headers", "huge", "choice_error", "error_401", "429hours", "500", "302", "unrelated",
        "key_escaped"}  # fmt: skip

@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in FAST)) for name in SERVERS
])  # fmt: skip
def test_a_run_against_it_ends_in_time_and_loses_nothing(url, tmp_path, name, capsys):
    """Three trials of eight turns; two turns are answered well."""
    env, said, trials = envs.make("household", max_steps=8), "", []
    patience = {"timeout": 2.0, "tries": 1} if SERVERS[name] == LATE else {"tries": 2}
    c = client(url, tmp_path, f"/odd/2/{name}/v1", "chat", **patience)
    actor, start = actor_of(c), time.monotonic()
    try:
        trials = run_trials({env.name: env}, env.tasks("seen", 3, 0), actor, [[]] * 3)
        assert not actor.tally.collect(ALONE)
        assert [step.action for t in trials for step in t.steps] == ["look"] * 24
    except ValueError as error:
        said = str(error)
    assert time.monotonic() - start < 8  # the others need no patience
    assert bool(said) is bool(SERVERS[name]) and re.search(SERVERS[name], said), said
    kept = [json.loads(path.read_text())["answer"] for path in tmp_path.rglob("*.json")]
    assert len(kept) >= 2 and all("look" in text for text in kept)
    assert len(said.splitlines()) < 2 and said.isprintable()
    told = "".join(capsys.readouterr()) + said + "".join(kept) + repr(trials)
    assert KEY not in told and KEY[:9] not in told
