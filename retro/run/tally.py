"""Turns and reflections that a model leaves unanswered: counted by reason, said when they begin,
and the end of a run in which they are most. Otherwise an evaluation of nothing looks like a result.
"""

import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from retro.run.processes import Processes

ENOUGH = 16  # turns, before a run is judged by them
CUT = "cut off"  # the fault of an answer that is used all the same
REMEDIES = {
    "length": "its tokens were used up before an answer: --reply-tokens gives more",
    "context": "the prompt is longer than the model's context",
}

class Tally:
    """`what` is counted: turns or reflections."""

    def __init__(self, what: str):
        self.what, self.told = what, False
        self.clear()

    def clear(self) -> None:
        self.asked, self.faults = 0, Counter[str]()

    def note(self, asked: int, faults: Sequence[str]) -> None:
        """So many were asked for, and these went wrong. ValueError once most have."""
        self.asked += asked
        self.faults.update(faults)
        if faults and not self.told:
            self.told = True
            print(f"note: {self.what} begin to go unanswered: {faults[0]}{remedy(faults[0])}; they "
                  "are counted under the table", file=sys.stderr)  # fmt: skip
        if self.asked >= ENOUGH:
            check(self.what, self.asked, self.faults)

    def collect(self, processes: Processes) -> dict:
        """{what: {"asked", "faults": {fault: how often}}} over all processes, {} if there are none;
        then it counts anew.
        """
        parts = processes.all_gather([(self.asked, self.faults)])
        self.clear()
        asked, faults = sum(n for n, _ in parts), sum((own for _, own in parts), Counter[str]())
        check(self.what, asked, faults)
        return {self.what: {"asked": asked, "faults": dict(faults)}} if faults else {}

def remedy(fault: str) -> str:
    return f" ({REMEDIES[fault]})" if fault in REMEDIES else ""

def check(what: str, asked: int, faults: Counter[str]) -> None:
    """ValueError if most are unanswered."""
    absent = Counter({fault: n for fault, n in faults.items() if fault != CUT})
    if 2 * absent.total() > asked:
        ((most, _),) = absent.most_common(1)
        counted = sentence(what, asked, absent)
        raise ValueError(f"most {what} go unanswered: {counted}{remedy(most)}")

def sentence(what: str, asked: int, faults: Mapping[str, int]) -> str:
    """What went wrong, in words.

    >>> sentence("turns", 102, {"length": 87})
    '87 of 102 turns unanswered: length'
    >>> sentence("reflections", 9, {"empty": 2, "length": 1, "cut off": 4})
    '3 of 9 reflections unanswered: empty 2, length 1; 4 of 9 cut off'
    """
    absent = {fault: n for fault, n in faults.items() if fault != CUT}
    reasons = ", ".join(f"{fault} {n}" for fault, n in absent.items())
    reasons = next(iter(absent)) if len(absent) == 1 else reasons
    parts = [f"{sum(absent.values())} of {asked} {what} unanswered: {reasons}"] if absent else []
    if CUT in faults:
        parts.append(f"{faults[CUT]} of {asked} {CUT if parts else f'{what} {CUT}'}")
    return "; ".join(parts)
