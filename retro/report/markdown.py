"""Reports (`results.report`, `pool.pooled`) as tables in Markdown: what docs/results.md shows, and
what `python -m retro.report.pool` prints.
"""

import re
from collections.abc import Mapping, Sequence

# method -> what a reader who knows no name of ours calls it
NAMES = {"react": "plain retries", "last_attempt": "last attempt", "template": "template",
         "reflexion": "untrained", "sft": "SFT", "retroformer": "PPO",
         "retroformer_offline": "PPO, offline", "shuffled": "shuffled", "best_of": "best of n",
         "oracle": "oracle"}  # fmt: skip
HEADLINE = ("react", "last_attempt", "template", "reflexion", "sft", "retroformer",
            "retroformer_offline", "oracle")  # fmt: skip

# ---- numbers

def share(value: float | None, sign: str = "") -> str:
    """.93, 1.00, -.05; with sign "+" also +.05. Of nothing: -

    >>> share(0.934), share(-0.004), share(0.05, "+"), share(None)
    ('.93', '.00', '+.05', '-')
    """
    if value is None:
        return "-"
    return re.sub(r"\b0\.", ".", f"{round(value, 2) + 0.0:{sign}.2f}")  # no -.00

def bounds(pair: Sequence[float], sign: str = "") -> str:
    return f"[{', '.join(share(value, sign) for value in pair)}]"

def p_value(p: float) -> str:
    """
    >>> p_value(0.0004), p_value(0.0133), p_value(0.52)
    ('< .001', '.013', '.52')
    """
    return "< .001" if p < 0.001 else re.sub(r"^0", "", f"{p:.3f}" if p < 0.1 else f"{p:.2f}")

def at(temperature: float | None) -> str:
    return "" if temperature is None else f" (T={temperature:g})"

# ---- tables

def rows(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *body])

def headline(worlds: Sequence[tuple[str, Mapping]], retry: int = 1) -> str:
    """Success at a retry, or the last one before it that there is: a line for each (name, report),
    each method at its own temperature.
    """
    lengths = [len(own["ci95"]) for _, report in worlds for own in report["methods"].values()]
    retry = min(retry, *(length - 1 for length in lengths))
    played = {method for _, report in worlds for method in report["methods"]}
    trained = ("retroformer", "retroformer_offline")  # a column of what nobody has is left out
    columns = [m for m in HEADLINE if m not in trained or m in played]
    body = []
    for name, report in worlds:
        found = [report["methods"].get(method) for method in columns]
        body.append([name, *(share(own["success_by_retry"][retry]) + at(own["temperature"])
                             if own else "-" for own in found)])  # fmt: skip
    return rows(["", *(NAMES[method] for method in columns)], body)

def success(report: Mapping) -> str:
    """Success by retry with intervals, each method at its own temperature."""
    body = []
    for name, own in report["methods"].items():
        named = name == "template" and report["template"]
        label = f"template: {report['template']}" if named else name
        cells = [label + at(own["temperature"])]
        cells += [f"{share(s)} {bounds(ci)}" for s, ci in zip(own["success_by_retry"], own["ci95"])]
        trained = name.startswith("retroformer")
        body.append([f"**{cell}**" for cell in cells] if trained else cells)
    return rows(["after retry", *map(str, range(len(body[0]) - 1))], body)

def pairs(title: str, rivals: Mapping[str, Mapping]) -> str:
    """One method, or setting, less others, task by task: difference, tasks won : lost, p of a sign
    test; at retry 1 and the last.
    """
    last = len(next(iter(rivals.values()))["p"]) - 1
    retries, body = sorted({min(1, last), last}), []
    for name, own in rivals.items():
        cells = [name]
        for retry in retries:
            difference, ci, won, lost, p = (
                own[key][retry] for key in ("difference_by_retry", "ci95", "wins", "losses", "p")
            )
            cells += [f"{share(difference, '+')} {bounds(ci, '+')}", f"{won} : {lost}", p_value(p)]
        body.append(cells)
    head = [cell for retry in retries for cell in (f"retry {retry}", "won : lost", "p")]
    return rows([title, *head], body)
