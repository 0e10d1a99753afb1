"""The replay buffer's text: rated reflections as rows of plain text, and as ids again.

    {"env", "task_id", "trial", "prompt", "response", "return", "next_return", "rating"}

`prompt` is what the reflector was asked, `response` what it answered, with a line end unless it was
cut off. Neither holds special tokens or a chat model's frame: those are put around a text when it
is read, so rows that one model wrote can teach another (`train.py --from-buffer`).
"""

from collections.abc import Iterable
from pathlib import Path

from retro.interop.chat import answer, frame, line_ends, template_of
from retro.interop.guides import REFLECTION_RULES
from retro.memory import FIELDS, ReplayBuffer
from retro.prompts import one_line
from retro.reflect import RANGES, Recorded, Reflection, framed
from retro.tokenizer import AnyTokenizer

NUMBER = (int, float)
KINDS: dict[str, type | tuple] = {
    "trial": int, "return": NUMBER, "next_return": NUMBER, "rating": NUMBER
}  # fmt: skip


def as_text(reflection: Reflection, coder: AnyTokenizer) -> dict[str, str]:
    """A reflection's prompt and response as a row holds them."""
    before, after = frame(coder, REFLECTION_RULES)
    ids, response = reflection.prompt_ids, answer(coder, reflection.response_ids)
    if reflection.response_ids[-1] in line_ends(coder):
        response = response.rstrip("\n") + "\n"
    prompt = coder.decode(ids[len(before) : len(ids) - len(after)])
    return {"prompt": prompt, "response": response}


def as_ids(row: dict, coder: AnyTokenizer, context: int) -> Reflection:
    """The way back. A response that fills more than half of the context is cut off; a prompt that
    then is too long loses its middle.
    """
    response = response_ids(row["response"], coder)[: context // 2]
    prompt = framed(coder, row["prompt"], context - len(response))
    return Reflection(prompt, response, [], row["response"])


def response_ids(text: str, coder: AnyTokenizer) -> list[int]:
    """A response as ids; its line end is what ends an answer of this model."""
    line = text.removesuffix("\n")
    if line == text:
        return coder.encode(text)
    return coder.encode(line) + (coder.encode("\n") if template_of(coder) is None else [coder.eos])


def as_response(text: str, coder: AnyTokenizer) -> str:
    """One line from elsewhere as this model would write it: after the prompt's `Reflection:` comes
    a space, after a chat model's frame none.
    """
    return f"{'' if template_of(coder) else ' '}{text}\n"


def read_buffer(path: str | Path, rating: str, coder: AnyTokenizer) -> list[dict]:
    """The rows of a file from anywhere, their responses as `as_response`; ValueError names the
    first wrong line.
    """
    rows, (low, high) = [], RANGES[rating]
    for number, row in enumerate(ReplayBuffer(path), 1):
        for field in FIELDS:
            kind = KINDS.get(field, str)
            if not isinstance(row[field], kind) or isinstance(row[field], bool):
                raise ValueError(f"{path}:{number}: {field} is {row[field]!r}")
        if not low <= row["rating"] <= high:
            raise ValueError(
                f"{path}:{number}: rating {row['rating']}: must be in [{low}, {high}] ({rating})"
            )
        if not row["prompt"].strip():
            raise ValueError(f"{path}:{number}: prompt is empty")
        rows.append(row | {"response": as_response(one_line(row["response"]), coder)})
    if not rows:
        raise ValueError(f"{path}: holds no rows")
    return rows


def prompts_of(rows: Iterable[dict]) -> dict[str, list[tuple[int, Recorded]]]:
    """What there is to reflect on, by environment: every distinct prompt, with its trial."""
    found: dict[str, dict[str, tuple[int, Recorded]]] = {}
    for row in rows:
        prompt = Recorded(row["env"], row["task_id"], row["prompt"])
        found.setdefault(row["env"], {}).setdefault(row["prompt"], (row["trial"], prompt))
    return {env: list(own.values()) for env, own in found.items()}
