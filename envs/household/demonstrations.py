"""Demonstrators: household players of mixed skill who act on what they have read (Notes), nothing
more.

They stand for what the web holds of people doing chores. A player carries out the plan of the
latest reflection that has one, then goes on in its own way: it searches place by place, the likely
ones first, else round the room, and does what the goal asks, with the lapses that its skill allows.
"""

import random
from dataclasses import dataclass

from envs.household_notes import APPLIANCE, Notes, kind
from envs.household_reflections import parse_plan
from envs.household_rooms import PLACE_HEADS, PLACE_TAILS, likely_first
from envs.names import name_parts


@dataclass(frozen=True)
class Skill:
    """Chances of a lapse, each where it can occur."""

    revisit: float  # goes to a place that it has searched already
    overlook: float  # does not notice the wanted thing in front of it
    leave_closed: float  # does not open a closed place
    forget: float  # leaves out the cleaning, heating or cooling
    idle: float  # looks around, takes stock


SKILLS = (
    Skill(revisit=0.0, overlook=0.05, leave_closed=0.02, forget=0.02, idle=0.0),
    Skill(revisit=0.05, overlook=0.30, leave_closed=0.15, forget=0.25, idle=0.02),
    Skill(revisit=0.15, overlook=0.60, leave_closed=0.40, forget=0.50, idle=0.04),
)
SKILL_SHARES = (0.4, 0.35, 0.25)


class Player:
    """Chooses actions for one trial; the contract is `chains.Player`."""

    def __init__(self, observation: str, reflections: list[str], rng: random.Random):
        self.notes, self.rng = Notes(observation), rng
        self.skill = rng.choices(SKILLS, SKILL_SHARES)[0]
        plans = [plan for plan in map(parse_plan, reflections) if plan]
        self.plan = plans[-1] if plans else []
        self.given_up: set[str] = set()  # things overlooked, places left closed
        self.noticed: set[str] = set()
        self.forgets = rng.random() < self.skill.forget
        self.last: str | None = None

    def read(self, action: str, reply: str) -> None:
        """Take in one step."""
        self.notes.read(action, reply)

    def slip(self) -> str:
        """An action that leads nowhere: a place or a thing that is not there, the wrong place."""
        notes, rng = self.notes, self.rng
        place = rng.choice(notes.places)
        foreign = "".join(name_parts(rng, PLACE_HEADS, PLACE_TAILS, unseen=False))
        thing = f"{notes.goal.object} {rng.randint(1, 3)}"
        far = place if place != notes.at else rng.choice(notes.places)
        slips = [
            f"go to {place}",
            f"go to {kind(place)} {rng.randint(1, 9)}",
            f"go to {foreign} {rng.randint(1, 3)}",
            f"take {thing} from {far}",
        ]
        return rng.choice(slips)

    def act(self) -> str:
        """The next action."""
        stuck = self.notes.reply == "Nothing happens." and self.last
        while self.plan:
            action = self._follow(self.plan[0])
            if action and action != stuck:
                break
            self.plan.pop(0)
        else:
            action = self._own_way()
            if action == stuck:
                action = self._search()
        self.last = action
        return action

    def _own_way(self) -> str:
        if self.rng.random() < self.skill.idle:
            return self.rng.choice(
                ["look", "inventory", f"examine {self.notes.at}" if self.notes.at else "look"]
            )
        return self._pursue() or self._search()

    # -- the plan of a reflection

    def _follow(self, clause: tuple[str, ...]) -> str | None:
        """The next action towards this clause, or None when it is done or can't be."""
        notes, verb = self.notes, clause[0]
        place = clause[-1]
        if place not in notes.places:
            return None
        if verb == "search":
            self.noticed.update(notes.known(notes.goal.object), notes.known(notes.goal.target))
            if action := self._pursue():
                return action
            return self._reach(place, inside=True) if place not in notes.contents else None
        thing = clause[1]
        if verb == "take":
            self.noticed.add(thing)
            done = notes.held is not None or (
                notes.at == place and place in notes.contents and thing not in notes.contents[place]
            )
            return None if done else self._reach(place, inside=True) or f"take {thing} from {place}"
        if verb == "use":
            done = (
                notes.at == place and place in notes.contents and thing not in notes.contents[place]
            )
            return None if done else self._reach(place, inside=True) or f"use {thing}"
        if notes.held != thing:
            return None
        if verb == "put":
            return self._reach(place, inside=True) or f"put {thing} in/on {place}"
        done = verb in notes.treated.get(thing, ())
        return None if done else self._reach(place, inside=False) or f"{verb} {thing} with {place}"

    def _reach(self, place: str, inside: bool) -> str | None:
        """Go there and open it; None when the player is there and it is open (or need not be)."""
        if self.notes.at != place:
            return f"go to {place}"
        return f"open {place}" if inside and place in self.notes.closed else None

    # -- the player's own way

    def _pursue(self) -> str | None:
        """The next action towards the goal from what is known, or None: something must be found
        first.
        """
        notes, goal = self.notes, self.notes.goal
        if notes.held is None:
            wanted = [t for t in notes.known(goal.object) if self._notices(t)]
            wanted = [t for t in wanted if t not in notes.delivered()]
            lie = [(t, place) for t in wanted if (place := notes.where(t))]
            if goal.treatment is None:
                lie = [(t, place) for t, place in lie if kind(place) != goal.target]
            if not lie:
                return None
            thing, place = lie[0]
            return self._reach(place, inside=True) or f"take {thing} from {place}"
        thing = notes.held
        if kind(thing) != goal.object:  # a wrong thing in hand: put it back
            place = notes.home.get(thing, notes.places[0])
            return self._reach(place, inside=True) or f"put {thing} in/on {place}"
        if goal.treatment == "light":
            lamps = [t for t in notes.known(goal.target) if self._notices(t)]
            return (
                self._reach(notes.home[lamps[0]], inside=True) or f"use {lamps[0]}"
                if lamps
                else None
            )
        appliance = [p for p in notes.places if kind(p) == APPLIANCE.get(goal.treatment or "")]
        if appliance and not notes.is_treated(thing) and not self.forgets:
            return (
                self._reach(appliance[0], inside=False)
                or f"{goal.treatment} {thing} with {appliance[0]}"
            )
        target = [p for p in notes.places if kind(p) == goal.target]
        if not target:
            return None
        action = self._reach(target[0], inside=True)
        if not action:
            action = f"put {thing} in/on {target[0]}"
            self.forgets = False  # seeing that this was not enough, it thinks again
        return action

    def _notices(self, thing: str) -> bool:
        """Decided once for each thing."""
        if thing not in self.noticed | self.given_up:
            careless = self.rng.random() < self.skill.overlook
            (self.given_up if careless else self.noticed).add(thing)
        return thing in self.noticed

    def _search(self) -> str:
        """Look into the next place."""
        notes, rng = self.notes, self.rng
        if notes.at in notes.closed and notes.at not in self.given_up:
            if rng.random() >= self.skill.leave_closed:
                return f"open {notes.at}"
            self.given_up.add(notes.at)
        fresh = [p for p in notes.unsearched() if p not in self.given_up]
        if not fresh or rng.random() < self.skill.revisit:
            if not fresh:  # everything was searched: start over, noticing anew
                self.given_up.clear()
            fresh = [p for p in notes.places if p != notes.at] or notes.places
            return f"go to {rng.choice(fresh)}"
        wanted = notes.goal.target if notes.held else notes.goal.object
        return f"go to {likely_first(fresh, wanted)[0]}"
