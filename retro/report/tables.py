"""Results as a table: success by retry with its intervals (retro/evaluate.py)."""

from retro.run.printable import visible
from retro.run.tally import sentence

def label(name: str, temperature: float | None, template: str = "") -> str:
    if name == "template" and template:
        return f"{name}: {template}"
    return name if temperature is None else f"{name} (T={temperature:g})"

def table(report: dict, other_temperatures: bool = False) -> str:
    """A report (`results.report`) as text: success by retry, paired comparisons, and what the
    reflections say.
    """
    rows = {label(name, result["temperature"], report["template"]): result
            for name, result in report["methods"].items()}  # fmt: skip
    parts = [success_table(rows)]
    if other_temperatures:
        others = {
            label(name, float(t)): own
            for name, result in report["methods"].items()
            for t, own in result.get("by_temperature", {}).items()
            if float(t) != result["temperature"]
        }
        parts += [f"at other temperatures\n{success_table(others)}"] if others else []
    parts += [pairs_table(*pair) for pair in report["comparisons"].items() if pair[1]]
    checked = {name: result for name, result in rows.items() if "faithfulness" in result}
    parts += [truth_table(checked)] if checked else []
    faults = report.get("unanswered", {}).items()
    parts += [sentence(what, **found) for what, found in faults]
    return "\n\n".join(parts)

def success_table(results: dict[str, dict]) -> str:
    """Success by retry, one method a line, 95 % intervals in brackets."""
    width = max(21, *(len(name) + 1 for name in results))
    retries = len(next(iter(results.values()))["success_by_retry"])
    lines = [f"{'success after retry':<{width}}" + "".join(f"{i:^18}" for i in range(retries))]
    for name, result in results.items():
        shares = zip(result["success_by_retry"], result["ci95"])
        cells = (f"{s:.2f} [{low:.2f}, {high:.2f}]" for s, (low, high) in shares)
        lines.append(f"{name:<{width}}" + "".join(f"{cell:^18}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)

def pairs_table(trained: str, rivals: dict[str, dict]) -> str:
    """The trained method less each other one, by task: difference, tasks won : lost, p."""
    retries = len(next(iter(rivals.values()))["p"])
    shown = sorted({1, retries - 1} & set(range(retries)))
    lines = [f"{trained + ' less':<21}" + "".join(f"{f'retry {i}':^40}" for i in shown)]
    for name, own in rivals.items():
        cells = []
        for i in shown:
            low, high = own["ci95"][i]
            cells.append(f"{own['difference_by_retry'][i]:+.2f} [{low:+.2f}, {high:+.2f}] "
                         f"{own['wins'][i]}:{own['losses'][i]} p={own['p'][i]:.2g}")  # fmt: skip
        lines.append(f"{name:<21}" + "".join(f"{cell:^40}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)

def truth_table(results: dict[str, dict]) -> str:
    """What reflections on first trials say: shares, then nats (docs/glossary.md)."""
    width = max(21, *(len(name) + 1 for name in results))
    columns = ("cause true", "plan sound", "place right", "invented", "notes true")
    head = "".join(f"{name:>13}" for name in (*columns, "I(kind)", "I(trial)"))
    lines = [f"{'reflections, checked':<{width}}{head}  most frequent cause"]
    for name, result in results.items():
        found = result["faithfulness"]
        values = [found[key] for key in ("cause", "sound", "place", "invented", "notes")]
        values += [found["kind_information"], result.get("mutual_information")]
        cells = "".join(f"{'-' if v is None else format(v, '.2f'):>13}" for v in values)
        kind, n = next(iter(found["kinds"].items()))
        lines.append(f"{name:<{width}}{cells}  {kind or 'none'}, {n} of {found['n']}")
    return "\n".join(lines)

def print_reward(fitted: dict) -> None:
    """What the reward model learnt from, and how good it is on the tasks held out."""
    print(f"reward model: fitted to {fitted['learnt_from']} ratings; on tasks held out")
    for name, found in fitted["held_out"].items():
        ranking = "-" if found["ranking"] is None else f"{found['ranking']:.2f}"
        print(f"    {visible(name)}: ranks {ranking} of {found['pairs']} pairs rightly; "
              f"calibration error {found['ece']:.3f} over {found['n']} reflections")  # fmt: skip
