"""What a reader of a HotPotQA trial knows (Notes), the reflections that it can write, and the judge
of what others write. Read `envs/observer.py` and `envs/hotpot/goals.py` first. A reflection is one
line of three parts; it may begin at the second:

    Notes: home of director of film Quietverse; director of Quietverse is Fernkin;
           home of Fernkin not read.
    Cause: I followed the composer of Quietverse, but the director of Quietverse is Fernkin.
    Plan: search Fernkin.

The other clause of a plan is `finish Oakton`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from envs.hotpot.goals import FACTS, NUMBERS, RELATIONS, Entity, Goal, Way, parse_goal, wanted
from envs.observer import Step, Verdict, carried_out, read_trial

Fact = tuple[str, str, str]  # relation, name, value
Plan = list[tuple[str, str]]  # clauses: (search or finish, a title or an answer)

_ACTION = re.compile(r"(search|lookup|finish|think)\s*\[(.*)\]", re.IGNORECASE | re.DOTALL)
PARAGRAPH = re.compile(rf"^The ({'|'.join(RELATIONS)}) (\w+) .*\.$", re.MULTILINE)
_VALUE = {r: r"the \d+th" if r in NUMBERS else r"\w+" for r in FACTS}
FACT = re.compile("|".join(form.format(f"(?P<{r}>{_VALUE[r]})") for r, form in FACTS.items()))

def one_line(text: str) -> str:
    return " ".join(text.split())

def parse_action(action: str) -> tuple[str, str]:
    """Verb (lower case) and what stands in its brackets; ("", "") if it is no action."""
    match = _ACTION.fullmatch(action.strip())
    return (match[1].lower(), one_line(match[2])) if match else ("", "")

class Path(NamedTuple):  # how far a way is known
    way: Way
    begun: int  # where on the way it begins
    facts: list[Fact]
    name: str  # what they lead to

    @property
    def level(self) -> int:
        return self.begun + len(self.facts)

    @property
    def done(self) -> bool:
        return self.level == len(self.way.relations)

    @property
    def names(self) -> list[str]:
        """Of the way's paragraphs, as far as known, from `begun` on."""
        return [name for _, name, _ in self.facts] + [self.name] * (not self.done)

    @property
    def last(self) -> Entity:
        """The next paragraph to read, or if all is read the last one."""
        return self.way.kinds[self.level - self.done], self.names[-1]

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str, goal: Goal | None = None):
        """`goal`: another one than the first observation states, which the trial did not pursue."""
        self.goal = parse_goal(observation) if goal is None else goal
        self.pursued = goal is None
        self.facts: dict[Entity, dict[str, str]] = {}  # in the order of reading
        self.searched: list[str] = []  # titles, each once
        self.last = ""  # the title searched last, "" if none was
        self.missing: list[str] = []  # searched titles that were not found
        self.offered: list[str] = []  # titles named as similar
        self.given: str | None = None  # the answer that ended the trial

    def read(self, action: str, reply: str) -> None:
        verb, words = parse_action(action)
        if verb == "finish":
            self.given = words
        if verb != "search":
            return
        self.last = words
        self.searched += [words] * (words not in self.searched)
        if match := re.search(r"Could not find (.*)\. Similar: (.*)\.$", reply):
            self.missing += [words] * (words not in self.missing)
            self.offered += [t for t in match[2].split(", ") if t not in self.offered]
        elif match := PARAGRAPH.search(reply):
            found = {r: f[r] for f in FACT.finditer(reply) if (r := f.lastgroup)}
            self.facts.setdefault((match[1], match[2]), found)

    def known(self) -> list[Fact]:
        """All facts read."""
        return [(r, name, v) for (_, name), facts in self.facts.items() for r, v in facts.items()]

    @property
    def found(self) -> list[str]:
        return [title for title in self.searched if title not in self.missing]

    def title(self, entity: Entity) -> str:
        """The title to search for, as far as known."""
        long = f"{entity[1]} ({entity[0]})"
        return long if long in [*self.offered, *self.found] else entity[1]

    def path(self, way: Way, begun: int = 0, name: str = "") -> Path:
        """How far a way is known from its start, or from another `name` on it."""
        name, facts = name or way.start[1], list[Fact]()
        for kind, relation in list(zip(way.kinds, way.relations))[begun:]:
            if (value := self.facts.get((kind, name), {}).get(relation)) is None:
                break
            facts.append((relation, name, value))
            name = value
        return Path(way, begun, facts, name)

    def paths(self) -> list[Path]:
        """How far each way is known: from its start, or if the trial itself began further on, by an
        earlier plan, from there.
        """
        paths = [self.path(way) for way in self.goal.ways]
        first = next(iter(self.facts), ("", ""))
        begun = any(path.facts or path.way.start[1] == first[1] for path in paths)
        if begun or not self.pursued:
            return paths
        read, further = list(self.facts), list[Path]()
        for path in paths:
            kinds = path.way.kinds
            found = next((entity for entity in read if entity[0] in kinds[1:-1]), None)
            if found and (further or found == first):
                read.remove(found)
                path = self.path(path.way, kinds.index(found[0], 1), found[1])
            further.append(path)
        # if they lead to the answer that was wrong, then that plan was
        return further if self.given is None or self.given != self.answer(further) else paths

    def answer(self, paths: list[Path]) -> str | None:
        """What the facts lead to; None if not all were read."""
        if not paths or not all(path.done for path in paths):
            return None
        if not self.goal.order:
            return paths[0].name
        if self.goal.order == "same":
            return "yes" if len({path.name for path in paths}) == 1 else "no"
        return min(paths, key=self.rank).last[1]

    def rank(self, path: Path) -> int:
        """The place of a path that is done in the order that is asked for; less is better."""
        number = int(path.name[4:-2])
        return number if self.goal.order == "first" else -number

    def compared(self, other: str) -> bool:
        """Was the answer found by comparing this number of the towns, instead of the asked one?"""
        if self.goal.order in ("", "same") or other not in {*NUMBERS} - {self.goal.relation}:
            return False
        ends = [self.path(p.way.before().on(other), p.begun, p.names[0]) for p in self.paths()]
        tied = len({end.name for end in ends}) < len(ends)
        return self.given is not None and self.answer(ends) == self.given and not tied

    def left(self, paths: list[Path]) -> list[Path]:
        """The paths that may lead to the answer: an answer given was wrong, and of the towns read
        only the best can be right. All of them, if too little is known.
        """
        if self.goal.order not in ("first", "last"):
            return paths
        best = min((self.rank(path) for path in paths if path.done), default=0)
        left = [path for path in paths if path.names[-1] != self.given
                and not (path.done and self.rank(path) > best)]  # fmt: skip
        return left if len(left) > 1 or (left and left[0].last[0] == "town") else paths

    def followed(self, name: str) -> bool:
        return any(title.partition(" (")[0] == name for title in self.searched)

    def leads_to(self, title: str, entity: Entity) -> bool:
        """Does a search find this paragraph, as far as known?"""
        own, long = self.title(entity), f"{entity[1]} ({entity[0]})"
        return title in (own, own if own in [*self.offered, *self.searched] else long)

    def is_due(self, title: str) -> bool:
        """Is this the next paragraph on a way, as far as known?"""
        return any(self.leads_to(title, path.last) for path in self.paths() if not path.done)

    def on_way(self, fact: Fact) -> bool:
        return any(fact in path.facts for path in self.paths())

    def astray(self) -> list[str]:
        """Names of the paragraphs read that are on no way."""
        on_way = {e for p in self.paths() for e in zip(p.way.kinds[p.begun :], p.names)}
        return [entity[1] for entity in self.facts if entity not in on_way]

    def ended(self) -> str:
        return "I had no step left" if self.given is None else f"I answered {self.given}"

def notes(observation: str, steps: list[Step]) -> list[str]:
    """The facts that cause and plan need: what is asked, then each way, fact by fact."""
    return noted(read_trial(Notes(observation), steps))

def noted(trial: Notes) -> list[str]:
    found = [wanted(trial.goal)] if trial.goal.ways else []
    for path in trial.paths():
        found += [f"{relation} of {name} is {value}" for relation, name, value in path.facts]
        if not path.done:
            found.append(f"{path.way.relations[path.level]} of {path.name} not read")
    return list(dict.fromkeys(found))

# ---- Plans.
def parse_plan(reflection: str) -> Plan:
    """Clauses of the plan: (verb, words)."""
    clause = r"(?:^|, )(search|finish) (.+?)(?=, (?:search|finish) |\.?$)"
    return re.findall(clause, reflection.partition("Plan: ")[2])

def command(verb: str, words: str) -> str:
    """A clause's action. Blanks inside the brackets give a name the same tokens as elsewhere."""
    return f"{verb.capitalize()}[ {words} ]"

def follows(reflection: str, steps: list[Step]) -> bool:
    return carried_out(parse_plan(reflection), steps, lambda action, c: parse_action(action) == c)

def write_reflection(cause: str, plan: Plan, known: list[str] | None = None) -> str:
    """`known`: the notes, None if it states none."""
    begun = f"Notes: {'; '.join(known)}. " if known else ""
    return f"{begun}Cause: {cause} Plan: {', '.join(f'{verb} {words}' for verb, words in plan)}."

# ---- The oracle.
def oracle_reflection(observation: str, steps: list[Step]) -> str:
    return reflect_on(read_trial(Notes(observation), steps))

def reflect_on(trial: Notes) -> str:
    """The reflection that follows from the facts of a trial."""
    return write_reflection(*cause_and_plan(trial), noted(trial))

def cause_and_plan(trial: Notes) -> tuple[str, Plan]:
    if not trial.goal.ways:  # of a real question only the titles offered are known
        title = next((t for t in trial.offered if t not in trial.searched), "the topic")
        return "I did not find the answer.", [("search", title)]
    paths, given = trial.paths(), trial.given
    if (answer := trial.answer(paths)) is not None:
        return _not_answered(trial, paths, answer), [("finish", answer)]
    cause = next(_not_read(trial, path) for path in paths if not path.done)
    if trial.goal.order == "same" and given in ("yes", "no"):
        return cause, [("finish", "no" if given == "yes" else "yes")]
    left = trial.left(paths)
    if trial.goal.order and len(left) == 1:
        return cause, [("finish", left[0].names[-1])]
    return cause, [("search", trial.title(path.last)) for path in left]

def _not_read(trial: Notes, path: Path) -> str:
    """What the trial did in place of reading the next paragraph of a way."""
    (kind, name), title = path.last, trial.title(path.last)
    for other, same in trial.facts:
        if same == name and other != kind:
            return f"I read the {other} {name}, but the {kind} {name} was asked."
    if path.facts:
        relation, subject, _ = path.facts[-1]
        so = f"but the {relation} of {subject} is {name}."
        if trial.given == name:
            return f"I answered {name}, but it is only the {relation} of {subject}."
        for other, value in trial.facts[path.way.kinds[path.level - 1], subject].items():
            if value == trial.given:
                return f"I answered the {other} of {subject}, {so}"
            if value != name and trial.followed(value):
                return f"I followed the {other} of {subject}, {so}"
        if (last := [*trial.facts][-1][1]) in trial.astray():
            return f"I went on from {last}, {so}"
    if trial.given is None and trial.missing:
        return f"I did not read {title}, but searched {trial.missing[-1]}, which is no title."
    if trial.goal.order and trial.given is not None:
        return f"I guessed {trial.given} without having read {title}."
    return f"{trial.ended()}, but did not read {title}."

def _not_answered(trial: Notes, paths: list[Path], answer: str) -> str:
    """What a trial that read all said in place of the answer."""
    given, order = trial.given, trial.goal.order
    if order:
        for other in NUMBERS:
            if trial.compared(other):
                return f"I compared the {other}, but the answer is {answer}."
        return f"{trial.ended()}, but the answer is {answer}."
    relation, subject, _ = paths[0].facts[-1]
    so = f"but the {relation} of {subject} is {answer}."
    for other, name, value in trial.known():
        if value == given and name == subject:
            return f"I answered the {other} of {subject}, {so}"
        if value == given and name in paths[0].names:
            return f"I answered {given}, but it is only the {other} of {name}."
        if value == given and name in trial.astray():
            return f"I went on from {name}, {so}"
    return f"{trial.ended()}, {so}"

# ---- The judge.
CLAIMS: tuple[tuple[str, str, Callable], ...] = (  # part of a cause, its kind, is it shown?
    (r"I had no step left", "no step left", lambda t: t.given is None),
    (r"I answered the (\w+) of (\w+)", "wrong fact", lambda t, *fact: (
        (*fact, t.given) in t.known() and not t.on_way((*fact, t.given)))),
    (r"I answered (.*)", "wrong answer", lambda t, words: t.given == words),
    (r"I compared the (\w+)", "wrong comparison", lambda t, other: t.compared(other)),
    (r"I followed the (\w+) of (\w+)", "wrong relation", lambda t, *fact: any(
        t.followed(known[2]) for known in t.known()
        if known[:2] == fact and not t.on_way(known))),
    (r"I went on from (\w+)", "wrong paragraph", lambda t, name: name in t.astray()),
    (r"I read the (\w+) (\w+)", "wrong sense", lambda t, *entity: entity in t.facts),
    (r"the (\w+) (\w+) was asked", "", lambda t, *entity: any(
        entity == path.last for path in t.paths() if not path.done)),
    (r"I guessed (.*) without having read (.*)", "guess", lambda t, words, title: (
        t.goal.order != "" and t.given == words and t.is_due(title))),
    (r"(?:I )?did not read (.*)", "not read", lambda t, title: t.is_due(title)),
    (r"searched (.*)", "", lambda t, title: title in t.missing),
    (r"is no title", "no title", lambda t: t.missing != []),
    (r"it is only the (\w+) of (\w+)", "only a step", lambda t, relation, name: (
        (relation, name, t.given) in t.known() and any(name in p.names for p in t.paths()))),
    (r"the (\w+) of (\w+) is (the \w+|\w+)", "", lambda t, *fact: (
        fact in [p.facts[-1] for p in t.paths() if p.facts])),
    (r"the answer is (\w+)", "", lambda t, words: words == t.answer(t.paths())),
    (r"I did not find the answer", "no answer", lambda t: True),
)  # fmt: skip
_SENSE = re.compile(r" \((film|novel|song|artist|town)\)$")

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """cause: True if the trial shows all that it says; a fact must be the last one known on a way
    of the question, a paragraph not read one that was next. sound: from the plan on, the trial's
    number of steps suffices for the answer; or it is that answer, as far as the facts tell. place:
    facts that the cause states are in the paragraphs. notes: each is true, none of `notes` is
    left out. Of a real question only `kind` and the plan's `invented` are told.
    """
    trial = read_trial(Notes(observation), steps)
    known, told, rest = reflection.partition("Cause: ")
    known, rest = (known, rest) if told else ("", reflection)
    cause, _, rest = rest.partition("Plan: ")
    kind, true = _cause(trial, cause.strip().removesuffix("."))
    plan = parse_plan("Plan: " + rest.partition(" Plan: ")[0])
    names = [words for _, words in plan if words not in ("yes", "no", "the topic")]
    names += re.findall(r"\b(?!I\b)[A-Z]\w*", cause) if trial.goal.ways else []
    text = " ".join([observation, *sum(steps, ())])
    plain = [re.escape(_SENSE.sub("", name)) for name in names]
    invented = any(not re.search(rf"(?<!\w){name}(?!\w)", text) for name in plain)
    if not trial.goal.ways:
        return Verdict(kind, invented=invented if plan else None)
    facts = re.findall(r"(\w+) of (\w+) is (the \w+|\w+)", cause)
    place = all(fact in trial.known() for fact in facts) if facts else None
    sound = _leads(trial, plan, cause_and_plan(trial)[1], len(steps))
    return Verdict(kind, true, sound, place, invented, _right(trial, known))

def _right(trial: Notes, stated: str) -> bool | None:
    """Are the notes true and complete?"""
    if not stated.strip():
        return None
    facts = {*stated.strip().removeprefix("Notes: ").removesuffix(".").split("; ")}
    needed = {*noted(trial)}
    return needed <= facts <= needed | {f"{r} of {name} is {v}" for r, name, v in trial.known()}

def _cause(trial: Notes, stated: str) -> tuple[str, bool | None]:
    """Kind and truth of a cause, whose parts are each looked up among the claims."""
    kind, shown = "", []
    for part in re.split(r", (?:but|which) ", stated):
        for pattern, own, shows in CLAIMS:
            if match := re.fullmatch(pattern, part):
                kind = own or kind
                shown.append(not trial.goal.ways or shows(trial, *match.groups()))
                break
        else:
            return "", None
    return kind, all(shown) if trial.goal.ways else None

def _leads(trial: Notes, plan: Plan, best: Plan, n_steps: int) -> bool:
    """Does a plan lead where the oracle's does? What follows an answer is never done."""
    if answers := [clause for clause in plan if clause[0] == "finish"]:
        return answers[0] in best
    paths = trial.paths()
    if best[0][0] == "search":  # those that are left, and the steps that the oracle's plan takes
        n_steps = max(n_steps, _cost(trial, trial.left(paths), best) or 0)
        paths = trial.left(paths)
    cost = _cost(trial, paths, plan if trial.goal.order else plan[-1:])
    return cost is not None and cost + (0 if trial.goal.order else len(plan) - 1) <= n_steps

def _cost(trial: Notes, paths: list[Path], plan: Plan) -> int | None:
    """Steps up to the answer, if a plan leads to a paragraph of each path; else None."""
    total = len(plan) + 1
    for path in paths:
        entities = list(zip(path.way.kinds[path.begun :], path.names))
        led = [i for i, e in enumerate(entities) if any(trial.leads_to(w, e) for _, w in plan)]
        if not led:
            return None
        total += len(path.way.relations) - 1 - path.begun - led[-1]
    return total

# ---- Constant plans: rules on the order of the titles in the trial, whatever went wrong.
def _template(pick: Callable, verb: str = "search") -> Callable[[str, list[Step]], str]:
    """`pick`: (trial, titles found) -> words of the plan."""
    def write(observation: str, steps: list[Step]) -> str:
        trial = read_trial(Notes(observation), steps)
        words = pick(trial, trial.found) or [*trial.found, *trial.offered, "the topic"][:1]
        return write_reflection("I did not find the answer.", [(verb, w) for w in words])
    return write

def _names(trial: Notes) -> list[str]:
    return [value for relation, _, value in trial.known() if relation not in NUMBERS]

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {
    "last": _template(lambda trial, found: found[-1:]),
    "last two": _template(lambda trial, found: found[-2:]),
    "first": _template(lambda trial, found: found[:1]),
    "second": _template(lambda trial, found: found[1:2]),
    "all": _template(lambda trial, found: found),
    "first offered": _template(lambda trial, _: trial.offered[:1]),
    "unread": _template(lambda trial, _: [t for t in trial.offered if t not in trial.searched][:1]),
    "second name": _template(lambda trial, _: _names(trial)[1:2]),
    "third name": _template(lambda trial, _: _names(trial)[2:3]),
    "unread name": _template(
        lambda trial, _: [name for name in _names(trial) if not trial.followed(name)][:1]),
    "given": _template(lambda trial, found: [trial.given] if trial.given else found[-1:]),
    "last name": _template(lambda trial, _: _names(trial)[-1:], "finish"),
}
