"""Demonstrations: players, flawed reflections, questions; for pretraining only. Read
`envs/demonstrations.py` and `observer.py` first.
"""

from collections.abc import Iterator
from random import Random

import tests.doors.engine as engine
import tests.doors.observer as observer
from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, demonstrate, drill, latest_plan
from envs.names import CUT, cutter
from envs.observer import Step, read_trial

OVERLOOKED = 0.3  # how often a player does not notice the key in front of it
VAGUE = ("I was too slow. Plan: be quicker.", "I opened wrong doors. Plan: open the right ones.")

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: Random):
        self.notes, self.rng = observer.Notes(observation), rng
        self.plan = latest_plan(reflections, observer.parse_plan)
        self.overlooks = rng.random() < OVERLOOKED
        self.read = self.notes.read

    def act(self) -> str:
        """The next clause of the plan; without one, search, take the key, try the locked doors."""
        notes = self.notes
        if self.plan:
            return self.plan.pop(0)
        if notes.key and notes.at == notes.key and not (notes.has_key or self.overlooks):
            return "take key"
        if notes.has_key and (notes.out or len(notes.opened) == len(notes.doors)):
            return f"unlock {notes.out or self.rng.choice(notes.doors)}"
        unopened = [door for door in notes.doors if door not in notes.opened]
        if notes.has_key and self.rng.random() < 0.5:
            unopened = [door for door in unopened if door not in notes.tried] or unopened
            return f"unlock {self.rng.choice(unopened)}"
        return f"open {self.rng.choice(unopened or notes.doors)}"

    def slip(self) -> str:
        return f"{self.rng.choice(('open', 'unlock'))} {self.rng.choice(self.notes.doors)}"

def flawed_reflection(observation: str, steps: list[Step], rng: Random) -> str:
    """A plausible reflection: vague, or with another door in one place, or another cause."""
    notes = read_trial(observer.Notes(observation), steps)
    flaw = rng.choice(("vague", "key", "out", "both"))
    if flaw == "vague":
        return rng.choice(VAGUE)
    others = rng.sample([door for door in notes.doors if door not in (notes.key, notes.out)], 2)
    key = others[0] if flaw in ("key", "both") else notes.key
    out = others[1] if flaw in ("out", "both") else notes.out
    return observer.write_reflection(rng.choice([*observer.CAUSES]), key, out)

def questions(observation: str, steps: list[Step], rng: Random, n: int = 4) -> list[Pair]:
    """Neutral ones: none is about how to do better."""
    notes = read_trial(observer.Notes(observation), steps)
    known = [("Where was the key?", notes.key), ("Which door is the way out?", notes.out),
             ("Which doors were opened?", ", ".join(notes.opened))]  # fmt: skip
    return [pair for pair in rng.sample(known, min(n, len(known))) if pair[1]]

def demonstrations(env: Environment, split: str, seed: int | str, oracle_share: float,
                   drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
    """Endless: in `drill_share` of the turns questions on a glance, else the trials of a task."""
    rng = Random(f"doors demonstrations {split} {seed}")
    roles = Roles(Player, observer.oracle_reflection, flawed_reflection, questions)
    while True:
        task = engine.generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            observation, _ = env.reset(task)
            views = env.glance(rng)
            yield drill(views, questions(observation, views, rng))
        else:
            yield from demonstrate(env, task, roles, rng, oracle_share)

def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    return []  # no reading loss

def cut_names(text: str) -> str:
    return cutter(engine.HEADS, engine.TAILS).sub(CUT, text)
