"""What a reader of a shopping trial knows (Notes), and the plans that it can write. Read
`envs/observer.py` first. A reflection is one line:

    Notes: velvet lamp, padded, choose red, choose small, limit $20.0; BAK73 $15.0 not padded;
    BEL20 $44.0 too dear; BIN31 $12.0 fits. Cause: BAK73 was not padded. Plan: open BIN31, choose
    red, choose small, buy.

A plan may also begin with `search velvet lamp` or `next page`, and then `open velvet lamp`, the
first hit of that kind.
"""

import copy
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from envs.observer import Step, Verdict, carried_out, read_trial

_GENERATED = re.compile(
    r"find one (?P<attribute>\w+) (?:(?P<tail>\w+) of (?P<head>\w+)|(?P<kind>\w+ \w+)) in color "
    r"(?P<color>\w+(?: \w+)?)(?:,| and) size (?P<size>\w+)(?: and pattern (?P<pattern>\w+))?, and "
    r"price lower than (?P<limit>[\d.]+) dollars"
)
HIT = re.compile(r"^\[(\w+)\]\n((\S+).*)\n(\$.+)$", re.MULTILINE)  # asin, title, brand, price
OPTIONS = re.compile(r"^[a-z][^\[\]\n]* (?=\[)", re.MULTILINE)  # an option group up to its values
VALUE = re.compile(r"\[\[?([^\[\]]+)\]\]?")
MOST = 5  # products in the notes
Plan = list[tuple[str, str]]

class Wish(NamedTuple):  # what an instruction asks for
    kind: str  # of a real instruction, all of it but the limit
    attribute: str | None  # this and the next: None where it can't be told
    values: list[str] | None  # option values
    limit: float  # dollars

def read_wish(instruction: str) -> Wish:
    if goal := _GENERATED.fullmatch(instruction):
        values = [v for v in goal.group("color", "size", "pattern") if v]
        kind = goal["kind"] or f"{goal['head']} {goal['tail']}"
        return Wish(kind, goal["attribute"], values, float(goal["limit"]))
    limit = re.search(r"price lower than ([\d.]+) dollars", instruction)
    kind = instruction.split(", and price")[0]
    return Wish(kind, None, None, float(limit[1] if limit else "inf"))

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str):
        lines = [line.strip() for line in observation.splitlines()]
        self.instruction = lines[2] if len(lines) > 2 else ""
        self.wish = self.task = read_wish(self.instruction)
        self.titles: dict[str, str] = {}  # asin -> title, in the order of first sight
        self.prices: dict[str, str] = {}  # asin -> price as shown
        self.values: dict[str, dict[str, list[str]]] = {}  # asin -> option group -> values
        self.ratings: dict[str, str] = {}
        self.features: dict[str, list[str]] = {}
        self.proved: dict[tuple[str, str], bool] = {}  # (asin, attribute) -> what its score tells
        self.opened: list[str] = []  # asins in the order of their first opening
        self.page = "start"  # or results, item, sub
        self.item = ""  # the asin last opened
        self.queries: list[str] = []  # words of the searches that were answered
        self.listed: list[str] = []  # asins on the latest page of results
        self.more = False  # has the latest page of results a next one?
        self.pages = 0  # of the latest search, that were seen
        self.unseen = False  # has the last of them a next one?
        self.chosen: dict[str, str] = {}  # option group -> value, of the item
        self.refused: set[str] = set()  # buttons that were answered "Invalid action!"
        self.score: float | None = None
        self.misjudged = ""  # an asin whose price a careless reader takes for dear, or for cheap

    def read(self, action: str, observation: str) -> None:
        text = "\n".join(line.strip() for line in observation.splitlines())
        button = action.strip().removeprefix("click[").removesuffix("]")
        if text == "Invalid action!":
            self.refused.add(button)
        elif text.startswith("Webshop"):
            self.page = "start"
        elif text.startswith("[Back to Search]\nPage"):
            self._read_results(action.strip(), text)
        elif text.startswith("[Back to Search]") and "[Buy Now]" in text:
            self.page = "item"
            if button in self.titles:
                self.item, self.chosen = button, {}
                self.opened += [button] * (button not in self.opened)
            lines = [line for line in text.split("\n") if OPTIONS.match(line)]
            self.values[self.item] = {g.partition(" [")[0]: VALUE.findall(g) for g in lines}
            if rating := re.search(r"^Rating: (\S+)", text, re.MULTILINE):
                self.ratings[self.item] = rating[1]
        elif text.startswith("[Back to Search]"):
            self.page = "sub"
            if button == "Features":
                self.features[self.item] = text.split("\n")[2:]
        elif text.startswith("You have clicked "):
            groups = self.values.get(self.item, {})
            self.chosen |= {group: button for group, values in groups.items() if button in values}
        elif text.startswith("Your score"):
            self.score = float(text.rpartition(" ")[2])
            self._prove()

    def _read_results(self, action: str, text: str) -> None:
        if action.startswith("search["):
            self.queries.append(action[7:].removesuffix("]"))
            self.pages = 0
        self.page, self.listed, self.more = "results", [], "[Next >]" in text
        for asin, title, _, price in HIT.findall(text):
            self.listed.append(asin)
            self.titles[asin], self.prices[asin] = title, price
        number = re.match(r"\[Back to Search\]\nPage (\d+)", text)
        if number and int(number[1]) >= self.pages:
            self.pages, self.unseen = int(number[1]), self.more

    def _prove(self) -> None:
        """The score of a purchase tells whether that product has the attribute."""
        item, attribute = self.item, self.wish.attribute
        if self.score is not None and attribute and self.wish.kind in self.titles.get(item, ""):
            wanted = self.wanted(item)
            chosen = sum(value in self.chosen.values() for value in wanted)
            full = (1 + chosen + (self.price(item) <= self.wish.limit)) / (len(wanted) + 2)
            self.proved[item, attribute] = self.score > full - 0.01

    def wishing(self, wish: Wish) -> "Notes":
        """The same trial, read with another wish in mind."""
        other = copy.copy(self)
        other.wish = wish
        return other

    def price(self, asin: str) -> float:
        """In dollars; of a range the middle, which is what is paid."""
        shown = [float(price) for price in self.prices[asin].replace("$", "").split(" to ")]
        return sum(shown) / len(shown)

    def too_dear(self, asin: str) -> bool:
        return (self.price(asin) > self.wish.limit) != (asin == self.misjudged)

    def of_kind(self) -> list[str]:
        """The products of the kind asked for, in the order of first sight."""
        generated = self.wish.values is not None
        return [a for a, title in self.titles.items() if not generated or self.wish.kind in title]

    def shown(self, asin: str) -> list[str]:
        """The option values on a product's page; none if it was not opened."""
        return [value for group in self.values.get(asin, {}).values() for value in group]

    def wanted(self, asin: str) -> list[str]:
        """The option values to choose of a product."""
        if self.wish.values is not None:
            return self.wish.values
        return [value for value in self.shown(asin) if value in self.instruction]

    def missing(self, asin: str) -> list[str]:
        """The wanted option values that its page did not show."""
        wanted = self.wanted(asin) if asin in self.values else []
        return [value for value in wanted if value not in self.shown(asin)]

    def left(self) -> list[str]:
        """The wanted option values that are not chosen."""
        return [v for v in self.wanted(self.item) if v not in self.chosen.values()]

    def instead(self, value: str) -> str | None:
        """What is chosen of the group that has a value."""
        groups = self.values.get(self.item, {})
        return next((self.chosen.get(g) for g, values in groups.items() if value in values), None)

    def has_attribute(self, asin: str) -> bool | None:
        """As its features tell, or the score of its purchase tells; None if neither was seen."""
        if self.wish.attribute is None:
            return None
        if asin in self.features:
            return self.wish.attribute in self.features[asin]
        return self.proved.get((asin, self.wish.attribute))

# ---- Plans.
def parse_plan(reflection: str) -> Plan:
    """Clauses of the plan: (verb, what); ("buy", "") for buying, ("next", "page") for turning one.
    """
    plan = []
    for clause in reflection.partition("Plan: ")[2].removesuffix(".").split(", "):
        verb, _, what = clause.partition(" ")
        if clause in ("buy", "next page") or (verb in ("search", "open", "choose") and what):
            plan.append((verb, what))
    return plan

def write_plan(plan: Plan) -> str:
    """The inverse of parse_plan."""
    return ", ".join(f"{verb} {what}".strip() for verb, what in plan)

def purchase(product: str, values: list[str]) -> Plan:
    """`product`: an asin, or a kind."""
    return [("open", product), *(("choose", value) for value in values), ("buy", "")]

def command(clause: tuple[str, str]) -> str:
    """The action that carries out a clause; `what` of `open` is an asin."""
    verb, what = clause
    if verb == "search":
        return f"search[{what}]"
    return {"buy": "click[Buy Now]", "next": "click[Next >]"}.get(verb, f"click[{what}]")

def follows(reflection: str, steps: list[Step]) -> bool:
    titles = read_trial(Notes(""), steps).titles

    def carries_out(action: str, clause: tuple[str, str]) -> bool:
        title = titles.get(action.removeprefix("click[").removesuffix("]"), "")
        return action == command(clause) or clause == ("open", kind_of(title))

    return carried_out(parse_plan(reflection), steps, carries_out)

def kind_of(title: str) -> str:
    """What a generated title calls its product, behind the brand."""
    return title.partition(" ")[2]

def right_product(notes: Notes) -> str | None:
    """A product without a known fault: one known to fit, else one that was opened, else any."""
    fitting = [asin for asin in notes.titles if not fault(notes, asin)]
    known = [asin for asin in fitting if notes.has_attribute(asin)]
    opened = [asin for asin in fitting if asin in notes.opened]
    return next(iter([*known, *opened, *fitting]), None)

def plan_of(notes: Notes) -> Plan:
    """Buy the right product. Where none was seen: look on, or search in the right words, and buy
    the first of the kind; of a real instruction only the search.
    """
    kind, values = notes.wish.kind, notes.wish.values
    if best := right_product(notes):
        return purchase(best, notes.wanted(best))
    onward = ("next", "page") if turns_page(notes) else ("search", kind)
    known = notes.unseen or kind not in notes.queries
    return [onward, *(purchase(kind, values) if known and values is not None else [])]

def turns_page(notes: Notes) -> bool:
    """Is it on the next page? All that was found of the kind is wrong, and there are more pages."""
    return notes.unseen and bool(notes.of_kind()) and right_product(notes) is None

def misworded(notes: Notes) -> bool:
    """Were the words of the search wrong? Nothing of the kind was found by other words."""
    asked = notes.queries and notes.wish.kind not in notes.queries
    return bool(asked and notes.wish.values is not None and not notes.of_kind())

# ---- Notes, cause and plan as one line. All kinds of reflections are written by `reflect_on`.
def fault(notes: Notes, asin: str) -> str | None:
    """Why a product can't be right, if the trial showed that."""
    if asin not in notes.of_kind():
        return f"no {notes.wish.kind}"
    if notes.too_dear(asin):
        return "too dear"
    if missing := notes.missing(asin):
        return f"no {missing[0]}"
    if notes.has_attribute(asin) is False:
        return f"not {notes.wish.attribute}"
    return None

def fact(notes: Notes, asin: str) -> str:
    """Price and verdict of a product, and what was done wrong with it."""
    verdict = fault(notes, asin) or "fits"
    if verdict == "fits" and asin == notes.item:
        left = notes.left()
        if notes.score == 1 and notes.wish is notes.task:
            verdict += ", bought"
        elif notes.score is None:
            verdict += ", not bought"
        elif len(left) == len(notes.wanted(asin)) > 0 and not notes.chosen:
            verdict += ", bought before choosing"
        elif left and (wrong := notes.instead(left[0])):
            verdict += f", bought with {wrong}"
        else:
            verdict = f"fits, bought without {left[0]}" if left else "did not fit"
    return f"{asin} {notes.prices[asin]} {verdict}"

def wanted(notes: Notes) -> list[str]:
    """What is asked for, in the words of plans and pages; of a real instruction only the limit."""
    wish, limit = notes.wish, notes.wish.limit
    parts = [] if wish.values is None else [wish.kind, wish.attribute or ""]
    parts += [f"choose {value}" for value in wish.values or []]
    parts += [f"limit ${limit}"] if limit < float("inf") else []
    return [", ".join(parts)] if parts else []

def lacking(notes: Notes) -> list[str]:
    """What the trial did not see."""
    if misworded(notes):
        return [f"no {notes.wish.kind} by {notes.queries[-1]}"]
    return ["next page not seen"] if turns_page(notes) else []

def facts(notes: Notes) -> list[str]:
    """What is wanted, the products of the kind and the last one opened, what is missing."""
    seen = [asin for asin in notes.titles if asin in (*notes.of_kind(), notes.item)]
    first = sorted(seen, key=lambda asin: asin not in (notes.item, right_product(notes)))[:MOST]
    listed = [fact(notes, asin) for asin in seen if asin in first]
    return [*wanted(notes), *listed, *lacking(notes)]

def cause(notes: Notes) -> str:
    """The root cause in one sentence."""
    item = notes.item
    if not notes.titles:
        return "I never searched."
    if misworded(notes):
        return f"I searched {notes.queries[-1]}, not {notes.wish.kind}."
    if turns_page(notes):
        return "I did not look at the next page."
    if not item:
        return "I opened no product."
    if notes.score is None:
        return "I had no step left."
    wrong, left = fault(notes, item), notes.left()
    if item not in notes.of_kind():
        return f"{item} was {wrong}."
    if wrong == "too dear":
        return f"{item} cost {notes.prices[item]}, too dear."
    if wrong:
        return f"{item} {'had' if notes.missing(item) else 'was'} {wrong}."
    if left and not notes.chosen:
        return "I bought before choosing."
    if left and (chosen := notes.instead(left[0])):
        return f"I chose {chosen}, not {left[0]}."
    return f"I did not choose {left[0]}." if left else f"{item} did not fit."

def reflect_on(notes: Notes) -> str:
    known = facts(notes)
    said = f"Notes: {'; '.join(known)}. " if known else ""
    return f"{said}Cause: {cause(notes)} Plan: {write_plan(plan_of(notes))}."

def notes(observation: str, steps: list[Step]) -> list[str]:
    return facts(read_trial(Notes(observation), steps))

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    return reflect_on(read_trial(Notes(observation), steps))

# ---- The judge.
CAUSES: tuple[tuple[str, str, Callable], ...] = (  # a cause, its kind, is it shown?
    (r"(?P<asin>\w\w+) was no (?P<kind>\w+ \w+)", "wrong kind", lambda n, asin, kind: (
        kind == n.wish.kind and kind not in n.titles[asin])),
    (r"(?P<asin>\w\w+) cost (?P<price>.+), too dear", "too dear", lambda n, asin, price: (
        price == n.prices[asin] and n.too_dear(asin))),
    (r"(?P<asin>\w\w+) had no (?P<value>.+)", "no such option", lambda n, asin, value: (
        value in n.missing(asin))),
    (r"(?P<asin>\w\w+) was not (?P<word>\w+)", "lacks the attribute", lambda n, asin, word: (
        word == n.wish.attribute and n.has_attribute(asin) is False)),
    (r"(?P<asin>\w\w+) did not fit", "did not fit", lambda n, asin: n.score is not None),
    (r"I did not choose (?P<value>.+)", "not chosen", lambda n, value: (
        n.score is not None and value in n.left())),
    (r"I chose (?P<other>.+), not (?P<value>.+)", "wrong option", lambda n, other, value: (
        n.score is not None and value in n.left() and n.instead(value) == other)),
    (r"I bought before choosing", "hasty", lambda n: (
        n.score is not None and not n.chosen and bool(n.left()))),
    (r"I searched (?P<words>.+), not (?P<kind>\w+ \w+)", "wrong words", lambda n, words, kind: (
        misworded(n) and words in n.queries and kind == n.wish.kind)),
    (r"I did not look at the next page", "next page", turns_page),
    (r"I had no step left", "no step left", lambda n: n.score is None and bool(n.opened)),
    (r"I opened no product", "opened none", lambda n: bool(n.titles) and not n.opened),
    (r"I never searched", "never searched", lambda n: not n.titles),
)  # fmt: skip
ASKED = ("wrong kind", "no such option", "lacks the attribute")  # compare with what was asked for

class Parts(NamedTuple):  # of a reflection
    facts: list[str]
    cause: str
    plan: Plan

def parse(reflection: str) -> Parts:
    """A reflection without `Notes: ` states none; without `Cause: `, all before the plan is it."""
    told, _, _ = reflection.partition("Plan: ")
    noted, named, stated = told.rpartition("Cause: ")
    known = noted.strip().removeprefix("Notes: ").removesuffix(".").split("; ") if named else []
    cause_ = (stated if named else told).strip().removesuffix(".")
    return Parts([text for text in known if text], cause_, parse_plan(reflection))

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """cause: True if the trial shows it, of the product bought or, if none was, of one opened.
    sound: the plan buys a product without a known fault, and one known to fit if there is one, with
    the wanted values and no others; if all products have faults, it looks or searches on as the
    oracle's does. place: the price stated is that product's, and the values to choose are on the
    page of the product to buy; None if the trial shows neither. notes: all are true, and what is
    wanted, the product last opened, the one to buy and what is missing are there. Of a real
    instruction `sound` and some causes are None.
    """
    notes, said = read_trial(Notes(observation), steps), parse(reflection)
    kind, named, true = _cause(notes, said.cause)
    asin, values = bought(said.plan)
    checks = [notes.prices.get(named["asin"]) == named["price"]] if "price" in named else []
    checks += [value in notes.shown(asin) for value in values if asin in notes.values]
    names = [what for verb, what in said.plan if verb in ("open", "choose")]
    names += [name for part, name in named.items() if part != "price"]
    names = [name for name in names if name != notes.wish.kind]  # it may be worded `mug of oak`
    names += [word for verb, what in said.plan if verb == "search" for word in what.split()]
    names += re.findall(r"\b(?!I\b)[A-Z]\w*", said.cause) if notes.wish.values else []
    text = " ".join([observation, *sum(steps, ())])
    invented = any(not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) for name in names)
    sound = _leads(notes, said.plan) if notes.wish.values is not None else None
    return Verdict(kind, true, sound, all(checks) if checks else None, invented,
                   _noted(notes, said.facts) if said.facts else None)  # fmt: skip

def _noted(notes: Notes, stated: Sequence[str]) -> bool:
    general = {*wanted(notes), *lacking(notes)}
    true = general | {fact(notes, asin) for asin in notes.titles}
    needed = {fact(notes, a) for a in notes.titles if a in (notes.item, right_product(notes))}
    return general | needed <= {*stated} <= true

def _cause(notes: Notes, stated: str) -> tuple[str, dict[str, str], bool | None]:
    """Kind of a cause, what it names, and its truth."""
    for pattern, kind, shows in CAUSES:
        if match := re.fullmatch(pattern, stated):
            said = match.groupdict()
            blamed = notes.opened if notes.score is None else [notes.item]
            if notes.wish.values is None and kind in ASKED:
                return kind, said, None
            right = "asin" not in said or said["asin"] in blamed
            return kind, said, right and shows(notes, **said)
    return "", {}, None

def bought(plan: Plan) -> tuple[str, list[str]]:
    """The product that a plan buys, and the values that it chooses; ("", []) if it buys none."""
    product, values = "", list[str]()
    for verb, what in plan:
        if verb == "open":
            product, values = what, []
        elif verb == "choose":
            values.append(what)
        elif verb == "buy":
            return product, values
    return "", []

def _leads(notes: Notes, plan: Plan) -> bool:
    """Does a plan lead where the oracle's does?"""
    best, (product, values) = right_product(notes), bought(plan)
    if best is None:
        return _outline(notes, plan) == _outline(notes, plan_of(notes))
    if product not in notes.titles or fault(notes, product):
        return False
    fits = notes.has_attribute(product) or not notes.has_attribute(best)
    return fits and {*values} == {*notes.wanted(product)}

def _outline(notes: Notes, plan: Plan) -> tuple:
    """What matters of a plan for products that were not seen: who opens a kind searches for it."""
    product, values = bought(plan)
    onward = [c for c in plan if c[0] == "next" or (c[0] == "search" and c[1] != notes.wish.kind)]
    return onward, product, {*values}, not product and plan[:1] == [("search", notes.wish.kind)]

# ---- Constant plans: rules on the order of the products seen and of their prices, whatever went
# wrong. They read the kind that is asked for and the values to choose; they compare no price with
# the limit, and read no page of a product.
def _template(plan: Callable[[Notes], Plan]) -> Callable[[str, list[Step]], str]:
    def write(observation: str, steps: list[Step]) -> str:
        plan_ = plan(read_trial(Notes(observation), steps))
        return f"Cause: I bought the wrong thing. Plan: {write_plan(plan_)}."
    return write

def _buy(pick: Callable[[Notes, list[str]], Sequence[str]]) -> Callable[[str, list[Step]], str]:
    """`pick`: (notes, products of the kind) -> what to buy, the first of them; none: search."""
    def plan(notes: Notes) -> Plan:
        found = pick(notes, notes.of_kind())
        return purchase(found[0], notes.wanted(found[0])) if found else _anew(notes)
    return _template(plan)

def _anew(notes: Notes, *before: tuple[str, str]) -> Plan:
    kind, values = notes.wish.kind, notes.wish.values
    return [*(before or [("search", kind)]), *(purchase(kind, values) if values else [])]

def _unopened(notes: Notes, asins: list[str]) -> list[str]:
    return [asin for asin in asins if asin not in notes.opened]

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {
    "first": _buy(lambda notes, asins: asins),
    "second": _buy(lambda notes, asins: asins[1:]),
    "third": _buy(lambda notes, asins: asins[2:]),
    "unopened": _buy(_unopened),
    "cheapest": _buy(lambda notes, asins: sorted(asins, key=notes.price)),
    "second cheapest": _buy(lambda notes, asins: sorted(asins, key=notes.price)[1:]),
    "cheapest unopened": _buy(lambda notes, asins: sorted(
        _unopened(notes, asins), key=notes.price)),
    "cheapest other": _buy(lambda notes, asins: sorted(
        [asin for asin in asins if asin != notes.item], key=notes.price)),
    "the same": _buy(lambda notes, asins: [notes.item] * bool(notes.item)),
    "search again": _template(_anew),
    "search attribute": _template(lambda notes: _anew(
        notes, ("search", f"{notes.wish.attribute or ''} {notes.wish.kind}".strip()))),
    "next page": _template(lambda notes: _anew(notes, ("next", "page"))),
}  # fmt: skip
