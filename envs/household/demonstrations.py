"""Household demonstrations: players, flawed reflections, questions, drills; for pretraining only.
Read `envs/demonstrations.py` and `envs/household/observer.py` first. A player carries out the plan
of the latest reflection that has one, then searches place by place, likely places first, with
lapses.
"""

import re
from collections.abc import Iterator, Sequence
from random import Random
from typing import NamedTuple

import envs.demonstrations as shared
import envs.household.observer as observer
import envs.household.tasks as rooms
from envs import Environment
from envs.demonstrations import Demonstration, Pair, Roles
from envs.household.observer import Facts, Goal, Notes, oracle_reflection, reflect_on
from envs.household.tasks import APPLIANCE, MAX_LISTED, kind, likely_first, number
from envs.names import CUT, name_parts
from envs.observer import Step, read_trial

class Skill(NamedTuple):  # chances of a lapse, each where it can occur
    revisit: float  # goes to a place that it has searched already
    overlook: float  # does not notice the wanted thing in front of it
    leave_closed: float  # does not open a closed place
    forget: float  # told to put a hot thing somewhere, puts one there as it is
    misplace: float  # puts the wanted thing down in another place, and takes that for done
    idle: float  # looks around, takes stock

SKILLS = {  # skill -> share of the players: careful, middling, careless
    Skill(0.0, overlook=0.02, leave_closed=0.02, forget=0.1, misplace=0.0, idle=0.0): 0.4,
    Skill(0.05, overlook=0.12, leave_closed=0.08, forget=0.75, misplace=0.1, idle=0.04): 0.35,
    Skill(0.08, overlook=0.30, leave_closed=0.15, forget=0.9, misplace=0.2, idle=0.08): 0.25,
}

class Player:  # of one trial; the contract is `envs.demonstrations.Player`
    def __init__(self, observation: str, reflections: list[str], rng: Random):
        self.notes, self.rng = Notes(observation), rng
        self.skill = rng.choices([*SKILLS], [*SKILLS.values()])[0]
        self.plan = shared.latest_plan(reflections, observer.parse_plan)
        self.given_up: set[str] = set()  # things overlooked, places left closed
        self.noticed: set[str] = set()
        adjective = re.search("put (a|some) (hot|cool|clean) ", observation) is not None
        self.forgets = adjective and rng.random() < self.skill.forget
        self.misplaces = rng.random() < self.skill.misplace
        self.last = ""
        self.read = self.notes.read

    def slip(self) -> str:
        notes, rng = self.notes, self.rng
        place = rng.choice(notes.places)
        foreign = "".join(name_parts(rng, rooms.PLACE_HEADS, rooms.PLACE_TAILS, unseen=False))
        thing = f"{notes.goal.object} {rng.randint(1, 3)}"
        far = place if place != notes.at else rng.choice(notes.places)
        places = [place, f"{kind(place)} {rng.randint(1, 9)}", f"{foreign} {rng.randint(1, 3)}"]
        return rng.choice([*(f"go to {p}" for p in places), f"take {thing} from {far}"])

    def act(self) -> str:
        stuck = self.last if self.notes.reply == "Nothing happens." else ""
        while self.plan and (action := self._follow(self.plan[0])) in ("", stuck):
            self.plan.pop(0)
        if not self.plan and (action := self._own_way()) == stuck:
            action = self._search()
        self.last = action
        return action

    def _own_way(self) -> str:
        if action := self._pursue():
            return action
        if self.rng.random() < self.skill.idle:
            examine = f"examine {self.notes.at}" if self.notes.at else "look"
            return self.rng.choice(["look", "inventory", examine])
        return self._search()

    def _follow(self, clause: tuple[str, ...]) -> str:
        """The next action towards a plan's clause, or "" when it is done or can't be."""
        notes, verb, thing, place = self.notes, clause[0], clause[1], clause[-1]
        if place not in notes.places:
            return ""
        if verb == "search":
            self.noticed.update(notes.known(notes.goal.object), notes.known(notes.goal.target))
            return self._pursue() or ("" if place in notes.contents else self._reach(place, ""))
        if verb == "take":
            self.noticed.add(thing)
        if verb in ("take", "use"):
            done = notes.at == place and thing not in notes.contents.get(place, [thing])
            done = done or (verb == "take" and notes.held is not None)
            done = done or (verb == "use" and self.last == f"use {thing}")
        else:
            done = notes.held != thing or verb in notes.treated[thing]
        return "" if done else self._reach(place, observer.command(clause), verb not in APPLIANCE)

    def _reach(self, place: str, action: str, inside: bool = True) -> str:
        """The way to an action: go to its place, open that if its inside is needed, then act."""
        if self.notes.at != place:
            return self._go(place)
        return f"open {place}" if inside and place in self.notes.closed else action

    def _go(self, place: str) -> str:
        """Go to a place; who stands there already, since two share a spot, has to look at it."""
        go = f"go to {place}"
        in_vain = self.last == go and self.notes.reply == "Nothing happens."
        return f"examine {place}" if in_vain else go

    def _pursue(self) -> str:
        """The next action towards the goal; "" if something must be found first."""
        notes, goal, thing = self.notes, self.notes.goal, self.notes.held
        if thing is None:
            wanted = [t for t in notes.known(goal.object) if self._notices(t)]
            lie = [(t, p[0]) for t in wanted if not notes.delivered(t) and (p := notes.where(t))]
            return self._reach(lie[0][1], "take {} from {}".format(*lie[0])) if lie else ""
        if kind(thing) != goal.object:  # a wrong thing in hand: put it back
            place = notes.home.get(thing, notes.places[0])
            return self._reach(place, f"put {thing} in/on {place}")
        if self.misplaces and not self.plan and notes.at and notes.at != notes.home.get(thing):
            self.misplaces = False
            return self._leave(thing, notes.at)
        if goal.treatment == "light":
            lamps = [t for t in notes.known(goal.target) if self._notices(t)]
            return self._reach(notes.home[lamps[0]], f"use {lamps[0]}") if lamps else ""
        appliance = notes.place(APPLIANCE.get(goal.treatment or "", ""))
        if appliance and not notes.is_treated(thing) and not self.forgets:
            return self._reach(appliance, f"{goal.treatment} {thing} with {appliance}", False)
        if not (target := notes.place(goal.target)):
            return ""
        action = self._reach(target, put := f"put {thing} in/on {target}")
        return self._leave(thing, target) if action == put and self.forgets else action

    def _leave(self, thing: str, place: str) -> str:
        """Put a thing down for good, although nothing is reached by that."""
        self.noticed.discard(thing)
        self.given_up.add(thing)
        return f"put {thing} in/on {place}"

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
        if not fresh:  # everything was searched: start over, noticing anew
            self.given_up.clear()
            self.forgets = False
        if not fresh or rng.random() < self.skill.revisit:
            seen = [p for p in notes.places if p in notes.contents and p != notes.at]
            return self._go(rng.choice(seen or notes.places))
        wanted = notes.goal.target if notes.held else notes.goal.object
        return self._go(likely_first(fresh, wanted)[0])

FLAWS = {"careless": 0.5, "hasty": 0.3, "vague": 0.2}

def flawed_reflection(observation: str, steps: list[Step], rng: Random) -> str:
    """A plausible one. *Careless*: a note is wrong, and cause and plan follow from it. *Hasty*: it
    has no notes, and says what typically happens. *Vague*: it names nothing.
    """
    notes = read_trial(Notes(observation), steps)
    flaw = rng.choices(list(FLAWS), list(FLAWS.values()))[0]
    if flaw == "vague":
        return rng.choice(rooms.WORDS["vague"])
    facts = observer.facts(notes)
    if flaw == "hasty":
        hasty = reflect_on(_typical(facts, notes, rng))
        return hasty[hasty.index("Cause: ") :]
    right = wrong = reflect_on(facts)
    while wrong == right:
        wrong = reflect_on(_misread(facts, notes, rng))
    return wrong

def _typical(facts: Facts, notes: Notes, rng: Random) -> Facts:
    """What would be so in a typical trial: one thing is all that is needed, and was not taken or
    taken too late; or nothing was found, and any place is as good as another.
    """
    search = tuple(rng.sample(notes.places, min(len(notes.places), rng.randint(1, 5))))
    facts = facts._replace(search=search, passed="")
    if not facts.things or rng.random() < 0.3:
        return facts._replace(things=())
    goal = facts.goal._replace(number=1)
    if goal.treatment in APPLIANCE:
        facts, goal = facts._replace(appliance=""), goal._replace(treatment=None)
    fate, thing = rng.choice((observer.UNTOUCHED, observer.TAKEN)), rng.choice(facts.things)
    home = rng.choice([thing.home, *notes.visits[-1:]])  # where it was, or where the trial ended
    thing = thing._replace(home=home, fate=fate, treated=True)
    return facts._replace(goal=goal, things=(thing,))

MISREADINGS = "home home home fate name lost invented wish target search lamp".split()

def _misread(facts: Facts, notes: Notes, rng: Random) -> Facts:
    """One fact is wrong, as readers get it wrong; now and then none is. If it is about a thing, the
    plan needs that thing.
    """
    goal, things = facts.goal, facts.things
    i = things.index(rng.choice(facts.left)) if facts.left else 0
    rest = lambda *new: facts._replace(things=(*things[:i], *new, *things[i + 1 :]))
    match rng.choice(MISREADINGS):
        case "home" if things:  # mostly where the trial itself had put it
            places = [things[i].put] * 4 if things[i].put else []
            places += _mistakable(things[i].home, notes)
            return rest(things[i]._replace(home=rng.choice(places)))
        case "fate" if things:
            fate = observer.UNTOUCHED if things[i].fate == observer.TAKEN else observer.TAKEN
            treated = goal.treatment not in APPLIANCE or rng.random() < 0.5
            return rest(things[i]._replace(fate=fate, treated=treated))
        case "name" if things:
            return rest(things[i]._replace(name=f"{goal.object} {rng.randint(1, 4)}"))
        case "lost" if things:
            return rest()
        case "invented" if not things or len(things) < goal.number:
            place = rng.choice(notes.visits or notes.places)
            name = f"{goal.object} {rng.randint(1, 3)}"
            return rest(observer.Thing(name, place, observer.UNTOUCHED, True))
        case "wish":
            seen = [kind(thing) for thing in notes.home] or [goal.object]
            wishes = [goal._replace(object=rng.choice(seen)), goal._replace(number=1)]
            if goal.treatment in APPLIANCE:
                wishes += [goal._replace(treatment=t) for t in (None, *APPLIANCE)]
            return observer.facts(notes.aimed_at(rng.choice(wishes)))
        case "target" if goal.treatment != "light" and facts.left:
            return facts._replace(target=rng.choice(_mistakable(facts.target, notes)))
        case "search" if facts.missing and notes.contents:
            seen = list(notes.contents)
            again = rng.sample(seen, min(len(seen), rng.randint(1, 5)))
            return facts._replace(search=tuple(again), passed="")
        case "lamp" if facts.lamp:
            lamp, place = facts.lamp
            return facts._replace(lamp=(lamp, rng.choice(_mistakable(place, notes))))
    return facts

def _mistakable(place: str, notes: Notes) -> list[str]:
    """Places that a reader takes for this one: its neighbours, its kind, the last ones visited."""
    i = notes.places.index(place) if place in notes.places else 0
    around = [notes.places[i - 1], notes.places[(i + 1) % len(notes.places)]]
    alike = [p for p in notes.places if kind(p) == kind(place)]
    return [p for p in around + alike + notes.visits[-2:] if p != place] or [place]

# Topics of questions; none is about how to do better. Harder topics come more often.
TOPICS = "home wanted each type inside searched last goal place".split()
# after an errand or a report
WALKED = "wanted each each each type inside searched searched searched visited visited visited last"

def questions(observation: str, steps: list[Step], rng: Random, n: int,
              topics: Sequence[str] = TOPICS) -> list[Pair]:  # fmt: skip
    notes = read_trial(Notes(observation), steps)
    return shared.ask(n, topics, rng, lambda topic: _question(topic, notes, rng))

def _question(topic: str, notes: Notes, rng: Random) -> Pair | None:
    """A question on a topic; None where the trial gives no occasion to ask."""
    goal, home = notes.goal, notes.home
    match topic:
        case "home" if home:
            thing = rng.choice(list(home))
            return f"Where was {thing} at first?", f"{thing} in {home[thing]}"
        case "wanted":
            return f"Which {goal.object} comes first?", _homes(notes, goal.object, 1)
        case "each" if home:
            many = [t for t in home if len(notes.known(kind(t))) > 1]
            type_ = kind(rng.choice(many)) if many and rng.random() < 0.5 else goal.object
            return f"Where was each {type_}?", _homes(notes, type_, 4)
        case "type" if home:
            type_ = kind(rng.choice(list(home)))
            return f"Which {type_} comes first?", _homes(notes, type_, 1)
        case "inside" if notes.views:
            place = rng.choice(list(notes.views))
            return f"What was last seen in {place}?", notes.views[place]
        case "searched":
            unsearched = ", ".join(notes.unsearched()[:MAX_LISTED])
            return "Which places were not searched?", unsearched or "none"
        case "visited":
            places = rng.sample(notes.places, min(len(notes.places), MAX_LISTED))
            judged = [f"{p} {'yes' if p in notes.contents else 'no'}" for p in places]
            return "Was it searched?", ", ".join(judged)
        case "last" if notes.visits:
            return "Where did you go last?", notes.visits[-1]
        case "goal":
            return "What is wanted?", goal.object
        case "place" if goal.treatment != "light":
            return f"Where is {goal.target}?", notes.place(goal.target) or "nowhere"
    return None

def _homes(notes: Notes, type_: str, n: int) -> str:
    """The first n things of a type and where they were at first."""
    things = sorted(notes.known(type_), key=number)[:n]
    return ", ".join(f"{t} in {notes.home[t]}" for t in things) or "not seen"

def what_matters(observation: str, steps: list[Step], rng: Random, n: int = 3) -> list[Pair]:
    """The notes on a trial, and n times what they, or the whole reflection, would be for another
    goal: the same text read with other eyes.
    """
    notes = read_trial(Notes(observation), steps)
    asked = [("What matters?", "; ".join(observer.write_notes(observer.facts(notes))))]
    for _ in range(n):
        goal = _other_goal(notes, rng)
        other = notes.aimed_at(goal)
        facts, known = observer.facts(other), other.known(goal.object)
        there = [t for t in known if kind(notes.home[t]) == goal.target and not goal.treatment]
        if max(len(there), sum(map(other.delivered, known))) >= goal.number:
            continue  # it is reached at the start, or was by the trial
        if rng.random() < 0.5:
            wanted = observer.wish(goal, goal.target).removeprefix("take ")
            answer = "; ".join(observer.write_notes(facts))
            asked.append((f"What matters for {wanted}?", answer))
        else:
            asked.append((f"What if the task were: {_sentence(goal, rng)}?", reflect_on(facts)))
    return asked

def _other_goal(notes: Notes, rng: Random) -> Goal:
    """Another goal that the room allows, mostly with things that the trial showed."""
    lamps = [t for t in map(kind, notes.home) if t in rooms.LAMPS]
    things = [t for t in map(kind, notes.home) if t not in rooms.LAMPS] or [notes.goal.object]
    places = [*map(kind, notes.places)]
    treatments = [t for t in APPLIANCE if APPLIANCE[t] in places]
    match rng.choice(["two", "place", "light", *treatments]):
        case "light":
            return Goal("light", rng.choice(things), rng.choice(lamps or [*rooms.LAMPS]), 1)
        case "two":
            many = [t for t in things if len(notes.known(t)) > 1] if rng.random() < 0.7 else []
            return Goal(None, rng.choice(many or things), rng.choice(places), 2)
        case "place":
            return Goal(None, rng.choice(things), rng.choice(places), 1)
        case treatment:
            return Goal(treatment, rng.choice(things), rng.choice(places), 1)

def _sentence(goal: Goal, rng: Random) -> str:
    """A goal in ALFWorld's words, without the full stop: the inverse of `parse_goal`."""
    plain = "pick_two_obj_and_place" if goal.number == 2 else "pick_and_place_simple"
    errands = {"": plain, "light": "look_at_obj_in_light", **rooms.TREATED}
    errand = errands[goal.treatment or ""]
    return rng.choice(rooms.GOALS[errand]).format(o=goal.object, r=goal.target).rstrip(".")

def everything(observation: str, steps: list[Step], rng: Random) -> Pair:
    """Dense practice in reading: the answer gives up to 12 things their places, in random order."""
    home = list(read_trial(Notes(observation), steps).home.items())
    listed = ", ".join(f"{t} in {place}" for t, place in rng.sample(home, min(len(home), 12)))
    return "Where was everything?", listed or "nothing seen"

def cut_names(text: str) -> str:
    return rooms.COMPOUND.sub(CUT, text)

def bindings(text: str) -> list[tuple[str, int, str, bool]]:
    """Which names in a text belong together; `envs/__init__.py` says what the four parts are. A
    thing is bound to the place where it was first seen. A place in the room's list is bound to the
    place listed before it, and at a later mention to the next place of the list (the last to the
    first): that is the way round the room.
    """
    room, task, _ = text.partition("Your task is to: ")
    listed = list(observer.THING.finditer(room)) if task else []
    after = {a[1]: b[1] for a, b in zip(listed, listed[1:] + listed[:1])}
    found = [(b[1], b.end(), a[1], False) for a, b in zip(listed, listed[1:])]
    home: dict[str, tuple[str, int]] = {}  # thing -> its place, offset of the first sight
    for view in re.finditer(observer.CONTENTS.pattern, text, re.MULTILINE):
        for thing in observer.THING.finditer(view[2]):
            home.setdefault(thing[1], (view[1], view.start(2) + thing.start(1)))
    for mention in re.finditer(r"\b\w+ \d+\b", text):
        name, start = mention[0], mention.start()
        if name in home and start >= home[name][1]:
            found.append((name, mention.end(), home[name][0], start > home[name][1]))
        elif name in after and start > len(room):
            found.append((name, mention.end(), after[name], True))
    return found

HURRIED = 0.7  # share of the demonstrated tasks that allow only few steps
HANDLED = 0.4  # chance that a report's walker takes a thing, or puts it down, at each place
ERRANDS = 8  # after a task's trials, which seldom show the wanted thing; half as many reports
GUIDED = 0.3  # share of the errands with a plan
# shares of the worlds in which trials, errands, reports and drills take place
WORLD_SHARES = {"tiny": 0.15, "renamed": 0.25, "small": 0.15, "full renamed": 0.15, "full": 0.3}
ERRAND_SHARES = {"tiny": 0.1, "renamed": 0.3, "small": 0.1, "full renamed": 0.2, "full": 0.3}
REPORT_SHARES = {"renamed": 0.25, "full renamed": 0.25, "full": 0.5}  # long lists to practise on
DRILL_SHARES = {"tiny": 0.75, "full": 0.25}

def _asked(observation: str, steps: list[Step], rng: Random) -> list[Pair]:
    asked = questions(observation, steps, rng, 8, [*TOPICS, "visited"])
    return [everything(observation, steps, rng), *asked, *what_matters(observation, steps, rng)]

ROLES = Roles(Player, oracle_reflection, flawed_reflection, _asked)

def demonstrations(env: Environment, split: str, seed: int | str, oracle_share: float,
                   drill_share: float = 0.0) -> Iterator[Demonstration]:  # fmt: skip
    """Endless: in `drill_share` of the turns a drill, else trials, errands, drills and reports."""
    rng = Random(f"demonstrations {split} {seed}")

    def task(name: str, shares: dict[str, float], hurry: bool = True) -> dict:
        world = rng.choices(list(shares), list(shares.values()))[0]
        return rooms.generate_task(rng, split, name, world, hurry)

    while True:
        if rng.random() < drill_share:
            yield _drill(env, task("drill", DRILL_SHARES), rng)
            continue
        trials = task("demonstration", WORLD_SHARES, hurry=rng.random() < HURRIED)
        yield from shared.demonstrate(env, trials, ROLES, rng, oracle_share)
        for errand in range(ERRANDS):
            yield _errand(env, task("errand", ERRAND_SHARES), rng)
            if errand % 2:
                yield _drill(env, task("drill", DRILL_SHARES), rng)
                yield _report(env, task("report", REPORT_SHARES, hurry=False), rng, oracle_share)

def _drill(env: Environment, task: dict, rng: Random) -> Demonstration:
    """Questions on where things are, in a room that is seen at a glance."""
    observation, _ = env.reset(task)
    views = env.glance(rng)
    asked = [everything(observation, views, rng)]
    asked += questions(observation, views, rng, 6, ["home", "each", "type", "inside"])
    return shared.drill(views, asked)

def _errand(env: Environment, task: dict, rng: Random) -> Demonstration:
    """A few steps of a good player. It has a right plan, or starts after a walk, mostly to where
    the wanted thing is. The model does not learn the walk.
    """
    observation, _ = env.reset(task)
    reflections, walk, steps, moves = list[str](), list[str](), list[Step](), 3
    if rng.random() < GUIDED:
        reflections, moves = [oracle_reflection(observation, env.glance(rng))], 7
        env.reset(task)
    player = Player(observation, reflections, rng)
    player.skill = next(iter(SKILLS))
    if not reflections:
        places, wanted = list(task["receptacles"]), player.notes.goal.object
        inside = {p for o, x in task["objects"].items() if kind(o) == wanted for p in x["in"]}
        homes = [p for p in places if p in inside]
        walk = rng.sample(places, rng.randint(0, 3))
        walk += [rng.choice(homes if homes and rng.random() < 0.7 else places)]
    for place in walk:
        shared.perform(env, player, f"go to {place}", steps)
    for _ in range(moves):
        if shared.perform(env, player, player.act(), steps):
            break
    asked, shown = questions(observation, steps, rng, 2, WALKED.split()), set(range(len(walk)))
    return Demonstration(observation, reflections, steps, shown, True, 1.0, None, asked)

def _report(env: Environment, task: dict, rng: Random, oracle_share: float) -> Demonstration:
    """A walk past some places. Closed ones are mostly opened, now and then a thing is taken and put
    down elsewhere, and the model learns none of these steps. Questions and a reflection are about
    what the walk showed.
    """
    observation, _ = env.reset(task)
    player, steps = Player(observation, [], rng), list[Step]()
    for place in rng.choices(list(task["receptacles"]), k=rng.randint(3, 36)):
        over = shared.perform(env, player, f"go to {place}", steps)
        if not over and "is closed." in steps[-1][1] and rng.random() < 0.85:
            over = shared.perform(env, player, f"open {place}", steps)
        if not over and rng.random() < HANDLED:
            over = shared.perform(env, player, _fumble(player.notes, place, rng), steps)
        if over:
            break
    reflection = ROLES.reflect(observation, steps, rng, oracle_share)
    asked = questions(observation, steps, rng, 6, WALKED.split())
    asked += what_matters(observation, steps, rng)
    shown, progress = set(range(len(steps))), env.info()["progress"]
    return Demonstration(observation, [], steps, shown, False, progress, reflection, asked)

def _fumble(notes: Notes, place: str, rng: Random) -> str:
    """An action that moves things or does nothing, but does not reach the goal."""
    goal, thing = notes.goal, notes.held
    if thing and goal.target not in (kind(place), *map(kind, notes.contents.get(place, []))):
        return f"put {thing} in/on {place}"
    here = [t for t in notes.contents.get(place, []) if kind(t) not in rooms.LAMPS]
    wanted = [t for t in here if kind(t) == goal.object]
    if here and not thing and kind(place) != goal.target:
        return f"take {rng.choice(wanted or here)} from {place}"
    return rng.choice(["look", "inventory", f"examine {place}"])
