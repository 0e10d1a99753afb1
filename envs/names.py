"""Made-up names: a head and a tail, of which one pair in four is kept for `unseen` tasks.

A name of known parts that no training text has put together can be read and copied, not recalled.
"""

import random
import re


def name_parts(
    rng: random.Random, heads: list[str], tails: list[str], unseen: bool
) -> tuple[str, str]:
    """Head and tail of a made-up name, of those kept for `unseen` or of the others."""
    while True:
        head, tail = rng.randrange(len(heads)), rng.randrange(len(tails))
        if ((head + tail) % 4 == 0) == unseen:
            return heads[head], tails[tail]


def cutter(heads: list[str], tails: list[str]) -> re.Pattern:
    """What finds such names: `cutter(heads, tails).sub(CUT, text)` puts a line's end inside each,
    so that a tokenizer learns the parts and not the names.

    >>> cutter(["silk"], ["band"]).sub(CUT, "a silkband 1")
    'a silk\\nband 1'
    """
    return re.compile(rf"\b({'|'.join(heads)})({'|'.join(tails)})\b")


CUT = r"\1\n\2"
