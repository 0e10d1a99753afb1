"""Rooms and tasks for the household, from a seed: endless, no download. Read `envs/tasks.py` first.
Rooms are drawn from `furniture.json`: what stands and lies where in ALFWorld's training games. A
trial mostly has time to search a part of the room, and to carry out a plan. Where a trial fails,
the next one needs to know what the first one saw. `unseen` tasks are all renamed, with names that
no training text contains. In a renamed room things lie anywhere, so only reading tells where.
"""

from pathlib import Path
from random import Random
from typing import NamedTuple

from envs.names import cutter, name_parts
from envs.tasks import read_json

FURNITURE = read_json(Path(__file__).with_name("furniture.json"))
WORDS = read_json(Path(__file__).with_name("words.json"))
ROOMS, TOGETHER, ACCEPTS, OPENABLE, TRAITS = (
    FURNITURE[x] for x in "rooms together accepts openable traits".split())  # fmt: skip
GOALS = WORDS["goals"]  # kind -> its two wordings
OBJECT_HEADS, OBJECT_TAILS = WORDS["object_heads"], WORDS["object_tails"]
PLACE_HEADS, PLACE_TAILS = WORDS["place_heads"], WORDS["place_tails"]
APPLIANCE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
TREATED = {verb: f"pick_{verb}_then_place_in_recep" for verb in APPLIANCE}  # verb -> its errand
LAMPS = ("desklamp", "floorlamp")
COMPOUND = cutter(OBJECT_HEADS + PLACE_HEADS, OBJECT_TAILS + PLACE_TAILS)

MAX_STEPS = 50  # ALFWorld's limit
MAX_LISTED = 6  # places named in one list

class World(NamedTuple):
    renamed: bool  # made-up names, things lie anywhere
    places: tuple[int, int] | None  # least and most of them; None: as in ALFWorld's rooms
    things: tuple[int, int] | None  # least and most kinds of them; None: as in ALFWorld's rooms
    single: bool  # one place and at most two things of a kind
    steps: int  # time to search the whole room

WORLDS = {  # as ALFWorld's; as large, to be read; for short trials; both; tiny, for pretraining
    "full": World(renamed=False, places=None, things=None, single=False, steps=50),
    "full renamed": World(renamed=True, places=None, things=None, single=False, steps=50),
    "small": World(renamed=False, places=(6, 12), things=(5, 12), single=False, steps=20),
    "renamed": World(renamed=True, places=(8, 13), things=(6, 13), single=True, steps=20),
    "tiny": World(renamed=True, places=(3, 5), things=(3, 6), single=True, steps=10),
}
# world -> share of the tasks
TRAINING = {"full": 0.4, "full renamed": 0.1, "small": 0.15, "renamed": 0.35}
UNSEEN = {"full renamed": 0.3, "renamed": 0.7}
# errand -> how often it is drawn; in full rooms it is as in ALFWorld's games
ERRANDS = {"look_at_obj_in_light": 0.16, "pick_two_obj_and_place": 0.36,
           "pick_and_place_simple": 0.12, **dict.fromkeys(TREATED.values(), 0.12)}  # fmt: skip
# of the hurried tasks, the share with too few steps to search: two things are wanted, or one
HARD = (0.95, 0.25)
SEEN = 0.9  # of the hard tasks, the share in which there is time to see all that is needed

def kind(name: str) -> str:
    """`drawer 2` -> `drawer`."""
    return name.rsplit(" ", 1)[0]

def number(name: str) -> int:
    """`drawer 2` -> 2."""
    return int(name.rsplit(" ", 1)[-1])

def likely_first(places: list[str], thing: str) -> list[str]:
    """Places by how often ALFWorld's rooms have the thing in their type; ties keep their order."""
    homes = [room["objects"][thing][2] for room in ROOMS.values() if thing in room["objects"]]
    return sorted(places, key=lambda place: -sum(n.get(kind(place), 0) for n in homes))

def generate_task(rng: Random, split: str, name: str, world: str = "", hurry: bool = True) -> dict:
    """One solvable task, as `household.load_game` gives. `world` is one of WORLDS, or "": drawn for
    the split. `hurry` gives few steps; if the world is drawn, a sixth of the full rooms that keep
    their names do not hurry.
    """
    if not world:
        shares = UNSEEN if split == "unseen" else TRAINING
        world = rng.choices(list(shares), list(shares.values()))[0]
        hurry = world != "full" or rng.random() < 5 / 6
    room = _draw_room(rng)
    odds = ROOMS[room]["goals"] if world == "full" else ERRANDS
    errand = rng.choices(list(odds), list(odds.values()))[0]
    while True:  # until a room is drawn that offers such a task, and is not too large for it
        room = room if world == "full" else _draw_room(rng)
        counts = _receptacles(rng, ROOMS[room]["receptacles"], WORLDS[world])
        objects = _objects(rng, ROOMS[room]["objects"], counts, WORLDS[world])
        if goals := [goal for goal in _goals(counts, objects) if goal[0] == errand]:
            often = [1 + 2 * objects[o].count(r) for _, o, r in goals]  # as in ALFWorld's games
            goal = rng.choices(goals, often)[0]
            task = _furnished(rng, split, WORLDS[world], goal, counts, objects)
            limit = _time(rng, task) if hurry else WORLDS[world].steps
            if limit <= MAX_STEPS:
                return {"env": "household", "id": name, "max_steps": limit, **task}

def _draw_room(rng: Random) -> str:
    return rng.choices(list(ROOMS), [r["share"] for r in ROOMS.values()])[0]

def _furnished(rng: Random, split: str, world: World, goal: tuple[str, str, str],
               counts: dict[str, int], objects: dict[str, list[str]]) -> dict:  # fmt: skip
    """A task without its step limit: a goal (errand, object type, target type), how many of each
    receptacle type there are, the receptacle types that the copies of each object type lie in.
    """
    errand, obj, target = goal
    types = [*counts, *objects]
    new = _renaming(rng, split, types) if world.renamed else {t: t for t in types}
    slots = [(t, i) for t in counts for i in range(counts[t], 0, -1)]
    locs = rng.sample(range(1, len(slots) + 8), len(slots))
    for k in range(1, len(slots)) if not world.places else ():
        if slots[k][0] == slots[k - 1][0] and rng.random() < TOGETHER:
            locs[k] = locs[k - 1]
    openable = {t: rng.random() < OPENABLE.get(t, 0) for t in counts}
    receptacles = {f"{new[t]} {i}": {"loc": loc, "openable": openable[t], "open": False}
                   for (t, i), loc in zip(slots, locs)}  # fmt: skip
    things = {}
    for t, places in objects.items():
        traits = [trait for trait in TRAITS if t in TRAITS[trait]]
        for i, place in enumerate(places, 1):
            where = f"{new[place]} {rng.randint(1, counts[place])}"
            things[f"{new[t]} {i}"] = {"in": [where], "traits": traits}
    text = rng.choice(GOALS[errand]).format(o=new[obj], r=new[target])
    return {
        "goal": {"kind": errand, "object": new[obj], "target": new[target], "text": text},
        "receptacles": _listed(receptacles), "objects": _listed(things),
        "accepts": {new[t]: [new[o] for o in objects if o in ACCEPTS[t]] for t in counts},
        "start": None}  # fmt: skip

class Search(NamedTuple):  # when a careful player who knows nothing has seen and done what
    first: int  # when it sees the first of two wanted things; a lamp is one of them
    last: int  # when it has seen all that is wanted
    blind: int  # when the errand is done
    known: int  # of an errand in a known room: the steps for the first of two things
    informed: int  # and those for all of it
    seen: dict[str, int]  # place -> when it was seen

def _time(rng: Random, task: dict) -> int:
    """How many steps a hurried task allows. A hard one allows enough for who knows where things are
    and too few for who has to search; but who searches on where the first trial ended has enough.
    """
    search, errand = _search(task), task["goal"]["kind"]
    slack = range(search.informed + 1, min(search.informed + 3, search.blind - 1))
    enough = [n for n in slack if n >= search.last]
    some = [n for n in range(search.informed + 1, min(search.last, search.blind - 1))
            if _again(search, n) <= n and errand not in TREATED.values()]  # fmt: skip
    two = errand in ("look_at_obj_in_light", "pick_two_obj_and_place")
    if not enough + some or rng.random() >= HARD[not two]:
        return search.blind + rng.randint(3, 7)
    return rng.choice((enough or some) if rng.random() < SEEN else (some or enough))

def _search(task: dict) -> Search:
    """What a careful player does: likely places first; what it needs it takes where it sees it, and
    brings it at once.
    """
    goal, receptacles, things = task["goal"], task["receptacles"], task["objects"]
    light, two = goal["kind"] == "look_at_obj_in_light", goal["kind"].startswith("pick_two")
    homes = lambda type_: [x["in"][0] for thing, x in things.items() if kind(thing) == type_]
    closed = lambda *places: sum(receptacles[place]["openable"] for place in {*places})
    target = next((r for r in receptacles if kind(r) == goal["target"]), "")
    # after going there and taking it: go to an appliance, treat, go to the target, put
    bring = 0 if light else 2 + 2 * (goal["kind"] in TREATED.values())
    there = [p for p in homes(goal["object"]) if two and kind(p) == goal["target"]]
    lying = {goal["object"]: [p for p in homes(goal["object"]) if p not in there]}
    lying |= {goal["target"]: homes(goal["target"])} if light else {}
    needed = {type_: 1 + two - len(there) for type_ in lying}

    places, at, seen, clock = list(receptacles), "", dict[str, int](), 0
    events = list[tuple[int, str, str]]()  # when it saw what it needs, its type, the place
    while any(needed.values()):
        i = places.index(at) + 1 if at else 0
        around = [p for p in places[i:] + places[:i] if p not in seen]
        here, at = at, likely_first(around, next(t for t, n in needed.items() if n))[0]
        beside = here != "" and receptacles[here]["loc"] == receptacles[at]["loc"]
        seen[at] = clock = clock + 1 + closed(at) + beside  # beside: going does nothing, it looks
        for type_ in [t for t in needed for _ in range(min(needed[t], lying[t].count(at)))]:
            needed[type_] -= 1
            clock += (events != [] and events[-1][2] == at and not light)  # go there once more
            events.append((seen[at], type_, at))
            clock += 1 + bring if type_ == goal["object"] else 0
            if not light:
                clock += closed(target) if target not in seen else 0
                seen.setdefault(target, clock)
        if events and events[-1][2] == at and not light:
            at = target

    found = [place for _, _, place in events]
    known = 2 + bring + closed(found[0], target) if target else 2 + closed(found[0])
    if light:  # use the lamp: here, or where it was seen before
        lamp = next(place for _, type_, place in events if type_ == goal["target"])
        blind = clock + 1 + (lamp != found[-1])
        informed = min(blind, 4 + closed(*found))
    else:
        blind, informed = clock, (2 + bring) * len(events) + closed(*found, target)
    return Search(events[0][0], events[-1][0], blind, known * (len(events) > 1), informed, seen)

def _again(search: Search, limit: int) -> float:
    """The steps that suffice for the trial after one that ended before all was seen, if it is told
    what that one saw. Neither player is quite careful.
    """
    rest = sum(limit < when <= search.last for when in search.seen.values())
    again = 1.5 * (search.blind - limit) + search.known * (search.first <= limit) + 5
    return again if rest <= MAX_LISTED - 2 else 10**6  # a plan lists them, and some left closed

def _listed(named: dict[str, dict]) -> dict[str, dict]:
    """In ALFWorld's order: by type, then the highest number first."""
    return {name: named[name] for name in sorted(named, key=lambda n: (kind(n), -number(n)))}

def _receptacles(rng: Random, odds: dict, world: World) -> dict[str, int]:
    """How many of each receptacle type stand in the room."""
    counts = {}
    for t, (share, least, median, most) in odds.items():
        if rng.random() < share:
            few, many = rng.randint(least, median), median + (most - median) * rng.random() ** 3
            counts[t] = rng.choice((few, round(many)))
    if not world.places:
        return counts
    if world.single:
        counts = dict.fromkeys(counts, 1)
    size = rng.randint(*world.places)
    while sum(counts.values()) > size:
        weights = [n if t in APPLIANCE.values() else 3 * n * n for t, n in counts.items()]
        counts[rng.choices(list(counts), weights)[0]] -= 1  # mostly a type that there is much of
        counts = {t: n for t, n in counts.items() if n}
    return counts

def _objects(rng: Random, odds: dict, counts: dict[str, int], world: World) -> dict[str, list[str]]:
    """For each object type present, the receptacle types that its copies lie in."""
    present = [t for t, (share, _, _) in odds.items() if rng.random() < share]
    if world.things:
        present = rng.sample(present, min(len(present), rng.randint(*world.things)))
    objects = {}
    for t in sorted(present):
        _, mean, homes = odds[t]
        places = {p: n for p, n in homes.items() if p in counts}
        if world.renamed:
            places = {p: n for p, n in counts.items() if t not in LAMPS or p not in OPENABLE}
        if places:
            most = 1 if t in LAMPS else 2 if world.single else 4
            n = min(most, rng.randint(1, int(2 * mean - 1 + rng.random())))  # `mean` on average
            objects[t] = rng.choices(list(places), list(places.values()), k=n)
    return objects

def _goals(counts: dict[str, int], objects: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """Every errand (kind, object type, target type) that the room allows and is not done yet. Where
    a thing of the type lies in such a target already, as many others as are asked for lie
    elsewhere.
    """
    goals = []
    for o in (t for t in objects if t in TRAITS["pickupable"]):
        goals += [("look_at_obj_in_light", o, lamp) for lamp in objects if lamp in LAMPS]
        for r in (r for r in counts if o in ACCEPTS[r]):
            inside = objects[o].count(r)
            others = len(objects[o]) - inside
            if not inside and others:
                goals.append(("pick_and_place_simple", o, r))
            if others >= 2 and inside <= (counts[r] == 1):  # two have to lie in the same place
                goals.append(("pick_two_obj_and_place", o, r))
            for verb, appliance in APPLIANCE.items():
                able = o in TRAITS[f"{verb}able"] and appliance in counts and r != appliance
                if able and others:
                    goals.append((TREATED[verb], o, r))
    return goals

def _renaming(rng: Random, split: str, types: list[str]) -> dict[str, str]:
    """Made-up names, of which no two share a head; appliances and lamps keep theirs."""
    new = {t: t for t in types if t in APPLIANCE.values() or t in LAMPS}
    taken: set[str] = set()
    for t in types:
        heads, tails, strangers = OBJECT_HEADS, OBJECT_TAILS, PLACE_HEADS
        if t in ACCEPTS:
            heads, tails, strangers = PLACE_HEADS, PLACE_TAILS, OBJECT_HEADS
        while t not in new:
            head, tail = name_parts(rng, heads, tails, split == "unseen", strangers)
            if head not in taken:
                taken.add(head)
                new[t] = head + tail
    return new
