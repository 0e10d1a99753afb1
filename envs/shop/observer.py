"""What a reader of a shopping trial knows: facts read off the text, nothing else.

`Notes` reads a trial page by page. The demonstrators act on it, the oracle reflection and the
reading questions are written from it, so none of them can state what the text did not show.
"""

import random
import re
from collections.abc import Sequence

from envs.chains import Pairs, Step

TOPICS = "cost brand maker kind option values feature opened unopened last limit".split()
_GENERATED = re.compile(r"find one (\w+) (\w+ \w+) in color (\w+) and size (\w+), and price lower")
_LIMIT = re.compile(r"price lower than ([\d.]+) dollars")
_HIT = re.compile(r"^\[(\w+)\]\n((\S+).*)\n(\$.+)$", re.MULTILINE)  # asin, title, brand, price
_OPTIONS = re.compile(r"^[a-z][^\[\]\n]* (?=\[)", re.MULTILINE)  # an option group up to its values
_VALUE = re.compile(r"\[\[?([^\[\]]+)\]\]?")


class Notes:
    """Facts of one trial so far. Feed it the first observation, then each (action, observation)."""

    def __init__(self, observation: str):
        lines = [line.strip() for line in observation.splitlines()]
        self.instruction = lines[2] if len(lines) > 2 else ""
        limit = _LIMIT.search(self.instruction)
        self.limit = float(limit[1]) if limit else float("inf")
        goal = _GENERATED.match(self.instruction)
        self.attribute = goal[1] if goal else None
        self.kind = goal[2] if goal else self.instruction.split(", and price")[0]
        self.asked = [goal[3], goal[4]] if goal else None  # option values; None: not known
        self.titles: dict[str, str] = {}  # asin -> title, in the order of first sight
        self.prices: dict[str, str] = {}  # asin -> price as shown
        self.values: dict[str, dict[str, list[str]]] = {}  # asin -> option group -> values
        self.features: dict[str, list[str]] = {}
        self.opened: list[str] = []  # asins in the order of their first opening
        self.page, self.item = "start", ""  # start, results, item, sub; the asin last opened
        self.listed: list[str] = []  # asins on the latest page of results
        self.chosen: dict[str, str] = {}  # option group -> value, of the item
        self.refused: set[str] = set()  # buttons that were answered "Invalid action!"
        self.score: float | None = None
        self.reply = ""  # the latest observation

    def read(self, action: str, observation: str) -> None:
        """Take in one step."""
        text = "\n".join(line.strip() for line in observation.splitlines())
        self.reply = text
        button = action.strip().removeprefix("click[").removesuffix("]")
        if text == "Invalid action!":
            self.refused.add(button)
        elif text.startswith("Webshop"):
            self.page = "start"
        elif text.startswith("[Back to Search]\nPage"):
            self.page, self.listed = "results", []
            for hit in _HIT.finditer(text):
                asin, title, _, price = hit.groups()
                self.listed.append(asin)
                self.titles[asin], self.prices[asin] = title, price
        elif text.startswith("[Back to Search]") and "[Buy Now]" in text:
            self.page = "item"
            if button in self.titles:
                self.item, self.chosen = button, {}
                self.opened += [button] * (button not in self.opened)
            groups = [g for g in text.split("\n") if _OPTIONS.match(g)]
            self.values[self.item] = {
                g.partition(" [")[0]: _VALUE.findall(g.partition(" ")[2]) for g in groups
            }
        elif text.startswith("[Back to Search]"):
            self.page = "sub"
            if button == "Features":
                self.features[self.item] = text.split("\n")[2:]
        elif text.startswith("You have clicked "):
            for group, values in self.values.get(self.item, {}).items():
                if button in values:
                    self.chosen[group] = button
        elif text.startswith("Your score"):
            self.score = float(text.rpartition(" ")[2])

    def price(self, asin: str) -> float:
        """In dollars; of a range the dearer end."""
        return float(self.prices[asin].rpartition("$")[2])

    def wanted(self, asin: str) -> list[str]:
        """The option values to choose of a product."""
        if self.asked is not None:
            return self.asked
        groups = self.values.get(asin, {}).values()
        return [value for group in groups for value in group if value in self.instruction]

    def missing(self, asin: str) -> list[str]:
        """The wanted option values that its page did not show."""
        groups = self.values.get(asin)
        shown = [value for group in (groups or {}).values() for value in group]
        return [] if groups is None else [v for v in self.wanted(asin) if v not in shown]

    def bought(self) -> str | None:
        return self.item if self.score is not None else None

    def has_attribute(self, asin: str) -> bool | None:
        """As its features tell, or the score of its purchase; None if neither was seen."""
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

    def unopened(self) -> list[str]:
        return [asin for asin in self.titles if asin not in self.opened]


def read_trial(observation: str, steps: list[Step]) -> Notes:
    """Notes of a whole trial."""
    notes = Notes(observation)
    for action, reply in steps:
        notes.read(action, reply)
    return notes


def brand(title: str) -> str:
    return title.partition(" ")[0]


def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together: (name, offset of its mention's end, the name that it
    is bound to, whether it was mentioned before).

    A brand is bound to its asin, an asin after its first sight to its brand; a price in the results
    and an option value on a product's page to the asin.
    """
    hits = list(_HIT.finditer(text))
    asins: dict[str, tuple[str, int]] = {}  # asin -> its brand, offset; and the other way round
    brands: dict[str, tuple[str, int]] = {}
    found = []
    for hit in hits:
        asins.setdefault(hit[1], (hit[3], hit.start(1)))
        brands.setdefault(hit[3], (hit[1], hit.start(3)))
        found.append((hit[4], hit.end(4), hit[1], False))
    for mention in re.finditer(r"\b[A-Z]\w+\b", text):
        other, first = asins.get(mention[0]) or brands.get(mention[0]) or (None, 0)
        is_brand = mention[0] in brands
        if other and (is_brand or mention.start() > first) and mention.start() >= first:
            found.append((mention[0], mention.end(), other, mention.start() > first))
    for page in re.finditer(
        r"^> click\[(\w+)\]\n\[Back to Search\].*\n\[< Prev\].*\n", text, re.MULTILINE
    ):
        end = text.find("\nPrice: ", page.end())
        for group in _OPTIONS.finditer(text, page.end(), max(end, page.end())):
            line = text[group.end() : text.index("\n", group.end())]
            for value in _VALUE.finditer(line):
                found.append((value[1], group.end() + value.end(1), page[1], False))
    return sorted(found, key=lambda mention: mention[1])


def questions(
    observation: str, steps: list[Step], rng: random.Random, n: int, topics: Sequence[str] = TOPICS
) -> Pairs:
    """Up to n (question, answer) pairs about a trial, answerable from its text, each on one of the
    topics; none is about how to do better.
    """
    notes, asked = read_trial(observation, steps), []
    seen = list(notes.titles)
    if not seen:
        return [("Which products were opened?", "none")]
    for _ in range(n):
        topic, asin = rng.choice(topics), rng.choice(seen)
        if topic == "cost":
            asked.append((f"What did {asin} cost?", notes.prices[asin]))
        elif topic == "brand":
            asked.append((f"Which brand is {asin}?", brand(notes.titles[asin])))
        elif topic == "maker":
            asked.append((f"Which product is from {brand(notes.titles[asin])}?", asin))
        elif topic == "limit" and notes.limit < float("inf"):
            asked.append(("What is the price limit?", f"{notes.limit:.2f} dollars"))
        elif topic == "cheap":
            judged = [f"{a} {'yes' if notes.price(a) <= notes.limit else 'no'}" for a in seen]
            asked.append(("Which products are cheap enough?", ", ".join(judged)))
        elif topic == "kind":
            alike = [a for a in seen if notes.kind in notes.titles[a]]
            asked.append((f"Which products are {notes.kind}?", ", ".join(alike) or "none"))
        elif topic == "opened":
            asked.append(("Which products were opened?", ", ".join(notes.opened[:4]) or "none"))
        elif topic == "unopened":
            left = ", ".join(notes.unopened()[:4])
            asked.append(("Which products were not opened?", left or "none"))
        elif topic == "last" and notes.opened:
            asked.append(("Which product was opened last?", notes.item))
        elif topic == "feature" and notes.features:
            asin = rng.choice(list(notes.features))
            asked.append((f"What are the features of {asin}?", ", ".join(notes.features[asin])))
        elif topic in ("values", "option") and any(notes.values.values()):
            asin = rng.choice([asin for asin, groups in notes.values.items() if groups])
            group = rng.choice(list(notes.values[asin]))
            values = notes.values[asin][group]
            if topic == "values":
                asked.append((f"Which {group} had {asin}?", ", ".join(values)))
                continue
            value = rng.choice([*values, *notes.wanted(asin)])
            having = [a for a, g in notes.values.items() if any(value in v for v in g.values())]
            asked.append((f"Which product had {value}?", ", ".join(having[:4]) or "none"))
    return list(dict.fromkeys(asked))


def everything(
    observation: str, steps: list[Step], rng: random.Random, n: int = 12
) -> tuple[str, str]:
    """A question whose answer binds up to n names to others, in random order: dense practice."""
    notes = read_trial(observation, steps)
    pairs = [f"{brand(title)} is {asin}" for asin, title in notes.titles.items()]
    pairs += [f"{asin} is {brand(title)}" for asin, title in notes.titles.items()]
    pairs += [f"{asin} cost {price}" for asin, price in notes.prices.items()]
    for asin, groups in notes.values.items():
        pairs += [f"{asin} had {value}" for values in groups.values() for value in values]
    return "What was seen?", ", ".join(rng.sample(pairs, min(len(pairs), n))) or "nothing"
