"""An actor that plays by a plain function of what it has read, without any chance."""

from collections.abc import Callable, Sequence

import torch

from retro import prompts
from retro.memory import MEMORY

class ScriptedActor:
    """`play(transcript) -> action`, a plain function of what an actor would read."""

    device, rows = torch.device("cpu"), 64

    def __init__(self, play: Callable[[str], str], memory: int = MEMORY):
        self.play, self.memory, self.generator = play, memory, torch.Generator()

    def start(self, openings: Sequence[str], generators=None) -> "ScriptedSession":
        return ScriptedSession(self.play, openings)

class ScriptedSession:
    def __init__(self, play: Callable[[str], str], openings: Sequence[str]):
        self.play, self.texts = play, list(openings)

    def act(self, rows: Sequence[int]) -> list[str]:
        actions = [self.play(self.texts[row]) for row in rows]
        for row, action in zip(rows, actions):
            self.texts[row] += f"{prompts.ACT} {action}"
        return actions

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        for row, observation in zip(rows, observations):
            self.texts[row] += prompts.turn(observation)
