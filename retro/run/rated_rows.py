"""The fields of a line of the replay buffer, and what they may be in a file from anywhere.
Read before: retro/memory.py, which says what the fields mean.
"""

from typing import Any

NUMBER = (int, float)
FIELDS: dict[str, type | tuple[type, ...]] = {
    "env": str, "task_id": str, "trial": int, "prompt": str, "response": str,
    "return": NUMBER, "next_return": NUMBER, "rating": NUMBER,
}  # fmt: skip
MAX_TRIAL = 10**6
ROUNDED = 0.002  # a rating may differ so much from what the returns give

def check_row(row: dict[str, Any], rating_range: tuple[float, float], kind: str) -> None:
    """ValueError on the first field that is wrong. `kind` of the ratings: see `reflect.rate`."""
    for field, type_ in FIELDS.items():
        if not isinstance(row[field], type_) or isinstance(row[field], bool):
            raise ValueError(f"{field} is {row[field]!r:.100}")
    ranges = {"trial": (0, MAX_TRIAL), "return": (0, 1), "next_return": (0, 1),
              "rating": rating_range}  # fmt: skip
    for field, (low, high) in ranges.items():
        if not low <= row[field] <= high:  # so it is with NaN
            raise ValueError(f"{field} {row[field]!r:.20}: must be in [{low}, {high}]")
    if not isinstance(cause := row.get("cause"), bool | None):  # older rows have none
        raise ValueError(f"cause is {cause!r:.100}")
    for field in ("env", "task_id", "prompt"):  # a response may be: models write such
        if not row[field].strip():
            raise ValueError(f"{field} is empty")
        if field in ("env", "task_id") and not row[field].isprintable():
            raise ValueError(f"{field} {row[field]!r:.100} is not printable")
    if kind == "success" and row["rating"] not in (0, row["next_return"] == 1):
        allowed = "0, or 1 where next_return is 1"
        raise ValueError(f"rating {row['rating']!r:.20}: must be {allowed} (--rating success)")
    gain = row["next_return"] - (row["return"] if kind == "delta" else 0)
    if kind in ("delta", "next") and abs(row["rating"] - gain) > ROUNDED:
        raise ValueError(f"rating {row['rating']!r:.20}, but by its returns {gain:.6g} "
                         f"(--rating {kind})")  # fmt: skip
