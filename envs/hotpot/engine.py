"""HotPotQA as a text game (Yang et al., EMNLP 2018). Read `envs/__init__.py` first.
The actions are those of ReAct's agent (Yao et al., ICLR 2023), which searched Wikipedia. Changed:
only the question's own paragraphs can be searched, as in HotpotQA's distractor setting.
"""

import random
import re
import string
import unicodedata
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import envs.hotpot.demonstrations as demonstrations
import envs.hotpot.observer as observer
from envs import Environment
from envs.hotpot.files import MAX_TITLE, load_items, shown
from envs.hotpot.observer import command, one_line, parse_action
from envs.hotpot.tasks import generate_task
from envs.observer import Step

SENTENCES = 5  # of a paragraph that a search shows, as ReAct does
SIMILAR = 4  # titles offered when there is no such paragraph
MAX_STEPS = 7  # of a real question

class Hotpot(Environment):
    """The contract is in `envs/__init__.py`.
    Task          `item`: an item of HotpotQA's own JSON.
    Actions       Search[title], Lookup[word], Finish[answer], think[anything]. Upper and lower
                  case are the same in verbs, titles and words; blanks at the brackets are ignored.
                  Titles are as `files.shown` has them, and may be searched with HTML escapes too.
    Observations  Search: the paragraph's first sentences, or the nearest titles. Lookup: the next
                  sentence with the word in the paragraph found last. "OK." to a thought.
                  Paragraphs of one title open together. Of titles that differ only in case, the
                  one in exactly this case opens, or all if none is.
    Reward        at Finish the answer's token F1, else 0. Success: its exact match.
    Progress      that F1, or if larger, 1/4 for each gold paragraph found, at most 1/2.
    """

    name = "hotpot"
    observer, demonstrators = observer, demonstrations
    generate_task = staticmethod(generate_task)

    def __init__(self, data: str | Path | None = None, max_steps: int | None = None):
        """`data`: a file of HotpotQA's; tasks then come from it, not from the generator."""
        super().__init__(max_steps)
        self.data = data

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        """n generated tasks of a split; with `data`, at most n of its questions, of any split."""
        if self.data is None:
            return super().tasks(split, n, seed)
        items = load_items(self.data)
        random.Random(f"hotpot {seed}").shuffle(items)
        return [dict(env=self.name, id=i["_id"], max_steps=MAX_STEPS, item=i) for i in items[:n]]

    def _start(self, task: dict) -> str:
        self.item = task["item"]
        self.paragraphs: dict[str, list[list[str]]] = {}  # title -> the paragraphs that bear it
        for title, text in self.item["context"]:
            sentences = [s for s in map(one_line, text) if s]
            self.paragraphs.setdefault(shown(title), []).append(sentences)
        self.gold = {t for title, _ in self.item["supporting_facts"] for t in self._named(title)}
        self.found: set[str] = set()
        self.page: list[str] = []  # sentences of the paragraph found last
        self.looked_up, self.n_looked = "", 0
        self.success, self.f1 = False, 0.0
        return f"Answer by searching: {one_line(self.item['question'])}"

    def _act(self, action: str) -> tuple[str, float, bool]:
        verb, words = parse_action(action)
        if verb == "finish":
            self.success = exact_match(words, self.item["answer"])
            self.f1 = f1_score(words, self.item["answer"])
            return f"Answer is {'CORRECT' if self.success else 'INCORRECT'}.", self.f1, True
        if verb in ("search", "lookup"):
            return self._search(words) if verb == "search" else self._lookup(words), 0.0, False
        return "OK." if verb == "think" else "Invalid action.", 0.0, False

    def admissible_actions(self) -> list[str]:
        """Sorted: a search of each title, a Finish with each title, with yes and with no."""
        finishes = {f"Finish[{words}]" for words in [*self.paragraphs, "yes", "no"]}
        return sorted({f"Search[{title}]" for title in self.paragraphs} | finishes)

    def glance(self, rng: random.Random) -> list[Step]:
        """All paragraphs, whole and in the task's order; nothing is drawn."""
        return [(command("search", title), " ".join(sum(pages, [])))
                for title, pages in self.paragraphs.items()]  # fmt: skip

    def _named(self, words: str) -> list[str]:
        """The titles that are meant: in exactly this case, else in any."""
        exact = [title for title in self.paragraphs if title in (words, shown(words))]
        return exact or [t for t in self.paragraphs if fold(t) == fold(shown(words))]

    def _search(self, words: str) -> str:
        self.looked_up, self.n_looked, wanted = "", 0, fold(shown(words))
        if titles := self._named(words):
            self.found.update(titles)
            pages = [page for title in titles for page in self.paragraphs[title]]
            self.page = sum(pages, [])
            return " ".join(s for page in pages for s in page[:SENTENCES]) or "No text."

        def distance(title: str) -> tuple:
            key = fold(title)
            likeness = SequenceMatcher(None, wanted[:MAX_TITLE], key, autojunk=False).ratio()
            return not key.startswith(wanted), -likeness, key

        nearest = sorted(self.paragraphs, key=distance)[:SIMILAR]
        return f"Could not find {words}. Similar: {', '.join(nearest)}."

    def _lookup(self, word: str) -> str:
        word = fold(word)
        hits = [s for s in self.page if word in fold(s)]
        self.looked_up, self.n_looked = word, self.n_looked * (word == self.looked_up) + 1
        if self.n_looked > len(hits):
            return "No more results."
        return f"(Result {self.n_looked} / {len(hits)}) {hits[self.n_looked - 1]}"

    def info(self) -> dict:
        read = min(0.25 * len(self.found & self.gold), 0.5)
        return {"success": self.success, "progress": max(self.f1, read)}

def fold(text: str) -> str:
    """The same for upper and lower case and for all forms of Unicode."""
    return unicodedata.normalize("NFKC", text).casefold()

# ---- The official evaluation of answers (hotpot_evaluate_v1). Changed: the official script drops
# all of an answer such as "The" or "!!!", so that no answer at all was a match, with F1 0.
def normalise(text: str) -> str:
    """Lower case, then no punctuation, then no articles, then single blanks. If that leaves
    nothing: lower case and single blanks.
    >>> normalise("The  Beatles' song, an 'a-side'"), normalise(" The ")
    ('beatles song aside', 'the')
    """
    text = text.lower()
    bare = "".join(c for c in text if c not in string.punctuation)
    return one_line(re.sub(r"\b(a|an|the)\b", " ", bare)) or one_line(text)

def exact_match(prediction: str, answer: str) -> bool:
    """Whether they are the same but for the above. An empty prediction never is."""
    return normalise(prediction) == normalise(answer) != ""

def f1_score(prediction: str, answer: str) -> float:
    """Harmonic mean of precision and recall of the answer's tokens, repeated ones counted.
    0 if either is yes, no or noanswer and they differ: no credit for "yes, it is".
    """
    prediction, answer = normalise(prediction), normalise(answer)
    if prediction != answer and {prediction, answer} & {"yes", "no", "noanswer"}:
        return 0.0
    guessed, right = prediction.split(), answer.split()
    common = (Counter(guessed) & Counter(right)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(guessed), common / len(right)
    return 2 * precision * recall / (precision + recall)
