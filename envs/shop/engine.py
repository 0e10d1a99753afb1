"""WebShop: buy one product that fits an instruction. Read `envs/__init__.py` first.

Pages and buttons are those of WebShop's text mode as its ReAct agent saw it (Yao et al., 2022,
2023). Changed: lines end without a space. A page of results holds three products, and `Next >`
works (WebShop had ten and its agent saw three). The ranking is BM25 over title, features and
description, with ties in catalogue order. Opening another product forgets the chosen options.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import envs.shop.demonstrations as demonstrations
import envs.shop.observer as observer
from envs import Environment
from envs.observer import Step
from envs.shop.files import load, split_tasks
from envs.shop.tasks import PER_PAGE, WORDS, generate_task

FOUND = 50  # results of a search
INVALID = "Invalid action!"
SUBPAGES = ("Description", "Features", "Reviews")
OPENED = 0.1  # progress before a purchase; less than any fair purchase is worth
_ACTION = re.compile(r"(search|click|think)\[(.*)\]")

def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())

def index(products: list[dict]) -> tuple[list[int], dict[str, dict[int, int]]]:
    """The words of titles, features, descriptions: (how many in product i, word -> {i: count})."""
    lengths, postings = [], dict[str, dict[int, int]]()
    for i, p in enumerate(products):
        counts = Counter(words(" ".join([p["Title"], *p["BulletPoints"], p["Description"]])))
        lengths.append(counts.total())
        for word, count in counts.items():
            postings.setdefault(word, {})[i] = count
    return lengths, postings

def rank(query: str, indexed: tuple[list[int], dict], k1: float = 0.9, b: float = 0.4) -> list[int]:
    """Products that share a word with the query, best first by BM25 (Robertson et al. 1994)."""
    lengths, postings = indexed
    mean = sum(lengths) / max(len(lengths), 1)
    scores = dict[int, float]()
    for word in dict.fromkeys(words(query)):
        found = postings.get(word, {})
        idf = math.log(1 + (len(lengths) - len(found) + 0.5) / (len(found) + 0.5))
        for i, count in found.items():
            norm = k1 * (1 - b + b * lengths[i] / mean)
            scores[i] = scores.get(i, 0.0) + idf * count * (k1 + 1) / (count + norm)
    return sorted(scores, key=lambda i: (-scores[i], i))[:FOUND]

class Shop(Environment):
    """The contract is in `envs/__init__.py`.
    Task          `products` (as `envs.shop.files.product` makes them), `goal`, `instruction`.
    Actions       `search[words]` on the first page; `click[button]`, `think[text]` on any.
    Observations  the page that an action leads to; "Invalid action!" to all that leads nowhere.
    Reward        the score at the purchase (`purchase_reward`), else 0. Success: score 1.
    Progress      that score. Before it 0, or OPENED once a product that could score 1 was opened.
    The end       by `click[Buy Now]`.
    """

    name, shares_files = "shop", True
    observer, demonstrators = observer, demonstrations
    generate_task = staticmethod(generate_task)

    def __init__(self, products: str | Path | None = None, goals: str | Path | None = None,
                 max_steps: int | None = None, attributes: str | Path | None = None):  # fmt: skip
        """Paths of WebShop's own files (`files.load`), or none: generated tasks."""
        if products is None and (goals is not None or attributes is not None):
            raise ValueError("goals and attributes are those of products: name their file too")
        self.loaded = None if products is None else load(products, goals, attributes)
        everything = self.loaded[0]["products"] if self.loaded else []
        self.indexed = (everything, index(everything))  # once for all tasks, and for the copies
        super().__init__(max_steps)

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        """n tasks of a split, generated or from the files."""
        if self.loaded is None:
            return super().tasks(split, n, seed)
        return split_tasks(self.loaded, split, n, seed)

    def _start(self, task: dict) -> str:
        self.task = task
        self.page, self.number = "start", 1  # start, results, item or one of SUBPAGES
        self.results: list[dict] = []
        self.item: dict = {}  # the open one, on its page and its sub-pages
        self.options: dict[str, str] = {}  # group -> value chosen
        self.score: float | None = None
        self.best = 0.0
        return self._view()

    def _act(self, action: str) -> tuple[str, float, bool]:
        match = _ACTION.fullmatch(action.strip())
        observation = getattr(self, f"_{match[1]}")(match[2]) if match else INVALID
        return observation, self.score or 0.0, self.score is not None

    def admissible_actions(self) -> list[str]:
        """Every click that leads somewhere, and on the first page a search for each title."""
        if self.page == "start":
            return sorted({f"search[{p['Title']}]" for p in self.task["products"]})
        return sorted(f"click[{button}]" for button in self._buttons())

    def glance(self, rng: random.Random) -> list[Step]:
        """The results and one to three of their products, in random order."""
        search = f"search[{self.task['goal']['query']}]"
        steps = [(search, self.step(search)[0])]
        hits = [p["asin"] for p in self.results[:PER_PAGE]]
        for asin in rng.sample(hits, rng.randint(1, len(hits))):
            self.n_steps, self.page = 0, "results"
            steps.append((f"click[{asin}]", self.step(f"click[{asin}]")[0]))
        return steps

    def _think(self, text: str) -> str:
        return "OK."

    def _search(self, query: str) -> str:
        if self.page != "start":
            return INVALID
        products = self.task["products"]
        if self.indexed[0] is not products:  # each generated task has its own
            self.indexed = (products, index(products))
        self.results = [products[i] for i in rank(query, self.indexed[1])]
        return self._go("results", 1)

    def _click(self, button: str) -> str:
        if button not in self._buttons():
            return INVALID
        if button == "Buy Now":
            self.score = self._score(self.options)
            return f"Your score (min 0.0, max 1.0): {float(self.score)}"
        if button == "Next >":
            return self._go("results", self.number + 1)
        if button == "< Prev" and self.page == "results" and self.number > 1:
            return self._go("results", self.number - 1)
        if button in ("Back to Search", "< Prev"):
            back = {"item": "results", "results": "start"}.get(self.page, "item")
            return self._go(back if button == "< Prev" else "start")
        if button in SUBPAGES:
            return self._go(button)
        if self.page == "results":
            self.item = next(p for p in self._shown() if p["asin"] == button)
            self.options = {}
            asked = values_of(self.task["goal"]["goal_options"])
            had = [v for values in self.item["options"].values() for v in values if v in asked]
            self.best = max(self.best, OPENED * (self._score({v: v for v in had}) == 1.0))
            return self._go("item")
        group = next(g for g, values in self.item["options"].items() if button in values)
        self.options[group] = button
        return f"You have clicked {button}."

    def _score(self, options: dict[str, str]) -> float:
        return purchase_reward(self.item, options, self.item["price"], self.task["goal"])

    def _go(self, page: str, number: int | None = None) -> str:
        self.page, self.number = page, number or self.number
        return self._view()

    def _shown(self) -> list[dict]:
        return self.results[(self.number - 1) * PER_PAGE : self.number * PER_PAGE]

    def _buttons(self) -> list[str]:
        """What can be clicked on this page, in the page's order."""
        if self.page == "start":
            return []
        buttons = ["Back to Search", "< Prev"]  # WebShop shows < Prev from the second page on
        if self.page == "results":
            more = self.number * PER_PAGE < len(self.results)
            buttons += ["Next >"] * more + [p["asin"] for p in self._shown()]
        elif self.page == "item":
            values = [value for group in self.item["options"].values() for value in group]
            buttons += [*values, *SUBPAGES, "Buy Now"]
        return buttons

    def _view(self) -> str:
        """The text of this page."""
        if self.page == "start":
            return f"Webshop\nInstruction:\n{self.task['instruction']}\n[Search]"
        lines, item = ["[Back to Search]"], self.item
        if self.page == "results":
            lines.append(f"Page {self.number} (Total results: {len(self.results)})")
            lines += ["[< Prev]"] * (self.number > 1) + ["[Next >]"] * ("Next >" in self._buttons())
            for p in self._shown():
                lines += [f"[{p['asin']}]", p["Title"], p["Price"]]
            return "\n".join(lines)
        lines.append("[< Prev]")
        if self.page == "item":
            for group, values in item["options"].items():
                chosen = self.options.get(group)
                marked = [f"[[{v}]]" if v == chosen else f"[{v}]" for v in values]
                lines.append(f"{group} {''.join(marked)}")
            lines += [item["Title"], f"Price: {item['Price']}", f"Rating: {item['Rating']}"]
            lines += [f"[{name}]" for name in (*SUBPAGES, "Buy Now")]
        elif self.page == "Description":
            lines.append(item["Description"])
        else:
            lines += item["BulletPoints" if self.page == "Features" else "Reviews"]
        return "\n".join(line for line in lines if line)

    def info(self) -> dict:
        score = self.score
        return {"success": score == 1.0, "progress": self.best if score is None else score}

# ---- The reward: how well a purchase fits the goal (Yao et al., NeurIPS 2022, section 3.2).
# Changed from WebShop's goal.py, to need no model: nouns are the words of a title without stop
# words, numbers and common adjectives (WebShop asks spaCy). A goal without a price limit counts the
# price as kept (an error in WebShop). Options are compared by value (WebShop compares with the pair
# of group and value where a goal has groups; 458 goals of its 1,000 products then can't score 1).
MATCHED = 85  # a fuzzy match scores more (0..100)
_NO_NOUNS = frozenset(WORDS["no nouns"])
_COLORS = WORDS["product colors"]  # WebShop's, in its order
_NOT_READ, _PARTS = dict.fromkeys(range(128, 256)), re.compile(r"[\W_]+")  # as thefuzz does

@lru_cache(maxsize=100_000)
def token_set_ratio(a: str, b: str) -> float:
    """Likeness of two texts as sets of words, 0..100; 100 if one text has all words of the other.
    As in thefuzz: the best `ratio` of two out of common words, these and a's rest, these and b's.
    >>> token_set_ratio("long sleeve", "Sleeve, long and soft")
    100.0
    """
    words = [set(_PARTS.sub(" ", text.translate(_NOT_READ).lower()).split()) for text in (a, b)]
    if not all(words):
        return 0.0
    shared = words[0] & words[1]
    if shared in words:
        return 100.0
    common = " ".join(sorted(shared))
    whole = [" ".join([common, *sorted(own - shared)]).strip() for own in words]
    pairs = [whole] + ([[common, text] for text in whole] if common else [])
    return max(float(round(ratio(x, y))) for x, y in pairs)

def ratio(a: str, b: str) -> float:
    """Likeness of two texts, 0..100: the share of their letters in a longest common subsequence."""
    longest = [0] * (len(b) + 1)  # of a's letters so far with each start of b
    for x in a:
        before = longest[:]
        for j, y in enumerate(b):
            longest[j + 1] = before[j] + 1 if x == y else max(before[j + 1], longest[j])
    return 200 * longest[-1] / max(len(a) + len(b), 1)

def nouns(title: str) -> list[str]:
    """The words of a title that can name a thing, lower case."""
    return [w for w in re.findall(r"[^\W\d_]{2,}", title.lower()) if w not in _NO_NOUNS]

def type_reward(product: dict, goal: dict) -> float:
    """r_type: 1 for the right kind, .5 for another, .1 or 0 if the titles hardly share a word."""
    wanted = nouns(goal["name"])
    title = len({*wanted} & {*nouns(product["name"])}) / len(wanted) if wanted else 0.2
    if title < 0.1:
        return 0.1 if title else 0.0
    categories = [{c.strip() for c in x["product_category"].split("›")} for x in (product, goal)]
    alike = product["query"] == goal["query"] or len(categories[0] & categories[1]) >= 2
    return 1.0 if alike or title > 0.2 else 0.5

def _matches(asked: str, own: Iterable[str]) -> bool:
    return any(token_set_ratio(text, asked) > MATCHED for text in own)

def values_of(goal_options: dict[str, str] | list[str]) -> list[str]:
    """Generated goals name the group of each option; goals that people wrote do not."""
    return list(goal_options.values() if isinstance(goal_options, dict) else goal_options)

def _color(value: str) -> str:
    """The first of the colours that a value contains (`red, blue` -> `blue`), or the value."""
    return next((color for color in _COLORS if color in value), value)

def purchase_reward(product: dict, options: dict[str, str], price: float, goal: dict) -> float:
    """r_type * (attributes + options + [price <= limit]) / (asked attributes + asked options + 1).
    product: `name, query, product_category, Attributes, Title, BulletPoints, Description`; options:
    group -> value chosen; goal: `name, query, product_category, attributes, goal_options,
    price_upper` (0: no limit). In [0, 1].
    """
    attributes, asked = goal["attributes"], values_of(goal["goal_options"])
    texts = [product["Title"], " ".join(product["BulletPoints"]), product["Description"]]
    texts, chosen = [text.lower() for text in texts], [_color(v) for v in options.values()]
    got = sum(_matches(a, product["Attributes"]) or any(a in t for t in texts) for a in attributes)
    got += sum(_matches(_color(value), chosen) for value in asked)
    got += price <= goal["price_upper"] or goal["price_upper"] <= 0
    return type_reward(product, goal) * got / (len(attributes) + len(asked) + 1)
