"""HotPotQA demonstrations: players, flawed reflections, questions and drills, for pretraining only.
Read `envs/demonstrations.py` and `envs/hotpot/observer.py` first.

The players have mixed skill and act on what they have read (Notes), nothing more. A player carries
out the plan of the latest reflection that has one. If the plan leads to a paragraph, the player
goes on from there with care. Without such a plan it follows the question's chain, title by title,
with the lapses that its skill allows.
"""

import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles, ask, demonstrate, drill, latest_plan
from envs.hotpot.observer import (
    FACT,
    PARAGRAPH,
    Entity,
    Notes,
    command,
    ended,
    oracle_reflection,
    parse_plan,
    write_reflection,
)
from envs.hotpot.tasks import RELATIONS, WORKS, Namer, cut_names, generate_task
from envs.observer import Step, read_trial

__all__ = ["bindings", "cut_names", "demonstrations", "questions"]

_OF = re.compile(r"\b(\w+) of (\w+)\b")

# ---- Players.


@dataclass(frozen=True)
class Skill:
    """Chances of a lapse, each where it can occur."""

    relation: float  # takes the other fact of a paragraph: the composer for the director
    sense: float  # takes the other sense of a name
    early: float  # answers with a name on the way
    guess: float  # compares without having read both, or wrongly
    idle: float  # thinks or looks a word up


SKILLS = (
    Skill(relation=0.0, sense=0.05, early=0.0, guess=0.05, idle=0.0),
    Skill(relation=0.1, sense=0.3, early=0.05, guess=0.5, idle=0.02),
    Skill(relation=0.25, sense=0.5, early=0.15, guess=1.0, idle=0.05),
)
SKILL_SHARES = (0.4, 0.35, 0.25)
CAREFUL = Skill(0.0, 0.0, 0.0, 0.0, 0.0)
FORESIGHT = 0.1  # chance to search "Quietverse (film)" at once where the question says "the film"
LOOKED_UP = ("born", "by", "river", "town", "music")


class Player:
    """Chooses actions for one trial; the contract is `envs.demonstrations.Player`."""

    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        self.skill = rng.choices(SKILLS, SKILL_SHARES)[0]
        self.plan = latest_plan(reflections, parse_plan)
        self.trusted: tuple[int, str] | None = None  # where on the question's way the player is
        self.judged: set[Entity] = set()  # paragraphs whose fact was picked
        self.foresight = rng.random() < FORESIGHT

    def read(self, action: str, reply: str) -> None:
        """Take in one step."""
        self.notes.read(action, reply)

    def slip(self) -> str:
        """An action that leads nowhere: a name from elsewhere, a known one, a word, a thought."""
        foreign = Namer(self.rng, unseen=False)(self.rng.choice(("work", "artist", "town")))
        known = [name for _, name in self.notes.facts] or [foreign]
        names = [foreign, self.rng.choice(known)]
        return self.rng.choice([*(command("search", name) for name in names), self._idle()])

    def act(self) -> str:
        """The next action."""
        while self.plan:
            if action := self._follow(*self.plan[0]):
                return action
            self.plan = self.plan[1:]
        if self.rng.random() < self.skill.idle:
            return self._idle()
        return self._compare() if self.notes.goal.compares else self._go_on()

    def _idle(self) -> str:
        thought = f"think[ I need {' and '.join(n for _, n in self.notes.goal.starts)} ]"
        return self.rng.choice((thought, f"Lookup[ {self.rng.choice(LOOKED_UP)} ]"))

    def _follow(self, verb: str, words: str) -> str | None:
        """The action that carries out a clause of the plan, or None when it is done."""
        if verb == "finish":
            return command("finish", words)
        if words not in self.notes.searched:
            return command("search", words)
        plain, _, kind = words.rstrip(")").partition(" (")
        for entity in self.notes.facts:
            level = self.notes.level(entity)
            if entity[1] == plain and kind in ("", entity[0]) and level is not None:
                self.trusted, self.skill = (level, plain), CAREFUL
        if words in self.notes.missing and self.trusted is None:  # it has two senses
            kinds = [k for k in self.notes.goal.kinds if f"{words} ({k})" in self.notes.offered]
            if kinds:
                self.trusted = (self.notes.goal.kinds.index(kinds[0]), words)
                self.skill = CAREFUL
        return None

    def _go_on(self) -> str:
        """One step on the question's way."""
        notes, goal = self.notes, self.notes.goal
        level, name = notes.walk(self.trusted)
        passed = self.trusted or (0, goal.starts[0][1])
        if level > passed[0]:  # something new was read: which of its facts is taken?
            read = (goal.kinds[passed[0]], passed[1])
            relation = goal.relations[passed[0]]
            if read not in self.judged:
                self.judged.add(read)
                others = [v for r, v in notes.facts[read].items() if r != relation]
                careless = others and self.rng.random() < self.skill.relation
                value = others[0] if careless else notes.facts[read][relation]
                self.trusted = (passed[0] + 1, value)
                if self.trusted[0] < len(goal.relations) and self.rng.random() < self.skill.early:
                    return command("finish", value)
                return self._go_on()
        if level == len(goal.relations):
            return command("finish", name)
        return self._open(level, name)

    def _open(self, level: int, name: str) -> str:
        """Search the paragraph on a name. If the name has two senses, mostly take the right one."""
        notes, kind = self.notes, self.notes.goal.kinds[level]
        title = f"{name} ({kind})"
        senses = [t for t in notes.offered if t.startswith(f"{name} (")]
        if level == 0 and self.foresight and title not in notes.searched:
            return command("search", title)
        if name not in notes.searched and title not in senses and notes.title((kind, name)) == name:
            return command("search", name)
        wrong = [t for t in senses if t != title]
        if wrong and wrong[0] not in notes.searched:
            if title not in notes.searched and self.rng.random() < self.skill.sense:
                return command("search", wrong[0])
        elif wrong and kind in WORKS and title not in notes.searched:
            other = next(known for entity, known in notes.facts.items() if entity[1] == name)
            if self.rng.random() < self.skill.sense:  # goes on from the wrong one, unaware
                self.trusted = (level + 1, next(iter(other.values())))
                return self._go_on()
        if title in senses and title not in notes.searched:
            return command("search", title)
        return command("finish", name)  # at a loss

    def _compare(self) -> str:
        """One step of a comparison."""
        notes, goal = self.notes, self.notes.goal
        unread = [name for kind, name in goal.starts if (kind, name) not in notes.facts]
        answers = goal.answers
        if len(unread) <= 1 and self.rng.random() < self.skill.guess / 2:
            return command("finish", self.rng.choice(answers))
        if not unread:
            return command("finish", notes.compared() or answers[0])
        unsearched = [name for name in unread if name not in notes.searched]
        if unsearched:
            return command("search", unsearched[0])
        return command("finish", self.rng.choice(answers))


# ---- Flawed reflections, as people and models write them.

VAGUE = (
    "I was not careful enough. Plan: read each paragraph with more care.",
    "I wasted too many steps. Plan: be quick and waste no step.",
    "I mixed up the names. Plan: think about what is asked before each step.",
    "I did not get to the answer. Plan: try another way.",
)


def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """A plausible reflection that is vague or wrong. A wrong one takes another fact or another
    name, or what was searched or answered already.
    """
    notes = read_trial(Notes(observation), steps)
    flaw = rng.choices(("vague", "relation", "name", "again"), (4, 4, 2, 2))[0]
    right = oracle_reflection(observation, steps)
    verb, words = (parse_plan(right) or [("", "")])[0]
    name = words.partition(" (")[0]
    if flaw == "relation":  # most often the fact that stands beside the right one
        for (_, subject), known in notes.facts.items():
            for relation, value in known.items():
                if name in known.values() and value != name and relation != "century":
                    cause = f"{ended(notes)}, but the {relation} of {subject} is {value}."
                    return write_reflection(cause, [(verb, value)])
    values = [fact for fact in notes.known() if fact[2] != name and fact[0] != "century"]
    if flaw in ("relation", "name") and values:
        relation, subject, value = rng.choice(values)
        cause = f"{ended(notes)}, but the {relation} of {subject} is {value}."
        return write_reflection(cause, [(rng.choice(("search", "finish")), value)])
    if flaw == "again" and notes.searched:
        if notes.given and rng.random() < 0.5:
            return write_reflection(f"I did not read {notes.given}.", [("search", notes.given)])
        again = rng.choice(notes.searched)
        return write_reflection(f"I did not read {again}.", [("search", again)])
    return rng.choice(VAGUE)


# ---- Questions. None is about how to do better.


def _fact(notes: Notes, rng: random.Random) -> Pair:
    relation, name, value = rng.choice(notes.known())
    return f"What is the {relation} of {name}?", value


def _hops(notes: Notes, rng: random.Random) -> Pair | None:
    ways = [
        (f"What is the {then} of the {relation} of {name}?", end)
        for relation, name, value in notes.known()
        for then, end in notes.facts.get((_kind(relation), value), {}).items()
    ]
    return rng.choice(ways) if ways else None


def _kind(relation: str) -> str:
    """The kind of paragraph that a relation's value has; "" if it has none."""
    makers = {r for kind in WORKS for r in RELATIONS[kind]}
    return "artist" if relation in makers else "town" if relation in RELATIONS["artist"] else ""


def _reverse(notes: Notes, rng: random.Random) -> Pair | None:
    relation, name, value = rng.choice(notes.known())
    once = [v for _, _, v in notes.known()].count(value) == 1
    ask_it = relation != "century" and once
    return (f"What was read of {value}?", f"{relation} of {name}") if ask_it else None


QUESTIONS: dict[str, Callable[[Notes, random.Random], Pair | None]] = {
    "fact": lambda notes, rng: _fact(notes, rng) if notes.facts else None,
    "hops": _hops,
    "reverse": lambda notes, rng: _reverse(notes, rng) if notes.facts else None,
    "searched": lambda notes, rng: (
        "Which titles were searched?", ", ".join(notes.searched[:MAX_LISTED]) or "none"
    ),
    "last": lambda notes, rng: (
        ("What was searched last?", notes.searched[-1]) if notes.searched else None
    ),
    "missing": lambda notes, rng: (
        "Which titles were not found?", ", ".join(notes.missing) or "none"
    ),
    "given": lambda notes, rng: ("What was answered?", notes.given or "nothing"),
    "start": lambda notes, rng: None if not notes.goal.starts else (
        "What does the task name?", ", ".join(name for _, name in notes.goal.starts)
    ),
}  # fmt: skip
TOPICS = tuple(QUESTIONS)
DRILLED = ("fact", "fact", "hops", "reverse")  # in a drill
MAX_LISTED = 6  # titles in one list


def questions(
    observation: str, steps: list[Step], rng: random.Random, n: int, topics: Sequence[str] = TOPICS
) -> list[Pair]:
    """Up to n (question, answer) pairs about a trial, which its text answers."""
    notes = read_trial(Notes(observation), steps)
    return ask(n, topics, rng, lambda topic: QUESTIONS[topic](notes, rng))


def everything(observation: str, steps: list[Step], rng: random.Random, n: int = 12) -> Pair:
    """Dense practice in reading: the answer states up to n facts, in random order."""
    known = read_trial(Notes(observation), steps).known()
    chosen = rng.sample(known, min(len(known), n))
    listed = ", ".join(f"{relation} of {name} is {value}" for relation, name, value in chosen)
    return "What was read?", listed or "nothing"


def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together; `envs/__init__.py` says what the four parts are.

    Where a paragraph states a fact, its value is bound to the paragraph's subject. Later, a name
    that stands in `director of Quietverse` is bound to the value of that fact. Any other later name
    that is a value is bound to the subject that it was first stated of.
    """
    found: list[tuple[str, int, str, bool]] = []
    inside: set[int] = set()
    facts: dict[tuple[str, str], tuple[str, int]] = {}  # (relation, name) -> value, offset
    subject: dict[str, tuple[str, int]] = {}  # value -> what it was stated of, offset
    for paragraph in PARAGRAPH.finditer(text):
        inside.update(range(*paragraph.span()))
        for fact in FACT.finditer(text, *paragraph.span()):
            relation = fact.lastgroup or ""
            value, end = fact[relation], fact.end()
            facts.setdefault((relation, paragraph[2]), (value, end))
            if relation != "century":
                found.append((value, end, paragraph[2], False))
                subject.setdefault(value, (paragraph[2], end))
    asked = {m.start(2): (m[1], m[2]) for m in _OF.finditer(text)}
    for mention in re.finditer(r"\b[A-Z]\w+\b", text):
        name, start = mention[0], mention.start()
        if start in inside:
            continue
        known = facts.get(asked.get(start, ("", "")))
        if known and known[1] < start:
            found.append((name, mention.end(), known[0], True))
        elif name in subject and subject[name][1] < start:
            found.append((name, mention.end(), subject[name][0], True))
    return found


# ---- Demonstrations.


def _asked(observation: str, steps: list[Step], rng: random.Random) -> list[Pair]:
    return [everything(observation, steps, rng), *questions(observation, steps, rng, n=8)]


ROLES = Roles(Player, oracle_reflection, flawed_reflection, _asked)


def demonstrations(
    env: Environment, split: str, seed: int | str, oracle_share: float, drill_share: float = 0.0
) -> Iterator[Demonstration]:
    """Endless demonstrations. `oracle_share` of the reflections are the oracle's, the others are
    flawed. `drill_share` of the turns go to one drill, the others to the trials of one task.
    """
    rng = random.Random(f"hotpot demonstrations {split} {seed}")
    while True:
        task = generate_task(rng, split, "demonstration")
        if rng.random() < drill_share:
            yield _drill(env, task, rng)
        else:
            yield from demonstrate(env, task, ROLES, rng, oracle_share)


def _drill(env: Environment, task: dict, rng: random.Random) -> Demonstration:
    """Questions on what stands in the paragraphs."""
    observation, _ = env.reset(task)
    views = env.glance(rng)
    asked = [everything(observation, views, rng)]
    return drill(views, asked + questions(observation, views, rng, n=6, topics=DRILLED))
