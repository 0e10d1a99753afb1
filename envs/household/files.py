"""ALFWorld's own game files (`game.tw-pddl`) as tasks of the household. Read `envs/tasks.py` first.

A game file is JSON with a PDDL domain, a PDDL problem and a text grammar inside. Domain and grammar
are the same in all games, but for the line "Your task is to: ...". So this file reads that line and
the problem's facts and goal. Names and numbers are those of ALFWorld's Demangler.
"""

import json
import os
import re
from collections import defaultdict
from pathlib import Path

from envs.tasks import read_json

Facts = dict[str, set[tuple]]  # predicate -> {arguments}

_ATOM = re.compile(r"\(\s*([\w=-]+)((?:\s+[\w?-]+)*)\s*\)")
_TASK_LINE = re.compile(r'"Your task is to: ((?:[^"\\]|\\.)*)"')
_TRAITS = {  # predicate of one object -> trait
    "pickupable": "pickupable", "cleanable": "cleanable", "heatable": "heatable",
    "coolable": "coolable", "toggleable": "toggleable", "sliceable": "sliceable",
    "isreceptacleobject": "isreceptacle", "isclean": "clean", "ishot": "hot", "iscool": "cool",
    "issliced": "sliced", "istoggled": "on",
}  # fmt: skip
_ARITY = {  # arguments of each predicate that is read; as in the engine, all PDDL is lower-cased
    "atlocation": 2, "receptacleatlocation": 2, "objectatlocation": 2, "receptacletype": 2,
    "objecttype": 2, "cancontain": 2, "inreceptacle": 2, "inreceptacleobject": 2,
    **dict.fromkeys(["openable", "opened", *_TRAITS], 1),
}  # fmt: skip
_PLACED = ["inreceptacle", "objecttype", "receptacletype"]
_LIT = ["toggleable", "istoggled", "receptacleatlocation", "atlocation", "inreceptacle"]
_GOALS = {  # kind -> the predicates of its PDDL goal, each as often as it stands there
    "pick_and_place_simple": _PLACED,
    "look_at_obj_in_light": [*_LIT, "objecttype", "objecttype", "holds"],
    "pick_clean_then_place_in_recep": [*_PLACED, "cleanable", "isclean"],
    "pick_heat_then_place_in_recep": [*_PLACED, "heatable", "ishot"],
    "pick_cool_then_place_in_recep": [*_PLACED, "coolable", "iscool"],
    "pick_two_obj_and_place": [*_PLACED, *_PLACED, "="],
}


def find_games(folder: str | os.PathLike) -> list[str]:
    """Paths of all `game.tw-pddl` in a folder and below, sorted; ValueError if there are none."""
    paths = sorted(str(path) for path in Path(folder).rglob("game.tw-pddl"))
    if not paths:
        raise ValueError(f"{folder}: no game.tw-pddl in this folder or below it")
    return paths


def load_game(path: str | os.PathLike) -> dict:
    """One game as a task; ValueError, with path and reason, if it is missing, broken or foreign.

    A task is JSON-able; `envs/household/tasks.py` generates the same. Names are `type number`.
      env, id, max_steps
      goal         kind, object (type), target (type of receptacle or lamp), text;
                   sliced: true only where the object must also be sliced
      receptacles  name -> loc, openable, open; also type, where the name tells another one. They
                   stand in the order of the first observation.
      objects      name -> in: receptacles, traits: what can be done with it and its state at the
                   start. They stand in the order in which contents are listed. Where needed, also
                   holds: names that `examine` shows in it, always the same,
                   at: locs where it can be sliced, if these are not its receptacles' locs
      accepts      receptacle type -> object types that can be put there
      start        loc of the player; None is the middle of the room
    """
    game = read_json(path)
    try:
        return _task(game, task_id="/".join(Path(path).parts[-3:-1]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _task(game: dict, task_id: str) -> dict:
    texts = game if isinstance(game, dict) else {}
    grammar, problem = (str(texts.get(key, "")) for key in ("grammar", "pddl_problem"))
    head, _, body = problem.lower().partition("(:init")
    init, _, goal = body.partition("(:goal")
    task_line = _TASK_LINE.search(grammar)
    if "(:domain alfred)" not in head or not goal or not task_line:
        raise ValueError("not an ALFWorld game: no PDDL problem of domain alfred, or no task line")

    facts: Facts = defaultdict(set)
    for predicate, text in _ATOM.findall(init):
        args = tuple(text.split())
        if len(args) != _ARITY.get(predicate, len(args)):
            raise ValueError(f"({predicate}{text}) should have {_ARITY[predicate]} argument(s)")
        facts[predicate].add(args)
    names = _names({x for atoms in facts.values() for args in atoms for x in args})
    locs = {x: _number(names[at]) for x, at in facts["receptacleatlocation"]}
    types = {r: t.removesuffix("type") for r, t in facts["receptacletype"]}
    objects = _objects(facts, names, locs)
    start = [_number(names[at]) for _, at in facts["atlocation"]]
    return {
        "env": "household",
        "id": task_id,
        "max_steps": 50,
        "goal": {**_goal(goal), "text": json.loads(f'"{task_line[1]}"')},
        "receptacles": _receptacles(facts, names, locs, types),
        "objects": objects,
        "accepts": _accepts(
            facts, {types[r] for r in locs if r in types}, {o.split()[0] for o in objects}
        ),
        "start": start[0] if start else None,
    }


def _names(ids: set[str]) -> dict[str, str]:
    """`mug_bar__plus_02_dot_56...` -> `mug 1`. The last id of a type in the alphabet is number 1.

    Scenery is counted too. If an id has "basin" in it, so has its name.
    """
    names: dict[str, str] = {}
    count: dict[str, int] = defaultdict(int)
    for x in sorted(ids, reverse=True):
        name = x.split("_bar_")[0] + "basin" * ("basin" in x)
        count[name] += 1
        names[x] = f"{name} {count[name]}"
    return names


def _number(name: str) -> int:
    return int(name.rsplit(" ")[-1])


def _receptacles(
    facts: Facts, names: dict[str, str], locs: dict[str, int], types: dict[str, str]
) -> dict[str, dict]:
    receptacles: dict[str, dict] = {}
    for r in sorted(locs):
        openable, opened = (r,) in facts["openable"], (r,) in facts["opened"]
        receptacles[names[r]] = {"loc": locs[r], "openable": openable, "open": opened}
        if types.get(r, names[r].split()[0]) != names[r].split()[0]:  # a sink called bathtubbasin
            receptacles[names[r]]["type"] = types[r]
    return receptacles


def _objects(facts: Facts, names: dict[str, str], locs: dict[str, int]) -> dict[str, dict]:
    """What lies in a receptacle or can be sliced on the floor; all else is scenery."""
    inside: dict[str, list[str]] = defaultdict(list)
    holds: dict[str, list[str]] = defaultdict(list)
    seen_from: dict[str, set[int]] = defaultdict(set)
    for o, r in sorted(facts["inreceptacle"]):
        if r in locs:
            inside[o].append(r)
    for o, at in facts["objectatlocation"]:
        seen_from[o].add(_number(names[at]))
    for o, outer in sorted(facts["inreceptacleobject"]):
        holds[outer].append(names[o])
    objects: dict[str, dict] = {}
    for o in sorted({*inside} | {x for (x,) in facts["sliceable"]}):
        traits = [trait for predicate, trait in _TRAITS.items() if (o,) in facts[predicate]]
        thing: dict = {"in": [names[r] for r in inside[o]], "traits": traits}
        objects[names[o]] = thing
        if o in holds:
            thing["holds"] = holds[o]
        if "sliceable" in traits and seen_from[o] != {locs[r] for r in inside[o]}:
            thing["at"] = sorted(seen_from[o])
    return objects


def _accepts(
    facts: Facts, receptacle_types: set[str], object_types: set[str]
) -> dict[str, list[str]]:
    """`cancontain` of the types that are present."""
    pairs = [(r.removesuffix("type"), o.removesuffix("type")) for r, o in facts["cancontain"]]
    return {
        t: sorted(o for r, o in pairs if r == t and o in object_types)
        for t in sorted(receptacle_types)
    }


def _goal(pddl: str) -> dict:
    """Kind, object and target of a PDDL goal: one of ALFWorld's six shapes, sliced or not."""
    atoms = [(predicate, args.split()) for predicate, args in _ATOM.findall(pddl) if args]
    shape = sorted(p for p, _ in atoms if p not in ("sliceable", "issliced"))
    kinds = [kind for kind, predicates in _GOALS.items() if shape == sorted(predicates)]
    typed = {args[0]: args[-1].removesuffix("type") for p, args in atoms if p in _PLACED[1:]}
    if "look_at_obj_in_light" in kinds:  # two object types: the one held and the one switched
        objects = {typed.get(args[-1]) for p, args in atoms if p == "holds"}
        targets = {typed.get(args[-1]) for p, args in atoms if p == "toggleable"}
    else:
        objects = {typed[args[0]] for p, args in atoms if p == "objecttype"}
        targets = {typed[args[0]] for p, args in atoms if p == "receptacletype"}
    if not kinds or len(objects) != 1 or len(targets) != 1 or re.search(r"\((or|forall)\b", pddl):
        raise ValueError(f"a goal of a kind that is not supported: {' '.join(pddl.split())[:300]}")
    sliced = {"sliced": True} if any(p == "issliced" for p, _ in atoms) else {}
    return {"kind": kinds[0], "object": objects.pop(), "target": targets.pop(), **sliced}
