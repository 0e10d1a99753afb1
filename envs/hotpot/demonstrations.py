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
from envs.hotpot.observer import Notes, command, oracle_reflection, parse_plan, write_reflection
from envs.hotpot.tasks import NAMES, RELATIONS, WORDS, WORKS, Namer, generate_task
from envs.names import CUT, cutter
from envs.observer import Step, read_trial

class Skill(NamedTuple):  # chances of a lapse, each where it can occur
    relation: float = 0.0  # takes the other fact of a paragraph: the composer for the director
    sense: float = 0.0  # takes the other sense of a name
    early: float = 0.0  # answers with a name on the way
    guess: float = 0.0  # compares without having read both, or wrongly
    idle: float = 0.0  # thinks or looks a word up

SKILLS = {  # skill -> share of the players
    Skill(relation=0.0, sense=0.05, early=0.0, guess=0.05, idle=0.0): 0.4,
    Skill(relation=0.1, sense=0.3, early=0.05, guess=0.5, idle=0.02): 0.35,
    Skill(relation=0.25, sense=0.5, early=0.15, guess=1.0, idle=0.05): 0.25,
}

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        self.read = self.notes.read
        self.skill = rng.choices([*SKILLS], [*SKILLS.values()])[0]
        self.plan = latest_plan(reflections, parse_plan)
        self.trusted: tuple[int, str] | None = None  # where on the question's way the player is
        self.judged: set[observer.Entity] = set()  # paragraphs whose fact was picked
        self.foresight = rng.random() < 0.1  # searches "Quietverse (film)" at once

    def slip(self) -> str:
        foreign = Namer(self.rng, unseen=False)(self.rng.choice(("work", "artist", "town")))
        known = self.rng.choice([name for _, name in self.notes.facts] or [foreign])
        searches = [command("search", name) for name in (foreign, known)]
        return self.rng.choice([*searches, self._idle()])

    def act(self) -> str:
        while self.plan:
            if action := self._follow(*self.plan[0]):
                return action
            self.plan = self.plan[1:]
        if self.rng.random() < self.skill.idle:
            return self._idle()
        return self._compare() if self.notes.goal.answers else self._go_on()

    def _idle(self) -> str:
        thought = f"think[ I need {' and '.join(n for _, n in self.notes.goal.starts)} ]"
        word = self.rng.choice(("born", "by", "river", "town", "music"))
        return self.rng.choice((thought, f"Lookup[ {word} ]"))

    def _follow(self, verb: str, words: str) -> str | None:
        """The action that carries out a clause of the plan, or None when it is done."""
        if verb == "finish" or words not in self.notes.searched:
            return command(verb, words)
        plain, _, meant = words.rstrip(")").partition(" (")
        kinds = self.notes.goal.kinds
        for kind, name in self.notes.facts:
            if name == plain and meant in ("", kind) and kind in kinds:
                self.trusted, self.skill = (kinds.index(kind), plain), Skill()
        if words in self.notes.missing and self.trusted is None:  # it has two senses
            levels = [i for i, k in enumerate(kinds) if f"{words} ({k})" in self.notes.offered]
            if levels:
                self.trusted, self.skill = (levels[0], words), Skill()
        return None

    def _go_on(self) -> str:
        """One step on the question's way."""
        notes, goal = self.notes, self.notes.goal
        begun, start = self.trusted or (0, goal.starts[0][1])
        level, name = notes.walk((begun, start))
        # something new was read: which of its facts is taken?
        if level > begun and (read := (goal.kinds[begun], start)) not in self.judged:
            self.judged.add(read)
            known, relation = notes.facts[read], goal.relations[begun]
            others = [value for r, value in known.items() if r != relation]
            careless = others and self.rng.random() < self.skill.relation
            name = others[0] if careless else known[relation]
            self.trusted = (begun + 1, name)
            if begun + 1 < len(goal.relations) and self.rng.random() < self.skill.early:
                return command("finish", name)
            return self._go_on()
        return command("finish", name) if level == len(goal.relations) else self._open(level, name)

    def _open(self, level: int, name: str) -> str:
        """Search the paragraph on a name. If the name has two senses, mostly take the right one."""
        notes, kind = self.notes, self.notes.goal.kinds[level]
        title = f"{name} ({kind})"
        fresh = title not in notes.searched
        senses = [t for t in notes.offered if t.startswith(f"{name} (")]
        if level == 0 and self.foresight and fresh:
            return command("search", title)
        if name not in notes.searched and title not in senses and notes.title((kind, name)) == name:
            return command("search", name)
        wrong = next((t for t in senses if t != title), None)
        read = wrong in notes.searched
        if wrong and fresh and (not read or kind in WORKS) and self.rng.random() < self.skill.sense:
            if not read:
                return command("search", wrong)
            known = next(known for entity, known in notes.facts.items() if entity[1] == name)
            self.trusted = (level + 1, next(iter(known.values())))  # goes on from it, unaware
            return self._go_on()
        if title in senses and fresh:
            return command("search", title)
        return command("finish", name)  # at a loss

    def _compare(self) -> str:
        unread, answers = self.notes.unread(), self.notes.goal.answers
        guesses = len(unread) <= 1 and self.rng.random() < self.skill.guess / 2
        if not unread and not guesses:
            return command("finish", self.notes.compared() or answers[0])
        unsearched = [name for name in unread if name not in self.notes.searched]
        if unsearched and not guesses:
            return command("search", unsearched[0])
        return command("finish", self.rng.choice(answers))

# ---- Flawed reflections, as people and models write them.
def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """A plausible reflection: vague, or with another fact or name, or what was tried already."""
    notes = read_trial(Notes(observation), steps)
    flaw = rng.choices(("vague", "relation", "name", "again"), (4, 4, 2, 2))[0]
    verb, words = (parse_plan(oracle_reflection(observation, steps)) or [("", "")])[0]
    right = words.partition(" (")[0]
    wrong = [  # the last part: it stands beside the right fact
        (relation, subject, value, right in known.values())
        for (_, subject), known in notes.facts.items()
        for relation, value in known.items()
        if value != right and relation != "century"
    ]
    if flaw in ("relation", "name") and wrong:
        beside = [fact for fact in wrong if fact[3]] if flaw == "relation" else []
        relation, name, value, _ = beside[0] if beside else rng.choice(wrong)
        verb = verb if beside else rng.choice(("search", "finish"))
        cause = f"{notes.ended()}, but the {relation} of {name} is {value}."
        return write_reflection(cause, [(verb, value)])
    if flaw == "again" and notes.searched:
        again = notes.given if notes.given and rng.random() < 0.5 else rng.choice(notes.searched)
        return write_reflection(f"I did not read {again}.", [("search", again)])
    return rng.choice(WORDS["vague"])

# ---- Questions. None is about how to do better.
def _fact(notes: Notes, rng: random.Random, reverse: bool) -> Pair | None:
    if not notes.facts:
        return None
    relation, name, value = rng.choice(notes.known())
    if not reverse:
        return f"What is the {relation} of {name}?", value
    once = [v for _, _, v in notes.known()].count(value) == 1 and relation != "century"
    return (f"What was read of {value}?", f"{relation} of {name}") if once else None

def _hops(notes: Notes, rng: random.Random) -> Pair | None:
    ways = [
        (f"What is the {then} of the {relation} of {name}?", end)
        for relation, name, value in notes.known()
        for then, end in notes.facts.get((VALUE_KIND.get(relation, ""), value), {}).items()
    ]
    return rng.choice(ways) if ways else None

VALUE_KIND = dict.fromkeys((r for kind in WORKS for r in RELATIONS[kind]), "artist")
VALUE_KIND |= dict.fromkeys(RELATIONS["artist"], "town")  # a fact -> what kind its value is
QUESTIONS: dict[str, Callable[[Notes, random.Random], Pair | None]] = {
    "fact": lambda notes, rng: _fact(notes, rng, reverse=False),
    "hops": _hops,
    "reverse": lambda notes, rng: _fact(notes, rng, reverse=True),
    "searched": lambda notes, _: (
        "Which titles were searched?", ", ".join(notes.searched[:6]) or "none"),
    "last": lambda notes, _: None if not notes.searched else (
        "What was searched last?", notes.searched[-1]),
    "missing": lambda notes, _: (
        "Which titles were not found?", ", ".join(notes.missing) or "none"),
    "given": lambda notes, _: ("What was answered?", notes.given or "nothing"),
    "start": lambda notes, _: None if not notes.goal.starts else (
        "What does the task name?", ", ".join(name for _, name in notes.goal.starts))}  # fmt: skip
TOPICS = tuple(QUESTIONS)
DRILLED = ("fact", "fact", "hops", "reverse")  # in a drill

def questions(observation: str, steps: list[Step], rng: random.Random, n: int,
              topics: Sequence[str] = TOPICS) -> list[Pair]:  # fmt: skip
    notes = read_trial(Notes(observation), steps)
    return ask(n, topics, rng, lambda topic: QUESTIONS[topic](notes, rng))

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
            relation, end = fact.lastgroup or "", fact.end()
            facts.setdefault((relation, paragraph[2]), (fact[relation], end))
            if relation != "century":
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

def _asked(observation: str, steps: list[Step], rng: random.Random, n: int = 8,
           topics: Sequence[str] = TOPICS) -> list[Pair]:  # fmt: skip
    return [everything(observation, steps, rng), *questions(observation, steps, rng, n, topics)]

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
            yield drill(views, _asked(observation, views, rng, 6, DRILLED))
        else:
            yield from demonstrate(env, task, roles, rng, oracle_share)
