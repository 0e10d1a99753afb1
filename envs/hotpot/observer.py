"""What a reader of a HotPotQA trial knows (Notes), and the plans that it can write. Read
`envs/observer.py` first. A reflection is one line: what went wrong, then `Plan: ` and clauses, such
as `search Quietverse (film), finish Greyton`.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from envs.hotpot.tasks import RELATIONS
from envs.observer import Step, Verdict, carried_out, read_trial

Entity = tuple[str, str]  # (kind, name)
Plan = list[tuple[str, str]]  # clauses: (search or finish, a title or an answer)

_ACTION = re.compile(r"(search|lookup|finish|think)\s*\[(.*)\]", re.IGNORECASE | re.DOTALL)
PARAGRAPH = re.compile(r"^The (film|novel|song|artist|town) (\w+) .*\.$", re.MULTILINE)
FACT = re.compile(
    r"directed by (?P<director>\w+)|music by (?P<composer>\w+)|written by (?P<author>\w+)"
    r"|drawings by (?P<illustrator>\w+)|sung by (?P<singer>\w+)|words by (?P<poet>\w+)"
    r"|born in (?P<birthplace>\w+)|lives in (?P<home>\w+)|in the land (?P<land>\w+)"
    r"|on the river (?P<river>\w+)|founded in (?P<century>the \d+th)"
)

def one_line(text: str) -> str:
    return " ".join(text.split())

def parse_action(action: str) -> tuple[str, str]:
    """Verb (lower case) and what stands in its brackets; ("", "") if it is no action."""
    match = _ACTION.fullmatch(action.strip())
    return (match[1].lower(), one_line(match[2])) if match else ("", "")

class Goal(NamedTuple):  # facts along a chain from one start, or one fact of two starts compared
    starts: tuple[Entity, ...]  # empty if the question is not of a made-up world
    relations: tuple[str, ...]  # in the order of reading
    kinds: tuple[str, ...]  # of the paragraphs with these relations
    answers: tuple[str, ...] = ()  # the possible ones of a comparison

def parse_goal(text: str) -> Goal:
    """The goal in a first observation."""
    relation = "birthplace" if re.search(r"\bborn\b|\bbirthplace\b", text) else "home"
    if match := re.search(r"(?:first|older), (\w+) or (\w+)\?", text):
        starts = ("town", match[1]), ("town", match[2])
        return Goal(starts, ("century",), ("town",), (match[1], match[2]))
    if match := re.search(r"the artists (\w+) and (\w+) (?:born|live) in the same town", text):
        starts = ("artist", match[1]), ("artist", match[2])
        return Goal(starts, (relation,), ("artist",), ("yes", "no"))
    relations = (relation, *[r for r in RELATIONS["town"] if re.search(rf"\b{r}\b", text)][:1])
    kinds = ("artist", "town")[: len(relations)]
    if match := re.search(r"the (\w+) of the (film|novel|song) (\w+)", text):
        return Goal(((match[2], match[3]),), (match[1], *relations), (match[2], *kinds))
    match = re.search(r"the artist (\w+)", text)
    return Goal((("artist", match[1]),), relations, kinds) if match else Goal((), (), ())

class Notes:  # facts of one trial so far; the contract is `envs.observer.Reader`
    def __init__(self, observation: str):
        self.goal = parse_goal(observation)
        self.facts: dict[Entity, dict[str, str]] = {}  # in the order of reading
        self.searched: list[str] = []  # titles, each once
        self.missing: list[str] = []  # searched titles that were not found
        self.offered: list[str] = []  # titles named as similar
        self.given: str | None = None  # the answer that ended the trial

    def read(self, action: str, reply: str) -> None:
        verb, words = parse_action(action)
        if verb == "finish":
            self.given = words
        if verb != "search":
            return
        self.searched += [words] * (words not in self.searched)
        if match := re.search(r"Could not find (.*)\. Similar: (.*)\.$", reply):
            self.missing += [words] * (words not in self.missing)
            self.offered += [t for t in match[2].split(", ") if t not in self.offered]
        elif match := PARAGRAPH.search(reply):
            found = {r: f[r] for f in FACT.finditer(reply) if (r := f.lastgroup)}
            self.facts.setdefault((match[1], match[2]), found)

    def title(self, entity: Entity) -> str:
        """The title to search for, as far as known."""
        long = f"{entity[1]} ({entity[0]})"
        found = [t for t in self.searched if t not in self.missing]
        return long if long in [*self.offered, *found] else entity[1]

    def walk(self, trusted: tuple[int, str] | None = None) -> tuple[int, str]:
        """How far the question's chain is known: (number of facts, the name that they lead to).
        The walk begins at the question's start, or at `trusted`, which is such a pair too.
        """
        level, name = trusted or (0, self.goal.starts[0][1])
        for kind, relation in list(zip(self.goal.kinds, self.goal.relations))[level:]:
            known = self.facts.get((kind, name), {})
            if relation not in known:
                break
            level, name = level + 1, known[relation]
        return level, name

    def compared(self) -> str | None:
        """The answer to a comparison; None if the facts were not read."""
        relation = self.goal.relations[0]
        a, b = (self.facts.get(start, {}).get(relation) for start in self.goal.starts)
        if a is None or b is None:
            return None
        first = int(a[4:-2]) < int(b[4:-2]) if relation == "century" else a == b
        return self.goal.answers[0 if first else 1]

    def unread(self) -> list[str]:
        """The compared names whose paragraphs were not read."""
        return [start[1] for start in self.goal.starts if start not in self.facts]

    def known(self) -> list[tuple[str, str, str]]:
        """All facts read: (relation, name, value)."""
        return [(r, name, v) for (_, name), facts in self.facts.items() for r, v in facts.items()]

    def ended(self) -> str:
        return "I had no step left" if self.given is None else f"I answered {self.given}"

def parse_plan(reflection: str) -> Plan:
    """Clauses of the plan: (verb, words)."""
    clause = r"(?:^|, )(search|finish) (.+?)(?=, (?:search|finish) |\.?$)"
    return re.findall(clause, reflection.partition("Plan: ")[2])

def command(verb: str, words: str) -> str:
    """A clause's action. Blanks inside the brackets give a name the same tokens as elsewhere."""
    return f"{verb.capitalize()}[ {words} ]"

def follows(reflection: str, steps: list[Step]) -> bool:
    return carried_out(parse_plan(reflection), steps, lambda action, c: parse_action(action) == c)

def write_reflection(cause: str, plan: Plan) -> str:
    return f"{cause} Plan: {', '.join(f'{verb} {words}' for verb, words in plan)}."

def oracle_reflection(observation: str, steps: list[Step]) -> str:
    notes = read_trial(Notes(observation), steps)
    if not notes.goal.starts:  # of a real question only the titles offered are known
        title = next((t for t in notes.offered if t not in notes.searched), "the topic")
        return write_reflection("I did not find the answer.", [("search", title)])
    return write_reflection(*(_comparison if notes.goal.answers else _chain)(notes))

def lead(notes: Notes) -> tuple[int, str]:
    """How far the trial got: as `Notes.walk` tells, or from where the trial itself began."""
    goal = notes.goal
    level, name = notes.walk()
    if level == 0 and notes.facts:  # the trial may have started further on, by an earlier plan
        first = next(iter(notes.facts))
        astray = first[0] == "town" and notes.title(first) != first[1]  # the other sense
        begun = goal.kinds.index(first[0]) if first[0] in goal.kinds else 0
        if begun and not astray:
            further = notes.walk((begun, first[1]))
            if further[1] != notes.given:
                level, name = further
    return level, name

def _chain(notes: Notes) -> tuple[str, Plan]:
    """Cause and plan of a chain: the facts lead to a name, the next search or the answer."""
    goal, (level, name) = notes.goal, lead(notes)
    if level == 0:
        start = goal.starts[0]
        return f"I did not read the {start[0]} {name}.", [("search", notes.title(start))]
    relation = goal.relations[level - 1]
    before = next((n for r, n, value in notes.known() if (r, value) == (relation, name)), None)
    if before is None:
        cause = f"{notes.ended()}, but did not read {name}."
    elif notes.given == name:
        cause = f"I answered {name}, but it is only the {relation} of {before}."
    else:
        cause = f"{notes.ended()}, but the {relation} of {before} is {name}."
    if level == len(goal.relations):
        return cause, [("finish", name)]
    return cause, [("search", notes.title((goal.kinds[level], name)))]

def _comparison(notes: Notes) -> tuple[str, Plan]:
    """Cause and plan of a comparison: if one answer was wrong, it is the other one."""
    answers, names = notes.goal.answers, [name for _, name in notes.goal.starts]
    if notes.given in answers:
        other = answers[1 - answers.index(notes.given)]
        return f"I answered {notes.given}, which is wrong.", [("finish", other)]
    answer = notes.compared()
    if answer and answer != notes.given:
        return f"{notes.ended()}, but read {names[0]} and {names[1]}.", [("finish", answer)]
    unread = (notes.unread() or names)[0]
    return f"I did not read {unread}.", [("search", name) for name in names]

# ---- The judge.
CLAIMS: tuple[tuple[str, str, Callable], ...] = (  # part of a cause, its kind, is it shown?
    (r"I had no step left", "no step left", lambda n: n.given is None),
    (r"I answered (.*)", "wrong answer", lambda n, words: n.given == words),
    (r"is wrong", "wrong answer", lambda n: n.given is not None),
    (r"it is only the (\w+) of (\w+)", "only a step", lambda n, *fact: (
        (*fact, n.given) in n.known() and fact[0] != n.goal.relations[-1])),
    (r"the (\w+) of (\w+) is (the \w+|\w+)", "", lambda n, *fact: fact in n.known()),
    (r"read (\w+) and (\w+)", "", lambda n, *names: {*names} <= {name for _, name in n.facts}),
    (r"(?:I )?did not read (?:the (\w+) )?(\w+)(?: \((\w+)\))?", "not read",
     lambda n, kind, name, sense: any(
         name == e[1] and {kind or e[0], sense or e[0]} == {e[0]} for e in due(n))),
    (r"I did not find the answer", "no answer", lambda n: True),
)  # fmt: skip
_SENSE = re.compile(r" \((film|novel|song|artist|town)\)$")

def judge(reflection: str, observation: str, steps: list[Step]) -> Verdict:
    """cause: True if the trial shows all that it says; a paragraph not read must be one that was
    next on the question's way. sound: the plan ends with the answer that the facts lead to or with
    a search of the paragraph that states it, or while that is unread, of the next on the way; or of
    one before, if from there the trial's number of steps suffices. Of a comparison, also with
    searches of both. place: facts that the cause states are in the paragraphs. Of a real question
    only `kind` and the plan's `invented` are told.
    """
    notes = read_trial(Notes(observation), steps)
    cause, _, rest = reflection.partition("Plan: ")
    kind, true = _cause(notes, cause.strip().removesuffix("."))
    plan = parse_plan("Plan: " + rest.partition(" Plan: ")[0])
    names = [words for _, words in plan if words not in (*notes.goal.answers, "the topic")]
    names += re.findall(r"\b(?!I\b)[A-Z]\w*", cause) if notes.goal.starts else []
    text = " ".join([observation, *sum(steps, ())])
    plain = [re.escape(_SENSE.sub("", name)) for name in names]
    invented = any(not re.search(rf"(?<!\w){name}(?!\w)", text) for name in plain)
    if not notes.goal.starts:
        return Verdict(kind, invented=invented if plan else None)
    facts = re.findall(r"(\w+) of (\w+) is (the \w+|\w+)", cause)
    place = all(fact in notes.known() for fact in facts) if facts else None
    best = parse_plan(oracle_reflection(observation, steps))
    return Verdict(kind, true, _leads(notes, plan, best, len(steps)), place, invented)

def due(notes: Notes) -> list[Entity]:
    """The next paragraphs on the question's way."""
    if notes.goal.answers:
        return [start for start in notes.goal.starts if start not in notes.facts]
    level, name = lead(notes)
    return [(kind, name) for kind in notes.goal.kinds[level : level + 1]]

def _cause(notes: Notes, stated: str) -> tuple[str, bool | None]:
    """Kind and truth of a cause, whose parts are each looked up among the claims."""
    kind, shown = "", []
    for part in re.split(r", (?:but|which) ", stated):
        for pattern, own, shows in CLAIMS:
            if match := re.fullmatch(pattern, part):
                kind = own or kind
                shown.append(not notes.goal.starts or shows(notes, *match.groups()))
                break
        else:
            return "", None
    return kind, all(shown) if notes.goal.starts else None

def _leads(notes: Notes, plan: Plan, best: Plan, n_steps: int) -> bool:
    """Does a plan lead where the oracle's does? What follows an answer is never done."""
    answers = [clause for clause in plan if clause[0] == "finish"]
    last = (answers[:1] or plan[-1:] or [("", "")])[0]
    if notes.goal.answers and not answers:
        return {name for _, name in notes.goal.starts} <= {words for _, words in plan}
    if last[0] != "search" or last in best:
        return last in best
    asked, answer = notes.goal.relations[-1], best[0][1]
    stating = [e for e, facts in notes.facts.items() if facts.get(asked) == answer]
    # paragraphs read on the way, from which the steps of the trial suffice up to the answer
    again, name, n = [], notes.goal.starts[0][1], len(notes.goal.kinds)
    for level, (kind, relation) in enumerate(zip(notes.goal.kinds, notes.goal.relations)):
        again += [(kind, name)] * (n - level + len(plan) <= n_steps and (kind, name) in notes.facts)
        name = notes.facts.get((kind, name), {}).get(relation, "")
    titles = {notes.title(e): f"{e[1]} ({e[0]})" for e in [*(due(notes) or stating), *again]}
    seen = [*notes.offered, *notes.searched]  # of another title the long form may exist
    return any(last[1] in (t, t if t in seen else long) for t, long in titles.items())

# ---- Constant plans: rules on the order of the titles in the trial, whatever went wrong.
def _template(pick: Callable, verb: str = "search") -> Callable[[str, list[Step]], str]:
    """`pick`: (notes, titles found) -> words of the plan."""
    def write(observation: str, steps: list[Step]) -> str:
        notes = read_trial(Notes(observation), steps)
        found = [title for title in notes.searched if title not in notes.missing]
        words = pick(notes, found) or [*found, *notes.offered, "the topic"][:1]
        return write_reflection("I did not find the answer.", [(verb, w) for w in words])
    return write

TEMPLATES: dict[str, Callable[[str, list[Step]], str]] = {
    "last": _template(lambda notes, found: found[-1:]),
    "last two": _template(lambda notes, found: found[-2:]),
    "first": _template(lambda notes, found: found[:1]),
    "unread": _template(lambda notes, _: [t for t in notes.offered if t not in notes.searched][:1]),
    "last name": _template(lambda notes, _: [v for _, _, v in notes.known()][-1:], "finish"),
}
