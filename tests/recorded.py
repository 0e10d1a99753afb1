"""Recorded Reflexion rows (README of RETRO_DATA) as a file for `train.py --from-buffer`."""

import json
from pathlib import Path

from retro.memory import replay_buffer
from retro.prompts import REFLECT, opening, reflection_request

def convert(source, target) -> int:
    """Write the rows of hotpotqa_reflections.json to `target`; returns how many. G is the F1."""
    rows = json.loads(Path(source).read_text(encoding="utf-8"))
    Path(target).touch()
    replay_buffer(target).append([row_of(row) for row in rows])
    return len(rows)

def row_of(row: dict) -> dict:
    text = opening(f"Question: {row['question']}", row["prev_reflections"])
    request = reflection_request(row["f1_0"])
    assert request.endswith(REFLECT)
    return {
        "env": "hotpot",
        "task_id": row["id"],
        "trial": row["trial"] - 1,
        "prompt": f"{text}\n{row['trajectory']}{request}",
        "response": row["reflection"],
        "return": row["f1_0"],
        "next_return": row["f1_1"],
        "rating": row["f1_1"] - row["f1_0"],
    }
