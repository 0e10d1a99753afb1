"""An observer reads a trial's text and nothing else. Each environment's `observer.py` has three
parts: Notes, the facts of one trial; plans, what a reflection tells the next trial to do; and the
oracle, which writes a right plan from the notes. Read `envs/__init__.py` first.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

Step = tuple[str, str]  # (action, observation)
SomeNotes = TypeVar("SomeNotes", bound="Reader")

class Reader(Protocol):
    """Notes of a trial: made from its first observation, then fed with its steps."""

    def read(self, action: str, reply: str) -> None: ...

def read_trial(notes: SomeNotes, steps: Iterable[Step]) -> SomeNotes:
    for step in steps:
        notes.read(*step)
    return notes

def carried_out(plan: list, steps: list[Step], carries_out: Callable[[str, Any], bool]) -> bool:
    """True if `carries_out(action, clause)` for each clause, in order; others may stand between."""
    actions = iter([action for action, _ in steps])
    return all(any(carries_out(action, clause) for action in actions) for clause in plan)
