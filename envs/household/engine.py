"""ALFWorld's text game in plain Python. Read `envs/__init__.py` first. Written from the PDDL domain
and the grammar in every ALFWorld game file (Shridhar et al., ICLR 2021); it answers letter for
letter as the real engine does. Rules that common sense does not tell:

  - only the held object (one at a time) can be examined, cleaned, heated, cooled;
  - `heat` and `cool` work at a closed appliance, `use` and `slice` reach into closed receptacles;
  - `use` only ever turns on; `look` never shows what lies about;
  - receptacles may share a location: who goes to one stands at all of them;
  - an object may lie in two receptacles: taken from one, it still lies in the other.
"""

import os
import re
from collections import Counter
from random import Random

import envs.household.demonstrations as demonstrations
import envs.household.observer as observer
from envs import Environment
from envs.household.files import ANSWERS, load_games
from envs.household.tasks import generate_task, kind
from envs.observer import Step

ROOM = "You are in the middle of a room. Looking quickly around you, you see"
# The forms of all commands. `put` and `move` (ALFWorld >= 0.4) are both understood; the one of the
# game's own grammar is listed.
_FORMS = """look, inventory, help, go to {}, open {}, close {}, examine {}, take {} from {},
put {} in/on {}, move {} to {}, use {}, clean {} with {}, heat {} with {}, cool {} with {},
slice {} with {}"""
ACTIONS = {form.split()[0]: form for form in re.split(r",\s", _FORMS)}  # verb -> its form
_PATTERNS = {verb: re.compile(form.replace("{}", r"(\S+ \d+)")) for verb, form in ACTIONS.items()}
_REPLIES = {  # verb -> the grammar's sentence, where it does not depend on what is seen
    **ANSWERS, "move": "You move the {} to the {}.",
    "close": "You close the {}.", "take": "You pick up the {} from the {}.",
    "use": "You turn on the {}.", "slice": "You sliced the {} with the {}.",
    **{x: f"You {x} the {{}} using the {{}}." for x in ("clean", "heat", "cool")}}  # fmt: skip
# verb -> the state it gives, the state it ends. "on" is the PDDL's isToggled: never taken back.
EFFECTS = {"use": ("on", ""), "clean": ("clean", ""), "heat": ("hot", "cool"),
           "cool": ("cool", "hot"), "slice": ("sliced", "")}  # fmt: skip
APPLIANCES = {"clean": ("sink", "sinkbasin"), "heat": ("microwave",), "cool": ("fridge",)}
KNIVES = ("knife", "butterknife")

def listing(names: list[str], article: str = "a ") -> str:
    """Names with ALFWorld's punctuation: `nothing`, `a x`, `a x, and a y`, `a x, a y, and a z`."""
    *first, last = [article + name for name in names] or ["nothing"]
    return ", ".join([*first, f"and {last}"]) if first else last

class Household(Environment):
    """The contract is in `envs/__init__.py`, a task's schema in `load_game`.
    Actions       the forms of ACTIONS, exactly: case and inner spaces count, outer ones do not.
    Reward        1 at the step after which the goal holds, else 0.
    Progress      the largest share of the errand's stages done at once so far. Each object that is
                  asked for must be held, treated (if asked for) and placed; under a lamp the
                  stages are held and lit.
    """

    name = "household"
    observer, demonstrators = observer, demonstrations
    generate_task = staticmethod(generate_task)

    def __init__(self, games: str | os.PathLike | None = None, max_steps: int | None = None):
        """`games`: a folder of ALFWorld's games; tasks then come from it, not from the generator.
        `skipped`: how many of them ALFWorld would not play, and why (`load_games`).
        """
        super().__init__(max_steps)
        self.games: list[dict] = []
        self.skipped = Counter[str]()
        if games is not None:
            self.games, self.skipped = load_games(games)

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        """n generated tasks of a split; with `games`, at most n of these, of any split."""
        if not self.games:
            return super().tasks(split, n, seed)
        shuffled = [*self.games]
        Random(f"household {seed}").shuffle(shuffled)
        return shuffled[:n]

    def _start(self, task: dict) -> str:
        self.task, self.goal = task, task["goal"]
        self.replies = {**_REPLIES, **task.get("grammar", {})}
        self.unlisted = "put" if "move" in task.get("grammar", {}) else "move"
        self.receptacles, self.objects = task["receptacles"], task["objects"]
        self.types = {r: x.get("type") or kind(r) for r, x in self.receptacles.items()}
        objects = self.objects.items()
        self.contents = {r: [o for o, x in objects if r in x["in"]] for r in self.receptacles}
        self.states = {o: set(x["traits"]) for o, x in objects}  # traits, and what has been done
        locs = {r: x["loc"] for r, x in self.receptacles.items()}  # below: load_game explains `at`
        self.sliced_at = {o: set(x.get("at", [locs[r] for r in x["in"]])) for o, x in objects}
        self.opened = {r for r, x in self.receptacles.items() if x["open"]}
        self.loc: int | None = task["start"]
        self.held: str | None = None
        self.wanted = [o for o in self.objects if kind(o) == self.goal["object"]]
        self.targets = [r for r in self.receptacles if self.types[r] == self.goal["target"]]
        self.copies = 2 if self.goal["kind"] == "pick_two_obj_and_place" else 1
        treatment = self.goal["kind"].split("_")[1]  # pick_heat_then_place_in_recep: heat
        self.needed = {EFFECTS[treatment][0]} if treatment in APPLIANCES else set()
        self.needed |= {"sliced"} if self.goal.get("sliced") else set()
        self.n_stages = self.copies * (2 + len(self.needed))
        self.best = self._stages()
        return f"{ROOM} {listing([*self.receptacles])}.\n\nYour task is to: {self.goal['text']}"

    def _act(self, action: str) -> tuple[str, float, bool]:
        command, observation = action.strip(), "Nothing happens."
        verb = command.partition(" ")[0]
        match = _PATTERNS[verb].fullmatch(command) if verb in _PATTERNS else None
        if match and match.groups() in self._allowed(verb):
            observation = self._perform(verb, *match.groups())
            self.best = max(self.best, self._stages())
        won = self.best == self.n_stages
        return observation, int(won), won

    def glance(self, rng: Random) -> list[Step]:
        """Every receptacle, opened, in random order."""
        self.opened.update(self.receptacles)
        places = rng.sample(list(self.receptacles), len(self.receptacles))
        return [(f"examine {place}", self._view(place)) for place in places]

    def admissible_actions(self) -> list[str]:
        """Every command that is not answered with "Nothing happens.", sorted."""
        verbs = [verb for verb in ACTIONS if verb != self.unlisted]
        return sorted({ACTIONS[v].format(*args) for v in verbs for args in self._allowed(v)})

    def _here(self) -> list[str]:
        """The receptacles the player stands at: none in the middle of the room."""
        return [r for r, x in self.receptacles.items() if x["loc"] == self.loc]

    def _allowed(self, verb: str) -> list[tuple[str, ...]]:
        """The PDDL's preconditions: what `verb` applies to now, as tuples that fill its form."""
        if verb in ("look", "inventory", "help"):
            return [()] if verb != "help" or verb in self.replies else []
        here, held, states = self._here(), self.held, self.states
        if verb == "go":  # not to where one stands already, under any name
            return [(r,) for r in self.receptacles if r not in here]
        if verb == "examine":
            return [(x,) for x in (*here, held) if x]
        if verb == "use":
            return [(o,) for r in here for o in self.contents[r] if "toggleable" in states[o]]
        openable = [r for r in here if self.receptacles[r]["openable"]]
        if verb in ("open", "close"):
            return [(r,) for r in openable if (r in self.opened) == (verb == "close")]
        accessible = [r for r in here if r in self.opened or r not in openable]
        if verb == "take":
            things = [(o, r) for r in accessible for o in self.contents[r]]
            return [(o, r) for o, r in things if not held and "pickupable" in states[o]]
        if not held:  # all that follows is done with the held object
            return []
        if verb in ("put", "move"):
            accepts = self.task["accepts"]
            return [(held, r) for r in accessible if kind(held) in accepts.get(self.types[r], [])]
        if verb == "slice":
            near = [o for o in self.objects if self.loc in self.sliced_at[o]]
            return [(o, held) for o in near if kind(held) in KNIVES and "sliceable" in states[o]]
        appliances = [r for r in here if self.types[r] in APPLIANCES[verb]]
        return [(held, r) for r in appliances if f"{verb}able" in states[held]]

    def _perform(self, verb: str, x: str = "", y: str = "") -> str:
        """The PDDL's effects, and the answer in the grammar's words."""
        if verb == "help":
            return self.replies[verb]
        if verb == "look":  # the engine lists the room's receptacles in the first observation only
            here = self._here()
            facing = f"You are facing the {listing(here, '')}. Next to it, you see"
            return f"{facing if here else ROOM} nothing."
        if verb == "inventory":
            carried = f"carrying: a {self.held}" if self.held else "not carrying anything"
            return f"You are {carried}."
        if verb == "examine":
            return self._view(x) if x in self.receptacles else self._looks(x)
        if verb == "go":
            self.loc = self.receptacles[x]["loc"]
            return f"{self.replies[verb].format(x, f'loc {self.loc}')} {self._view(x)}"
        if verb == "open":
            self.opened.add(x)
            return f"You open the {x}. {self._view(x)}"
        if verb == "close":
            self.opened.remove(x)
        elif verb == "take":
            self.contents[y].remove(x)
            self.sliced_at[x].discard(self.loc)
            self.held = x
        elif verb in ("put", "move"):
            lying = {x, *self.contents[y]}  # x may have lain here as well
            self.contents[y] = [o for o in self.objects if o in lying]  # the task's order
            self.sliced_at[x].add(self.loc)
            self.held = None
        else:
            given, ended = EFFECTS[verb]
            self.states[x].add(given)
            self.states[x].discard(ended)
        return self.replies[verb].format(x, y)

    def _view(self, r: str) -> str:
        """What can be seen of a receptacle, wherever the player stands."""
        if self.receptacles[r]["openable"] and r not in self.opened:
            return f"The {r} is closed."
        start = f"The {r} is open. In it" if self.receptacles[r]["openable"] else f"On the {r}"
        return f"{start}, you see {listing(self.contents[r])}."

    def _looks(self, o: str) -> str:
        state = self.states[o]
        if "isreceptacle" in state:
            holds = self.objects[o].get("holds", [])
            return f"This is a normal {o}. In it, you see {listing(holds)}."
        looks = " and ".join(word for word in ("hot", "cool", "clean") if word in state)
        if "sliced" in state:
            looks = f"{looks} sliced".lstrip()
        elif looks == "cool":
            looks = "cold"  # the grammar's word where it is the only one
        return f"This is a {looks} {o}." if looks else f"There's nothing special about {o}."

    def _stages(self) -> int:
        """How many of the errand's n_stages the present state has behind it."""
        held = self.held in self.wanted
        if self.goal["kind"] == "look_at_obj_in_light":
            lamps = [o for r in self._here() for o in self.contents[r]]
            lit = any(kind(o) == self.goal["target"] and "on" in self.states[o] for o in lamps)
            return held + (held and lit)
        ready = {o for o in self.wanted if self.needed <= self.states[o]}
        placed = max((len(ready.intersection(self.contents[r])) for r in self.targets), default=0)
        if placed >= self.copies:  # both objects in the same receptacle, if two are asked for
            return self.n_stages
        under_way = 1 + len(self.needed & self.states[self.held]) if held else 0
        return placed * self.n_stages // self.copies + under_way

    def info(self) -> dict:
        return {"success": self.best == self.n_stages, "progress": self.best / self.n_stages}
