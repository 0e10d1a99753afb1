"""What is found out on other tasks than the table's: is there a gap to close, how good are the
templates, and the temperatures of what is written? Read before: `retro/evaluate.py`.
"""

from collections.abc import Sequence

from retro.evaluate import (
    ADAPTERS,
    TEMPERATURES,
    TUNED,
    Chains,
    Evaluation,
    Reflector,
    Variant,
    evaluate,
    variants,
)

def success(chains: Chains, retry: int) -> float:
    """The share of rows that succeed by that retry."""
    return sum(any(t.success for t in chain[: retry + 1]) for chain in chains) / len(chains)

def measure_gap(evaluation: Evaluation, reflector: Reflector) -> list[float]:
    """Success at trial 0, after a retry without reflection, after one with the oracle's."""
    react, oracle = Variant("react"), Variant("oracle")
    chains = evaluate(evaluation, (react, oracle), reflector)
    return [success(chains[react], 0), success(chains[react], 1), success(chains[oracle], 1)]

def try_templates(evaluation: Evaluation, reflector: Reflector) -> dict[str, float]:
    """Success at retry 1 with each of the environment's templates."""
    compared = [Variant(f"template {name}") for name in evaluation.env.templates]
    chains = evaluate(evaluation, compared, reflector)
    return {v.method.removeprefix("template "): success(own, 1) for v, own in chains.items()}

def try_temperatures(
    evaluation: Evaluation, methods: Sequence[str], reflector: Reflector,
    temperatures: Sequence[float] = TEMPERATURES,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Success at retry 1 of each written method at each temperature, mean over the runs."""
    written = [name for name in methods if name in TUNED]
    compared = variants(written, {}, temperatures, len(reflector.runs))
    found: dict[str, dict[str, float]] = {name: {} for name in written}
    for v, own in evaluate(evaluation, compared, reflector).items():
        runs = len(reflector.runs) if v.method in ADAPTERS else 1
        shares, key = found[v.method], f"{v.temperature:g}"
        shares[key] = shares.get(key, 0.0) + success(own, 1) / runs
    return found

def mean_of(choices: Sequence[dict]) -> dict:
    """The mean of choices (nested dicts of shares) of several runs."""
    first = choices[0]
    return {
        key: mean_of([c[key] for c in choices]) if isinstance(value, dict)
        else sum(c[key] for c in choices) / len(choices)
        for key, value in first.items()
    }  # fmt: skip

def best_of(choices: dict) -> tuple[str, dict[str, float]]:
    """The best template ("" if there is none), and each method's best temperature; of equal ones
    the first.
    """
    first = lambda shares: max(shares, key=shares.get, default="")
    temperatures = choices["temperatures"].items()
    best = {name: float(first(shares)) for name, shares in temperatures}
    return first(choices["templates"]), best
