"""Reflections on a shopping trial: the oracle's, and the flawed ones that people and models write.

A reflection is one line: what went wrong, then `Plan: ` and clauses that the next trial can carry
out: `open BAK73, choose red, choose small, buy`, or `search velvet lamp`.
"""

import random

from envs.chains import Step
from envs.shop_notes import Notes, read_trial

VAGUE = (
    "I was not careful enough. Plan: read each page with more care.",
    "I wasted too many steps. Plan: be quick and buy what fits.",
    "I lost track of the task. Plan: think about what is asked before each step.",
    "I bought the wrong thing. Plan: compare the products first.",
)
VERBS = ("search", "open", "choose")


def parse_plan(reflection: str) -> list[tuple[str, str]]:
    """Clauses of the plan: (verb, what); ("buy", "") for buying.

    >>> parse_plan("I chose blue. Plan: open BAK73, choose red, buy.")
    [('open', 'BAK73'), ('choose', 'red'), ('buy', '')]
    """
    plan = []
    for clause in reflection.partition("Plan: ")[2].removesuffix(".").split(", "):
        verb, _, what = clause.partition(" ")
        if clause == "buy" or (verb in VERBS and what):
            plan.append((verb, what))
    return plan


def write_plan(plan: list[tuple[str, str]]) -> str:
    """The inverse of parse_plan."""
    return ", ".join(f"{verb} {what}".strip() for verb, what in plan)


def purchase(asin: str, values: list[str]) -> list[tuple[str, str]]:
    return [("open", asin), *(("choose", value) for value in values), ("buy", "")]


def oracle_reflection(observation: str, steps: list[Step]) -> str:
    """What a perfect observer of this failed trial writes; it states only what the trial's text
    showed.
    """
    notes = read_trial(observation, steps)
    best = right_product(notes)
    plan = purchase(best, notes.wanted(best)) if best else [("search", notes.kind)]
    return f"{cause(notes)} Plan: {write_plan(plan)}."


def right_product(notes: Notes) -> str | None:
    """The product that fits, as far as the trial tells: of those with no fault seen, the best
    known.
    """
    fitting = [asin for asin in notes.titles if not fault(notes, asin)]
    known = [asin for asin in fitting if notes.has_attribute(asin)]
    opened = [asin for asin in fitting if asin in notes.opened]
    return next(iter([*known, *opened, *fitting]), None)


def fault(notes: Notes, asin: str) -> str | None:
    """Why a product can't be right, if the trial showed that."""
    if notes.asked is not None and notes.kind not in notes.titles[asin]:
        return f"{asin} was no {notes.kind}."
    if notes.price(asin) > notes.limit:
        return f"{asin} cost {notes.prices[asin]}, too much."
    if missing := notes.missing(asin):
        return f"{asin} had no {missing[0]}."
    if notes.has_attribute(asin) is False:
        return f"{asin} was not {notes.attribute}."
    return None


def cause(notes: Notes) -> str:
    """The root cause in one sentence."""
    if bought := notes.bought():
        left = [v for v in notes.wanted(bought) if v not in notes.chosen.values()]
        wrong = fault(notes, bought)
        return wrong or (f"I did not choose {left[0]}." if left else f"{bought} did not fit.")
    faults = [wrong for asin in notes.opened if (wrong := fault(notes, asin))]
    if faults:
        return faults[0]
    if notes.opened:
        return f"I opened {notes.item} too late."
    return "I opened no product." if notes.titles else "I never searched."


def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """A plausible reflection that is vague or wrong: another product, the same again, another
    option, an option left out."""
    notes = read_trial(observation, steps)
    flaw = rng.choices(("vague", "product", "again", "option", "skip"), (4, 4, 3, 2, 1))[0]
    best = right_product(notes)
    if flaw == "vague" or best is None:
        return rng.choice(VAGUE)
    values = notes.wanted(best)
    others = [asin for asin in notes.titles if asin != best]
    if flaw == "again" and notes.opened and notes.item != best:
        plan = purchase(notes.item, values)
    elif flaw == "product" and others:
        plan = purchase(rng.choice(others), values)
    elif flaw == "skip" and values:
        plan = purchase(best, rng.sample(values, len(values) - 1))
    else:
        shown = [v for groups in notes.values.values() for group in groups.values() for v in group]
        wrong = [v for v in shown if v not in values]
        if flaw != "option" or not wrong or not values:
            return rng.choice(VAGUE)
        plan = purchase(best, [rng.choice(wrong), *values[1:]])
    reason = cause(notes)
    if rng.random() < 0.4:
        asin = rng.choice([a for a in notes.titles if ("open", a) not in plan] or [best])
        dear = notes.price(asin) > notes.limit
        claim = f"cost {notes.prices[asin]}, too much" if dear else f"was not {notes.attribute}"
        reason = f"{asin} {claim}."
    return f"{reason} Plan: {write_plan(plan)}."


def follows(reflection: str, steps: list[Step]) -> bool:
    """True if the actions carry out the plan: every clause done, in order."""
    plan, position = parse_plan(reflection), 0
    for action, _ in steps:
        if position < len(plan) and action == command(*plan[position]):
            position += 1
    return position == len(plan)


def command(verb: str, what: str) -> str:
    """The action that carries out a clause."""
    if verb == "search":
        return f"search[{what}]"
    return f"click[{what}]" if verb != "buy" else "click[Buy Now]"
