"""Reflections on a HotPotQA trial: the oracle's, and the flawed ones that people and models write.

A reflection is one line: what went wrong, then `Plan: ` and clauses that the next trial can carry
out: `search Quietverse (film)`, `finish Greyton`.
"""

import random
import re

from envs.chains import Step
from envs.hotpot import parse_action
from envs.hotpot_notes import Notes, read_trial

_CLAUSE = re.compile(r"(?:^|, )(search|finish) (.+?)(?=, (?:search|finish) |\.?$)")
VAGUE = (
    "I was not careful enough. Plan: read each paragraph with more care.",
    "I wasted too many steps. Plan: be quick and waste no step.",
    "I mixed up the names. Plan: think about what is asked before each step.",
    "I did not get to the answer. Plan: try another way.",
)

Plan = list[tuple[str, str]]  # (search or finish, a title or an answer)


def parse_plan(reflection: str) -> Plan:
    """Clauses of the plan.

    >>> parse_plan("I had no step left. Plan: search Oakhill (town), finish Greyton.")
    [('search', 'Oakhill (town)'), ('finish', 'Greyton')]
    """
    return _CLAUSE.findall(reflection.partition("Plan: ")[2])


def write(cause: str, plan: Plan) -> str:
    """A reflection's line."""
    return f"{cause} Plan: {', '.join(f'{verb} {words}' for verb, words in plan)}."


def oracle_reflection(observation: str, steps: list[Step]) -> str:
    """What a perfect observer of this failed trial writes; it states only what the trial's text
    showed. Of questions that are not of a made-up world it only knows which titles were offered.
    """
    notes = read_trial(observation, steps)
    if not notes.goal.starts:
        unread = [t for t in notes.offered if t not in notes.searched]
        return write("I did not find the answer.", [("search", (unread or ["the topic"])[0])])
    return write(*(_comparison if notes.goal.compares else _chain)(notes))


def _ended(notes: Notes) -> str:
    return "I had no step left" if notes.given is None else f"I answered {notes.given}"


def _chain(notes: Notes) -> tuple[str, Plan]:
    """Cause and plan: what the facts lead to is to be searched, or is the answer."""
    goal = notes.goal
    level, name = notes.walk()
    if level == 0 and notes.facts:  # the trial may have started further on, by an earlier plan
        first = next(iter(notes.facts))
        astray = first[0] == "town" and notes.title(first) != first[1]  # a sense not asked for
        if (begun := notes.level(first)) and not astray:
            further = notes.walk((begun, first[1]))
            if further[1] != notes.given:
                level, name = further
    if level == 0:
        return f"I did not read the {goal.starts[0][0]} {name}.", [
            ("search", notes.title(goal.starts[0]))
        ]
    relation = goal.relations[level - 1]
    before = next((n for (_, n), known in notes.facts.items() if known.get(relation) == name), None)
    if before is None:
        cause = f"{_ended(notes)}, but did not read {name}."
    elif notes.given == name:
        cause = f"I answered {name}, but it is only the {relation} of {before}."
    else:
        cause = f"{_ended(notes)}, but the {relation} of {before} is {name}."
    if level == len(goal.relations):
        return cause, [("finish", name)]
    return cause, [("search", notes.title((goal.kinds[level], name)))]


def _comparison(notes: Notes) -> tuple[str, Plan]:
    """The same for a question that compares: an answer that was wrong leaves the other one."""
    answers = [name for _, name in notes.goal.starts]
    if notes.goal.relations[0] != "century":
        answers = ["yes", "no"]
    if notes.given in answers:
        other = answers[1 - answers.index(notes.given)]
        return f"I answered {notes.given}, which is wrong.", [("finish", other)]
    answer = notes.compared()
    names = [name for _, name in notes.goal.starts]
    if answer and answer != notes.given:
        return f"{_ended(notes)}, but read {names[0]} and {names[1]}.", [("finish", answer)]
    unread = [name for kind, name in notes.goal.starts if (kind, name) not in notes.facts]
    return f"I did not read {(unread or names)[0]}.", [("search", name) for name in names]


def flawed_reflection(observation: str, steps: list[Step], rng: random.Random) -> str:
    """A plausible reflection that is vague or wrong: another fact of what was read, another name,
    what was searched or answered already.
    """
    notes = read_trial(observation, steps)
    flaw = rng.choices(("vague", "relation", "name", "again"), (4, 4, 2, 2))[0]
    right = oracle_reflection(observation, steps)
    verb, words = (parse_plan(right) or [("", "")])[0]
    name = words.partition(" (")[0]
    if flaw == "relation":  # most often the fact that stands beside the right one
        for (_, subject), known in notes.facts.items():
            for relation, value in known.items():
                if name in known.values() and value != name and relation != "century":
                    cause = f"{_ended(notes)}, but the {relation} of {subject} is {value}."
                    return write(cause, [(verb, value)])
    values = [
        (relation, subject, value)
        for (_, subject), known in notes.facts.items()
        for relation, value in known.items()
        if value != name and relation != "century"
    ]
    if flaw in ("relation", "name") and values:
        relation, subject, value = rng.choice(values)
        cause = f"{_ended(notes)}, but the {relation} of {subject} is {value}."
        return write(cause, [(rng.choice(("search", "finish")), value)])
    if flaw == "again" and notes.searched:
        if notes.given and rng.random() < 0.5:
            return write(f"I did not read {notes.given}.", [("search", notes.given)])
        again = rng.choice(notes.searched)
        return write(f"I did not read {again}.", [("search", again)])
    return rng.choice(VAGUE)


def follows(reflection: str, steps: list[Step]) -> bool:
    """True if the actions carry out the plan: every clause done, in order."""
    plan, position = parse_plan(reflection), 0
    for action, _ in steps:
        if position < len(plan) and parse_action(action) == plan[position]:
            position += 1
    return position == len(plan)
