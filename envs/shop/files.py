"""WebShop's own files as tasks: products, their attributes, goals. Read `envs/tasks.py` first.

    items_shuffle*.json    a list of products; `product` says which fields are read
    items_ins_v2*.json     asin -> {attributes, instruction, instruction_attributes}
    items_human_ins.json   asin -> [{instruction, instruction_attributes, instruction_options}, ...]

Changed from WebShop, whose prices and limits differ from process to process: of a price range the
middle is paid, and a price limit is drawn from the asin.
"""

import math
import random
import re
from itertools import product as combinations
from pathlib import Path
from typing import Any

from envs.tasks import check_split, read_json

MAX_STEPS = 15  # the ReAct agent's longest recorded trial
# at most: combinations of a product's options, goals made for a file's products, attributes of a
# product or goal, groups of options; the reward compares texts word by word
COMBINATIONS, MADE_GOALS, ATTRIBUTES, GROUPS = 10_000, 100_000, 300, 100
LONGEST = 500  # characters of an option or an attribute, at most
LONGEST_INSTRUCTION = 10_000
BROKEN = (KeyError, TypeError, AttributeError, ValueError)  # what a broken row raises

def product(raw: dict, attributes: list[str]) -> dict:
    """A product as the pages and the reward need it, from a product of WebShop's schema. As in
    WebShop's loader, a missing or empty price is $100.0, each `$` starts an amount, the first two
    count, and option values have ` | ` in place of `/`. ValueError for a price without `$`.
    """
    pricing = raw.get("pricing") or "$100.0"
    prices = [float(re.sub(r"[^\d.]", "", price)) for price in pricing.split("$")[1:3]]
    if not prices or not all(map(math.isfinite, prices)):
        raise ValueError(f"the price {pricing!r:.60} has no $ or is not finite")
    bullets = raw["small_description"]
    bullets = bullets if isinstance(bullets, list) else [bullets or ""]
    texts = [raw[field] for field in ("asin", "name", "category", "query", "product_category")]
    description = raw["full_description"] or ""
    _check_texts([*texts, description, *bullets], None)
    _check_texts(attributes, most=ATTRIBUTES)
    options = {
        group.lower(): [v["value"].strip().replace("/", " | ").lower() for v in values]
        for group, values in (raw["customization_options"] or {}).items()
        if values is not None
    }
    if len(options) > GROUPS:
        raise ValueError(f"{len(options)} groups of options, at most {GROUPS}")
    _check_texts([value for values in options.values() for value in values])
    return {
        "asin": raw["asin"], "name": raw["name"], "category": raw["category"],
        "query": raw["query"].lower().strip(), "product_category": raw["product_category"],
        "Title": raw["name"], "Description": description, "BulletPoints": bullets,
        "Attributes": attributes, "Reviews": [], "Rating": "N.A.", "options": options,
        "Price": " to ".join(f"${p}" for p in prices), "price": sum(prices) / len(prices),
    }  # fmt: skip

def load(products: str | Path, goals: str | Path | None,
         attributes: str | Path | None) -> list[dict]:  # fmt: skip
    """Tasks from paths of WebShop's files; all tasks share one list of products.
    goals: items_human_ins.json, or items_ins_v2*.json (then each combination of options is a goal).
    attributes: items_ins_v2*.json. Where one of the two is None, the other serves as both.
    ValueError, with path and reason, if a file is missing, broken or foreign.
    """
    goals = attributes if goals is None else goals
    if goals is None:
        raise ValueError(f"{products}: products without goals; name their file too")
    asked = _read(goals, dict)
    known = asked if attributes in (None, goals) else _read(attributes, dict)
    shown: dict[str, dict] = {}
    for i, raw in enumerate(_read(products, list)):
        try:
            asin = raw["asin"]
            if asin != "nan" and len(asin) <= 10 and asin not in shown:
                entry = known.get(asin)
                own = entry.get("attributes", []) if isinstance(entry, dict) else []
                shown[asin] = product(raw, own)
        except BROKEN as error:
            raise ValueError(f"{products}: product {i} is broken ({error!r})") from None
    tasks, everything = [], list(shown.values())
    made = [item for asin, item in shown.items() if isinstance(asked.get(asin), dict)]
    if sum(math.prod(map(len, item["options"].values())) for item in made) > MADE_GOALS:
        raise ValueError(f"{goals}: more than {MADE_GOALS} combinations of options to make goals "
                         "of; name fewer products")  # fmt: skip
    for asin, item in shown.items():
        try:
            tasks += _tasks(item, asked.get(asin), everything)
        except BROKEN as error:
            raise ValueError(f"{goals}: the goal of {asin} is broken ({error!r})") from None
    if not tasks:
        raise ValueError(f"{goals}: no goal for any product of {products}")
    return tasks

def split_tasks(tasks: list[dict], split: str, n: int, seed: int) -> list[dict]:
    """n tasks of a split, or all that it has. `unseen` is WebShop's test share, `seen` its
    development share, `train` the rest. If there are fewer than 2,000 goals, each split has all.
    """
    check_split(split)
    shares = {"unseen": (0, 500), "seen": (500, 1500), "train": (1500, None)}
    shuffled = tasks[:]
    random.Random(233).shuffle(shuffled)  # WebShop's seed and method
    if len(tasks) >= 2000:
        shuffled = shuffled[slice(*shares[split])]
    return random.Random(f"shop {split} {seed}").sample(shuffled, min(n, len(shuffled)))

def _tasks(item: dict, asked: object, products: list[dict]) -> list[dict]:
    """The tasks of a product. `asked`: a list of goals by people, or a dict to make goals from."""
    made, goals = isinstance(asked, dict), asked if isinstance(asked, list) else []
    if isinstance(asked, dict) and asked.get("instruction") is not None:
        _check_texts([asked["instruction"]], LONGEST_INSTRUCTION)
        groups = dict(sorted(item["options"].items()))
        if math.prod(map(len, groups.values())) > COMBINATIONS:
            raise ValueError(f"more than {COMBINATIONS} combinations of options")
        for values in combinations(*groups.values()):
            chosen = dict(zip(groups, values))
            named = ", and ".join(f"{group}: {value}" for group, value in chosen.items())
            text = asked["instruction"] + (f" with {named}" if named else "")
            goals.append(asked | {"instruction": text, "instruction_options": chosen})
    above = [10.0 * i for i in range(1, 100) if 10.0 * i > item["price"]][:4]
    tasks = []
    for i, goal in enumerate(goals):
        attributes = goal["instruction_attributes"]
        if not attributes:  # WebShop leaves such goals out too
            continue
        _check_texts([goal["instruction"]], None if made else LONGEST_INSTRUCTION)
        _check_texts(attributes, most=ATTRIBUTES)
        options = goal["instruction_options"]
        _check_texts([*options.values()] if isinstance(options, dict) else options, most=GROUPS)
        limit, text = 1_000_000.0, ""  # no limit
        if len(above) >= 2:
            number = 0 if made else i  # goals made for one product share a limit
            limit = max(random.Random(f"{item['asin']} {number}").sample(above, 2))
            text = f", and price lower than {limit:.2f} dollars"
        fields = ("asin", "category", "query", "name", "product_category")
        task_goal = {field: item[field] for field in fields}
        wanted = goal["instruction"].strip("" if made else ".")
        task_goal |= {"attributes": attributes, "goal_options": options, "price_upper": limit}
        tasks.append({"env": "shop", "id": f"{item['asin']}-{i}", "max_steps": MAX_STEPS,
                      "products": products, "goal": task_goal, "instruction": wanted + text})
    return tasks

def _check_texts(values: object, longest: int | None = LONGEST, most: int | None = None) -> None:
    """TypeError unless it is a list of texts; ValueError on one too long, or on too many."""
    if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
        raise TypeError(f"{values!r} is not a list of texts"[:200])
    if longest and (long := [text for text in values if len(text) > longest]):
        raise ValueError(f"{long[0]:.30}... has {len(long[0])} characters, at most {longest}")
    if most and len(values) > most:
        raise ValueError(f"{len(values)} texts such as {values[0]!r:.30}, at most {most}")

def _read(path: str | Path, kind: type) -> Any:
    """A JSON file whose outermost value is a list or a dict."""
    value = read_json(path)
    if not isinstance(value, kind):
        raise ValueError(f"{path}: expected a JSON {'object' if kind is dict else 'array'}")
    return value
