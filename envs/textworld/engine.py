"""The games: coin collector and TextWorld common sense of TextWorldExpress (Jansen and Côté, 2022),
played by its own jar in its own words. Its folds are our splits: dev is `seen`, test `unseen`.
Changed: a limit of steps, and an answer ends with whether the score went up or down.
"""

import json
import os
import shutil
from functools import cache
from importlib.util import find_spec
from random import Random
from typing import Any

import envs.textworld.demonstrations as demonstrations
import envs.textworld.observer as observer
from envs import Environment
from envs.tasks import check_split

FOLDS = {"train": ("train", 0), "seen": ("dev", 10_000), "unseen": ("test", 20_000)}  # first seeds
SEEDS = 1000  # of a fold
GAMES = {"coin": "numLocations=8", "twc": "numLocations=1,numItemsToPutAway=2"}
RULES, STEPS = ",includeDoors=0,limitInventorySize=0", {"coin": 10, "twc": 18}

@cache
def _jar(process: int) -> Any:  # each process has its own JVM, started when it is first needed
    from py4j.java_gateway import JavaGateway
    from textworld_express.constants import BASEPATH, JAR_PATH

    own: Any = dict(classpath=JAR_PATH, cwd=BASEPATH, die_on_exit=True, javaopts=["-Xmx256m"])
    return JavaGateway.launch_gateway(**own).jvm.textworldexpress.runtime.PythonInterface

@cache
def _generator(process: int, kind: str) -> Any:  # to load it takes longer than to play a game
    java = _jar(process)()
    java.load(kind, GAMES[kind] + RULES)
    return java.gameGenerator()

class TextWorld(Environment):
    """The contract is in `envs/__init__.py`; progress is the best score so far."""

    name, observer, demonstrators = "textworld", observer, demonstrations

    def __init__(self, max_steps: int | None = None):
        super().__init__(max_steps)
        if not (shutil.which("java") and find_spec("textworld_express")):
            raise ValueError("textworld: needs Java, and `pip install textworld-express`")

    def tasks(self, split: str, n: int, seed: int | str) -> list[dict]:
        """None comes twice before all of the fold have come."""
        check_split(split)
        fold, first = FOLDS[split]
        games = [(kind, first + i) for kind in GAMES for i in range(SEEDS)]
        Random(f"textworld {split} {seed}").shuffle(games)
        drawn = [games[i % len(games)] for i in range(n)]
        return [{"env": "textworld", "id": f"{split}-{seed}-{i}", "max_steps": STEPS[kind],
                 "kind": kind, "fold": fold, "seed": number}
                for i, (kind, number) in enumerate(drawn)]  # fmt: skip

    def _start(self, task: dict) -> str:
        self.java, self.score, self.best = _jar(os.getpid())(), 0.0, 0.0
        getattr(self.java, "gameGenerator_$eq")(_generator(os.getpid(), task["kind"]))
        text = self._told(self.java.generateNewGameJSON(task["seed"], task["fold"], True))
        return f"{self.java.getTaskDescription()} {text}"

    def _act(self, action: str) -> tuple[str, float, bool]:
        score, best = self.score, self.best
        text = self._told(self.java.stepJSON(action.encode(errors="replace").decode()))
        moved = observer.UP if self.score > score else observer.DOWN if self.score < score else ""
        return text + moved, self.best - best, self.state["tasksuccess"]

    def _told(self, state: str) -> str:
        self.state = json.loads(state)
        self.score = self.state["score"]
        self.best = max(self.best, self.score)
        return " ".join(self.state["observation"].split())

    def admissible_actions(self) -> list[str]:
        return sorted(self.state["validActions"])

    def info(self) -> dict:
        return {"success": self.state["tasksuccess"], "progress": self.best}

    def gold(self) -> list[str]:
        """Actions that solve the task just reset, by the game itself; seldom the fewest."""
        return list(self.java.getGoldActionSequence())
