"""Count how ALFWorld's rooms are furnished, and write `furniture.json` for the generator anew:

    python -m envs.household.furniture json_2.1.1/valid_train

Count training games alone, or training has seen the rooms of the evaluation.

  rooms   room -> share of the games; of this room's games:
          goals        kind -> share of them
          receptacles  type -> share with any; least, median and most of them, where there are any
          objects      type -> share with any; mean number, where there are any; receptacle type ->
                       how many lie there (what lies in two receptacles counts twice)
  together  of the receptacles, but the first of each type in a room, the share that stands where
            another of its type does: who goes to one stands at both
  accepts, openable, traits    what the games say of the types; openable: share of the receptacles

Left out: types in less than FEW of a room's games, homes of a single object, and objects that can
be neither picked up nor switched on.
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

from envs.household.files import find_games, load_game
from envs.household.tasks import kind

FEW = 0.05
ROOMS = {"kitchen": "stoveburner", "livingroom": "sofa", "bedroom": "bed", "bathroom": "toilet"}
TRAITS = "pickupable cleanable heatable coolable toggleable sliceable isreceptacle".split()

def furniture(games: list[dict]) -> dict:
    """The content of `furniture.json`, from tasks that `load_game` gives."""
    typed = [{r: x.get("type") or kind(r) for r, x in g["receptacles"].items()} for g in games]
    rooms = {}
    for room, mark in ROOMS.items():
        inside = [(g, types) for g, types in zip(games, typed) if mark in types.values()]
        rooms[room] = {"share": round(len(inside) / len(games), 2), **_room(inside)}
    places, things = ({x for room in rooms.values() for x in room[part]}
                      for part in ("receptacles", "objects"))  # fmt: skip
    accepts = {(r, o) for g in games for r, objects in g["accepts"].items() for o in objects}
    traits = {(t, kind(o)) for g in games for o, x in g["objects"].items() for t in x["traits"]}
    boxes = Counter((types[r], x["openable"]) for g, types in zip(games, typed)
                    for r, x in g["receptacles"].items() if types[r] in places)  # fmt: skip
    spots = [Counter((types[r], x["loc"]) for r, x in g["receptacles"].items())
             for g, types in zip(games, typed)]  # fmt: skip
    joint = sum(n - 1 for counts in spots for n in counts.values())
    later = sum(len(types) - len({*types.values()}) for types in typed)
    return {
        "about": f"How {len(games)} of ALFWorld's games are furnished. See furniture.py.",
        "together": round(joint / max(later, 1), 2),
        "rooms": rooms,
        "accepts": {r: sorted(o for o in things if (r, o) in accepts) for r in sorted(places)},
        "openable": {t: round(n / (n + boxes[t, False]), 2)
                     for (t, openable), n in sorted(boxes.items()) if openable},
        "traits": {t: sorted(o for o in things if (t, o) in traits) for t in TRAITS}}  # fmt: skip

def _room(inside: list[tuple[dict, dict]]) -> dict:
    """Receptacles and objects of one room's games, each with the types of its receptacles."""
    lying = [[(kind(o), types[r]) for o, x in game["objects"].items() for r in x["in"]
              if {"pickupable", "toggleable"}.intersection(x["traits"])]
             for game, types in inside]  # fmt: skip
    homes = Counter(pair for pairs in lying for pair in pairs)
    kinds = Counter(game["goal"]["kind"] for game, _ in inside)
    goals = {k: round(n / len(inside), 3) for k, n in kinds.most_common()}
    receptacles, objects = {}, {}
    for t, ns in _usual([Counter(types.values()) for _, types in inside]):
        receptacles[t] = [round(len(ns) / len(inside), 2), ns[0], ns[len(ns) // 2], ns[-1]]
    for t, ns in _usual([Counter(o for o, _ in pairs) for pairs in lying]):
        found = sorted((-n, r) for (o, r), n in homes.items() if o == t and r in receptacles)
        share, mean = round(len(ns) / len(inside), 2), round(sum(ns) / len(ns), 1)
        objects[t] = [share, mean, {r: -n for n, r in found if n < -1}]
    return {"goals": goals, "receptacles": receptacles, "objects": objects}

def _usual(rooms: list[Counter]) -> list[tuple[str, list[int]]]:
    """Each type that is not rare, with its numbers in the rooms that have any, sorted."""
    types = sorted({t for room in rooms for t in room})
    numbers = [(t, sorted(room[t] for room in rooms if t in room)) for t in types]
    return [(t, ns) for t, ns in numbers if len(ns) >= FEW * len(rooms)]

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m envs.household.furniture FOLDER_OF_TRAINING_GAMES")
    content = furniture([load_game(path) for path in find_games(sys.argv[1])])
    rows = re.sub(r"\[.*?\]", lambda m: json.dumps(json.loads(m[0])), json.dumps(content, indent=1),
                  flags=re.DOTALL)  # fmt: skip
    Path(__file__).with_suffix(".json").write_text(rows + "\n", encoding="utf-8")
