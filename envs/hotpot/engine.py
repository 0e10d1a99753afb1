"""HotPotQA as a text game (Yang et al., EMNLP 2018). Read `envs/__init__.py` first.
The actions are those of ReAct's agent (Yao et al., ICLR 2023), which searched Wikipedia. Changed:
only the question's own paragraphs can be searched, as in HotpotQA's distractor setting.
"""

import random
import re
import string
from collections import Counter
from difflib import SequenceMatcher
from pathlib import Path

import envs.hotpot.demonstrations as demonstrations
import envs.hotpot.observer as observer
from envs import Environment
from envs.hotpot.files import load_items
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
    Observations  Search: the paragraph's first sentences, or the nearest titles. Lookup: the next
                  sentence with the word in the paragraph found last. "OK." to a thought.
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
        self.paragraphs = {title: [*map(one_line, text)] for title, text in self.item["context"]}
        self.titles = {one_line(title).casefold(): title for title in self.paragraphs}
        self.gold = {title for title, _ in self.item["supporting_facts"]}
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
        finishes = [f"Finish[{words}]" for words in [*self.paragraphs, "yes", "no"]]
        return sorted([f"Search[{title}]" for title in self.paragraphs] + finishes)

    def glance(self, rng: random.Random) -> list[Step]:
        """All paragraphs, whole and in the task's order; nothing is drawn."""
        return [(command("search", t), " ".join(text)) for t, text in self.item["context"]]

    def _search(self, words: str) -> str:
        self.looked_up, self.n_looked, wanted = "", 0, words.casefold()
        if wanted in self.titles:
            self.found.add(self.titles[wanted])
            self.page = self.paragraphs[self.titles[wanted]]
            return " ".join(self.page[:SENTENCES])

        def distance(title: str) -> tuple:
            likeness = SequenceMatcher(None, wanted, title, autojunk=False).ratio()
            return not title.startswith(wanted), -likeness, title

        nearest = sorted(self.titles, key=distance)[:SIMILAR]
        return f"Could not find {words}. Similar: {', '.join(self.titles[t] for t in nearest)}."

    def _lookup(self, word: str) -> str:
        hits = [s for s in self.page if word.casefold() in s.casefold()]
        self.looked_up, self.n_looked = word, self.n_looked * (word == self.looked_up) + 1
        if self.n_looked > len(hits):
            return "No more results."
        return f"(Result {self.n_looked} / {len(hits)}) {hits[self.n_looked - 1]}"

    def info(self) -> dict:
        read = min(0.25 * len(self.found & self.gold), 0.5)
        return {"success": self.success, "progress": max(self.f1, read)}

# ---- The official evaluation of answers (hotpot_evaluate_v1).
def normalise(text: str) -> str:
    """Lower case, then no punctuation, then no articles, then single blanks.
    >>> normalise("The  Beatles' song, an 'a-side'")
    'beatles song aside'
    """
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

def exact_match(prediction: str, answer: str) -> bool:
    return normalise(prediction) == normalise(answer)

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
