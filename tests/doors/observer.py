"""What a reader of a trial knows (Notes), the plans that it can write, and the judge of what others
write. Read `envs/observer.py` first. A reflection is one line, such as `I never took the key. Plan:
open bade, take key, unlock gopo.`
"""

import re

from envs.observer import Step, Verdict, carried_out, read_trial

CAUSES = {"no key": "I never took the key.", "not unlocked": "I had the key but did not get out."}
_END = re.compile(r"the key was in (\w+), the way out is (\w+)\.")

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str):
        self.doors = observation.rpartition(": ")[2].rstrip(".").split(", ")
        self.opened: list[str] = []  # in the order of their first opening
        self.tried: set[str] = set()  # doors that the key does not fit
        self.key = self.out = ""  # the door that it lies behind, the way out; "" = not seen yet
        self.at, self.has_key = "", False

    def read(self, action: str, reply: str) -> None:
        verb, _, door = action.partition(" ")
        if verb == "open" and door in self.doors:
            self.at = door
            self.opened += [door] * (door not in self.opened)
            self.key = door if reply.startswith(f"Behind {door} is a key.") else self.key
            self.out = door if reply.startswith(f"The door {door} is locked.") else self.out
        elif reply.startswith("You take the key."):
            self.has_key = True
        elif reply.startswith("The key does not fit"):
            self.tried.add(door)
        elif reply.startswith("You unlock"):
            self.out = door
        if end := _END.search(reply):
            self.key, self.out = end[1], end[2]

    def cause(self) -> str:
        return "not unlocked" if self.has_key else "no key"

def write_reflection(cause: str, key: str, out: str) -> str:
    return f"{CAUSES[cause]} Plan: open {key}, take key, unlock {out}."

def parse_plan(reflection: str) -> list[str]:
    """The actions that a reflection tells the next trial to do."""
    _, _, plan = reflection.partition("Plan: ")
    return re.findall(r"open \w+|take key|unlock \w+", plan)

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    notes = read_trial(Notes(observation), steps)
    return write_reflection(notes.cause(), notes.key, notes.out)

def follows(reflection: str, steps: list[Step]) -> bool:
    return carried_out(parse_plan(reflection), steps, lambda action, clause: action == clause)

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    notes, plan = read_trial(Notes(observation), steps), parse_plan(reflection)
    kind = next((kind for kind, words in CAUSES.items() if reflection.startswith(words)), "")
    named = [clause.partition(" ")[2] for clause in plan if clause != "take key"]
    right = {f"open {notes.key}", "take key", f"unlock {notes.out}"}
    return Verdict(
        kind=kind,
        cause=kind == notes.cause() if kind else None,
        sound=plan == parse_plan(oracle_reflection(observation, steps)),
        place=set(plan) <= right if named else None,
        invented=not set(named) <= set(notes.doors),
    )

def _constant(key: int, out: int):
    """A plan that needs no model: two of the doors by their place in the first line."""

    def template(observation: str, steps: list[Step]) -> str:
        notes = read_trial(Notes(observation), steps)
        return write_reflection(notes.cause(), notes.doors[key], notes.doors[out])

    return template

TEMPLATES = {"first, last": _constant(0, -1), "last, first": _constant(-1, 0)}
