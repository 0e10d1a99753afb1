"""Two games of TextWorldExpress (Jansen and Côté, 2022), coin collector and TextWorld common sense,
played by its own jar in its own words. Changed: a limit of steps; an answer ends with whether the
score went up or down. A failed trial shows what is left to try: rooms, or places for a thing.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from itertools import repeat
from random import Random

from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, demonstrate, latest_plan
from envs.observer import Step, read_trial

FOLDS = {"train": ("train", 0), "seen": ("dev", 10_000), "unseen": ("test", 20_000)}  # first seeds
GAMES = {"coin": "numLocations=8,includeDoors=0", "twc": "numLocations=1,numItemsToPutAway=2"}
STEPS, UP, DOWN = {"coin": 10, "twc": 18}, " Your score went up.", " Your score went down."
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
SEEN = re.compile(r"(?:see|also) an? (?!stove|oven|toilet\.|bath mat)([^.,]+?)(,? that .*?)?\.")
CLAUSE = re.compile(r"move \w+|take coin|put .+? in [^.,;]+")  # of a plan

@cache
def _games(process: int) -> tuple:  # the jar, and a generator for each game; a process has one JVM
    from py4j.java_gateway import JavaGateway
    from textworld_express.constants import BASEPATH, JAR_PATH
    jvm = JavaGateway.launch_gateway(classpath=JAR_PATH, cwd=BASEPATH, die_on_exit=True).jvm
    games = {kind: jvm.textworldexpress.runtime.PythonInterface() for kind in GAMES}
    for kind, java in games.items():
        java.load(kind, GAMES[kind])
    return jvm.textworldexpress.runtime, {k: java.gameGenerator() for k, java in games.items()}

class Player:  # `envs.demonstrations.Player`; a goal is `find coin in ROOM`, `put THING in PLACE`
    def __init__(self, observation: str, reflections: list[str], rng: Random):
        self.tried: dict[str, bool] = {}  # goal -> was it right?
        self.ways: dict[str, list[str]] = {}  # goal -> its actions from the start
        self.here, self.exits, self.at_coin, self.rng = list[str](), list[str](), False, rng
        self.coin = "find the coin" in observation
        seen = [] if self.coin else SEEN.findall(observation)
        things = [thing for thing, state in seen if not state]
        for thing, place, state in [(thing, *other) for other in seen for thing in things]:
            way = [f"take {thing}", f"open {place}", f"put {thing} in {place}"]
            self.ways |= {way[2]: way if "closed" in state else way[::2]} if state else {}
        self.read("", observation)
        self.actions = self._actions(latest_plan(reflections, CLAUSE.findall))

    def read(self, action: str, reply: str) -> None:
        if self.coin and (room := re.search(r"You are in the ([^.]+)\.", reply)):
            action, self.at_coin = f"find coin in {room[1]}", " a coin." in reply
            self.here = self.ways.setdefault(action, [])
            self.exits = re.findall(r"to the (\w+) you", reply.lower())
            for way, other in re.findall(r"To the (\w+) you see the ([^.]+)\.", reply):
                self.ways.setdefault(f"find coin in {other}", [*self.here, f"move {way.lower()}"])
        if action in self.ways and reply.startswith("You"):
            self.tried[action] = self.at_coin or reply.endswith(UP)

    def left(self) -> list[str]:  # goals that were not tried, of things whose place is not known
        found = [goal.partition(" in ")[0] for goal, right in self.tried.items() if right]
        return [g for g in self.ways if not {g, g.partition(" in ")[0]} & {*found, *self.tried}]

    def act(self) -> str:
        return "take coin" if self.at_coin else next(self.actions)

    def slip(self) -> str:
        return self.rng.choice(("look around", "inventory", "take coin", "open door"))

    def _actions(self, plan: list[str]) -> Iterator[str]:  # then what is left, near goals first
        for clause in plan:
            way = [clause] * (clause[5:] in self.exits)
            yield from self.ways[clause] if clause in self.left() else way
        far = lambda goal: len(walk(self.here, self.ways[goal])) + self.rng.uniform(0, 3)
        while goal := min(self.left(), key=far, default=""):
            yield from walk(self.here, self.ways[goal])
        yield from repeat("look around")

def walk(here: list[str], there: list[str]) -> list[str]:  # between the ends of two ways
    shared = len(os.path.commonprefix([here, there]))
    return [f"move {BACK[move[5:]]}" for move in here[shared:][::-1]] + there[shared:]

def reflect(observation: str, steps: list[Step]) -> str:
    n = read_trial(Player(observation, [], Random(0)), steps)
    plan = [goal for goal, right in n.tried.items() if right] + n.left()
    cause = f"I never tried {n.left()[0].partition(' ')[2]}." if n.left() else "I was too slow."
    if n.coin:  # from room to room
        ways = sorted((n.ways[goal] for goal in plan), key=len)
        plan = [*sum(map(walk, [[], *ways], ways), [])[:9], "take coin"]
    return f"{cause} Plan: {', '.join(plan[:12])}."

class TextWorld(Environment):  # progress is the best score so far
    name, oracle_reflection = "textworld", staticmethod(reflect)
    templates = {"again": lambda _, steps: f"I was slow. Plan: {', '.join(a for a, _ in steps)}.",
                 "in order": lambda observation, _: reflect(observation, [])}  # fmt: skip

    def __init__(self, max_steps: int | None = None):
        super().__init__(max_steps)
        if not (shutil.which("java") and find_spec("textworld_express")):
            raise ValueError("textworld: needs Java, and `pip install textworld-express`")

    @staticmethod
    def generate_task(rng: Random, split: str, task_id: str) -> dict:
        kind, (fold, first) = rng.choice([*GAMES]), FOLDS[split]
        return {"env": "textworld", "id": task_id, "max_steps": STEPS[kind], "kind": kind,
                "fold": fold, "seed": first + rng.randrange(1000)}  # fmt: skip

    def _start(self, task: dict) -> str:
        runtime, generators = _games(os.getpid())
        self.java, self.best = runtime.PythonInterface(), 0.0
        getattr(self.java, "gameGenerator_$eq")(generators[task["kind"]])
        self.state = json.loads(self.java.generateNewGameJSON(task["seed"], task["fold"], True))
        return f"{self.java.getTaskDescription()} {self._act('look around')[0]}"

    def _act(self, action: str) -> tuple[str, float, bool]:
        score, best = self.state["score"], self.best
        self.state = json.loads(self.java.stepJSON(action.encode(errors="replace").decode()))
        gain, self.best = self.state["score"] - score, max(best, self.state["score"])
        text = " ".join(self.state["observation"].split()) + UP * (gain > 0) + DOWN * (gain < 0)
        return text, self.best - best, self.state["tasksuccess"]

    def admissible_actions(self) -> list[str]:
        return sorted(self.state["validActions"])

    def info(self) -> dict:
        return {"success": self.state["tasksuccess"], "progress": self.best}

    def follows(self, reflection: str, steps: list[Step]) -> bool:  # did it do only what is said?
        said, done = iter(CLAUSE.findall(reflection)), [a for a, _ in steps if CLAUSE.fullmatch(a)]
        return bool(done) and all(action in said for action in done)

    def questions(self, observation: str, steps: list[Step], rng: Random) -> list[Pair]:
        n = read_trial(Player(observation, [], rng), steps)
        asked = [(f"How does one {goal}?", ", ".join(way)) for goal, way in n.ways.items() if way]
        asked.append(("What was not tried?", ", ".join(n.left()) or "nothing"))
        return rng.sample(asked, min(len(asked), 4))

    def demonstrations(self, split: str, seed: int | str, oracle_share: float,
                       drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
        rng = Random(f"textworld demonstrations {split} {seed}")
        gold = lambda: [f"Plan: {', '.join(self.java.getGoldActionSequence())}."]
        player = lambda text, told, rng: Player(text, told or gold() * (rng.random() < 0.05), rng)
        flawed = lambda *trial: trial[2].choice([*self.templates.values()])(*trial[:2])
        who = Roles(player, self.oracle_reflection, flawed, self.questions)
        while True:
            yield from demonstrate(self, self.generate_task(rng, split, ""), who, rng, oracle_share)

    bindings = lambda self, text: []  # no reading loss
    cut_names = lambda self, text: text  # no name is made up
