"""A second reader of HotPotQA's made-up worlds, for the tests. It shares nothing with
`envs/hotpot`: the sentences are written out here once more.
"""

import re

SENTENCES = {
    "director": "was directed by", "composer": "has music by", "producer": "was produced by",
    "author": "was written by", "illustrator": "has drawings by", "translator": "was translated by",
    "singer": "was sung by", "poet": "has words by", "arranger": "was arranged by",
    "birthplace": "was born in", "home": "lives in", "workplace": "works in",
    "land": "is in the land", "river": "is on the river",
    "century": "was founded in", "walls": "got walls in",
}  # fmt: skip
WHERE = {"was born": "birthplace", "lives": "home", "works": "workplace"}
Way = tuple[list[str], str, str]  # relations in the order of reading, kind and name of the start

class Reader:
    """What a trial's text states."""

    def __init__(self, steps: list[tuple[str, str]]):
        self.read: list[tuple[str, str]] = []  # kind and name of the paragraphs
        self.facts: dict[tuple[str, str], str] = {}  # (relation, name) -> value
        actions = [re.fullmatch(r"(\w+)\[ ?(.*?) ?\]", action) for action, _ in steps]
        self.searched = [m[2] for m in actions if m and m[1] == "Search"]
        self.given = next((m[2] for m in actions if m and m[1] == "Finish"), None)
        self.missing = [m[2] for m, (_, reply) in zip(actions, steps)
                        if m and reply.startswith("Could not find ")]  # fmt: skip
        for action, reply in steps:
            found = re.match(r"The (film|novel|song|artist|town) (\w+) ", reply)
            if action.startswith("Search") and found:
                self.read.append((found[1], found[2]))
                for relation, words in SENTENCES.items():
                    if value := re.search(rf"{words} ((?:the )?\w+)", reply):
                        self.facts[relation, found[2]] = value[1]

    def walk(self, way: Way) -> tuple[list[str], str, bool]:
        """The facts on a way in the words of notes, where they lead, and whether to its end."""
        (relations, _, name), stated = way, list[str]()
        for relation in relations:
            if (value := self.facts.get((relation, name))) is None:
                return [*stated, f"{relation} of {name} not read"], name, False
            stated.append(f"{relation} of {name} is {value}")
            name = value
        return stated, name, True

    def answer(self, order: str, ways: list[Way]) -> str | None:
        """None: not all is read. Two that are equally good fail."""
        ends = [self.walk(way) for way in ways]
        if not all(done for _, _, done in ends):
            return None
        values = [name for _, name, _ in ends]
        if not order or order == "same":
            return values[0] if not order else "no" if len(set(values)) > 1 else "yes"
        towns = [stated[-1].split(" of ")[1].split(" is ")[0] for stated, _, _ in ends]
        ranked = sorted(zip(values, towns), reverse=order == "last")  # one digit each
        assert ranked[0][0] != ranked[1][0], f"{ways}: none is {order}"
        return ranked[0][1]

def in_words(question: str) -> str:
    """In the words of notes: "home of poet of song Quietverse", "last walls of town A and town B".
    """
    text = re.sub(r"the town where (.+?) (was born|lives|works)",
                  lambda m: f"{WHERE[m[2]]} of {m[1]}", question.rstrip("?"))  # fmt: skip
    for pattern, words in (
        (r"In which town was (.*) born", "birthplace of {}"),
        (r"In which town does (.*) live", "home of {}"),
        (r"In which town does (.*) work", "workplace of {}"),
        (r"In which land is (.*)", "land of {}"),
        (r"On which river is (.*)", "river of {}"),
        (r"Were (.*) born in the same town", "same birthplace of {}"),
        (r"Do (.*) live in the same town", "same home of {}"),
        (r"Do (.*) work in the same town", "same workplace of {}"),
        (r"Which town was founded first, (.*)", "first century of {}"),
        (r"Which town was founded last, (.*)", "last century of {}"),
        (r"Which town got walls first, (.*)", "first walls of {}"),
        (r"Which town got walls last, (.*)", "last walls of {}"),
        (r"(?:Who|What) is the (.*)", "{}"),
    ):
        if match := re.fullmatch(pattern, text):
            said = words.format(match[1]).replace("the ", "")
            return re.sub(r", | or ", " and ", said)
    raise AssertionError(f"no question of a made-up world: {question}")

def ways(words: str) -> tuple[str, list[Way]]:
    """Order and ways of what `in_words` gives."""
    order = next((o for o in ("first", "last", "same") if words.startswith(f"{o} ")), "")
    relation, _, starts = words.removeprefix(f"{order} ").partition(" of ")
    out = []
    for start in starts.split(" and "):
        *middle, entity = start.split(" of ")
        kind, name = entity.split()
        out.append(([*reversed(middle), relation], kind, name))
    return order, out
