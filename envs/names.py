"""Made-up names: a head and a tail. One pair in four is kept for `unseen` tasks: training texts
have its parts, not the name. A language model cannot recall the name; it can read and copy it, if
each token belongs to one part. Pairs whose letters the tokenizer joins ("Raven" + "thorn" becomes
R-ave-nt-horn) are left out.
"""

import re
from collections.abc import Sequence
from random import Random

# Letters that the tokenizer joins in texts of household and hotpot. The shop has more such pairs of
# letters; they are not left out, since no plan contains one of its brands.
JOINED = set("""ch ck dg dl el en er et ev ff fl ft gh gt ha ht kn la lc ld le lf lk ll lm lo lp
lt ly mm mp nd ne ng nk ns nt ny pl pp py ra rd re rk rm rn rt ry se sh sk sp st ta te th tl to ts
tt ty wl wn yc yn yt""".split())  # fmt: skip
CUT = r"\1\n\2"
MIXED = 0.25  # of the names in training: their pairs are new, as all pairs of `unseen` tasks are

def name_parts(rng: Random, heads: list[str], tails: list[str], unseen: bool,
               strangers: Sequence[str] = ()) -> tuple[str, str]:  # fmt: skip
    """Head and tail of a made-up name: a pair kept for `unseen` tasks, or another pair. Of the
    others a share of MIXED takes the head from `strangers`, the heads of another kind of name.
    """
    if strangers and not unseen and rng.random() < MIXED:
        heads = list(strangers)
    while True:
        h, t = rng.randrange(len(heads)), rng.randrange(len(tails))
        if ((h + t) % 4 == 0) == unseen and heads[h][-1] + tails[t][0] not in JOINED:
            return heads[h], tails[t]

def cutter(heads: list[str], tails: list[str]) -> re.Pattern:
    """A pattern that finds such names. `cutter(heads, tails).sub(CUT, text)` puts a line's end
    inside each name, so that a tokenizer learns the parts and not the names.
    """
    return re.compile(rf"\b({'|'.join(heads)})({'|'.join(tails)})\b")
