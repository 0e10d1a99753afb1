"""Catalogues and instructions for the shop, from a seed: endless, no download. Read `envs/tasks.py`
and `product` in `envs/shop/files.py` first. In a small catalogue one product fits. Two or three of
the kind asked for come first in the results, then others that share a word with it. In a little
more than half of the tasks the first hit is a trap: it lacks something, or costs too much.
"""

import random
from pathlib import Path

from envs.names import name_parts
from envs.shop.files import product
from envs.tasks import read_json

MAX_STEPS = 8  # a purchase takes 5 steps: a player can leave one wrong page, not two
TRAPS = {None: 0.45, "option": 0.2, "attribute": 0.2, "price": 0.15}  # share of the tasks
WORDS = read_json(Path(__file__).with_name("words.json"))
COLORS, SIZES, ATTRIBUTES = WORDS["colors"], WORDS["sizes"], WORDS["attributes"]
ASIN_HEADS, ASIN_TAILS = WORDS["asin heads"], [str(n) for n in range(10, 98)]
KIND_HEADS, KIND_TAILS = WORDS["kinds"]

def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task: its catalogue and what is asked."""
    unseen = split == "unseen"
    head, tail = name_parts(rng, KIND_HEADS, KIND_TAILS, unseen)
    kind, color, size = f"{head} {tail}", rng.choice(COLORS), rng.choice(SIZES)
    attribute, limit = rng.choice(ATTRIBUTES), rng.randrange(20, 100, 10)
    asked = {"color": color, "size": size, "attribute": attribute, "limit": limit}
    trap = rng.choices(list(TRAPS), list(TRAPS.values()))[0]
    # what each product of the asked kind lacks, in the order of the results
    lacks = [[trap], []] if trap else [[], [rng.choice(["option", "attribute"])]]
    if rng.random() < 0.5:  # one more that is too dear, never the first
        lacks.insert(rng.randint(1, 2), ["price"])
    names = _Names(rng, unseen)
    raw = [_product(rng, names, kind, asked, lack) for lack in lacks]
    shift = KIND_TAILS.index(tail)  # as in `name_parts`
    others = [h for i, h in enumerate(KIND_HEADS) if h != head and ((i + shift) % 4 == 0) == unseen]
    for other in rng.sample(others, rng.randint(1, 3)):  # a word of the asked kind in its name
        lack = ["attribute", "option"] + ["price"] * rng.randint(0, 1)
        raw.append(_product(rng, names, f"{other} {tail}", asked, lack))
    products = [product(row, row["Attributes"]) for row in raw]
    target = products[lacks.index([])]
    goal = {key: target[key] for key in ("asin", "category", "query", "product_category", "name")}
    goal |= {"attributes": [attribute], "goal_options": {"color": color, "size": size},
             "price_upper": float(limit)}  # fmt: skip
    wanted = f"{attribute} {kind} in color {color} and size {size}"
    instruction = f"find one {wanted}, and price lower than {limit:.2f} dollars"
    return dict(env="shop", id=f"shop-{task_id}", max_steps=MAX_STEPS, products=products, goal=goal,
                instruction=instruction)  # fmt: skip

class _Names:
    """Asins, brands and prices of a catalogue; no two share a part, so a model can copy them."""

    def __init__(self, rng: random.Random, unseen: bool):
        self.rng, self.unseen, self.used = rng, unseen, set[str]()

    def draw(self, heads: list[str], tails: list[str]) -> str:
        while self.used & set(parts := name_parts(self.rng, heads, tails, self.unseen)):
            pass
        self.used.update(parts)
        return "".join(parts)

    def price(self, least: int, most: int) -> int:
        while str(price := self.rng.randint(least, most)) in self.used:
            pass
        self.used.add(str(price))
        return price

def _product(rng: random.Random, names: _Names, kind: str, asked: dict, lack: list) -> dict:
    """A product in WebShop's schema. It has all that is asked, except for what it shall lack."""
    limit = asked["limit"]
    price = names.price(limit + 2, limit + 40) if "price" in lack else names.price(5, limit - 2)
    without = rng.choice(["color", "size"]) if "option" in lack else None
    options = {}
    for group, values in (("color", COLORS), ("size", SIZES)):
        shown = rng.sample([v for v in values if v != asked[group]], rng.randint(2, 3))
        if group != without:
            shown[rng.randrange(len(shown))] = asked[group]
        options[group] = [{"value": value} for value in shown]
    features = rng.sample([a for a in ATTRIBUTES if a != asked["attribute"]], 2)
    if "attribute" not in lack:
        features[rng.randrange(2)] = asked["attribute"]
    brand = names.draw(*WORDS["brands"])
    return {
        "asin": names.draw(ASIN_HEADS, ASIN_TAILS), "name": f"{brand} {kind}", "category": "home",
        "query": kind, "product_category": f"Home › {kind.split()[1]} › {kind}",
        "pricing": f"${price}.00", "customization_options": options,
        "small_description": features, "full_description": f"By {brand}.", "Attributes": features,
    }  # fmt: skip
