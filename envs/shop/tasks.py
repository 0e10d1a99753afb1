"""Catalogues and instructions for the shop, from a seed: endless, no download. Read `envs/tasks.py`
and `product` in `envs/shop/files.py` first.

A task has a small catalogue in which one product fits. Two or three products of the kind asked for
come first in the results. Others that share a word with it come after them. In a little more than
half of the tasks the first hit is a trap: it lacks an option or an attribute, or costs too much.

Asins, brands and kinds are made up (`envs/names.py`). The names of `unseen` tasks stand in no
training text.
"""

import random
from typing import Any

from envs.names import CUT, cutter, name_parts
from envs.shop.files import product

MAX_STEPS = 8  # a purchase takes 5 steps: a player can leave one wrong page, not two
TRAPS = {None: 0.45, "option": 0.2, "attribute": 0.2, "price": 0.15}  # share of the tasks
COLORS = """beige black blue brown coral gold green grey navy orange pink purple red teal white
yellow""".split()
SIZES = "giant large long medium mini narrow short slim small tall tiny wide".split()
ATTRIBUTES = """bendable cordless elastic fireproof foldable handmade insulated lightweight
magnetic noiseless padded portable quilted recyclable scented washable""".split()
ASIN_HEADS = """BAK BAX BEL BEZ BIF BIN BOD BOQ BUM BUR BYS BYT BCA BDU BFE BGO BHI BJA BKE BLO BMU
BNA BPE BRI""".split()
ASIN_TAILS = [str(n) for n in range(10, 98)]
BRAND_HEADS = """Ald Bor Cal Dor Els Fen Gar Hol Ilm Jor Kel Lun Mar Nor Ost Pel Quin Ros Sol Tar
Ulm Ver Wes Zan""".split()
BRAND_TAILS = """aro bek cot dan eva fix gim hart ino jax kin lev mont nix oda pex rim sta tho umi
vik wyn yto zel""".split()
KIND_HEADS = """amber bamboo camel cedar copper cotton denim felt fleece glass hemp ivory jute
leather linen marble maple nylon oak paper pine resin satin silk steel straw suede velvet walnut
wool""".split()
KIND_TAILS = """apron bag basket belt blanket bottle bowl chair clock cup curtain cushion hat jacket
kettle lamp mat mirror mug pillow pot rug scarf shelf shirt stool table tray vase wallet""".split()
_BRAND = cutter(BRAND_HEADS, BRAND_TAILS)


def cut_names(text: str) -> str:
    """Text with a line's end inside each brand, so that a tokenizer learns the parts.

    >>> cut_names("Norvik velvet lamp")
    'Nor\\nvik velvet lamp'
    """
    return _BRAND.sub(CUT, text)


def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task: its catalogue and what is asked."""
    unseen = split == "unseen"
    head, tail = name_parts(rng, KIND_HEADS, KIND_TAILS, unseen)
    asked: dict[str, Any] = {
        "kind": f"{head} {tail}",
        "color": rng.choice(COLORS),
        "size": rng.choice(SIZES),
        "attribute": rng.choice(ATTRIBUTES),
        "limit": rng.randrange(20, 100, 10),
    }
    trap = rng.choices(list(TRAPS), list(TRAPS.values()))[0]
    # what each product of the asked kind lacks, in the order of the results
    lacks: list[list[str]] = [[]]
    if trap is None:
        lacks.append([rng.choice(["option", "attribute"])])
    else:
        lacks.insert(0, [trap])
    if rng.random() < 0.5:  # one more that is too dear, never the first
        lacks.insert(rng.randint(1, 2), ["price"])
    names = _Names(rng, unseen)
    raw = [_product(rng, names, asked["kind"], asked, lack) for lack in lacks]
    others = [
        h
        for i, h in enumerate(KIND_HEADS)
        if h != head and ((i + KIND_TAILS.index(tail)) % 4 == 0) == unseen  # as `name_parts` draws
    ]
    for other in rng.sample(others, rng.randint(1, 3)):  # a word of the asked kind in its name
        lack = ["attribute", "option"] + ["price"] * rng.randint(0, 1)
        raw.append(_product(rng, names, f"{other} {tail}", asked, lack))
    products = [product(row, row["Attributes"]) for row in raw]
    target = products[lacks.index([])]
    goal = {key: target[key] for key in ("asin", "category", "query", "product_category", "name")}
    goal["attributes"] = [asked["attribute"]]
    goal["goal_options"] = {"color": asked["color"], "size": asked["size"]}
    goal["price_upper"] = float(asked["limit"])
    instruction = (
        f"find one {asked['attribute']} {asked['kind']} in color {asked['color']} and size "
        f"{asked['size']}, and price lower than {asked['limit']:.2f} dollars"
    )
    return {
        "env": "shop",
        "id": f"shop-{task_id}",
        "max_steps": MAX_STEPS,
        "products": products,
        "goal": goal,
        "instruction": instruction,
    }


class _Names:
    """Asins, brands and prices of one catalogue. No two names share a part or a number. So after a
    part comes the rest of one name only, and a model can copy names.
    """

    def __init__(self, rng: random.Random, unseen: bool):
        self.rng, self.unseen = rng, unseen
        self.used: set[str] = set()

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


def _product(rng: random.Random, names: _Names, kind: str, asked: dict, lack: list[str]) -> dict:
    """A product in WebShop's schema. It has all that is asked, except for what it shall lack."""
    limit = asked["limit"]
    price = names.price(limit + 2, limit + 40) if "price" in lack else names.price(5, limit - 2)
    without = rng.choice(["color", "size"]) if "option" in lack else None
    options = {}
    for group, values in (("color", COLORS), ("size", SIZES)):
        shown = rng.sample([v for v in values if v != asked[group]], rng.randint(2, 3))
        if group != without:
            shown[rng.randrange(len(shown))] = asked[group]
        options[group] = [{"value": value, "image": None} for value in shown]
    features = rng.sample([a for a in ATTRIBUTES if a != asked["attribute"]], 2)
    if "attribute" not in lack:
        features[rng.randrange(2)] = asked["attribute"]
    brand = names.draw(BRAND_HEADS, BRAND_TAILS)
    tail = kind.split()[1]
    return {
        "asin": names.draw(ASIN_HEADS, ASIN_TAILS),
        "name": f"{brand} {kind}",
        "category": "home",
        "query": kind,
        "product_category": f"Home › {tail} › {kind}",
        "pricing": f"${price}.00",
        "customization_options": options,
        "small_description": features,
        "full_description": f"By {brand}.",
        "Attributes": features,
        "images": [None],
    }
