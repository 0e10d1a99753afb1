"""Memory on disk: lines of JSON that survive a crash, and the replay buffer D_RL made of them.

Of the paper's three memories, the short-term one is the trajectory itself (`trial.Trajectory`) and
the long-term one is the list of reflections that `trial.run_trials` puts into the actor's prompt,
the last `actor.memory` of them.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from retro.run.files import named
from retro.run.processes import ALONE, Ranks

FIELDS = ("env", "task_id", "trial", "prompt", "response", "return", "next_return", "rating")


class JsonLines:
    """A file of JSON objects, one a line, each with at least `fields`: append many, read all.

    An append is on disk when it returns: the rows of all ranks, which one of them writes. A
    checkpoint remembers `len`; after a crash `truncate` drops what came later, half-written lines
    included.
    """

    def __init__(self, path: str | Path, fields: tuple[str, ...] = (), ranks: Ranks = ALONE):
        self.path, self.fields, self.ranks = Path(path), fields, ranks

    def append(self, rows: list[dict]) -> None:
        for row in rows:
            assert not set(self.fields) - set(row), f"fields {tuple(row)}, expected {self.fields}"
        rows = self.ranks.gather(rows)
        if self.ranks.writes:
            with named(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows))
                file.flush()
                os.fsync(file.fileno())
        self.ranks.wait()

    def truncate(self, rows: int) -> None:
        """Keep the first `rows` lines; a missing file becomes an empty one."""
        with self.path.open("ab+") as file:
            file.seek(0)
            kept = sum(len(file.readline()) for _ in range(rows))
            file.truncate(kept)

    def __iter__(self) -> Iterator[dict]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{self.path}:{number}: not JSON ({error})") from error
                if not isinstance(row, dict) or set(self.fields) - set(row):
                    raise ValueError(
                        f"{self.path}:{number}: must have the fields {', '.join(self.fields)}"
                    )
                yield row

    def __len__(self) -> int:
        with self.path.open("rb") as file:
            return sum(1 for _ in file)


class ReplayBuffer(JsonLines):
    """D_RL: (x, y, G, G_next) as text, one rated reflection a line, with the FIELDS."""

    def __init__(self, path: str | Path, ranks: Ranks = ALONE):
        super().__init__(path, FIELDS, ranks)
