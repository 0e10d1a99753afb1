"""An observer reads a trial's text and nothing else. Each environment's `observer.py` has three
parts: Notes, the facts of one trial; plans, what a reflection tells the next trial to do; and the
oracle, which writes a right plan from the notes. This file holds what all observers share. Read
`envs/__init__.py` first.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

Step = tuple[str, str]  # (action, observation)


class Reader(Protocol):
    """Notes of a trial: made from its first observation, then fed with its steps."""

    def read(self, action: str, reply: str) -> None:
        """Take in one step."""


SomeNotes = TypeVar("SomeNotes", bound=Reader)


def read_trial(notes: SomeNotes, steps: Iterable[Step]) -> SomeNotes:
    """The notes after all steps of a trial."""
    for action, reply in steps:
        notes.read(action, reply)
    return notes


def carried_out(plan: list, steps: list[Step], carries_out: Callable[[str, Any], bool]) -> bool:
    """True if the actions carry out each clause of the plan, in the plan's order. Other actions may
    stand between. `carries_out(action, clause)` judges one action.
    """
    done = 0
    for action, _ in steps:
        if done < len(plan) and carries_out(action, plan[done]):
            done += 1
    return done == len(plan)
