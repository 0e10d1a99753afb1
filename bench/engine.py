"""The household on ALFWorld's own games, against ALFWorld's own engine (textworld)."""

import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from bench.timing import Row, seconds
from envs.household import Household, load_game

WELCOME = "-= Welcome to TextWorld, ALFRED! =-\n\n"

def run(name: str, repeats: int, quick: bool) -> Iterator[Row]:
    """Rows `name`, steps without the resets, and `household_reset`, loading the game included.

    Recorded actions are played; both sides must answer them letter for letter.
    """
    if "RETRO_DATA" not in os.environ:
        print(f"{name:30}left out: RETRO_DATA names no folder with ALFWorld's games")
        return
    data, n = Path(os.environ["RETRO_DATA"]), 1 if quick else 6
    played = json.loads((data / "alfworld_transcripts.json").read_text())[:n]
    with TemporaryDirectory() as folder, tarfile.open(data / "alfworld_games.tgz") as archive:
        archive.extractall(folder, filter="data")
        times = []
        for game in played:
            path = Path(folder) / "json_2.1.1" / game["game"]
            actions = [step[0] for step in game["steps"]]
            for _ in range(min(repeats, 2)):
                times.append([*timed(Ours(), path, actions), *timed(Theirs(), path, actions)])
                mine, theirs = times[-1].pop(2), times[-1].pop(4)
                if mine != theirs:
                    raise ValueError(f"{name}: the engines answer differently in {game['game']}")
        reset, step, other_reset, other_step = (median(column) for column in zip(*times))
    yield Row(name, 1 / step, "alfworld", 1 / other_step, "steps/s")
    yield Row("household_reset", reset, "alfworld", other_reset, "s")

def timed(side, path, actions) -> tuple[float, float, list[str]]:
    """(seconds of the reset, seconds of a step, all that was said)."""
    said = []
    reset = seconds(lambda: said.append(side.reset(path)))
    steps = seconds(lambda: said.extend([side.step(action) for action in actions]))
    return reset, steps / len(actions), said

class Ours:
    def reset(self, path) -> str:
        self.env = Household(max_steps=10**9)
        return self.env.reset(load_game(path))[0]

    def step(self, action: str) -> str:
        return self.env.step(action)[0]

class Theirs:
    def reset(self, path) -> str:
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

        infos = textworld.EnvInfos(won=True)
        self.env = textworld.start(str(path), infos, wrappers=[AlfredDemangler()])
        return self.env.reset().feedback.removeprefix(WELCOME)

    def step(self, action: str) -> str:
        return self.env.step(action)[0].feedback
