"""The memories of the method (paper, section 4).

    short-term    the trajectory itself: `trial.Trajectory`
    long-term     the reflections on a task, of which the actor reads the newest: `recall`
    replay buffer D_RL = (x, y, G, G_next), rated reflections of all tasks, on disk as JSON lines

A line of the replay buffer is plain text:

    {"env", "task_id", "trial", "prompt", "response", "return", "next_return", "rating", "cause"}

`prompt` is what the reflector was asked. `response` is what it answered, with a line end unless it
was cut off. Neither holds special tokens or a chat model's frame: those are put around a text when
it is read. So rows that one model wrote can teach another (`train.py --from-buffer`). `rating` is
what the returns give; what a false `cause` costs (`reflect.worth`) is not in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from retro.language_model import LanguageModel
from retro.prompts import NO_NOTES, REFLECT, one_line
from retro.run.files import JsonLines
from retro.run.rated_rows import FIELDS, check_row

MEMORY = 3  # reflections that the actor reads (Reflexion keeps the last three)

def recall(reflections: Sequence[str], n: int) -> tuple[str, ...]:
    """The newest n reflections, oldest first.

    >>> recall(["a", "b", "c"], 2), recall(["a"], 2), recall(["a"], 0)
    (('b', 'c'), ('a',), ())
    """
    return tuple(reflections[max(len(reflections) - n, 0) :])

@dataclass(frozen=True)
class Rated:
    """One line of D_RL: a reflection on a failed trial, and the trial that came after it."""

    env: str
    task_id: str
    trial: int  # number of the failed trial, 0 = the first
    prompt_ids: list[int]  # x
    response_ids: list[int]  # y: `response` encoded again, maybe not the tokens that were sampled
    response: str
    episode_return: float  # G of the failed trial
    next_return: float
    rating: float  # `reflect.rate`
    cause: bool | None = None  # is the stated one true? None: it states none, or nobody could tell

    def to_row(self, lm: LanguageModel) -> dict:
        return dict(zip((*FIELDS, "cause"), (
            self.env, self.task_id, self.trial, lm.prompt_text(self.prompt_ids), self.response,
            self.episode_return, self.next_return, self.rating, self.cause,
        )))  # fmt: skip

    @staticmethod
    def from_row(row: dict, lm: LanguageModel) -> "Rated":
        """A response that fills more than half of the context is cut off. A prompt that then is
        too long loses its middle.
        """
        response_ids = stored_response(row["response"], lm)
        return Rated(
            row["env"], row["task_id"], row["trial"],
            lm.fit(row["prompt"], lm.context - len(response_ids)), response_ids, row["response"],
            row["return"], row["next_return"], row["rating"], row.get("cause"),
        )  # fmt: skip

def stored_response(text: str, lm: LanguageModel) -> list[int]:
    """The ids of a response as it is learnt from the replay buffer."""
    return lm.answer_ids(text)[: (lm.context - sum(map(len, lm.around))) // 2]

def replay_buffer(path: str | Path) -> JsonLines:
    """The file of D_RL in a run's folder."""
    return JsonLines(path, tuple(FIELDS))

def read_buffer(path: str | Path, rating_range: tuple[float, float], lm: LanguageModel,
                kind: str = "delta") -> list[Rated]:  # fmt: skip
    """The rows of a file from anywhere; ValueError names the first wrong line. Each response
    becomes one line, as this model would write it. `kind` of the ratings: see `reflect.rate`.
    """
    rows, other = [], NO_NOTES if lm.notes else REFLECT
    for number, row in enumerate(replay_buffer(path), 1):
        try:
            check_row(row, rating_range, kind)
            if row["prompt"].endswith(other):
                raise ValueError(f"prompt ends in {other.strip()!r}: only for a run with "
                                 f"--{'no-' * lm.notes}notes")  # fmt: skip
        except ValueError as error:
            raise ValueError(f"{path}:{number}: {error}") from error
        response = lm.as_answer(one_line(row["response"]))
        rows.append(Rated.from_row(row | {"response": response}, lm))
    if not rows:
        raise ValueError(f"{path}: holds no rows")
    return rows
