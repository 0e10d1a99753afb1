"""HotPotQA's players of mixed skill, who act on what they have read (Notes), nothing more.

A player carries out the plan of the latest reflection that has one; where that leads to a paragraph
it goes on from there with care. Without such a plan it goes the question's way, title by title,
with the lapses that its skill allows.
"""

import random
from dataclasses import dataclass

from envs.hotpot_notes import Entity, Notes
from envs.hotpot_reflections import parse_plan
from envs.hotpot_worlds import WORKS, Namer


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
    """Chooses actions for one trial; the contract is `chains.Player`."""

    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        self.skill = rng.choices(SKILLS, SKILL_SHARES)[0]
        plans = [plan for plan in map(parse_plan, reflections) if plan]
        self.plan = plans[-1] if plans else []
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
        return self.rng.choice((search(foreign), search(self.rng.choice(known)), self._idle()))

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
            return finish(words)
        if words not in self.notes.searched:
            return search(words)
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
                    return finish(value)
                return self._go_on()
        if level == len(goal.relations):
            return finish(name)
        return self._open(level, name)

    def _open(self, level: int, name: str) -> str:
        """Search the paragraph on a name; of two senses mostly the right one."""
        notes, kind = self.notes, self.notes.goal.kinds[level]
        title = f"{name} ({kind})"
        senses = [t for t in notes.offered if t.startswith(f"{name} (")]
        if level == 0 and self.foresight and title not in notes.searched:
            return search(title)
        if name not in notes.searched and title not in senses and notes.title((kind, name)) == name:
            return search(name)
        wrong = [t for t in senses if t != title]
        if wrong and wrong[0] not in notes.searched:
            if title not in notes.searched and self.rng.random() < self.skill.sense:
                return search(wrong[0])
        elif wrong and kind in WORKS and title not in notes.searched:
            other = next(known for entity, known in notes.facts.items() if entity[1] == name)
            if self.rng.random() < self.skill.sense:  # does not notice: goes on from there
                self.trusted = (level + 1, next(iter(other.values())))
                return self._go_on()
        if title in senses and title not in notes.searched:
            return search(title)
        return finish(name)  # at a loss

    def _compare(self) -> str:
        """One step of a comparison."""
        notes, goal = self.notes, self.notes.goal
        unread = [name for kind, name in goal.starts if (kind, name) not in notes.facts]
        answers = [name for _, name in goal.starts]
        if goal.relations[0] != "century":
            answers = ["yes", "no"]
        if (not unread or len(unread) == 1) and self.rng.random() < self.skill.guess / 2:
            return finish(self.rng.choice(answers))
        if not unread:
            return finish(notes.compared() or answers[0])
        unsearched = [name for name in unread if name not in notes.searched]
        return search(unsearched[0]) if unsearched else finish(self.rng.choice(answers))


def search(title: str) -> str:
    """Blanks inside the brackets, so that a name is the same tokens everywhere."""
    return f"Search[ {title} ]"


def finish(answer: str) -> str:
    return f"Finish[ {answer} ]"
