"""Catalogues and instructions for the shop, from a seed: endless, no download. Read `envs/tasks.py`
and `product` in `envs/shop/files.py` first. In a small catalogue one product fits. The first page
of results holds three of the kind asked for, the second one or two more. Other kinds share a word.

A usual shopper (`demonstrations.py`) opens a hit below $10, a `lure`, else the first. It leaves a
product that others rated poorly, where another hit is left, and buys one with the best rating
before it chooses. It takes a colour for a shade of it, `red` for `dark red`, that stands behind it,
and overlooks a third option that is not the first of its line. So a task's course is known when it
is made, and `COURSES` mixes the failures: no rule on order, price or page finds the right product
in most of them, the failed trial's text does.
"""

import random
from pathlib import Path

from envs.names import name_parts
from envs.shop.files import product
from envs.tasks import read_json

MAX_STEPS = 12  # a purchase takes 5 to 7: a player can leave two products, not read all of three
PER_PAGE = 3  # results on a page
COURSES = {  # what a usual shopper meets -> share of the tasks
    "straight": 0.50,  # it buys the right product
    "careless": 0.15,  # it finds the right product, and chooses a wrong option or not all
    "trap": 0.14,  # it buys a wrong product; the right one is on the same page
    "passed": 0.08,  # the same; it had opened the right one before
    "page": 0.08,  # all of the kind on the first page are wrong
    "words": 0.05,  # the thing's name alone finds other kinds
}
LURED = 0.7  # chance of a lure
# chances that a visibly wrong product is opened, and left, before the one that is bought
LEFT = {"straight": 0.1, "careless": 0.7, "trap": 0.6, "passed": 0.7, "page": 0.5}
# chances of a third option and a shade, and of the best rating, where a task does not hang on them:
# or the instruction's form and the rating would tell the cause
ODD, PRAISED = 0.3, 0.3
TOP, POOR = "5.0", "1"  # the best rating; how a poor one begins
WORDS = read_json(Path(__file__).with_name("words.json"))
COLORS, SIZES, PATTERNS = WORDS["colors"], WORDS["sizes"], WORDS["patterns"]
ATTRIBUTES = WORDS["attributes"]
ASIN_HEADS, ASIN_TAILS = WORDS["asin heads"], [str(n) for n in range(10, 98)]
KIND_HEADS, KIND_TAILS = WORDS["kinds"]
BRAND_HEADS, BRAND_TAILS = WORDS["brands"]
# heads of another kind's list, for a share of the training names (`envs.names`)
ASIN_STRANGERS = [head.upper() for head in BRAND_HEADS]
BRAND_STRANGERS = [head.title() for head in ASIN_HEADS]
KIND_STRANGERS = BRAND_TAILS

def generate_task(rng: random.Random, split: str, task_id: str) -> dict:
    """One task: its catalogue and what is asked."""
    unseen = split == "unseen"
    course = rng.choices(list(COURSES), list(COURSES.values()))[0]
    carelessness = rng.choice(["third", "shade", "haste"]) if course == "careless" else ""
    head, tail = name_parts(rng, KIND_HEADS, KIND_TAILS, unseen, KIND_STRANGERS)
    asked = _asked(rng, carelessness)
    names = _Names(rng, unseen)
    first = _page(rng, course, carelessness == "haste")
    later = [{"lack": list[str]()}] * (course == "page")
    later += [_dear(rng) for _ in range(rng.randint(1, 2))]
    own = [_product(rng, names, f"{head} {tail}", asked, **hit) for hit in first + later]
    shift = KIND_TAILS.index(tail)  # as in `name_parts`
    others = [h for i, h in enumerate(KIND_HEADS) if h != head and ((i + shift) % 4 == 0) == unseen]
    least = PER_PAGE if course == "words" else 1
    wrong = ["attribute", "option"]
    other = [_product(rng, names, f"{h} {tail}", asked, wrong + ["price"] * rng.randint(0, 1))
             for h in rng.sample(others, rng.randint(least, 3))]  # fmt: skip
    target = next(own[i] for i, hit in enumerate(first + later) if not hit["lack"])
    goal = {key: target[key] for key in ("asin", "category", "query", "product_category", "name")}
    goal |= {"attributes": [asked["attribute"]], "price_upper": float(asked["limit"]),
             "goal_options": asked["options"]}  # fmt: skip
    kind = f"{tail} of {head}" if course == "words" else f"{head} {tail}"
    return dict(env="shop", id=f"shop-{task_id}", max_steps=MAX_STEPS, goal=goal,
                products=other + own if course == "words" else own + other,
                instruction=instruction(asked["attribute"], kind, asked["options"],
                                        asked["limit"]))  # fmt: skip

def _asked(rng: random.Random, carelessness: str) -> dict:
    """What is asked for; `shown` is a colour that a page has beside a shade of it."""
    color, shown = rng.choice(COLORS), ""
    if carelessness == "shade" or rng.random() < ODD:
        shades, shaded = WORDS["shades"]
        shown = rng.choice(shaded)
        color = f"{rng.choice(shades)} {shown}"
    options = {"color": color, "size": rng.choice(SIZES)}
    if carelessness == "third" or rng.random() < ODD:
        options["pattern"] = rng.choice(PATTERNS)
    return {"options": options, "attribute": rng.choice(ATTRIBUTES), "shown": shown,
            "limit": rng.randrange(40, 110, 10)}  # fmt: skip

def instruction(attribute: str, kind: str, options: dict[str, str], limit: float) -> str:
    *chosen, last = [f"{group} {value}" for group, value in options.items()]
    wanted = f"{attribute} {kind} in {', '.join(chosen)} and {last}"
    return f"find one {wanted}, and price lower than {limit:.2f} dollars"

def _dear(rng: random.Random) -> dict:
    return {"lack": ["price"] + ["attribute"] * (rng.random() < 0.1)}

def _page(rng: random.Random, course: str, haste: bool) -> list[dict]:
    """The first page of the kind asked for: what each hit lacks, its price range and its rating."""
    found = course in ("straight", "careless", "words")  # the right one is bought
    right: dict = {"lack": [], "costs": rng.choice(["little", "much"])}
    right["behind"] = course == "careless"
    bought = right if found else _wrong(rng, "price", "option", "attribute", "attribute")
    way = [bought]  # what a usual shopper opens, in order
    if course == "passed":
        way.insert(0, right)
    if rng.random() < LEFT.get(course, 0):
        visible = ["option"] if course == "careless" else ["price", "option", "option"]
        way.insert(0, _wrong(rng, *visible))
    for hit in way[:-1]:
        hit["rating"] = f"{POOR}.{rng.randint(0, 9)}"
    if haste or (bought["lack"] and rng.random() < PRAISED):
        bought["rating"] = TOP
    rest = [right] if course == "trap" else []
    # what is bought for the right one is known to have all: another one may look as good
    alike = course == "careless"
    rest += [_wrong(rng, "option", "attribute") if alike and rng.random() < 0.7 else _dear(rng)
             for _ in range(PER_PAGE - len(way) - len(rest))]  # fmt: skip
    rng.shuffle(rest)
    page = [*way[1:], *rest]
    lured = course != "words" and "price" not in way[0]["lack"] and rng.random() < LURED
    if lured:
        way[0]["costs"] = "lure"
    page.insert(rng.randint(0, len(page)) if lured else 0, way[0])
    return page

def _wrong(rng: random.Random, *faults: str) -> dict:
    """A product with one fault; if it is not the price, it is mostly cheaper than the right one."""
    return {"lack": [rng.choice(faults)], "costs": "little" if rng.random() < 0.7 else "much"}

class _Names:
    """Asins, brands and prices of a catalogue; no two share a part, so a model can copy them."""

    def __init__(self, rng: random.Random, unseen: bool):
        self.rng, self.unseen, self.used = rng, unseen, set[str]()

    def draw(self, heads: list[str], tails: list[str], strangers: list[str]) -> str:
        while self.used & set(
            parts := name_parts(self.rng, heads, tails, self.unseen, strangers)
        ):
            pass
        self.used.update(parts)
        return "".join(parts)

    def price(self, least: int, most: int) -> int:
        while str(price := self.rng.randint(least, most)) in self.used:
            pass
        self.used.add(str(price))
        return price

def _product(rng: random.Random, names: _Names, kind: str, asked: dict, lack: list,
             costs: str = "much", rating: str = "", behind: bool = False) -> dict:  # fmt: skip
    """A product as pages show it. It has all that is asked, except for what it shall lack.
    `behind`: a shade or a third option stands behind others.
    """
    limit, groups = asked["limit"], {"color": COLORS, "size": SIZES, "pattern": PATTERNS}
    middle = 11 + (limit - 13) // 2
    ranges = {"lure": (5, 9), "little": (11, middle), "much": (middle + 1, limit - 2)}
    price = names.price(*((limit + 2, limit + 40) if "price" in lack else ranges[costs]))
    without = rng.choice(list(asked["options"])) if "option" in lack else None
    options = {}
    for group, value in asked["options"].items():
        left = [v for v in groups[group] if v not in (value, asked["shown"])]
        shown = rng.sample(left, rng.randint(2, 3))
        odd = group == "pattern" or (group == "color" and asked["shown"])
        if group != without:
            first, last = (1, len(shown)) if behind and odd else (0, 1 if odd else len(shown))
            shown[rng.randrange(first, last)] = value
        if group == "color" and asked["shown"]:
            shown.insert(0 if behind else rng.randint(1, len(shown)), asked["shown"])
        options[group] = [{"value": value} for value in shown]
    features = rng.sample([a for a in ATTRIBUTES if a != asked["attribute"]], 2)
    if "attribute" not in lack:
        features[rng.randrange(2)] = asked["attribute"]
    brand = names.draw(BRAND_HEADS, BRAND_TAILS, BRAND_STRANGERS)
    raw = {
        "asin": names.draw(ASIN_HEADS, ASIN_TAILS, ASIN_STRANGERS), "name": f"{brand} {kind}",
        "category": "home", "query": kind, "product_category": f"Home › {kind.split()[1]} › {kind}",
        "pricing": f"${price}.00", "customization_options": options,
        "small_description": features, "full_description": f"By {brand}.",
    }  # fmt: skip
    return product(raw, features) | {"Rating": rating or f"{rng.randint(30, 46) / 10}"}
