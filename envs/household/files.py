"""ALFWorld's own game files (`game.tw-pddl`) as tasks of the household. Read `envs/tasks.py` first.

A game file is JSON with a PDDL domain, a PDDL problem and a text grammar inside. The domain is the
same in all games. Of the grammar the line "Your task is to: ..." and the words that versions of
ALFWorld differ in are read; of the problem its facts and goal. Names and numbers are those of
ALFWorld's Demangler.
"""

import json
import os
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from envs.household.tasks import kind, number
from envs.tasks import check_ids, read_json

Facts = dict[str, set[tuple]]  # predicate -> {arguments}
_ATOM = re.compile(r"\(\s*([\w=-]+)((?:\s+[\w?-]+)*)\s*\)")
_STRING = r'"((?:[^"\\]|\\.)*)"'
_TASK_LINE = re.compile(f'"Your task is to: {_STRING[1:]}')
_TRAITS = {  # predicate of one object -> trait
    **{x: x for x in "pickupable cleanable heatable coolable toggleable sliceable".split()},
    "isreceptacleobject": "isreceptacle", "isclean": "clean", "ishot": "hot", "iscool": "cool",
    "issliced": "sliced", "istoggled": "on"}  # fmt: skip
_PAIRS = """atlocation receptacleatlocation objectatlocation receptacletype objecttype cancontain
inreceptacle inreceptacleobject""".split()
# arguments of each predicate that is read; as in the engine, all PDDL is lower-cased
_ARITY = dict.fromkeys(_PAIRS, 2) | dict.fromkeys(["openable", "opened", *_TRAITS], 1)
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

# verb -> answer in the grammar before ALFWorld 0.4; `go`: {0} the receptacle, {1} its loc
ANSWERS = {"go": "You arrive at {1}.", "put": "You put the {0} in/on the {1}."}
_ACTIONS = re.compile(r'action (GotoLocation|PutObject|help)\s*\{\s*template :: "([^"]*)";'
                      r'\s*feedback :: "([^"]*)";')  # fmt: skip
_PUTS = ("put {o} in/on {r}", "move {o} to {r}")  # templates of PutObject

def find_games(folder: str | os.PathLike) -> list[str]:
    """Paths of all `game.tw-pddl` in a folder and below, sorted, or of one game file; ValueError if
    there are none. Links are followed, but no folder is entered twice.
    """
    if os.path.isfile(folder):
        return [str(folder)]
    paths, entered = [], set()
    for root, folders, files in os.walk(str(folder), followlinks=True):
        if (real := os.path.realpath(root)) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders.sort()
        paths += [os.path.join(root, name) for name in files if name == "game.tw-pddl"]
    if not paths:
        raise ValueError(f"{folder}: no game.tw-pddl in this folder or below it")
    return sorted(paths)

def load_games(folder: str | os.PathLike) -> tuple[list[dict], Counter[str]]:
    """(tasks, skipped) of a folder's games, chosen as ALFWorld's `collect_game_files` does; skipped
    counts by reason: "movable" or "sliced" in the path, "unsolvable", "unchecked" (the file does
    not say whether it is solvable). ValueError if none is left, and as in `load_game`.
    """
    tasks, skipped = [], Counter[str]()
    for path in find_games(folder):
        if found := re.search("movable|Sliced", path):
            skipped[found[0].lower()] += 1
            continue
        game = read_json(path)
        if isinstance(game, dict) and not game.get("solvable", True):
            skipped["unsolvable"] += 1
            continue
        task = _checked_task(game, path)
        if "solvable" in game:
            tasks.append(task)
        else:
            skipped["unchecked"] += 1
    if not tasks:
        counts = ", ".join(f"{n} {reason}" for reason, n in sorted(skipped.items()))
        raise ValueError(f"{folder}: all games in it are skipped ({counts})")
    check_ids((task["id"] for task in tasks), folder)
    return tasks, skipped

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
      grammar      only where it differs from ANSWERS: verb -> answer. If it has `move`, this is
                   listed in place of `put`; `help` is a command only if it is here.
    """
    return _checked_task(read_json(path), path)

def _checked_task(game: Any, path: str | os.PathLike) -> dict:
    """The task of a file's content; ValueError names the file."""
    try:
        return _task(game, task_id="/".join(Path(path).parts[-3:-1]))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None

def _task(game: Any, task_id: str) -> dict:
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
    locs = {r: number(names[at]) for r, at in facts["receptacleatlocation"]}
    types = {r: t.removesuffix("type") for r, t in facts["receptacletype"]}
    receptacles: dict[str, dict] = {}
    for r in sorted(locs):
        openable, opened = (r,) in facts["openable"], (r,) in facts["opened"]
        receptacles[names[r]] = {"loc": locs[r], "openable": openable, "open": opened}
        if types.get(r, kind(names[r])) != kind(names[r]):  # a sink called bathtubbasin
            receptacles[names[r]]["type"] = types[r]
    objects = _objects(facts, names, locs)
    pairs = [(r.removesuffix("type"), o.removesuffix("type")) for r, o in facts["cancontain"]]
    places, things = sorted({types[r] for r in locs if r in types}), {kind(o) for o in objects}
    start = [number(names[at]) for _, at in facts["atlocation"]]
    words = _words(grammar)
    return {
        "env": "household", "id": task_id, "max_steps": 50,
        "goal": {**_goal(goal), "text": json.loads(f'"{task_line[1]}"')},
        "receptacles": receptacles, "objects": objects,
        "accepts": {t: sorted(o for r, o in pairs if r == t and o in things) for t in places},
        "start": start[0] if start else None, **({"grammar": words} if words else {})}  # fmt: skip

def _words(grammar: str) -> dict[str, str]:
    """Verb -> answer of the grammar's go, put and help, where it is not that of ANSWERS. TextWorld
    drops white space at an answer's start.
    """
    words = {}
    for action, template, feedback in _ACTIONS.findall(grammar):
        rule = re.search(rf'"{re.escape(feedback[1:-1])}":\s*\[\s*{{\s*"rhs": {_STRING}', grammar)
        answer = json.loads(f'"{rule[1] if rule else feedback}"', strict=False)
        answer = answer.lstrip().removesuffix(" #examineReceptacle.feedback#")
        for i, name in enumerate(("r", "lend") if action == "GotoLocation" else ("o", "r")):
            answer = answer.replace(f"{{{name}.name}}", f"{{{i}}}")
        known = action != "PutObject" or template in _PUTS
        if not known or re.search(r"[][#{}]", re.sub("{[01]}", "", answer)):
            raise ValueError(f"a grammar that is not supported: {template} -> {answer[:200]!r}")
        words[template.split()[0]] = answer
    return {verb: answer for verb, answer in words.items() if answer != ANSWERS.get(verb)}

def _names(ids: set[str]) -> dict[str, str]:
    """`mug_bar__plus_02_dot_56...` -> `mug 1`. The last id of a type in the alphabet is number 1.
    Scenery is counted too. If an id has "basin" in it, so has its name.
    """
    names, count = {}, Counter[str]()
    for x in sorted(ids, reverse=True):
        name = x.split("_bar_")[0] + "basin" * ("basin" in x)
        count[name] += 1
        names[x] = f"{name} {count[name]}"
    return names

def _objects(facts: Facts, names: dict[str, str], locs: dict[str, int]) -> dict[str, dict]:
    """What lies in a receptacle or can be sliced on the floor; all else is scenery."""
    objects: dict[str, dict] = {}
    lying = sorted((o, r) for o, r in facts["inreceptacle"] if r in locs)
    for o in sorted({o for o, _ in lying} | {o for (o,) in facts["sliceable"]}):
        places = [r for x, r in lying if x == o]
        traits = [trait for predicate, trait in _TRAITS.items() if (o,) in facts[predicate]]
        thing = objects[names[o]] = {"in": [names[r] for r in places], "traits": traits}
        if holds := sorted(x for x, outer in facts["inreceptacleobject"] if outer == o):
            thing["holds"] = [names[x] for x in holds]
        seen_from = {number(names[at]) for x, at in facts["objectatlocation"] if x == o}
        if "sliceable" in traits and seen_from != {locs[r] for r in places}:
            thing["at"] = sorted(seen_from)
    return objects

def _goal(pddl: str) -> dict:
    """Kind, object and target of a PDDL goal: one of ALFWorld's six shapes, sliced or not."""
    atoms = [(predicate, args.split()) for predicate, args in _ATOM.findall(pddl) if args]
    shape = sorted(p for p, _ in atoms if p not in ("sliceable", "issliced"))
    kinds = [name for name, predicates in _GOALS.items() if shape == sorted(predicates)]
    typed = {args[0]: args[-1].removesuffix("type") for p, args in atoms if p in _PLACED[1:]}
    roles, at = ("objecttype", "receptacletype"), 0
    if "look_at_obj_in_light" in kinds:  # two object types: the one held and the one switched
        roles, at = ("holds", "toggleable"), -1
    objects, targets = ({typed.get(args[at]) for p, args in atoms if p == role} for role in roles)
    if not kinds or len(objects) != 1 or len(targets) != 1 or re.search(r"\((or|forall)\b", pddl):
        raise ValueError(f"a goal of a kind that is not supported: {' '.join(pddl.split())[:300]}")
    sliced = {"sliced": True} if any(p == "issliced" for p, _ in atoms) else {}
    return {"kind": kinds[0], "object": objects.pop(), "target": targets.pop(), **sliced}
