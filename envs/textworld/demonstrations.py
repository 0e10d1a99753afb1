"""Demonstrations: players, gold paths, flawed reflections, questions; for pretraining only. Read
`envs/demonstrations.py` and `observer.py` first.
"""

from collections.abc import Iterator
from random import Random

import envs.textworld.observer as observer
from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, demonstrate, latest_plan
from envs.observer import Step, read_trial
from envs.textworld.observer import (
    BACK,
    PUT,
    RARE,
    Notes,
    oracle_reflection,
    reflect_on,
    write_notes,
)

GOLD = 0.15  # share of the tasks in which the gold path is shown first
# chances of a player's lapses: goes back to a room that it knows, does not notice the coin; leaves
# a thing where it is, takes a wrong place for a right one
BACKWARD, OVERLOOK, FORGET, CONTENT = 0.3, 0.15, 0.1, 0.3
VAGUE = ("I was too slow. Plan: be quicker.", "I looked in wrong places. Plan: look elsewhere.")

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: Random):
        self.notes, self.rng = Notes(observation), rng
        self.plan = latest_plan(reflections, observer.parse_plan)
        self.read, self.aim = self.notes.read, ""
        told = " ".join(self.plan)
        free = [thing for thing in self.notes.things if f"put {thing} in" not in told]
        self.leaves = {thing for thing in free if rng.random() < FORGET}
        self.content = rng.random() < CONTENT
        self.overlooks = rng.random() < OVERLOOK and "take coin" not in told

    def act(self) -> str:
        n, rng = self.notes, self.rng
        if n.is_coin and n.coin == n.at and not self.overlooks:
            return "take coin"
        while self.plan:
            if action := self._towards(self.plan[0]):
                self.plan = self.plan[n.is_coin :]
                return action
            self.plan = self.plan[1:]
        if n.is_coin:
            return self._search()
        for thing in n.things:
            done = thing in n.right or (self.content and n.wrong[thing]) or thing in self.leaves
            if places := n.places_for(thing) if thing in n.held or not done else []:
                likely = [place for place in places if place not in RARE] or places
                self.aim = self._towards(self.aim) and self.aim
                aimed = self.aim.startswith(f"put {thing} in")
                self.aim = self.aim if aimed else f"put {thing} in {rng.choice(likely)}"
                return self._towards(self.aim)
        return rng.choice(("look around", "inventory"))

    def _towards(self, clause: str) -> str:
        """The next action towards a plan's clause; "" if it is done or can't be."""
        n = self.notes
        if n.is_coin:
            return clause if clause.partition(" ")[2] in n.ways[n.at] else ""
        if not (put := PUT.fullmatch(clause)):
            return ""
        thing, place = put.groups()
        done = thing in n.right and thing not in n.held
        if done or thing not in n.things or place not in n.places_for(thing):
            return ""
        if thing not in n.held:
            return f"take {thing}"
        return f"open {place}" if place in n.closed else clause

    def _search(self) -> str:
        """Into a new room, else on the way to the nearest one."""
        n, rng = self.notes, self.rng
        exits = n.ways[n.at]
        new = [way for way, room in exits.items() if room not in n.entered]
        if rng.random() < BACKWARD or not (new or n.unentered()):
            return f"move {rng.choice([*exits])}"
        return f"move {rng.choice(new) if new else n.way(n.at, n.unentered())[0][0]}"

    def slip(self) -> str:
        n, rng = self.notes, self.rng
        if n.is_coin:
            walls = [way for way in BACK if way not in n.ways[n.at]] or ["up"]
            return rng.choice(("take coin", "look around", f"move {rng.choice(walls)}"))
        return rng.choice((f"take {rng.choice(n.things)}", f"open {rng.choice(n.places)}"))

def flawed_reflection(observation: str, steps: list[Step], rng: Random) -> str:
    """Vague; *hasty*, without notes; or *careless*: one fact is wrong, the rest follows from it."""
    flaw = rng.choice(("vague", "hasty", "careless"))
    if flaw == "vague":
        return rng.choice(VAGUE)
    said = right = oracle_reflection(observation, steps)
    while said == right:
        said = reflect_on(_misread(read_trial(Notes(observation), steps), rng))
    return said[said.index("Cause: ") :] if flaw == "hasty" else said

def _misread(n: Notes, rng: Random) -> Notes:
    thing, goal_or_way = rng.choice(n.things or [""]), rng.random() < 0.5
    if n.is_coin and goal_or_way:  # the coin seen in a wrong room
        n.coin = rng.choice([room for room in n.ways if room != n.coin])
    elif n.is_coin:  # exits of a room taken for each other
        exits = n.ways[rng.choice(n.entered)]
        exits |= dict(zip(exits, rng.sample([*exits.values()], len(exits))))
    elif goal_or_way:  # a place taken for the right one
        n.right[thing] = rng.choice(n.wrong[thing] or n.places)
    else:  # places taken for tried ones
        n.right.pop(thing, None)
        n.wrong[thing] = rng.sample(n.places, min(len(n.places) - 1, rng.randint(1, 2)))
    return n

def questions(observation: str, steps: list[Step], rng: Random, n: int = 4) -> list[Pair]:
    """Neutral ones; also what the notes and the reflection would be, had the trial another goal."""
    facts = lambda: read_trial(Notes(observation), steps)
    seen, asked = facts(), list[Pair]()
    asked.append(("What matters?", "; ".join(write_notes(seen))))
    for topic in rng.sample([*seen.ways][1:] if seen.is_coin else seen.things, 1):
        other = facts()
        other.coin, other.things = topic * seen.is_coin, [topic] * (not seen.is_coin)
        asked += [(f"What matters for {topic}?", "; ".join(write_notes(other))),
                  (f"What if the task were {topic}?", reflect_on(other))]  # fmt: skip
    if seen.is_coin:
        room = rng.choice(seen.entered)
        exits = ", ".join(f"{way} {other}" for way, other in seen.ways[room].items())
        asked += [(f"Where can one go from {room}?", exits),
                  ("Which rooms were entered?", ", ".join(seen.entered))]  # fmt: skip
    for thing in seen.things:
        tried = seen.right.get(thing) or ", ".join(seen.untried(thing))
        asked.append((f"Where may {thing} belong?", tried))
    return rng.sample(asked, min(n, len(asked)))

def demonstrations(env: Environment, split: str, seed: int | str, oracle_share: float,
                   drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
    """Endless, without drills; now and then the gold path, where it fits into the steps."""
    rng = Random(f"textworld demonstrations {split} {seed}")
    roles = Roles(Player, oracle_reflection, flawed_reflection, questions)
    while True:
        (task,) = env.tasks(split, 1, rng.getrandbits(32))
        if rng.random() < GOLD:
            observation, _ = env.reset(task)
            steps = [(action, env.step(action)[0]) for action in env.gold()]  # type: ignore
            if env.info()["success"]:
                asked = questions(observation, steps, rng)
                yield Demonstration(observation, [], steps, set(), True, 1.0, None, asked)
        yield from demonstrate(env, task, roles, rng, oracle_share)

def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    return []  # no reading loss

def cut_names(text: str) -> str:
    return text  # no name is made up
