"""The game: six doors. Behind one of them lies a key, and it opens another one, the way out. When
the time is up, one is told where the key was and which door would have been the way out.
"""

from random import Random

import tests.doors.demonstrations as demonstrations
import tests.doors.observer as observer
from envs import Environment
from envs.names import name_parts

HEADS, TAILS = (("ba de fi go ku la me ni po ru sa te".split()) for _ in range(2))
DOORS, STEPS = 6, 6
KEY = 0.5  # of the return, for the key in one's hand

def generate_task(rng: Random, split: str, task_id: str) -> dict:
    doors: list[str] = []
    while len(doors) < DOORS:
        name = "".join(name_parts(rng, HEADS, TAILS, unseen=split == "unseen"))
        doors += [name] * (name not in doors)
    key, out = rng.sample(doors, 2)
    return {"env": "doors", "id": task_id, "max_steps": STEPS, "doors": doors, "key": key,
            "out": out}  # fmt: skip

class Doors(Environment):
    """The contract is in `envs/__init__.py`.
    Actions       `open DOOR`, `take key`, `unlock DOOR`.
    Observations  a sentence; "Nothing happens." to all that makes no sense.
    Success       the way out is unlocked. The key is worth half of the return.
    """

    name = "doors"
    observer, demonstrators = observer, demonstrations
    generate_task = staticmethod(generate_task)

    def _start(self, task: dict) -> str:
        self.task, self.opened, self.has_key, self.is_out = task, "", False, False
        return f"Find the key and the way out. Doors: {', '.join(task['doors'])}."

    def _act(self, action: str) -> tuple[str, float, bool]:
        verb, _, door = action.partition(" ")
        reply, reward = "Nothing happens.", 0.0
        if action == "take key" and self.opened == self.task["key"] and not self.has_key:
            self.has_key, reply, reward = True, "You take the key.", KEY
        elif verb == "open" and door in self.task["doors"]:
            self.opened, reply = door, self._behind(door)
        elif verb == "unlock" and door in self.task["doors"]:
            reply = f"The key does not fit {door}." if self.has_key else "You have no key."
            if self.has_key and door == self.task["out"]:
                self.is_out, reply, reward = True, f"You unlock {door} and are out.", 1 - KEY
        if not self.is_out and self.n_steps + 1 >= self.limit:
            reply += f" Time is up: the key was in {self.task['key']}, the way out is "
            reply += f"{self.task['out']}."
        return reply, reward, self.is_out

    def _behind(self, door: str) -> str:
        if door == self.task["out"]:
            return f"The door {door} is locked."
        key = door == self.task["key"] and not self.has_key
        return f"Behind {door} is {'a key' if key else 'nothing'}."

    def admissible_actions(self) -> list[str]:
        doors = self.task["doors"]
        take = ["take key"] * (self.opened == self.task["key"] and not self.has_key)
        return sorted(take + [f"open {d}" for d in doors] + [f"unlock {d}" for d in doors])

    def info(self) -> dict:
        return {"success": self.is_out, "progress": 1.0 if self.is_out else KEY * self.has_key}

    def glance(self, rng: Random) -> list[tuple[str, str]]:
        """All doors opened, in any order."""
        doors = rng.sample(self.task["doors"], DOORS)
        return [(f"open {door}", self._behind(door)) for door in doors]
