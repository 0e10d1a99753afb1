"""Guess the word: a fourth environment, as small as one can be. The failed trial reveals the word,
the reflection must name it. `envs/__init__.py` says what each method is for.
"""

import random
from collections.abc import Iterator

from envs import Environment
from envs.demonstrations import Demonstration, Roles, demonstrate
from envs.names import CUT, cutter, name_parts
from envs.tasks import check_split

HEADS, TAILS = (("ba de fi go ku la me ni po ru sa te".split()) for _ in range(2))

class Guess(Environment):
    name = "guess"

    def fresh(self) -> "Guess":
        return Guess()

    def tasks(self, split: str, n: int, seed) -> list[dict]:
        check_split(split)
        rng = random.Random(f"guess {split} {seed}")
        new = lambda: "".join(name_parts(rng, HEADS, TAILS, unseen=split == "unseen"))
        words = [[new() for _ in range(6)] for _ in range(n)]
        return [
            {"env": "guess", "id": f"{split}-{seed}-{i}", "max_steps": 2, "words": own,
             "word": rng.choice(own)} for i, own in enumerate(words)
        ]  # fmt: skip

    def reset(self, task: dict, seed: int | None = None) -> tuple[str, dict]:
        self.task, self.left = task, task["max_steps"]
        opening = f"Guess the word: {', '.join(task['words'])}."
        self.answer = (opening, 0, False, False, {"success": False, "progress": 0.0})
        return opening, self.info()

    def step(self, action: str) -> tuple:
        if not (self.answer[2] or self.answer[3]):
            won, self.left = action == self.task["word"], self.left - 1
            over = not won and not self.left
            reply = "Yes." if won else f"No. It was {self.task['word']}." if over else "No."
            info = {"success": won, "progress": float(won)}
            self.answer = (reply, int(won), won, over, info)
        return self.answer

    def admissible_actions(self) -> list[str]:
        return sorted(self.task["words"])

    def oracle_reflection(self, observation: str, steps: list) -> str:
        return f"I was wrong. Plan: say {steps[-1][1].rpartition(' ')[2]}"

    def follows(self, reflection: str, steps: list) -> bool:
        return f"say {steps[0][0]}." in reflection

    def questions(self, observation: str, steps: list, rng) -> list[tuple[str, str]]:
        word = steps[-1][1].rpartition(" ")[2].rstrip(".")
        return [("What was the word?", word if word != "Yes" else steps[-1][0])]

    def demonstrations(
        self, split: str, seed, oracle_share: float, drill_share: float = 0.0
    ) -> Iterator[Demonstration]:
        flawed = lambda o, steps, rng: f"I was wrong. Plan: say {rng.choice(_words(o))}."
        roles = Roles(Player, self.oracle_reflection, flawed, self.questions)
        rng = random.Random(f"demonstrations {split} {seed}")
        while True:
            yield from demonstrate(
                self, *self.tasks(split, 1, rng.random()), roles, rng, oracle_share
            )

    def bindings(self, text: str) -> list:
        return []  # no reading loss

    def cut_names(self, text: str) -> str:
        return cutter(HEADS, TAILS).sub(CUT, text)

class Player:
    """Says what the last reflection names, then any word."""

    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.words, self.rng = _words(observation), rng
        self.plan = [text.rpartition(" ")[2].rstrip(".") for text in reflections[-1:]]

    def act(self) -> str:
        return self.plan.pop() if self.plan else self.slip()

    def slip(self) -> str:
        return self.rng.choice(self.words)

    def read(self, action: str, reply: str) -> None:
        pass

def _words(observation: str) -> list[str]:
    return observation.partition(": ")[2].rstrip(".").split(", ")
