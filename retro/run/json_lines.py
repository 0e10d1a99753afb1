"""A file of JSON objects, one a line, that survives a crash: metrics, replay buffer, failed trials.

An append is on disk when it returns. A checkpoint remembers the number of lines; after a crash
`truncate` drops what came later, half-written lines included.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from retro.run.files import named


class JsonLines:
    """Each line holds at least `fields`. Append many, read all."""

    def __init__(self, path: str | Path, fields: tuple[str, ...] = ()):
        self.path, self.fields = Path(path), fields

    def append(self, rows: list[dict]) -> None:
        for row in rows:
            assert not set(self.fields) - set(row), f"fields {tuple(row)}, expected {self.fields}"
        with named(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
            file.flush()
            os.fsync(file.fileno())

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
