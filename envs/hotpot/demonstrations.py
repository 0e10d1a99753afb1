"""HotPotQA demonstrations: players, flawed reflections, questions and drills, for pretraining only.
Read `envs/demonstrations.py` and `envs/hotpot/observer.py` first. A player carries out the plan of
the latest reflection that has one; from the paragraph it leads to, it goes on with care. Without a
plan it follows the question's chain, with lapses.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import envs.hotpot.observer as observer
from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, ask, demonstrate, drill, latest_plan
from envs.hotpot.goals import (
    NAMES,
    NUMBERS,
    RELATIONS,
    VALUE_KIND,
    WORDS,
    Entity,
    Goal,
    Way,
    wanted,
    write_question,
)
from envs.hotpot.observer import (
    Notes,
    command,
    noted,
    oracle_reflection,
    parse_plan,
    reflect_on,
    write_reflection,
)
from envs.hotpot.tasks import World, generate_task
from envs.names import CUT, cutter
from envs.observer import Step, read_trial

class Skill(NamedTuple):  # chances of a lapse, each where it can occur
    hasty: float = 0.0  # does not read to the second sentence, where the asked fact stands
    sense: float = 0.0  # takes the first title offered
    early: float = 0.0  # answers with a town on the way
    astray: float = 0.0  # reads a second paragraph of a kind, and goes on from that one
    guess: float = 0.0  # compares without having read all
    mixed: float = 0.0  # takes the last for the first, or no for yes
    title: float = 0.0  # searches a title that does not exist
    idle: float = 0.0  # thinks or looks a word up

CAREFUL = Skill(hasty=0.05, sense=0.1, guess=0.05)
HASTY = Skill(hasty=0.85, sense=0.85, early=0.1, astray=0.1, guess=0.3, mixed=0.05, title=0.03)
RASH = Skill(hasty=0.95, sense=0.95, early=0.2, astray=0.2, guess=0.5, mixed=0.2, title=0.05,
             idle=0.01)  # fmt: skip
SKILLS = {CAREFUL: 0.25, HASTY: 0.45, RASH: 0.3}  # skill -> share of the players

class Route:  # what a player takes for a way
    def __init__(self, way: Way, level: int = 0, begun: Entity | None = None):
        self.way, self.level, self.entities = way, level, [begun or way.start]

    @property
    def relation(self) -> str:
        """The fact to read next; "" at the end."""
        return (*self.way.relations, "")[self.level]

    @property
    def name(self) -> str:
        return self.entities[-1][1]

    def may_be_at(self, entity: Entity) -> bool:
        """Can this be a paragraph of the way?"""
        return entity == self.way.start or entity[0] in self.way.kinds[1:-1]

    def take(self, value: str) -> None:
        self.level += 1
        self.entities.append((self.way.kinds[self.level], value))

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        self.skill = rng.choices([*SKILLS], [*SKILLS.values()])[0]
        self.plan = latest_plan(reflections, parse_plan)
        self.opened: list[Entity] = []  # paragraphs that the plan led to
        self.begun: dict[Entity, str] = {}  # the first sentence of each paragraph
        self.routes = [Route(way) for way in self.notes.goal.ways]

    def read(self, action: str, reply: str) -> None:
        self.notes.read(action, reply)
        if match := observer.PARAGRAPH.search(reply):
            self.begun[match[1], match[2]] = match[0].partition(". ")[0]

    def slip(self) -> str:
        foreign = World(self.rng, False, ()).name(self.rng.choice(("work", "artist", "town")))
        known = self.rng.choice([name for _, name in self.notes.facts] or [foreign])
        searches = [command("search", name) for name in (foreign, known)]
        return self.rng.choice([*searches, self._idle()])

    def _idle(self) -> str:
        thought = f"think[ I need the {wanted(self.notes.goal)} ]"
        word = self.rng.choice(("born", "by", "river", "town", "music"))
        return self.rng.choice((thought, f"Lookup[ {word} ]"))

    def act(self) -> str:
        while self.plan:
            if action := self._follow(*self.plan[0]):
                return action
            self.plan = self.plan[1:]
            if not self.plan:
                self._go_on_from_plan()
        if self.rng.random() < self.skill.idle:
            return self._idle()
        for route in self.routes:
            if action := self._walk(route):
                return action
        return command("finish", self._answer())

    # ---- By a plan.
    def _follow(self, verb: str, words: str) -> str | None:
        """The action that carries out a clause of the plan, or None when it is done."""
        if verb == "finish" or words not in self.notes.searched:
            return command(verb, words)
        plain, _, meant = words.rstrip(")").partition(" (")
        read = [e for e in self.notes.facts if e[1] == plain and meant in ("", e[0])]
        # a name that turned out to have two senses is meant in the one that fits
        read += [(k, words) for k in RELATIONS if f"{words} ({k})" in self.notes.offered]
        self.opened += [e for e in read if any(route.may_be_at(e) for route in self.routes)][:1]
        return None

    def _go_on_from_plan(self) -> None:
        """Go on, with care, from the paragraphs that the plan led to."""
        routes, begun = self.routes, list[Route]()
        for entity in self.opened if self.notes.goal.order else self.opened[-1:]:
            fits = [route for route in routes if route.may_be_at(entity)]
            if route := next((r for r in fits if r.entities[0] == entity), (*fits, None)[0]):
                begun.append(Route(route.way, route.way.kinds.index(entity[0]), entity))
                routes = [r for r in routes if r is not route]
        if begun:
            self.skill = Skill()
            # of three towns a plan may name the two that are left
            self.routes = begun if len(begun) > 1 else [*begun, *routes]

    # ---- On the question's ways, with lapses.
    def _walk(self, route: Route) -> str | None:
        """One step on a way; None at its end."""
        while route.relation:
            if route.entities[-1] not in self.notes.facts:
                return self._open(route)
            route.take(self._pick(route.entities[-1], route.relation))
            if self.notes.goal.order:
                continue
            if route.relation and route.entities[-1][0] == "town":
                if self.rng.random() < self.skill.early:
                    return command("finish", route.name)
            if len(route.entities) > 2 and self.rng.random() < self.skill.astray:
                self._stray(route)
        return None

    def _pick(self, entity: Entity, relation: str) -> str:
        """The asked fact of a paragraph; a hasty reader, or one in the wrong paragraph, takes the
        first one.
        """
        facts = self.notes.facts[entity]
        first = next(iter(facts.values()))
        value = facts.get(relation, first)
        hidden = f" {value}" not in self.begun[entity]
        return first if hidden and self.rng.random() < self.skill.hasty else value

    def _stray(self, route: Route) -> None:
        """Go back for the other artist of a work, or the like, and go on from there."""
        *entities, before, (kind, name), _ = route.entities
        others = [value for value in self.notes.facts[before].values() if value != name]
        route.entities = [*entities, before, (kind, self.rng.choice(others))]
        route.level -= 1

    def _open(self, route: Route) -> str:
        """Search the next paragraph; of several titles a hasty player takes the first."""
        notes, (kind, name) = self.notes, route.entities[-1]
        title = f"{name} ({kind})"
        senses = [t for t in notes.offered if t.startswith(f"{name} (")]
        if senses:
            hasty = senses[0] not in notes.searched and self.rng.random() < self.skill.sense
            title = senses[0] if hasty else title
            route.entities[-1] = (title.rstrip(")").partition(" (")[2], name)
        elif name not in notes.searched:
            if not notes.missing and not notes.goal.order and self.rng.random() < self.skill.title:
                return command("search", self._no_title(route, title))
            if self._guesses(route):
                return command("finish", self._answer())
            return command("search", name)
        if title in notes.searched:  # at a loss
            return command("finish", name)
        return command("search", title)

    def _no_title(self, route: Route, title: str) -> str:
        if len(route.entities) < 2:
            return title
        return f"{route.way.relations[route.level - 1]} of {route.entities[-2][1]}"

    def _guesses(self, route: Route) -> bool:
        """Compare although this last paragraph was not read?"""
        last = route is self.routes[-1] and route.level + 1 == len(route.way.relations)
        return bool(self.notes.goal.order) and last and self.rng.random() < self.skill.guess

    def _answer(self) -> str:
        order, ends = self.notes.goal.order, [route.name for route in self.routes]
        if not order:
            return ends[0]
        unread = any(route.relation for route in self.routes)
        mixed = self.rng.random() < (0.5 if unread else self.skill.mixed)
        if order == "same":
            return "yes" if (len(set(ends)) == 1) != mixed else "no"
        towns = [route.entities[-1 if route.relation else -2][1] for route in self.routes]
        if unread:
            return self.rng.choice(towns)
        numbers = [int(re.sub(r"\D", "", end) or 0) for end in ends]
        best = min(numbers) if (order == "first") != mixed else max(numbers)
        return towns[numbers.index(best)]

# ---- Flawed reflections, as people and models write them.
def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """Hasty: no notes, and what fits a typical trial. Careless: right but for one wrong fact, from
    which cause and plan follow. Vague.
    """
    trial = read_trial(Notes(observation), steps)
    flaw = rng.choices(("careless", "hasty", "vague"), (6, 4, 2))[0]
    if flaw == "careless" and trial.goal.ways and misread(trial, rng):
        return reflect_on(trial)
    named = [title for title in [*trial.found, *trial.offered, trial.given] if title]
    named += [value for relation, _, value in trial.known() if relation not in NUMBERS]
    if flaw == "vague" or not named:
        return rng.choice(WORDS["vague"])
    name = rng.choice(named)
    if rng.random() < 0.25:
        return write_reflection(f"{trial.ended()}, but the answer is {name}.", [("finish", name)])
    return write_reflection(f"{trial.ended()}, but did not read {name}.", [("search", name)])

def misread(trial: Notes, rng: random.Random) -> bool:
    """Change one fact on the question's ways as readers do: it gets the value that stands beside it
    in its paragraph, or the same fact's value in another paragraph. False if there is none.
    """
    wrong = []
    for path in trial.paths():
        for kind, (relation, name, value) in zip(path.way.kinds[path.begun :], path.facts):
            own = trial.facts[kind, name].values()
            others = (facts[relation] for facts in trial.facts.values() if relation in facts)
            wrong += [((kind, name), relation, v) for v in (*own, *others) if v != value]
    if wrong:
        entity, relation, value = rng.choice(wrong)
        trial.facts[entity] = trial.facts[entity] | {relation: value}
    return bool(wrong)

# ---- Questions. None is about how to do better.
def _fact(trial: Notes, rng: random.Random, reverse: bool) -> Pair | None:
    if not trial.known():
        return None
    relation, name, value = rng.choice(trial.known())
    if not reverse:
        return f"What is the {relation} of {name}?", value
    once = [v for _, _, v in trial.known()].count(value) == 1 and relation not in NUMBERS
    return (f"What was read of {value}?", f"{relation} of {name}") if once else None

def _hops(trial: Notes, rng: random.Random) -> Pair | None:
    ways = [
        (f"What is the {then} of the {relation} of {name}?", end)
        for relation, name, value in trial.known()
        for then, end in trial.facts.get((VALUE_KIND.get(relation, ""), value), {}).items()
    ]
    return rng.choice(ways) if ways else None

def _read(trial: Notes, rng: random.Random) -> Pair | None:
    names = [name for relation, _, name in trial.known() if relation not in NUMBERS]
    if not names:
        return None
    name = rng.choice(names)
    return f"Was {name} read?", "yes" if name in [read for _, read in trial.facts] else "no"

def _order(trial: Notes, rng: random.Random) -> Pair | None:
    relation, order = rng.choice(NUMBERS), rng.choice(("first", "last"))
    towns = {name: int(v[4:-2]) for r, name, v in trial.known() if r == relation}
    pairs = [(a, b) for a in towns for b in towns if towns[a] != towns[b]]
    if not pairs:
        return None
    a, b = rng.choice(pairs)
    best = (min if order == "first" else max)((a, b), key=lambda name: towns[name])
    return f"Which has the {order} {relation}, {a} or {b}?", best

QUESTIONS: dict[str, Callable[[Notes, random.Random], Pair | None]] = {
    "fact": lambda trial, rng: _fact(trial, rng, reverse=False),
    "hops": _hops,
    "reverse": lambda trial, rng: _fact(trial, rng, reverse=True),
    "read": _read,
    "order": _order,
    "searched": lambda trial, _: (
        "Which titles were searched?", ", ".join(trial.searched[:6]) or "none"),
    "last": lambda trial, _: None if not trial.searched else (
        "What was searched last?", trial.last),
    "missing": lambda trial, _: (
        "Which titles were not found?", ", ".join(trial.missing) or "none"),
    "given": lambda trial, _: ("What was answered?", trial.given or "nothing"),
    "wanted": lambda trial, _: None if not trial.goal.ways else (
        "What is asked?", wanted(trial.goal))}  # fmt: skip
TOPICS = tuple(QUESTIONS)
DRILLED = ("fact", "fact", "hops", "reverse", "order")  # in a drill

def questions(observation: str, steps: list[Step], rng: random.Random, n: int,
              topics: Sequence[str] = TOPICS) -> list[Pair]:  # fmt: skip
    trial = read_trial(Notes(observation), steps)
    return ask(n, topics, rng, lambda topic: QUESTIONS[topic](trial, rng))

# ---- What matters, here and if something else were asked.
def other_goal(trial: Notes, rng: random.Random) -> Goal:
    """Another goal, of names that the trial shows, mostly of paragraphs that it read."""
    numbers = any(relation in NUMBERS for relation, _, _ in trial.known())
    towns = NUMBERS if numbers else ("land", "river")
    read = [*trial.facts, *(way.start for way in trial.goal.ways)]
    named = [(VALUE_KIND[r], v) for r, _, v in trial.known() if r in VALUE_KIND]

    def draw() -> Way:
        """Up to a fact of a town; or, but for numbers, it may end before."""
        way = Way(rng.choice(read if rng.random() < 0.8 or not named else named))
        while kind := way.kinds[-1]:
            way = way.on(rng.choice(towns if kind == "town" else RELATIONS[kind]))
            if rng.random() < 0.4 and not (numbers and way.kinds[-1]):
                break
        return way

    first, *others = [draw() for _ in range(10)]
    alike = [way for way in others if way.kinds[-2] == first.kinds[-2] and way.start != first.start]
    if alike and (numbers or first.kinds[-1] == "town" and rng.random() < 0.3):
        ways = (first, alike[0].before().on(first.relations[-1]))
        order = rng.choice(("first", "last")) if numbers else "same"
        a, b = map(trial.path, ways)
        if a.last != b.last and not (numbers and a.done and b.done and a.name == b.name):
            return Goal(ways, order)  # of one town, or of two that are equally old, none is first
    return Goal((first,))

def practice(observation: str, steps: list[Step], rng: random.Random, n: int = 3) -> list[Pair]:
    """What matters; and n times what would matter, or what would be the whole reflection, if
    something else were asked.
    """
    trial = read_trial(Notes(observation), steps)
    if not trial.goal.ways:
        return []
    asked = [("What matters?", "; ".join(noted(trial)))]
    for goal in (other_goal(trial, rng) for _ in range(n)):
        other = read_trial(Notes(observation, goal), steps)
        right = other.given is not None and other.given == other.answer(other.paths())
        if right or rng.random() < 0.5:
            asked.append(_what_matters(other))
        else:
            question = write_question(goal, rng)
            asked.append((f"What if the task were: {question}", reflect_on(other)))
    return list(dict.fromkeys(asked))

def _what_matters(other: Notes) -> Pair:
    asked, *known = noted(other)
    return f"What matters for {asked}?", "; ".join(known)

def everything(observation: str, steps: list[Step], rng: random.Random) -> Pair:
    """Dense practice in reading: the answer states up to 12 facts, in random order."""
    known = read_trial(Notes(observation), steps).known()
    chosen = rng.sample(known, min(len(known), 12))
    listed = ", ".join(f"{relation} of {name} is {value}" for relation, name, value in chosen)
    return "What was read?", listed or "nothing"

def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together; `envs/__init__.py` says what the four parts are.
    A fact's value is bound to its paragraph's subject. Later, the name in `director of Quietverse`
    is bound to that fact's value, another value to the subject that it was first stated of.
    """
    found: list[tuple[str, int, str, bool]] = []
    inside: set[int] = set()
    facts: dict[tuple[str, str], tuple[str, int]] = {}  # (relation, name) -> value, offset
    subject: dict[str, tuple[str, int]] = {}  # value -> what it was stated of, offset
    for paragraph in observer.PARAGRAPH.finditer(text):
        inside.update(range(*paragraph.span()))
        for fact in observer.FACT.finditer(text, *paragraph.span()):
            relation = fact.lastgroup or ""
            end = fact.end(relation)
            facts.setdefault((relation, paragraph[2]), (fact[relation], end))
            if relation not in NUMBERS:
                found.append((fact[relation], end, paragraph[2], False))
                subject.setdefault(fact[relation], (paragraph[2], end))
    asked = {m.start(2): (m[1], m[2]) for m in re.finditer(r"\b(\w+) of (\w+)\b", text)}
    for mention in re.finditer(r"\b[A-Z]\w+\b", text):
        name, start = mention[0], mention.start()
        if start in inside:
            continue
        for other in (facts.get(asked.get(start, ("", ""))), subject.get(name)):
            if other and other[1] < start:
                found.append((name, mention.end(), other[0], True))
                break
    return found

def cut_names(text: str) -> str:
    return cutter(*(sum(parts, []) for parts in zip(*NAMES.values()))).sub(CUT, text)

def _asked(observation: str, steps: list[Step], rng: random.Random) -> list[Pair]:
    return [everything(observation, steps, rng), *questions(observation, steps, rng, 8),
            *practice(observation, steps, rng)]  # fmt: skip

def _drilled(observation: str, views: list[Step], rng: random.Random) -> list[Pair]:
    trial = read_trial(Notes(observation), views)
    goals = [other_goal(trial, rng) for _ in range(3)]
    asked = [_what_matters(read_trial(Notes(observation, goal), views)) for goal in goals]
    return [everything(observation, views, rng), *asked,
            *questions(observation, views, rng, 6, DRILLED)]  # fmt: skip

def demonstrations(env: Environment, split: str, seed: int | str, oracle_share: float,
                   drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
    """Endless: in `drill_share` of the turns questions on a glance, else the trials of a task."""
    rng = random.Random(f"hotpot demonstrations {split} {seed}")
    roles = Roles(Player, oracle_reflection, flawed_reflection, _asked)
    while True:
        task = generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            observation, _ = env.reset(task)
            views = env.glance(rng)
            yield drill(views, _drilled(observation, views, rng))
        else:
            yield from demonstrate(env, task, roles, rng, oracle_share)
