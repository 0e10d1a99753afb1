"""What a reader of a shopping trial knows (Notes), and the plans that it can write. Read
`envs/observer.py` first. A reflection is one line: what went wrong, then `Plan: ` and clauses, such
as `open BAK73, choose red, choose small, buy`, or `search velvet lamp`.
"""

import re
from collections.abc import Callable

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
        """In dollars; of a range the middle, which is what is paid."""
        shown = [float(price) for price in self.prices[asin].replace("$", "").split(" to ")]
        return sum(shown) / len(shown)

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

# ---- The judge.
CAUSES: tuple[tuple[str, str, Callable], ...] = (  # a cause, its kind, is it shown?
    (r"(?P<asin>\w+) was no (?P<kind>\w+ \w+)", "wrong kind", lambda n, asin, kind: (
        kind == n.kind and kind not in n.titles[asin])),
    (r"(?P<asin>\w+) cost (?P<price>.+), too much", "too dear", lambda n, asin, price: (
        price == n.prices[asin] and n.price(asin) > n.limit)),
    (r"(?P<asin>\w+) had no (?P<value>.+)", "no such option", lambda n, asin, value: (
        value in n.missing(asin))),
    (r"(?P<asin>\w+) was not (?P<word>\w+)", "lacks the attribute", lambda n, asin, word: (
        word == n.attribute and n.has_attribute(asin) is False)),
    (r"(?P<asin>\w+) did not fit", "did not fit", lambda n, asin: n.score is not None),
    (r"I opened (?P<asin>\w+) too late", "too late", lambda n, asin: (
        n.score is None and asin == n.item)),
    (r"I did not choose (?P<value>.+)", "not chosen", lambda n, value: (
        n.score is not None and value in n.wanted(n.item) and value not in n.chosen.values())),
    (r"I opened no product", "opened none", lambda n: bool(n.titles) and not n.opened),
    (r"I never searched", "never searched", lambda n: not n.titles),
)  # fmt: skip
ASKED = ("wrong kind", "no such option", "lacks the attribute")  # compare with what was asked for

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """cause: True if the trial shows it, of the product bought or, if none was, of one opened.
    sound: the plan buys a product without a known fault, and one known to fit if there is one, with
    the wanted values and no others; if all products have faults, it searches for the kind. place:
    the price stated is that product's, and the values to choose are on the page of the product to
    buy; None if the trial shows neither. Of a real instruction `sound` and some causes are None.
    """
    notes, plan = read_trial(Notes(observation), steps), parse_plan(reflection)
    stated = reflection.partition("Plan: ")[0].strip().removesuffix(".")
    kind, said, true = _cause(notes, stated)
    asin, values = bought(plan)
    checks = [notes.prices.get(said["asin"]) == said["price"]] if "price" in said else []
    checks += [value in notes.shown(asin) for value in values if asin in notes.values]
    names = [what for _, what in plan if what]
    names += [name for part, name in said.items() if part != "price"]
    names += re.findall(r"\b(?!I\b)[A-Z]\w*", stated) if notes.asked else []
    text = " ".join([observation, *sum(steps, ())])
    invented = any(not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)
    sound = _leads(notes, plan) if notes.asked else None
    return Verdict(kind, true, sound, all(checks) if checks else None, invented)

def _cause(notes: Notes, stated: str) -> tuple[str, dict[str, str], bool | None]:
    """Kind of a cause, what it names, and its truth."""
    for pattern, kind, shows in CAUSES:
        if match := re.fullmatch(pattern, stated):
            said = match.groupdict()
            blamed = notes.opened if notes.score is None else [notes.item]
            if notes.asked is None and kind in ASKED:
                return kind, said, None
            right = "asin" not in said or said["asin"] in blamed
            return kind, said, right and shows(notes, **said)
    return "", {}, None

def bought(plan: list[tuple[str, str]]) -> tuple[str, list[str]]:
    """The product that a plan buys, and the values that it chooses; ("", []) if it buys none."""
    asin, values = "", list[str]()
    for verb, what in plan:
        if verb == "open":
            asin, values = what, []
        elif verb == "choose":
            values.append(what)
        elif verb == "buy":
            return asin, values
    return "", []

def _leads(notes: Notes, plan: list[tuple[str, str]]) -> bool:
    """Does a plan lead where the oracle's does?"""
    best, (asin, values) = right_product(notes), bought(plan)
    if best is None:
        return plan[:1] == [("search", notes.kind)]
    if asin not in notes.titles or fault(notes, asin):
        return False
    fits = notes.has_attribute(asin) or not notes.has_attribute(best)
    return fits and {*values} == {*notes.wanted(asin)}

# ---- Constant plans: rules on the order of the products seen, whatever went wrong.
def _template(pick: Callable) -> Callable[[str, list[Step]], str]:
    """`pick`: (notes, products seen) -> what to buy, the first of them; none: search again."""
    def write(observation: str, steps: list[Step]) -> str:
        notes = read_trial(Notes(observation), steps)
        asins = pick(notes, [*notes.titles])[:1]
        plan = purchase(asins[0], notes.wanted(asins[0])) if asins else [("search", notes.kind)]
        return f"I bought the wrong thing. Plan: {write_plan(plan)}."
    return write

def _cheapest(notes: Notes, asins: list[str]) -> list[str]:
    """Of the kind that is asked for and not opened yet, else any, the cheapest first."""
    left = [a for a in asins if a not in notes.opened and notes.kind in notes.titles[a]]
    return sorted(left or asins, key=notes.price)

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {
    "first": _template(lambda notes, asins: asins),
    "second": _template(lambda notes, asins: asins[1:] or asins),
    "third": _template(lambda notes, asins: asins[2:] or asins),
    "unopened": _template(lambda notes, asins: [a for a in asins if a not in notes.opened]),
    "cheapest": _template(_cheapest),
    "search again": _template(lambda notes, asins: []),
}
