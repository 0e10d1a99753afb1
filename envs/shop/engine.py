"""WebShop: search, read pages, choose options, buy one product that fits an instruction.

The pages and buttons are those of WebShop's text mode as its ReAct agent saw it (Yao et al., 2022,
2023), the reward is WebShop's (`shop_reward.py`). Changed: lines end without a space; a page of
results holds three products (of ten there, of which three were shown), so all can be reached;
`Next >` works; the ranking is BM25 over title, features and description, ties in catalogue order;
options chosen are forgotten when another product is opened.
"""

import math
import re
from collections import Counter
from pathlib import Path

from envs import Environment
from envs.shop_files import load, split_tasks
from envs.shop_reward import purchase_reward, values_of

PER_PAGE, FOUND = 3, 50  # results on a page, results of a search
INVALID = "Invalid action!"
SUBPAGES = ("Description", "Features", "Reviews")
OPENED = 0.1  # progress for having opened a product that can score 1, while nothing is bought
_ACTION = re.compile(r"(search|click|think)\[(.*)\]")


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def index(products: list[dict]) -> list[Counter]:
    """How often each word occurs in each product's title, features and description."""
    texts = [" ".join([p["Title"], *p["BulletPoints"], p["Description"]]) for p in products]
    return [Counter(words(text)) for text in texts]


def rank(query: str, documents: list[Counter], k1: float = 0.9, b: float = 0.4) -> list[int]:
    """Which documents share a word with the query, best first, FOUND at most: BM25 (Robertson et
    al. 1994).
    """
    mean = sum(d.total() for d in documents) / max(len(documents), 1)
    scores = [0.0] * len(documents)
    for word in set(words(query)):
        n = sum(word in d for d in documents)
        idf = math.log(1 + (len(documents) - n + 0.5) / (n + 0.5))
        for i, d in enumerate(documents):
            if word in d:
                norm = k1 * (1 - b + b * d.total() / mean)
                scores[i] += idf * d[word] * (k1 + 1) / (d[word] + norm)
    found = [i for i, score in enumerate(scores) if score > 0]
    return sorted(found, key=lambda i: -scores[i])[:FOUND]


class Shop(Environment):
    """The environment; the contract is in `envs/__init__.py`.

    Task          {"env", "id", "max_steps", "products": [...], "goal": {...}, "instruction"};
                  a product is what `shop_files.product` makes of WebShop's schema.
    Actions       `search[words]` on the first page; `click[button]`, `think[text]` on any.
    Observations  the page that an action leads to; "Invalid action!" to all that leads nowhere.
    Reward        the score at the purchase (`purchase_reward`), else 0. Success: score 1.
    Progress      the score at the purchase; before it 0, or OPENED (.1) once a product was opened
                  that could score 1 (a trial that never buys is worth less than any fair purchase).
    The end       terminated by `click[Buy Now]`; truncated after `max_steps` actions.
    """

    name = "shop"
    people = "envs.shop_demonstrations"

    def __init__(self, products: str | Path | None = None, goals: str | Path | None = None,
                 max_steps: int | None = None, attributes: str | Path | None = None):  # fmt: skip
        """Paths of WebShop's own files (`shop_files.load`), or none: generated tasks."""
        self.max_steps, self.loaded = max_steps, None
        self.indexed: tuple[list | None, list[Counter]] = (None, [])  # products, words of each
        if products is not None:
            self.loaded = load(products, goals, attributes)
        elif goals is not None or attributes is not None:
            raise ValueError("goals and attributes are those of products: name their file too")

    def fresh(self) -> "Shop":
        """Another environment like this one; loaded products are shared."""
        other = Shop(max_steps=self.max_steps)
        other.loaded, other.indexed = self.loaded, self.indexed
        return other

    def tasks(self, split: str, n: int, seed: int) -> list[dict]:
        """n tasks of `train`, `seen` or `unseen`, generated or of the files; fixed by the
        arguments."""
        if self.loaded is not None:
            return split_tasks(self.loaded, split, n, seed)
        from envs.shop_catalog import generate_tasks

        return generate_tasks(split, n, seed)

    def reset(self, task: dict, seed: int | None = None) -> tuple[str, dict]:
        """Start a task -> (observation, info). Nothing here is random: `seed` has no effect."""
        self.task = task
        self.limit = task["max_steps"] if self.max_steps is None else self.max_steps
        self.page, self.number = "start", 1  # start, results, item or one of SUBPAGES
        self.results: list[dict] = []
        self.item: dict = {}  # the open one, on its page and its sub-pages
        self.options: dict[str, str] = {}  # group -> value chosen
        self.score: float | None = None
        self.n_steps, self.best = 0, 0.0
        self.answer = (self._view(), 0.0, False, False, self._info())
        return self.answer[0], self.answer[-1]

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        """One action, any string -> (observation, reward, terminated, truncated, info)."""
        _, _, terminated, truncated, _ = self.answer
        if terminated or truncated:
            return self.answer
        match = _ACTION.fullmatch(action.strip())
        observation = getattr(self, f"_{match[1]}")(match[2]) if match else INVALID
        self.n_steps += 1
        over = self.score is not None
        truncated = not over and self.n_steps >= self.limit
        reward = self.score or 0.0
        self.answer = (observation, reward, over, truncated, self._info())
        return self.answer

    def admissible_actions(self) -> list[str]:
        """Every click that leads somewhere, and on the first page a search for each title."""
        if self.page == "start":
            return sorted({f"search[{p['Title']}]" for p in self.task["products"]})
        return sorted(f"click[{button}]" for button in self._buttons())

    # ---- What happens.

    def _think(self, text: str) -> str:
        return "OK."

    def _search(self, query: str) -> str:
        if self.page != "start":
            return INVALID
        products = self.task["products"]
        if self.indexed[0] is not products:  # loaded products are indexed once for all tasks
            self.indexed = (products, index(products))
        self.results = [products[i] for i in rank(query, self.indexed[1])]
        return self._go("results", number=1)

    def _click(self, button: str) -> str:
        if button not in self._buttons():
            return INVALID
        if button == "Back to Search":
            return self._go("start")
        if button == "Next >":
            return self._go("results", self.number + 1)
        if button == "< Prev":
            if self.page in SUBPAGES:
                return self._go("item")
            if self.page == "item":
                return self._go("results", self.number)
            return self._go("results", self.number - 1) if self.number > 1 else self._go("start")
        if button == "Buy Now":
            self.score = purchase_reward(
                self.item, self.options, self.item["price"], self.task["goal"]
            )
            return f"Your score (min 0.0, max 1.0): {float(self.score)}"
        if button in SUBPAGES:
            return self._go(button)
        if self.page == "results":
            self.item = next(p for p in self._shown() if p["asin"] == button)
            self.options = {}
            best = purchase_reward(
                self.item, self._best_options(), self.item["price"], self.task["goal"]
            )
            self.best = max(self.best, OPENED * (best == 1.0))
            return self._go("item")
        group = next(g for g, values in self.item["options"].items() if button in values)
        self.options[group] = button
        return f"You have clicked {button}."

    def _best_options(self) -> dict[str, str]:
        """The asked values that the product has."""
        asked = values_of(self.task["goal"]["goal_options"])
        return {v: v for values in self.item["options"].values() for v in values if v in asked}

    def _go(self, page: str, number: int | None = None) -> str:
        self.page, self.number = page, number or self.number
        return self._view()

    # ---- What is shown.

    def _shown(self) -> list[dict]:
        return self.results[(self.number - 1) * PER_PAGE : self.number * PER_PAGE]

    def _buttons(self) -> list[str]:
        """What can be clicked on this page, in the page's order."""
        if self.page == "start":
            return []
        if self.page == "results":
            before = ["< Prev"]  # clickable on the first page too, as there; shown from the second
            after = ["Next >"] if self.number * PER_PAGE < len(self.results) else []
            return ["Back to Search", *before, *after, *(p["asin"] for p in self._shown())]
        if self.page == "item":
            values = [value for group in self.item["options"].values() for value in group]
            return ["Back to Search", "< Prev", *values, *SUBPAGES, "Buy Now"]
        return ["Back to Search", "< Prev"]

    def _view(self) -> str:
        """The text of this page."""
        if self.page == "start":
            return f"Webshop\nInstruction:\n{self.task['instruction']}\n[Search]"
        lines = ["[Back to Search]"]
        if self.page == "results":
            lines.append(f"Page {self.number} (Total results: {len(self.results)})")
            lines += ["[< Prev]"] * (self.number > 1)
            lines += ["[Next >]"] * ("Next >" in self._buttons())
            for p in self._shown():
                lines += [f"[{p['asin']}]", p["Title"], p["Price"]]
            return "\n".join(lines)
        lines.append("[< Prev]")
        item = self.item
        if self.page == "item":
            for group, values in item["options"].items():
                chosen = self.options.get(group)
                marked = [f"[[{v}]]" if v == chosen else f"[{v}]" for v in values]
                lines.append(f"{group} {''.join(marked)}")
            lines += [item["Title"], f"Price: {item['Price']}", f"Rating: {item['Rating']}"]
            lines += [f"[{name}]" for name in (*SUBPAGES, "Buy Now")]
        elif self.page == "Features":
            lines += item["BulletPoints"]
        elif self.page == "Description":
            lines.append(item["Description"])
        else:
            lines += item["Reviews"]
        return "\n".join(line for line in lines if line)

    def _info(self) -> dict:
        score = self.score
        return {"success": score == 1.0, "progress": self.best if score is None else score}
