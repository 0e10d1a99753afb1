"""What a reader of a shopping trial knows (Notes), and the plans that it can write. Read
`envs/observer.py` first. A reflection is one line: what went wrong, then `Plan: ` and clauses, such
as `open BAK73, choose red, choose small, buy`, or `search velvet lamp`.
"""

import re

from envs.observer import Step, Verdict, carried_out, read_trial

_GENERATED = re.compile(r"find one (\w+) (\w+ \w+) in color (\w+) and size (\w+), and price lower")
HIT = re.compile(r"^\[(\w+)\]\n((\S+).*)\n(\$.+)$", re.MULTILINE)  # asin, title, brand, price
OPTIONS = re.compile(r"^[a-z][^\[\]\n]* (?=\[)", re.MULTILINE)  # an option group up to its values
VALUE = re.compile(r"\[\[?([^\[\]]+)\]\]?")

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str):
        lines = [line.strip() for line in observation.splitlines()]
        self.instruction = lines[2] if len(lines) > 2 else ""
        limit = re.search(r"price lower than ([\d.]+) dollars", self.instruction)
        self.limit = float(limit[1] if limit else "inf")
        goal = _GENERATED.match(self.instruction)
        self.attribute = goal[1] if goal else None
        self.kind = goal[2] if goal else self.instruction.split(", and price")[0]
        self.asked = [goal[3], goal[4]] if goal else None  # option values; None: not known
        self.titles: dict[str, str] = {}  # asin -> title, in the order of first sight
        self.prices: dict[str, str] = {}  # asin -> price as shown
        self.values: dict[str, dict[str, list[str]]] = {}  # asin -> option group -> values
        self.features: dict[str, list[str]] = {}
        self.opened: list[str] = []  # asins in the order of their first opening
        self.page = "start"  # or results, item, sub
        self.item = ""  # the asin last opened
        self.listed: list[str] = []  # asins on the latest page of results
        self.chosen: dict[str, str] = {}  # option group -> value, of the item
        self.refused: set[str] = set()  # buttons that were answered "Invalid action!"
        self.score: float | None = None

    def read(self, action: str, observation: str) -> None:
        text = "\n".join(line.strip() for line in observation.splitlines())
        button = action.strip().removeprefix("click[").removesuffix("]")
        if text == "Invalid action!":
            self.refused.add(button)
        elif text.startswith("Webshop"):
            self.page = "start"
        elif text.startswith("[Back to Search]\nPage"):
            self.page, self.listed = "results", []
            for asin, title, _, price in HIT.findall(text):
                self.listed.append(asin)
                self.titles[asin], self.prices[asin] = title, price
        elif text.startswith("[Back to Search]") and "[Buy Now]" in text:
            self.page = "item"
            if button in self.titles:
                self.item, self.chosen = button, {}
                self.opened += [button] * (button not in self.opened)
            lines = [line for line in text.split("\n") if OPTIONS.match(line)]
            self.values[self.item] = {g.partition(" [")[0]: VALUE.findall(g) for g in lines}
        elif text.startswith("[Back to Search]"):
            self.page = "sub"
            if button == "Features":
                self.features[self.item] = text.split("\n")[2:]
        elif text.startswith("You have clicked "):
            groups = self.values.get(self.item, {})
            self.chosen |= {group: button for group, values in groups.items() if button in values}
        elif text.startswith("Your score"):
            self.score = float(text.rpartition(" ")[2])

    def price(self, asin: str) -> float:
        """In dollars; the upper end of a range."""
        return float(self.prices[asin].rpartition("$")[2])

    def shown(self, asin: str) -> list[str]:
        """The option values on a product's page; none if it was not opened."""
        return [value for group in self.values.get(asin, {}).values() for value in group]

    def wanted(self, asin: str) -> list[str]:
        """The option values to choose of a product."""
        if self.asked is not None:
            return self.asked
        return [value for value in self.shown(asin) if value in self.instruction]

    def missing(self, asin: str) -> list[str]:
        """The wanted option values that its page did not show."""
        wanted = self.wanted(asin) if asin in self.values else []
        return [value for value in wanted if value not in self.shown(asin)]

    def has_attribute(self, asin: str) -> bool | None:
        """As its features tell, or the score of its purchase tells; None if neither was seen."""
        if self.attribute is None:
            return None
        if asin in self.features:
            return self.attribute in self.features[asin]
        if self.score is None or asin != self.item or self.kind not in self.titles[asin]:
            return None
        wanted = self.wanted(asin)
        chosen = sum(value in self.chosen.values() for value in wanted)
        full = (1 + chosen + (self.price(asin) <= self.limit)) / (len(wanted) + 2)
        return self.score > full - 0.01

def parse_plan(reflection: str) -> list[tuple[str, str]]:
    """Clauses of the plan: (verb, what); ("buy", "") for buying."""
    plan = []
    for clause in reflection.partition("Plan: ")[2].removesuffix(".").split(", "):
        verb, _, what = clause.partition(" ")
        if clause == "buy" or (verb in ("search", "open", "choose") and what):
            plan.append((verb, what))
    return plan

def write_plan(plan: list[tuple[str, str]]) -> str:
    """The inverse of parse_plan."""
    return ", ".join(f"{verb} {what}".strip() for verb, what in plan)

def purchase(asin: str, values: list[str]) -> list[tuple[str, str]]:
    return [("open", asin), *(("choose", value) for value in values), ("buy", "")]

def command(clause: tuple[str, str]) -> str:
    """The action that carries out a clause."""
    verb, what = clause
    if verb == "search":
        return f"search[{what}]"
    return "click[Buy Now]" if verb == "buy" else f"click[{what}]"

def follows(reflection: str, steps: list[Step]) -> bool:
    return carried_out(parse_plan(reflection), steps, lambda action, c: action == command(c))

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    notes = read_trial(Notes(observation), steps)
    best = right_product(notes)
    plan = purchase(best, notes.wanted(best)) if best else [("search", notes.kind)]
    return f"{cause(notes)} Plan: {write_plan(plan)}."

def right_product(notes: Notes) -> str | None:
    """A product without a known fault: one known to fit, else one that was opened, else any."""
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
    item = notes.item
    if item and notes.score is not None:  # it was bought
        left = [v for v in notes.wanted(item) if v not in notes.chosen.values()]
        wrong = fault(notes, item)
        return wrong or (f"I did not choose {left[0]}." if left else f"{item} did not fit.")
    if faults := [wrong for asin in notes.opened if (wrong := fault(notes, asin))]:
        return faults[0]
    if notes.opened:
        return f"I opened {item} too late."
    return "I opened no product." if notes.titles else "I never searched."

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    raise NotImplementedError

TEMPLATES: dict = {}
