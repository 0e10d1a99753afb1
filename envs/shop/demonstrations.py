"""Demonstrators: shoppers of mixed skill who act on what they have read (Notes), nothing more.

A player carries out the plan of the latest reflection that has one, to the letter, then goes on in
its own way: it searches, opens a hit (mostly the first), chooses options and buys, with the lapses
that its skill allows.
"""

import random
from dataclasses import dataclass

from envs.names import name_parts
from envs.shop_catalog import ASIN_HEADS, ASIN_TAILS, COLORS, SIZES
from envs.shop_notes import Notes
from envs.shop_reflections import command, parse_plan


@dataclass(frozen=True)
class Skill:
    """Chances, each for one trial."""

    minds_price: float  # passes over what is dearer than the limit
    checks: float  # reads the features before buying
    notices: float  # turns back where an option is missing
    forgets: float  # leaves out one option
    wanders: float  # opens any hit, not the first


SKILLS = (
    Skill(minds_price=0.95, checks=0.40, notices=0.90, forgets=0.02, wanders=0.04),
    Skill(minds_price=0.25, checks=0.05, notices=0.15, forgets=0.08, wanders=0.04),
    Skill(minds_price=0.05, checks=0.00, notices=0.05, forgets=0.15, wanders=0.08),
)
SKILL_SHARES = (0.2, 0.45, 0.35)


class Player:
    """Chooses actions for one trial; the contract is `chains.Player`."""

    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        skill = rng.choices(SKILLS, SKILL_SHARES)[0]
        self.minds_price, self.checks, self.notices, self.forgets, self.wanders, self.tries = (
            rng.random() < chance
            for chance in (
                skill.minds_price,
                skill.checks,
                skill.notices,
                skill.forgets,
                skill.wanders,
                0.5,  # clicks an option that is not there
            )
        )
        self.forgotten = rng.randrange(2)  # which option, if any
        plans = [plan for plan in map(parse_plan, reflections) if plan]
        self.plan = list(plans[-1]) if plans else []
        self.rejected: set[str] = set()
        self.last: str | None = None

    def read(self, action: str, reply: str) -> None:
        """Take in one step."""
        self.notes.read(action, reply)
        if self.plan and action == self.last == command(*self.plan[0]):
            self.plan.pop(0)  # done, or refused: on to the next clause

    def slip(self) -> str:
        """An action that leads nowhere: a button that is not there, a useless page."""
        rng = self.rng
        foreign = "".join(name_parts(rng, ASIN_HEADS, ASIN_TAILS, unseen=False))
        value = rng.choice(COLORS + SIZES)
        buttons = [foreign, foreign, value, "Description", "Next >"]
        return f"click[{rng.choice(buttons)}]"

    def act(self) -> str:
        """The next action."""
        self.last = self._follow(*self.plan[0]) if self.plan else self._own_way()
        return self.last

    def _follow(self, verb: str, what: str) -> str:
        """The next action towards this clause."""
        notes = self.notes
        if notes.page == "start" and verb != "search":
            return f"search[{notes.kind}]"
        if verb == "open" and notes.page == "results":
            if what in notes.titles and what not in notes.listed:
                order = list(notes.titles)
                later = order.index(what) > order.index(notes.listed[-1])
                return "click[Next >]" if later else "click[< Prev]"
        elif notes.page == "sub" or (verb == "open" and what != notes.item):
            return "click[< Prev]"
        return command(verb, what)

    # -- the player's own way

    def _own_way(self) -> str:
        notes = self.notes
        if notes.page == "start":
            return f"search[{notes.kind}]"
        if notes.page == "sub":
            return "click[< Prev]"
        if notes.page == "results":
            return self._pick()
        item = notes.item
        if self.checks and notes.attribute and item not in notes.features:
            return "click[Features]"
        unfit = self.checks and notes.has_attribute(item) is False
        if unfit or (self.notices and notes.missing(item)):
            self.rejected.add(item)
            return "click[< Prev]"
        for i, value in enumerate(notes.wanted(item)):
            skipped = value in notes.refused or (self.forgets and i == self.forgotten)
            absent = value in notes.missing(item)
            if value not in notes.chosen.values() and not skipped and (self.tries or not absent):
                return f"click[{value}]"
        return "click[Buy Now]"

    def _pick(self) -> str:
        """Open a hit, mostly the first that is of the kind asked for."""
        notes = self.notes
        left = [asin for asin in notes.listed if asin not in self.rejected]
        hits = [asin for asin in left if notes.kind in notes.titles[asin]]
        if self.minds_price:
            hits = [asin for asin in hits if notes.price(asin) <= notes.limit]
        if not (hits or left):
            return "click[< Prev]"
        hits = hits or left
        return f"click[{self.rng.choice(hits) if self.wanders else hits[0]}]"
