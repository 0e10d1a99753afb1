"""How good a reward model (retro/reward.py) is on reflections that it has not learnt from: does it
rank them as their ratings do, and are its scores as high as these?
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations

from retro.policy import Response
from retro.reward import RewardModel

BINS = 10  # of the calibration, over the rating's range

def held_out_quality(
    reward: RewardModel, responses: Sequence[Response], ratings: Sequence[float],
    names: Sequence[str],
) -> dict[str, dict]:  # fmt: skip
    """`quality` on the reflections of each environment, names[i], and of "all"; {} without any."""
    scores, (low, high) = reward.score(responses) if responses else [], reward.range.tolist()
    rows = {"all": [*range(len(names))]} if responses else {}
    rows |= {name: [i for i, own in enumerate(names) if own == name]
             for name in dict.fromkeys(names)}  # fmt: skip
    return {
        name: quality([scores[i] for i in own], [ratings[i] for i in own],
                      [tuple(responses[i].prompt_ids) for i in own], low, high)
        for name, own in rows.items()
    }  # fmt: skip

def quality(
    scores: Sequence[float], ratings: Sequence[float], prompts: Sequence, low: float, high: float
) -> dict:
    """How good a reward model is on reflections that it has not learnt from.

    ranking       of pairs of reflections on the same trajectory that were rated differently, the
                  share with the better one scored higher (equal scores: half); null without pairs
    calibration   of each BINS-th of the range that is met: [mean score, mean rating, number]
    ece           expected calibration error: mean of |mean score - mean rating| over the bins,
                  weighted by their numbers (Guo et al. 2017, eq. 3); in the rating's unit
    """
    same: dict = defaultdict(list)
    for score, rating, prompt in zip(scores, ratings, prompts):
        same[prompt].append((score, rating))
    pairs = [(a, b) for own in same.values() for a, b in combinations(own, 2) if a[1] != b[1]]
    right = sum(0.5 if a[0] == b[0] else (a[0] > b[0]) == (a[1] > b[1]) for a, b in pairs)

    bins: dict = defaultdict(list)
    for score, rating in zip(scores, ratings):
        bins[min(int((score - low) / (high - low) * BINS), BINS - 1)].append((score, rating))
    calibration = [
        [sum(s for s, _ in own) / len(own), sum(r for _, r in own) / len(own), len(own)]
        for _, own in sorted(bins.items())
    ]
    gaps = sum(abs(score - rating) * n for score, rating, n in calibration)
    return {
        "n": len(scores),
        "pairs": len(pairs),
        "ranking": right / len(pairs) if pairs else None,
        "calibration": calibration,
        "ece": gaps / max(len(scores), 1),
    }
