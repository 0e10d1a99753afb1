"""An observer reads a trial's text and nothing else. Each environment's `observer.py` has four
parts: Notes, the facts of one trial; plans, what a reflection tells the next trial to do; the
oracle, which writes a right plan from the notes; and the judge, which checks what a reflection
says. Read `envs/__init__.py` first.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, TypeVar

Step = tuple[str, str]  # (action, observation)
SomeNotes = TypeVar("SomeNotes", bound="Reader")

class Verdict(NamedTuple):
    """What a reflection says, checked against the trial that it is on. None: can't be told."""

    kind: str = ""  # of the cause that it states, such as "not taken"; "" if it states none
    cause: bool | None = None  # is that cause true? None: it states none
    sound: bool | None = None  # does the plan lead where the oracle's plan leads?
    place: bool | None = None  # is all that it names where the trial showed it? None: it names none
    invented: bool | None = None  # does it name a thing or place that the trial never showed?
    notes: bool | None = None  # are its notes true, those needed all there? None: it states none

class Reader(Protocol):
    """Notes of a trial: made from its first observation, then fed with its steps."""

    def read(self, action: str, reply: str) -> None: ...

def advice(reflection: str) -> str:
    """What an actor reads of a reflection: what follows the first `Cause: `; without one all.

    >>> advice("Notes: mug 1 in drawer 2. Cause: I passed mug 1 by. Plan: take mug 1.")
    'I passed mug 1 by. Plan: take mug 1.'
    """
    _, cause, rest = reflection.partition("Cause: ")
    return rest if cause else reflection

def read_trial(notes: SomeNotes, steps: Iterable[Step]) -> SomeNotes:
    for step in steps:
        notes.read(*step)
    return notes

def carried_out(plan: list, steps: list[Step], carries_out: Callable[[str, Any], bool]) -> bool:
    """True if `carries_out(action, clause)` for each clause, in order; others may stand between."""
    actions = iter([action for action, _ in steps])
    return all(any(carries_out(action, clause) for action in actions) for clause in plan)
