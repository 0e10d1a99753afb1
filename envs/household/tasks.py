"""Rooms and tasks for the household, from a seed: endless, no download. Read `envs/tasks.py` first.

A room is furnished by `furniture.json`, which counts what stands and lies where in ALFWorld's
rooms. There are four kinds of worlds:

  full        ALFWorld's names and numbers, and 50 steps or half as many: what a player meets in the
              real games;
  small       the same names in fewer places, so trials are short;
  renamed     a small room with one place of a kind and at most two things of a kind. Places and
              things have made-up names and things lie anywhere, so only reading tells where;
  tiny        a renamed room of three to five places, only for pretraining.

The splits `train` and `seen` mix the first three. `unseen` tasks are all renamed, with names that
no training text contains.
"""

import json
import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from envs.names import CUT, cutter, name_parts

FURNITURE = json.loads((Path(__file__).parent / "furniture.json").read_text())
ROOMS, ACCEPTS = FURNITURE["rooms"], FURNITURE["accepts"]
OPENABLE, TRAITS = FURNITURE["openable"], FURNITURE["traits"]
APPLIANCE = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}
LAMPS = ("desklamp", "floorlamp")
# (object type, receptacle type) -> how often one lies in the other
_HOMES: Counter[tuple[str, str]] = Counter()
for _room in ROOMS.values():
    for _object, (_, _, _places) in _room["objects"].items():
        _HOMES.update({(_object, _place): n for _place, n in _places.items()})


class World(NamedTuple):
    renamed: bool  # made-up names, one place and at most two things of a kind, things lie anywhere
    places: tuple[int, int] | None  # least and most of them; None: as in ALFWorld's rooms
    things: tuple[int, int] | None  # least and most kinds of them
    steps: int  # time to search the whole room
    hurry: tuple[int, int]  # time to carry out a plan but not to search it all: one thing, two


WORLDS = {
    "full": World(renamed=False, places=None, things=None, steps=50, hurry=(25, 35)),
    "small": World(renamed=False, places=(5, 10), things=(5, 12), steps=20, hurry=(10, 14)),
    "renamed": World(renamed=True, places=(5, 10), things=(5, 12), steps=20, hurry=(10, 14)),
    "tiny": World(renamed=True, places=(3, 5), things=(3, 6), steps=10, hurry=(10, 14)),
}

GOALS = {  # kind -> share of ALFWorld's games, its two wordings
    "pick_and_place_simple": (0.24, ("put a {o} in {r}.", "put some {o} on {r}.")),
    "pick_two_obj_and_place": (0.20, ("put two {o} in {r}.", "find two {o} and put them in {r}.")),
    "pick_clean_then_place_in_recep":
        (0.19, ("put a clean {o} in {r}.", "clean some {o} and put it in {r}.")),
    "pick_cool_then_place_in_recep":
        (0.16, ("put a cool {o} in {r}.", "cool some {o} and put it in {r}.")),
    "pick_heat_then_place_in_recep":
        (0.12, ("put a hot {o} in {r}.", "heat some {o} and put it in {r}.")),
    "look_at_obj_in_light": (0.09, ("look at {o} under the {r}.", "examine the {o} with the {r}.")),
}  # fmt: skip

# Renamed things have compound names, as ALFWorld's own have (soapbottle, sidetable).
OBJECT_HEADS = """amber baby beach birthday candy chalk clay copper cotton dinner fancy farm felt
garden ghost golf guest hiking ivory jelly leather lemon linen maple marble mint music painted
paper party picnic pocket puppet rubber sailor school silk silver summer tiger toy velvet violet
winter wool""".split()
OBJECT_TAILS = """badge ball band bead bell belt boat bolt brush button card case chain clip cone
crown cube dice disk doll drum fan flag flute frame gem glove horn jar kite lace mask mat medal
mitt nail note patch pin pipe puzzle ribbon ring rope scarf shell spool stamp star stick strap
tag thread tile token wheel whistle""".split()
PLACE_HEADS = """attic back carved cherry corner dark front green grey hall heavy high iron
little long low middle narrow oak old red round short steel tall wicker yellow""".split()
PLACE_TAILS = """alcove barrel basket bench bin bureau chest closet counter crate crib cupboard
dock keg ledge locker mantel nook pantry pedestal press rack sack shed sill stand stool tank tray
trough trunk tub urn vault wagon""".split()

_COMPOUND = cutter(OBJECT_HEADS + PLACE_HEADS, OBJECT_TAILS + PLACE_TAILS)


def kind(name: str) -> str:
    """`drawer 2` -> `drawer`."""
    return name.rsplit(" ", 1)[0]


def cut_names(text: str) -> str:
    """Text with a line's end inside each compound name, so that a tokenizer learns its parts.

    >>> cut_names("a silkband 1")
    'a silk\\nband 1'
    """
    return _COMPOUND.sub(CUT, text)


def likely_first(places: list[str], thing: str) -> list[str]:
    """Places by how often such a thing lies in their type in ALFWorld's rooms. Equal places keep
    their order, and so do all places of a renamed room.
    """
    return sorted(places, key=lambda place: -_HOMES[thing, kind(place)])


def generate_task(
    rng: random.Random, split: str, task_id: str, world: str = "", hurry: bool = True
) -> dict:
    """One solvable task, as `household.load_game` gives. `world` is one of WORLDS, or "": drawn for
    the split. `hurry` gives few steps; if the world is drawn, full rooms hurry every other time.
    """
    if not world:
        world = rng.choices(("full", "small", "renamed"), (0.25, 0.25, 0.5))[0]
        world = "renamed" if split == "unseen" else world
        hurry = world != "full" or rng.random() < 0.5
    drawn = WORLDS[world]
    errand = rng.choices(list(GOALS), [share for share, _ in GOALS.values()])[0]
    goals: list[tuple[str, str, str]] = []
    while not goals:  # until the room drawn offers such a task
        room = rng.choices(list(ROOMS), [r["share"] for r in ROOMS.values()])[0]
        counts = _receptacles(rng, ROOMS[room]["receptacles"], drawn)
        objects = _objects(rng, ROOMS[room]["objects"], counts, drawn)
        goals = [goal for goal in _goals(counts, objects) if goal[0] == errand]
    _, obj, target = rng.choice(goals)
    steps = drawn.hurry[errand == "pick_two_obj_and_place"] if hurry else drawn.steps
    new = _renaming(rng, split, [*counts, *objects]) if drawn.renamed else {}

    names = [f"{new.get(t, t)} {i}" for t in counts for i in range(counts[t], 0, -1)]
    locs = rng.sample(range(1, len(names) + 8), len(names))
    openable = {t: rng.random() < OPENABLE.get(t, 0) for t in counts}
    receptacles = {
        name: {"loc": loc, "openable": openable[t], "open": False}
        for name, loc, t in zip(names, locs, (t for t in counts for _ in range(counts[t])))
    }
    receptacles = dict(sorted(receptacles.items(), key=lambda item: _listed(item[0])))
    things = {}
    for t, places in objects.items():
        traits = [trait for trait in TRAITS if t in TRAITS[trait]]
        for number, place in enumerate(places, 1):
            where = f"{new.get(place, place)} {rng.randint(1, counts[place])}"
            things[f"{new.get(t, t)} {number}"] = {"in": [where], "traits": traits}
    obj, target = new.get(obj, obj), new.get(target, target)
    return {
        "env": "household",
        "id": task_id,
        "max_steps": steps,
        "goal": {
            "kind": errand,
            "object": obj,
            "target": target,
            "text": rng.choice(GOALS[errand][1]).format(o=obj, r=target),
        },
        "receptacles": receptacles,
        "objects": dict(sorted(things.items(), key=lambda item: _listed(item[0]))),
        "accepts": {
            new.get(t, t): [new.get(o, o) for o in objects if o in ACCEPTS[t]] for t in counts
        },
        "start": None,
    }


def _listed(name: str) -> tuple:
    """ALFWorld lists by type, then the highest number first."""
    return kind(name), -int(name.rsplit(" ", 1)[1])


def _receptacles(rng: random.Random, table: dict, world: World) -> dict[str, int]:
    """How many of each receptacle type stand in the room."""
    counts = {}
    for t, (share, least, median, most) in table.items():
        if rng.random() < share:
            counts[t] = round(rng.triangular(least, most, median))
    if not world.places:
        return counts
    if world.renamed:
        counts = dict.fromkeys(counts, 1)
    size = rng.randint(*world.places)
    while sum(counts.values()) > size:
        weights = [n if t in APPLIANCE.values() else 3 * n * n for t, n in counts.items()]
        t = rng.choices(list(counts), weights)[0]  # mostly a type that there is much of
        counts[t] -= 1
        if not counts[t]:
            del counts[t]
    return counts


def _objects(
    rng: random.Random, table: dict, counts: dict[str, int], world: World
) -> dict[str, list[str]]:
    """For each object type present, the receptacle types that its copies lie in."""
    present = [t for t, (share, _, _) in table.items() if rng.random() < share]
    if world.things:
        present = rng.sample(present, min(len(present), rng.randint(*world.things)))
    objects = {}
    for t in sorted(present):
        places = {p: n for p, n in table[t][2].items() if p in counts}
        if world.renamed:
            places = {p: n for p, n in counts.items() if t not in LAMPS or p not in OPENABLE}
        if places:
            most = 1 if t in LAMPS else 2 if world.renamed else 4
            n = min(most, 1 + int(rng.expovariate(1) * (table[t][1] - 0.5)))
            objects[t] = rng.choices(list(places), list(places.values()), k=n)
    return objects


def _goals(counts: dict[str, int], objects: dict[str, list[str]]) -> list[tuple[str, str, str]]:
    """Every errand (kind, object type, target type) that the room allows and is not done yet."""
    goals = []
    lamps = [t for t in objects if t in LAMPS]
    for o in (t for t in objects if t in TRAITS["pickupable"]):
        goals += [("look_at_obj_in_light", o, lamp) for lamp in lamps]
        for r in (r for r in counts if o in ACCEPTS[r] and r not in objects[o]):
            goals.append(("pick_and_place_simple", o, r))
            if len(objects[o]) >= 2:
                goals.append(("pick_two_obj_and_place", o, r))
            for verb, appliance in APPLIANCE.items():
                if o in TRAITS[f"{verb}able"] and appliance in counts and r != appliance:
                    goals.append((f"pick_{verb}_then_place_in_recep", o, r))
    return goals


def _renaming(rng: random.Random, split: str, types: list[str]) -> dict[str, str]:
    """Made-up names for all types but the appliances and lamps; no two in a room share a head."""
    new, taken = {}, set()
    for t in types:
        if t in APPLIANCE.values() or t in LAMPS:
            continue
        heads, tails = (PLACE_HEADS, PLACE_TAILS) if t in ACCEPTS else (OBJECT_HEADS, OBJECT_TAILS)
        while t not in new:
            head, tail = name_parts(rng, heads, tails, split == "unseen")
            if head not in taken:
                taken.add(head)
                new[t] = head + tail
    return new
