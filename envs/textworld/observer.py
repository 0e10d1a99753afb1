"""What a reader of a trial knows (Notes), the plan that follows from it, and the judge of what
others write. Read `envs/observer.py` first. Coin: where rooms lie, which of them were not entered.
Common sense: where a thing belongs, since the score went up, and where it does not.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial

from envs.observer import Step, Verdict, read_trial

UP, DOWN = " Your score went up.", " Your score went down."
BACK = {"north": "south", "south": "north", "east": "west", "west": "east"}
FIXED = ("stove", "oven", "toilet", "bath mat")  # they hold nothing, and can't be taken
# nothing belongs there in the train fold's games; in the other folds something may
RARE = ("arm chair", "bath tub", "bench", "book case", "desk chair", "dining chair", "end table",
        "folding chair", "key holder", "night stand", "shower", "towel rack", "umbrella stand",
        "wall hook", "washing machine", "work table")  # fmt: skip
SEEN = re.compile(r"(?:room you see|There is also|You also see) an? ([^.,]+?)"
                  r"( that is closed|,? that has[^.]*)?\.")  # fmt: skip
PUT = re.compile(r"put (.+?) in ([^.,;]+)")
ROOM = re.compile(r"I (?:never went into|saw the coin in) the ([\w ]+?)(?: but .*)?\.$")
CLAUSE = re.compile(r"move \w+|take coin|put .+? in [^.,;]+")
KINDS = {"not taken": "did not take it", "not entered": "never went into", "not put": "never put",
         "wrong place": "does not belong", "too late": "too late"}  # of cause -> words of it
TOUR, TRIES = 9, 6  # moves of a plan; places that it tries for a thing

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str):
        self.ways: dict[str, dict[str, str]] = defaultdict(dict)  # room -> direction -> room
        self.entered, self.coin, self.held = list[str](), "", set[str]()
        self.right: dict[str, str] = {}  # thing -> where it belongs
        self.wrong: dict[str, list[str]] = defaultdict(list)  # thing -> where it does not
        seen = SEEN.findall(observation)
        self.places = [thing for thing, state in seen if state]
        self.closed = {thing for thing, state in seen if "closed" in state}
        self.is_coin = "find the coin" in observation
        loose = [thing for thing, state in seen if not state and thing not in FIXED]
        self.things = [] if self.is_coin else loose
        self.read("", observation)
        self.start = self.at

    def read(self, action: str, reply: str) -> None:
        if room := re.search(r"You are in the ([^.]+)\.", reply):
            self.at = room[1]
            self.entered += [self.at] * (self.at not in self.entered)
            self.coin = self.at if " a coin." in reply else self.coin
            for way, other in re.findall(r"To the (\w+) you see the ([^.]+)\.", reply):
                self.ways[self.at][way.lower()] = other
                self.ways[other][BACK[way.lower()]] = self.at
        elif reply.startswith("You put") and (put := PUT.fullmatch(action)):
            self.held.discard(put[1])
            if reply.endswith(UP):
                self.right[put[1]] = put[2]
            elif put[2] not in self.wrong[put[1]]:
                self.wrong[put[1]].append(put[2])
        elif reply.startswith("You take"):
            self.held.add(action.removeprefix("take "))
        elif reply.startswith(("You open", "You close")):
            self.closed ^= {action.partition(" ")[2]}

    def untried(self, thing: str) -> list[str]:
        """Places for a thing, the likely ones first."""
        left = [place for place in self.places if place not in self.wrong[thing]]
        return sorted(left, key=RARE.__contains__)

    def places_for(self, thing: str) -> list[str]:
        """Its own place if it is known, else those that were not tried."""
        return [self.right[thing]] if thing in self.right else self.untried(thing)

    def unentered(self) -> list[str]:
        return [room for room in self.ways if room not in self.entered]

    def way(self, start: str, goals: list[str]) -> list[tuple[str, str]]:
        """The shortest known way to the nearest of some rooms: (direction, room) by step."""
        ways, rooms = {start: list[tuple[str, str]]()}, [start]
        for room in rooms:
            if room in goals:
                return ways[room]
            for direction, other in self.ways[room].items():
                if other not in ways:
                    ways[other] = [*ways[room], (direction, other)]
                    rooms.append(other)
        return []

    def tour(self) -> list[tuple[str, str]]:
        """To the coin; if nobody saw it, through the rooms not entered, the nearest first."""
        tour, at = list[tuple[str, str]](), self.start
        left = [self.coin] if self.coin else self.unentered()
        while leg := self.way(at, left):
            tour, at = tour + leg, leg[-1][1]
            left.remove(at)
        return tour[:TOUR]

def write_notes(n: Notes) -> list[str]:
    """What is wanted; where it is or was not looked for; the way, or where things belong."""
    if n.is_coin:
        found = f"coin in {n.coin}" if n.coin else f"not entered: {', '.join(n.unentered())}"
        way = ", ".join(f"{direction} {room}" for direction, room in n.tour())
        return ["take coin", found, f"from {n.start}: {way or 'no way'}"]
    return [f"put away {', '.join(n.things)}", *(
        f"{thing} in {n.right[thing]}" if thing in n.right
        else f"{thing} not in {', '.join(n.wrong[thing])}" if n.wrong[thing]
        else f"{thing} never put" for thing in n.things)]  # fmt: skip

def plan(n: Notes) -> list[str]:
    """The clauses that lead from a trial's start to the goal, as far as the trial shows: actions,
    with `or` between places.
    """
    if n.is_coin:
        return [*(f"move {way}" for way, _ in n.tour()), "take coin"]
    return [f"put {thing} in {' or '.join(n.places_for(thing)[:TRIES])}" for thing in n.things]

def causes(n: Notes) -> dict[str, str]:
    """All true ones: sentence -> kind; the root cause comes first."""
    said = {f"I saw the coin in the {n.coin} but did not take it.": "not taken"} if n.coin else {}
    if n.is_coin and not n.coin:
        toured = [room for _, room in n.tour() if room not in n.entered]
        rooms = dict.fromkeys([*toured, *n.unentered()])
        said |= {f"I never went into the {room}.": "not entered" for room in rooms}
    for thing in [thing for thing in n.things if thing not in n.right]:
        for place in n.wrong[thing][::-1]:
            said[f"The {thing} does not belong in the {place}."] = "wrong place"
        said |= {} if n.wrong[thing] else {f"I never put the {thing} anywhere.": "not put"}
    return said or {"I knew all too late.": "too late"}

def reflect_on(n: Notes) -> str:
    noted, clauses = "; ".join(write_notes(n)), ", ".join(plan(n))
    return f"Notes: {noted}. Cause: {next(iter(causes(n)))} Plan: {clauses}."

def notes(observation: str, steps: list[Step]) -> list[str]:
    return write_notes(read_trial(Notes(observation), steps))

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    return reflect_on(read_trial(Notes(observation), steps))

def parse_plan(reflection: str) -> list[str]:
    """Actions: each place of `put lip gloss in sink or shower` makes one."""
    said = CLAUSE.findall(reflection.partition("Plan: ")[2])
    places = [(clause.partition(" in ")[0], clause.partition(" in ")[2].split(" or "))
              for clause in said]  # fmt: skip
    return [" in ".join(filter(None, (verb, place))) for verb, own in places for place in own]

def follows(reflection: str, steps: list[Step]) -> bool:
    """A clause has nothing left to do once the coin is taken or the thing is where it belongs."""
    said, tried = parse_plan(reflection), {action for action, _ in steps}
    gained = " ".join(action for action, reply in steps if UP in reply)
    for put in filter(None, map(PUT.fullmatch, said)):
        if put[0] not in tried and f"put {put[1]} in" not in gained:
            return False
    moves = [clause for clause in said if clause.startswith("move ")]
    moved = [action for action, reply in steps if reply.startswith("You are in the ")
             and action.startswith("move ")]  # fmt: skip
    n = min(len(moves), len(moved))
    return bool(said) and moves[:n] == moved[:n] and bool(n or not moves)

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """`sound`: the plan enters a room that nobody entered, or takes the coin where it is; puts each
    thing where it belongs, or where nobody tried. `place`: nothing in a place known to be wrong, no
    step through a wall. `notes`: those that the oracle writes.
    """
    n, said = read_trial(Notes(observation), steps), parse_plan(reflection)
    noted, mark, rest = reflection.partition("Cause: ")
    stated = noted.removeprefix("Notes: ").rstrip(". ").split("; ")
    cause = (rest if mark else reflection).partition("Plan: ")[0].strip()
    kind = next((kind for kind, words in KINDS.items() if words in cause), "")
    rooms, puts = [n.start], [put.groups() for put in map(PUT.fullmatch, said) if put]
    for clause in said:
        if clause.startswith("move "):
            rooms.append(n.ways.get(rooms[-1], {}).get(clause.removeprefix("move "), ""))
    right = [place in n.places_for(thing) for thing, place in puts]
    if n.is_coin:
        known = rooms[: rooms.index("")] if "" in rooms else rooms
        sound = (not {*known} <= {*n.entered} if not n.coin
                 else rooms[-1] == n.coin and said[-1:] == ["take coin"])  # fmt: skip
    else:
        sound = all(right) and {thing for thing, _ in puts} >= {*n.things}
    shown = " ".join([observation, *(reply for _, reply in steps)])
    named = [name for put in puts for name in put] + ROOM.findall(cause)
    return Verdict(
        kind=kind,
        cause=cause in causes(n) if kind else None,
        sound=sound,
        place="" not in rooms if len(rooms) > 1 else all(right) if puts else None,
        invented=any(name not in shown for name in named),
        notes=stated == write_notes(n) if mark and noted.startswith("Notes: ") else None,
    )

def _template(rule: str, observation: str, steps: list[Step]) -> str:
    """By order alone. `exit`: first an exit of the first room that was not taken; each thing where
    it was put last. `end`: first where the trial ended; each thing in places without one.
    """
    n, done = read_trial(Notes(observation), steps), [action for action, _ in steps]
    exits = [way for way in (f"move {way}" for way in n.ways[n.start]) if way not in done][:1]
    if n.is_coin:
        said = exits if rule == "exit" else [f"move {way}" for way, _ in n.way(n.start, [n.at])]
    elif rule == "exit":
        said = list({put[1]: put[0] for put in map(PUT.fullmatch, done) if put}.values())
    else:
        free = [place for place in n.places if not any(a.endswith(f"in {place}") for a in done)]
        said = [f"put {thing} in {' or '.join(free[:TRIES])}" for thing in n.things if free]
    return f"Cause: I was too late. Plan: {', '.join(said) or 'look around'}."

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {
    rule: partial(_template, rule) for rule in ("exit", "end")}  # fmt: skip
