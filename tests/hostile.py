"""Hostile input: good input with a few places replaced, cut or doubled; and the test that a door
meets it with a value or the documented ValueError.
"""

import json
import resource
import signal
import sys
from pathlib import Path

import pytest

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is not installed")
if sys.platform != "linux":
    pytest.skip("limits of memory and /proc are Linux's here", allow_module_level=True)
st = hypothesis.strategies
MEMORY = 1 << 30  # bytes that a test may take beyond what is in use
SECONDS = 10  # of CPU time for one input

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([0, -1, 1, 2**31, 2**63, 10**9, 10**30, 0.5, "", "\ud800", "x 1", [], {}]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)  # fmt: skip
DEEP = (b"[" * 100_000, b'{"a":' * 50_000, b'[{"_id":' * 50_000, b"9" * 5000, b"", b"\xff\xfe")

def damage(draw, value):
    """`value` with one place in it replaced, doubled or left out."""
    if isinstance(value, dict) and value and draw(st.integers(0, 14)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 7)) == 0:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: damage(draw, value[key])}
    if isinstance(value, list) and value and draw(st.integers(0, 14)):
        i = draw(st.integers(0, len(value) - 1))
        new = [damage(draw, value[i])] * draw(st.sampled_from([0, 1, 1, 1, 2]))
        return [*value[:i], *new, *value[i + 1 :]]
    if isinstance(value, str) and value and draw(st.booleans()):
        return damage_text(draw, value)
    return draw(VALUES)

def damage_text(draw, text):
    """Text or bytes with a piece of it left out, doubled or put elsewhere, or another put in."""
    a, b, c = sorted(draw(st.integers(0, len(text))) for _ in range(3))
    kinds = st.binary(max_size=9) if isinstance(text, bytes) else st.text(max_size=9)
    return text[:a] + draw(st.sampled_from([text[b:c], draw(kinds), text[a:b] * 2])) + text[b:]

@st.composite
def broken(draw, *values):
    """The bytes of JSON files: good ones, some of them damaged."""
    files = []
    for value in values:
        for _ in range(draw(st.integers(0, 2))):
            value = damage(draw, value)
        data = json.dumps(value).encode()
        if draw(st.integers(0, 9)) == 0:
            data = draw(st.sampled_from([*DEEP, damage_text(draw, data)]))
        files.append(data)
    return files

@st.composite
def broken_bytes(draw, *values):
    files = []
    for data in values:
        for _ in range(draw(st.integers(0, 2))):
            data = damage_text(draw, data)
        files.append(data)
    return files

def told(*pieces):
    """Texts of an action's or a reply's pieces, and anything else."""
    some = st.lists(st.sampled_from(pieces) | st.text(max_size=5), max_size=6)
    return some.map("".join) | some.map(" ".join) | st.text()

def with_reason(door, value):
    """door(value), or None where it is refused with a line that says why."""
    try:
        return door(value)
    except ValueError as error:
        assert str(error)
        return None

def fuzz(make, folder, n: int) -> None:
    """Try n inputs of the door that make(folder) gives: a strategy, and what takes its values."""
    (strategy, door), tried = make(folder), 0

    def hang(*_):
        raise TimeoutError(f"{SECONDS} seconds")

    @hypothesis.settings(
        max_examples=n, deadline=None, database=None, derandomize=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(strategy)
    def try_it(value):
        nonlocal tried
        tried += 1
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        with_reason(door, value)

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits, handler = resource.getrlimit(resource.RLIMIT_AS), signal.signal(signal.SIGVTALRM, hang)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
        try_it()
        print(f"{tried} inputs")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, limits)
