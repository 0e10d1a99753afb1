"""Made-up names: a head and a tail, of which one pair in four is kept for `unseen` tasks.

A name of known parts that no training text has put together can be read and copied, not recalled:
by a language model, if each of its tokens belongs to one part. Where a head's last letter and a
tail's first one are often neighbours in other words the tokenizer joins them, "Raven" and "thorn"
become R-ave-nt-horn, and the base, which knows the parts, can't copy the name.
"""

import random
import re

# such neighbours in household and hotpot; no plan names the shop's brands, some stay joined
JOINED = set("""ch ck dg dl en er et ev fl ft gt kn ld lf lk ll lm lo lp ly mm mp nd ng nt pp sh
st th to tt""".split())


def name_parts(
    rng: random.Random, heads: list[str], tails: list[str], unseen: bool
) -> tuple[str, str]:
    """Head and tail of a made-up name, of those kept for `unseen` or of the others."""
    while True:
        h, t = rng.randrange(len(heads)), rng.randrange(len(tails))
        if ((h + t) % 4 == 0) == unseen and heads[h][-1] + tails[t][0] not in JOINED:
            return heads[h], tails[t]


def cutter(heads: list[str], tails: list[str]) -> re.Pattern:
    """What finds such names: `cutter(heads, tails).sub(CUT, text)` puts a line's end inside each,
    so that a tokenizer learns the parts and not the names.

    >>> cutter(["silk"], ["band"]).sub(CUT, "a silkband 1")
    'a silk\\nband 1'
    """
    return re.compile(rf"\b({'|'.join(heads)})({'|'.join(tails)})\b")


CUT = r"\1\n\2"
