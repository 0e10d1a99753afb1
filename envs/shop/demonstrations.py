"""Shop demonstrations: players, flawed reflections, questions and drills, for pretraining only.
Read `envs/demonstrations.py` and `envs/shop/observer.py` first. A player carries out the plan of
the latest reflection that has one, to the letter. Then it goes its own way: it searches, opens a
hit (mostly the first), chooses options and buys, with lapses.
"""

import copy
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import envs.shop.observer as observer
from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, ask, demonstrate, latest_plan
from envs.names import CUT, cutter, name_parts
from envs.observer import Step, read_trial
from envs.shop.observer import (
    Notes,
    Wish,
    cause,
    command,
    fact,
    facts,
    kind_of,
    oracle_reflection,
    parse_plan,
    plan_of,
    purchase,
    reflect_on,
    wanted,
    write_plan,
)
from envs.shop.tasks import (
    ASIN_HEADS,
    ASIN_STRANGERS,
    ASIN_TAILS,
    ATTRIBUTES,
    BRAND_HEADS,
    BRAND_STRANGERS,
    BRAND_TAILS,
    COLORS,
    KIND_HEADS,
    KIND_STRANGERS,
    KIND_TAILS,
    PATTERNS,
    POOR,
    SIZES,
    TOP,
    WORDS,
    generate_task,
    instruction,
)

SUBPAGES = ("Features", "Description", "Reviews")

class Skill(NamedTuple):  # chances, each for one trial; `traits` are what a player drew
    minds_price: float  # passes over what is dearer than the limit
    notices: float  # turns back where an option is missing
    checks: float  # reads the features before buying
    exact: float  # takes a shade for what it is, and does not forget the third option
    steady: float  # minds no rating
    rewords: float  # searches in the words of titles, `oak mug` for `mug of oak`
    dithers: float  # reads every sub-page first
    wanders: float  # opens any hit

SKILLS = {  # skill -> share of the players
    Skill(0.95, 0.95, 0.6, 0.95, 0.95, 0.9, dithers=0.02, wanders=0.02): 0.07,
    Skill(0.03, 0.04, 0.02, 0.04, 0.02, 0.03, dithers=0.02, wanders=0.03): 0.93,
}

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        chances = rng.choices([*SKILLS], [*SKILLS.values()])[0]
        self.traits = Skill(*(rng.random() < chance for chance in chances))
        self.tries = rng.random() < 0.5  # clicks an option that is not there
        self.plan = latest_plan(reflections, parse_plan)
        self.rejected: set[str] = set()
        self.read_pages: set[tuple[str, str]] = set()  # (asin, sub-page)
        self.last: str | None = None

    def read(self, action: str, reply: str) -> None:
        self.notes.read(action, reply)
        if self.notes.page == "sub":
            self.read_pages.add((self.notes.item, action.removeprefix("click[").removesuffix("]")))
        if self.plan and action == self.last == self._command(self.plan[0]):
            self.plan.pop(0)  # done, or refused: on to the next clause

    def slip(self) -> str:
        foreign = "".join(name_parts(self.rng, ASIN_HEADS, ASIN_TAILS, False, ASIN_STRANGERS))
        value = self.rng.choice(COLORS + SIZES)
        return f"click[{self.rng.choice([foreign, foreign, value, 'Description', 'Next >'])}]"

    def act(self) -> str:
        self.last = self._follow(self.plan[0]) if self.plan else self._own_way()
        return self.last

    def _command(self, clause: tuple[str, str]) -> str:
        """The action that carries out a clause; of a kind the first hit is opened."""
        verb, what = clause
        hits = [asin for asin in self.notes.listed if what == kind_of(self.notes.titles[asin])]
        return command((verb, hits[0]) if verb == "open" and hits else clause)

    def _follow(self, clause: tuple[str, str]) -> str:
        """The next action towards this clause."""
        notes, (verb, what) = self.notes, clause
        if notes.page == "start" and verb != "search":
            return f"search[{notes.wish.kind}]"
        if verb == "open" and notes.page == "results":
            return self._reach(what) or self._command(clause)
        away = notes.page == "item" and (verb == "next" or (verb == "open" and what != notes.item))
        return "click[< Prev]" if away or notes.page == "sub" else self._command(clause)

    def _reach(self, product: str) -> str | None:
        """Turn to the page of results that lists a product; None if it is this one, or nowhere."""
        notes = self.notes
        if any(product in (asin, kind_of(notes.titles[asin])) for asin in notes.listed):
            return None
        if product in notes.titles:
            order = list(notes.titles)
            later = order.index(product) > order.index(notes.listed[-1])
            return "click[Next >]" if later else "click[< Prev]"
        return "click[Next >]" if notes.more else None  # it was seen in another trial

    def _own_way(self) -> str:
        notes, item = self.notes, self.notes.item
        if notes.page == "start":
            return f"search[{self._words()}]"
        if notes.page == "sub":
            return "click[< Prev]"
        if notes.page == "results":
            return self._pick()
        if unread := self._unread():
            return f"click[{unread}]"
        rating = notes.ratings.get(item, "")
        if self._rejects(item) or (self._swayed() and rating.startswith(POOR) and self._hits()):
            self.rejected.add(item)
            return "click[< Prev]"
        if self._swayed() and rating == TOP:
            return "click[Buy Now]"
        missing = notes.missing(item)
        for wanted_ in notes.wanted(item):
            value = wanted_ if self.traits.exact else self._mistaken(wanted_)
            done = value is None or value in notes.chosen.values() or value in notes.refused
            if not done and (self.tries or value not in missing):
                return f"click[{value}]"
        return "click[Buy Now]"

    def _mistaken(self, value: str) -> str | None:
        """What a careless player chooses for a value: a colour that stands before its shade, and
        nothing of a third line that begins with another value.
        """
        groups = list(self.notes.values[self.notes.item].values())
        line = next((values for values in groups if value in values), [value])
        base = value.split()[-1]  # "dark red" is no "red"
        if base in line[: line.index(value)]:
            return base
        return None if line in groups[2:] and line[0] != value else value

    def _words(self) -> str:
        """To search for: the kind; where that is worded in another way, mostly the thing alone."""
        notes = self.notes
        found = notes.queries and not notes.of_kind()
        if notes.wish.kind in notes.instruction or self.traits.rewords or found:
            return notes.wish.kind
        return notes.wish.kind.split()[-1]

    def _unread(self) -> str | None:
        """A sub-page to read before buying."""
        notes = self.notes
        features = self.traits.checks and notes.wish.attribute and not notes.missing(notes.item)
        pages = list(SUBPAGES) if self.traits.dithers else ["Features"] * bool(features)
        return next((page for page in pages if (notes.item, page) not in self.read_pages), None)

    def _rejects(self, item: str) -> bool:
        """Has the player seen a fault?"""
        unfit = self.traits.checks and self.notes.has_attribute(item) is False
        return unfit or bool(self.traits.notices and self.notes.missing(item))

    def _swayed(self) -> bool:
        return not self.traits.steady

    def _hits(self) -> list[str]:
        """What the player would open of all that it has found: of the kind, if there is any."""
        notes, careful = self.notes, self.traits.minds_price or self.traits.rewords
        left = [a for a in notes.titles if a not in self.rejected and a != notes.item]
        hits = [asin for asin in left if notes.wish.kind in notes.titles[asin]]
        if self.traits.minds_price:
            hits = [asin for asin in hits if notes.price(asin) <= notes.wish.limit]
        return hits if hits or careful else left

    def _pick(self) -> str:
        """Open a hit: one below $10, else the first. Where there is none, look or search on."""
        notes, hits = self.notes, self._hits()
        if not hits:
            return "click[Next >]" if notes.more else "click[Back to Search]"
        lures = [asin for asin in hits if notes.price(asin) < 10]
        hit = self.rng.choice(hits) if self.traits.wanders else [*lures, *hits][0]
        return self._reach(hit) or f"click[{hit}]"

# ---- Flawed reflections, as people and models write them.
def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """Hasty (a guess, without notes), careless (one of the notes is wrong) or vague."""
    notes = read_trial(Notes(observation), steps)
    flaw = rng.choices(("hasty", "careless", "vague"), (4, 5, 2))[0]
    if flaw == "careless" and (wrong := misread(notes, rng)):
        return reflect_on(wrong)
    return hasty_reflection(notes, rng) if flaw == "hasty" else rng.choice(WORDS["vague"])

def hasty_reflection(notes: Notes, rng: random.Random) -> str:
    """A cause that many trials have, with the plan that would mend it."""
    kind, values, item = notes.wish.kind, notes.wish.values or [], notes.item
    asin = item or rng.choice([*notes.titles, kind])
    others = [other for other in notes.of_kind() if other != asin]
    other = purchase(rng.choice(others or [kind]), values)
    again = purchase(asin, values)
    value = rng.choice(values or ["red"])
    guesses = [
        (f"{asin} was not {notes.wish.attribute or 'good'}.", other),
        (f"{asin} had no {value}.", other),
        (f"{asin} cost {notes.prices.get(asin, '$99.0')}, too dear.", other),
        (f"I did not choose {value}.", again), ("I bought before choosing.", again),
        ("I had no step left.", again),
        ("I did not look at the next page.", [("next", "page"), *purchase(kind, values)]),
        (f"I searched {kind.split()[-1]}, not {kind}.",
         [("search", kind), *purchase(kind, values)]),
    ]  # fmt: skip
    guess, plan = rng.choice(guesses)
    return f"Cause: {guess} Plan: {write_plan(plan)}."

def misread(notes: Notes, rng: random.Random) -> Notes | None:
    """The notes with one mistake that readers make, and that leads to another plan or cause."""
    wrong = [copy.copy(notes) for _ in MISTAKES]
    for mistake, other in zip(rng.sample(MISTAKES, len(MISTAKES)), wrong):
        mistake(other, rng)
    telling = [other for other in wrong if facts(other) != facts(notes)
               and "did not fit" not in reflect_on(other)]  # fmt: skip
    planned = [other for other in telling if plan_of(other) != plan_of(notes)]
    blamed = [other for other in telling if cause(other) != cause(notes)]
    return next(iter([*planned, *blamed]), None)

def _other_price(notes: Notes, rng: random.Random) -> None:
    """The price of the line above or below."""
    seen = list(notes.prices)
    if len(seen) > 1:
        i = rng.randrange(len(seen))
        near = seen[i - 1 if i and rng.random() < 0.7 else (i + 1) % len(seen)]
        notes.prices = notes.prices | {seen[i]: notes.prices[near]}

def _other_side(notes: Notes, rng: random.Random) -> None:
    """The price is read, and compared with the limit wrongly."""
    notes.misjudged = rng.choice([*notes.prices, ""])

def _other_page(notes: Notes, rng: random.Random) -> None:
    """The options of another product, or an option that is there overlooked or not there seen."""
    opened = [asin for asin, groups in notes.values.items() if groups]
    if not opened:
        return
    asin, wanted = rng.choice(opened), {*notes.wanted(notes.item)}
    groups = notes.values[rng.choice(opened)]
    if rng.random() < 0.6:
        group, values = rng.choice(list(groups.items()))
        value = rng.choice([*wanted] or values)
        new = [v for v in values if v != value] if value in values else [*values, value]
        groups = groups | {group: new}
    notes.values = notes.values | {asin: groups}

def _other_attribute(notes: Notes, rng: random.Random) -> None:
    """What the score or the features tell, turned round."""
    attribute = notes.wish.attribute
    if notes.item and attribute:
        has = notes.has_attribute(notes.item)
        notes.features = {a: f for a, f in notes.features.items() if a != notes.item}
        notes.proved = notes.proved | {(notes.item, attribute): not has}

def _other_choice(notes: Notes, rng: random.Random) -> None:
    """What was chosen."""
    groups = notes.values.get(notes.item, {})
    if notes.chosen and groups:
        group = rng.choice(list(notes.chosen))
        others = [v for v in groups.get(group, []) if v != notes.chosen[group]]
        notes.chosen = {g: v for g, v in notes.chosen.items() if g != group}
        if others and rng.random() < 0.5:
            notes.chosen[group] = rng.choice(others)
    elif groups:
        notes.chosen = {g: v for g, values in groups.items() for v in values
                        if v in notes.wanted(notes.item)}  # fmt: skip

def _other_pages(notes: Notes, rng: random.Random) -> None:
    """Whether there is a next page."""
    notes.unseen = not notes.unseen

def _other_wish(notes: Notes, rng: random.Random) -> None:
    """What is wanted."""
    if notes.wish.values is not None:
        notes.wish = other_wish(notes, rng, 1)

MISTAKES = [_other_price, _other_side, _other_page, _other_attribute, _other_choice, _other_pages,
            _other_wish]  # fmt: skip

# ---- The same trial with another wish in mind.
def other_wish(notes: Notes, rng: random.Random, changes: int) -> Wish:
    """A wish that differs in 1 to `changes` parts, mostly in words that the trial's text has."""
    wish, values = notes.wish, list(notes.wish.values or [])
    for part in rng.sample(("attribute", "values", "limit", "kind"), rng.randint(1, changes)):
        if part == "attribute":
            seen = [word for features in notes.features.values() for word in features]
            wish = wish._replace(attribute=rng.choice(seen * 4 + ATTRIBUTES))
        elif part == "limit":
            near = [10.0 * round(notes.price(asin) / 10) for asin in notes.prices]
            wish = wish._replace(limit=rng.choice([p for p in near if p] or [30.0, 60.0, 90.0]))
        elif part == "kind":
            named = " ".join(name_parts(rng, KIND_HEADS, KIND_TAILS, False, KIND_STRANGERS))
            wish = wish._replace(kind=rng.choice([*map(kind_of, notes.titles.values()), named]))
        elif values:
            i = rng.randrange(len(values))
            pages = [[*groups.values()] for groups in notes.values.values()]
            shown = [value for groups in pages for group in groups[i : i + 1] for value in group]
            values[i] = rng.choice(shown or (COLORS, SIZES, PATTERNS)[i])
            wish = wish._replace(values=values)
    return wish

def what_if(notes: Notes, rng: random.Random) -> Pair | None:
    """The notes, or the whole reflection, as they would be with another wish."""
    if notes.wish.values is None:
        return None
    other = notes.wishing(other_wish(notes, rng, 3))
    if other.wish == notes.wish or "did not fit" in reflect_on(other):
        return None  # the same, or all of it was bought: nobody knows what was wrong
    if rng.random() < 0.5:
        return f"What matters for {wanted(other)[0]}?", "; ".join(facts(other))
    wish, groups = other.wish, ("color", "size", "pattern")
    options = dict(zip(groups, wish.values or []))
    task = instruction(wish.attribute or "", wish.kind, options, wish.limit)
    return f"What if the task were: {task}?", reflect_on(other)

# ---- Questions. None is about how to do better. `asin` is a product that was seen.
def brand(title: str) -> str:
    return title.partition(" ")[0]

def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"

def _feature(notes: Notes, rng: random.Random) -> Pair:
    asin, features = rng.choice(list(notes.features.items()))
    return f"What are the features of {asin}?", ", ".join(features)

def _options(notes: Notes, rng: random.Random, ask_values: bool) -> Pair | None:
    """The values of a group of options, or the products that had one value."""
    opened = [asin for asin, groups in notes.values.items() if groups]
    if not opened:
        return None
    asin = rng.choice(opened)
    group, values = rng.choice(list(notes.values[asin].items()))
    if ask_values:
        return f"Which {group} had {asin}?", ", ".join(values)
    value = rng.choice([*values, *notes.wanted(asin)])
    having = [asin for asin in notes.values if value in notes.shown(asin)]
    return f"Which product had {value}?", _listed(having[:4])

QUESTIONS: dict[str, Callable[[Notes, str, random.Random], Pair | None]] = {
    "cost": lambda notes, asin, _: (f"What did {asin} cost?", notes.prices[asin]),
    "brand": lambda notes, asin, _: (f"Which brand is {asin}?", brand(notes.titles[asin])),
    "maker": lambda notes, asin, _: (f"Which product is from {brand(notes.titles[asin])}?", asin),
    "kind": lambda notes, *_: (f"Which products are {notes.wish.kind}?", _listed(notes.of_kind())),
    "option": lambda notes, _, rng: _options(notes, rng, ask_values=False),
    "values": lambda notes, _, rng: _options(notes, rng, ask_values=True),
    "feature": lambda notes, _, rng: _feature(notes, rng) if notes.features else None,
    "opened": lambda notes, *_: ("Which products were opened?", _listed(notes.opened[:4])),
    "unopened": lambda notes, *_: ("Which products were not opened?", _listed(
        [asin for asin in notes.titles if asin not in notes.opened][:4])),
    "last": lambda notes, *_: None if not notes.opened else (
        "Which product was opened last?", notes.item),
    "limit": lambda notes, *_: None if notes.wish.limit == float("inf") else (
        "What is the price limit?", f"${notes.wish.limit}"),
    "cheap": lambda notes, *_: ("Which products are cheap enough?", _listed(
        [f"{a} {'no' if notes.too_dear(a) else 'yes'}" for a in notes.titles])),
    "fit": lambda notes, asin, _: (
        f"Does {asin} fit?", fact(notes, asin).removeprefix(f"{asin} ")),
    "features wanted": lambda notes, asin, _: None if asin not in notes.features else (
        f"Is {asin} {notes.wish.attribute}?", "yes" if notes.has_attribute(asin) else "no"),
    "chosen": lambda notes, *_: None if not notes.opened else (
        "What was chosen?", _listed([*notes.chosen.values()])),
    "left": lambda notes, *_: None if not notes.opened or notes.wish.values is None else (
        "What was not chosen?", _listed(notes.left())),
    "query": lambda notes, *_: ("What was searched?", _listed(notes.queries[-1:])),
    "pages": lambda notes, *_: (
        "Is there a page that was not seen?", "yes" if notes.unseen else "no"),
}  # fmt: skip
HARD = ["cheap", "fit"]
TOPICS = [topic for topic in QUESTIONS if topic not in HARD]
ASKED = [*TOPICS, *HARD * 5]  # after a trial
# in a drill; lists and comparisons are hard and come more often
DRILLED = """cost brand maker kind kind cheap cheap cheap cheap fit fit fit fit option option values
values values""".split()
IMAGINED = 3  # questions about other wishes after a trial

def questions(observation: str, steps: list[Step], rng: random.Random, n: int,
              topics: Sequence[str] = TOPICS) -> list[Pair]:  # fmt: skip
    notes = read_trial(Notes(observation), steps)
    seen = list(notes.titles)
    if not seen:
        return [("Which products were opened?", "none")]
    return ask(n, topics, rng, lambda topic: QUESTIONS[topic](notes, rng.choice(seen), rng))

def everything(observation: str, steps: list[Step], rng: random.Random) -> Pair:
    """Dense practice in reading: the answer binds up to 12 names to others, in random order."""
    notes = read_trial(Notes(observation), steps)
    pairs = [f"{brand(title)} is {asin}" for asin, title in notes.titles.items()]
    pairs += [f"{asin} is {brand(title)}" for asin, title in notes.titles.items()]
    pairs += [f"{asin} cost {price}" for asin, price in notes.prices.items()]
    pairs += [f"{asin} had {value}" for asin in notes.values for value in notes.shown(asin)]
    return "What was seen?", ", ".join(rng.sample(pairs, min(len(pairs), 12))) or "nothing"

def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together; `envs/__init__.py` says what the four parts are.
    A brand, a price in the results and an option value on a product's page are bound to the asin.
    An asin is bound to its brand, but not where it first stands.
    """
    asins: dict[str, tuple[str, int]] = {}  # asin -> its brand, offset; and the other way round
    brands: dict[str, tuple[str, int]] = {}
    found = []
    for hit in observer.HIT.finditer(text):
        asins.setdefault(hit[1], (hit[3], hit.start(1)))
        brands.setdefault(hit[3], (hit[1], hit.start(3)))
        found.append((hit[4], hit.end(4), hit[1], False))
    for mention in re.finditer(r"\b[A-Z]\w+\b", text):
        other, first = asins.get(mention[0]) or brands.get(mention[0]) or (None, 0)
        later = mention.start() - first
        if other and (later > 0 or (later == 0 and mention[0] in brands)):
            found.append((mention[0], mention.end(), other, later > 0))
    opened = r"^> click\[(\w+)\]\n\[Back to Search\].*\n\[< Prev\].*\n"
    for page in re.finditer(opened, text, re.MULTILINE):
        end = text.find("\nPrice: ", page.end())
        for group in observer.OPTIONS.finditer(text, page.end(), max(end, page.end())):
            for value in observer.VALUE.finditer(text, group.end(), text.index("\n", group.end())):
                found.append((value[1], value.end(1), page[1], False))
    return sorted(found, key=lambda mention: mention[1])

def cut_names(text: str) -> str:
    return cutter([*BRAND_HEADS, *BRAND_STRANGERS], BRAND_TAILS).sub(CUT, text)

def _asked(observation: str, steps: list[Step], rng: random.Random, n: int = 8,
           topics: Sequence[str] = ASKED) -> list[Pair]:  # fmt: skip
    notes = read_trial(Notes(observation), steps)
    asked = [everything(observation, steps, rng), *questions(observation, steps, rng, n, topics)]
    asked += [("What matters?", "; ".join(facts(notes)))] if facts(notes) else []
    return asked + [pair for _ in range(IMAGINED) if (pair := what_if(notes, rng))]

def demonstrations(env: Environment, split: str, seed: int | str, oracle_share: float,
                   drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
    """Endless: in `drill_share` of the turns questions on a glance, else the trials of a task."""
    rng = random.Random(f"shop demonstrations {split} {seed}")
    roles = Roles(Player, oracle_reflection, flawed_reflection, _asked)
    while True:
        task = generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            observation, _ = env.reset(task)
            steps = env.glance(rng)
            asked = _asked(observation, steps, rng, 6, DRILLED)
            shown = set(range(len(steps)))  # no trial: the model does not learn to do them
            yield Demonstration(observation, [], steps, shown, False, 0.0, None, asked)
        else:
            yield from demonstrate(env, task, roles, rng, oracle_share)
