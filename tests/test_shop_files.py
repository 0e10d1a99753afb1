"""WebShop's own files: goals that people wrote, goals made from attributes, and broken ones."""

import json
import os
import random
import time
from pathlib import Path

import pytest
from small_shop import raw, shop_perfectly

from envs.shop import Shop, purchase_reward
from envs.shop.files import product

DATA = os.environ.get("RETRO_DATA")

def write(folder: Path, **files) -> dict[str, str]:
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / f"{name}.json").write_text(text)
    return {name: str(folder / f"{name}.json") for name in files}

PRODUCTS = [raw(), raw("BEL10", "Oskar velvet lamp", ""), raw(), raw("nan"), raw("B" * 11)]
ATTRIBUTES = {
    "BAK73": {
        "attributes": ["easy clean"],
        "instruction": "find a velvet lamp",
        "instruction_attributes": ["easy clean"],
    }
}
HUMAN = {
    "BAK73": [
        {
            "instruction": "i want a red velvet lamp.",
            "instruction_attributes": ["easy clean"],
            "instruction_options": ["red"],
        },
        {"instruction": "x", "instruction_attributes": [], "instruction_options": []},
    ]
}

def test_goals_that_people_wrote(tmp_path):
    paths = write(tmp_path, products=PRODUCTS, goals=HUMAN, attributes=ATTRIBUTES)
    env = Shop(**paths)
    (t,) = env.tasks("unseen", 5, 0)
    assert [p["asin"] for p in t["products"]] == ["BAK73", "BEL10"]
    assert t["products"][1]["Price"] == "$100.0"
    assert t["goal"]["price_upper"] in (30.0, 40.0, 50.0)  # the larger of two of 20 .. 50
    limit = t["goal"]["price_upper"]
    assert t["instruction"] == f"i want a red velvet lamp, and price lower than {limit:.2f} dollars"
    observation, _ = env.reset(t)
    steps = []
    for action in ["search[red velvet lamp]", "click[BAK73]", "click[Buy Now]"]:
        steps.append((action, env.step(action)[0]))
    assert env.info() == {"success": False, "progress": pytest.approx(2 / 3)}
    said = env.oracle_reflection(observation, steps)
    assert said == (
        f"Notes: limit ${limit}; BAK73 $15.0 fits, bought before choosing; BEL10 $100.0 too dear. "
        "Cause: I bought before choosing. Plan: open BAK73, choose red, buy."
    )
    env.reset(t)
    for action in ["search[red velvet lamp]", "click[BAK73]", "click[red]", "click[Buy Now]"]:
        env.step(action)
    assert env.info()["success"]

def test_goals_made_from_attributes(tmp_path):
    paths = write(tmp_path, products=PRODUCTS, goals=ATTRIBUTES)
    env = Shop(**paths)
    tasks = env.tasks("train", 10, 0)
    assert len(tasks) == 4 and len({t["id"] for t in tasks}) == 4  # two colours, two sizes
    assert "find a velvet lamp with color: red, and size: small, and price lower than " in " ".join(
        t["instruction"] for t in tasks
    )
    assert all(t["products"] is tasks[0]["products"] for t in tasks)
    for t in tasks:
        assert shop_perfectly(env.fresh(), t)["success"]

def test_made_goals_are_worded_and_limited_as_in_webshop(tmp_path):
    values = {"Size": ["2 oz."], "color": ["red", "navy"], "Style": None}
    options = {g: v and [{"value": x} for x in v] for g, v in values.items()}
    made = {"BAK73": ATTRIBUTES["BAK73"] | {"instruction": "find it..."}}
    product = raw(pricing="$20.00", customization_options=options)
    paths = write(tmp_path, products=[product], attributes=made)
    tasks = Shop(**paths).loaded
    (limit,) = {t["goal"]["price_upper"] for t in tasks}  # one for all
    assert limit in (40.0, 50.0, 60.0)  # the larger of two of 30 .. 60
    tail = f"size: 2 oz., and price lower than {limit:.2f} dollars"
    assert [t["instruction"] for t in tasks] == [
        f"find it... with color: {color}, and {tail}" for color in ("red", "navy")
    ]

@pytest.mark.parametrize(
    ("pricing", "limit"), [("$975", 990.0), ("$980", 1e6), ("$2,000.00", 1e6), ("$949.5", ...)]
)
def test_limits_end_at_990_dollars(tmp_path, pricing, limit):
    paths = write(tmp_path, products=[raw(pricing=pricing)], goals=HUMAN)
    (t,) = Shop(**paths).loaded
    assert limit in (..., t["goal"]["price_upper"])
    assert t["goal"]["price_upper"] in (960.0, 970.0, 980.0, 990.0, 1e6)
    assert ("price lower" in t["instruction"]) == (t["goal"]["price_upper"] < 1e6)
    assert t["instruction"].startswith("i want a red velvet lamp") and "." not in t["id"]

@pytest.mark.parametrize(
    ("pricing", "shown", "paid"),
    [(None, "$100.0", 100), ("", "$100.0", 100), ("$1,234.50", "$1234.5", 1234.5),
     ("$10.00 to $25.00", "$10.0 to $25.0", 17.5), ("$3.99$10.99", "$3.99 to $10.99", 7.49),
     ("$1$2$9", "$1.0 to $2.0", 1.5), ("from $5 on", "$5.0", 5)],
)  # fmt: skip
def test_prices(pricing, shown, paid):
    item = product(raw(pricing=pricing), [])
    assert (item["Price"], item["price"]) == (shown, pytest.approx(paid))

def test_odd_products():
    bare = raw(small_description=None, full_description=None, customization_options="")
    del bare["pricing"]
    item = product(bare | {"query": " Velvet LAMP "}, [])
    assert item["Price"] == "$100.0" and item["query"] == "velvet lamp"
    assert (item["BulletPoints"], item["Description"], item["options"]) == ([""], "", {})
    options = {"Size": None, "COLOR": [{"value": " Navy/Blue "}]}
    item = product(raw(small_description="one text", customization_options=options), [])
    assert (item["BulletPoints"], item["options"]) == (["one text"], {"color": ["navy | blue"]})

@pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with WebShop's products")
def test_real_products():
    paths = {f: Path(DATA) / f"webshop_{f}_1000.json" for f in ("products", "attributes")}
    env = Shop(**paths)
    assert len(env.loaded) == 6910 and len({t["id"] for t in env.loaded}) == 6910
    assert all(t["products"] is env.loaded[0]["products"] for t in env.loaded)
    assert len(env.loaded[0]["products"]) == 1000
    order = list(range(6910))
    random.seed(233)
    random.shuffle(order)
    for split, places in {"unseen": order[:500], "seen": order[500:1500],
                          "train": order[1500:]}.items():  # fmt: skip
        ids = {t["id"] for t in env.tasks(split, 10_000, 0)}
        assert ids == {env.loaded[i]["id"] for i in places}
    for t in env.tasks("seen", 20, 0):  # what a goal was made from fulfils it
        item = next(p for p in t["products"] if p["asin"] == t["goal"]["asin"])
        assert purchase_reward(item, t["goal"]["goal_options"], item["price"], t["goal"]) == 1.0

@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"products": "[{", "goals": HUMAN}, r"products.json: not JSON"),
        ({"products": {}, "goals": HUMAN}, r"products.json: expected a JSON array"),
        ({"products": [{"asin": "B1"}], "goals": HUMAN}, r"product 0 is broken .*small_desc"),
        ({"products": [3], "goals": HUMAN}, r"product 0 is broken"),
        ({"products": [raw(pricing="$1.2.3")], "goals": HUMAN}, r"product 0 is broken .*1\.2\.3"),
        ({"products": [raw(pricing="9.50")], "goals": HUMAN}, r"the price '9\.50' has no \$"),
        ({"products": [raw(pricing=9.5)], "goals": HUMAN}, r"product 0 is broken"),
        ({"products": PRODUCTS, "goals": []}, r"goals.json: expected a JSON object"),
        ({"products": PRODUCTS, "goals": {"BAK73": [{}]}}, r"the goal of BAK73 is broken"),
        ({"products": PRODUCTS, "goals": {"BZZ": []}}, r"no goal for any product"),
        ({"products": PRODUCTS}, r"products without goals"),
    ],
)
def test_broken_files(tmp_path, files, message):
    with pytest.raises(ValueError, match=message) as error:
        Shop(**write(tmp_path, **files))
    assert "\n" not in str(error.value)

def options(groups: int, values: int) -> dict:
    named = [{"value": f"v{i}"} for i in range(values)]
    return {"customization_options": {f"g{g}": named for g in range(groups)}}

def made(**changes) -> dict:
    return {"BAK73": ATTRIBUTES["BAK73"] | changes}

MANY = [f"soft {i}" for i in range(301)]
TOO_LARGE = {
    "301 texts such as 'soft 0', at most 300": lambda: ([raw()], made(attributes=MANY)),
    "of BAK73 .*301 texts": lambda: ([raw()], made(instruction_attributes=MANY)),
    "101 groups of options, at most 100": lambda: ([raw(**options(101, 1))], made()),
    "more than 10000 combinations": lambda: ([raw(**options(2, 101))], made()),
    "more than 100000 combinations of options to make goals of": lambda: (
        [raw(f"B{i}", **options(1, 9999)) for i in range(30)],
        {f"B{i}": ATTRIBUTES["BAK73"] for i in range(30)}),
    "has 10001 characters, at most 10000": lambda: ([raw()], made(instruction="w" * 10_001)),
    "has 10001 characters, at most": lambda: (
        [raw()], {"BAK73": [HUMAN["BAK73"][0] | {"instruction": "w" * 10_001}]}),
    "of BAK73 .*101 texts such as 'red'": lambda: (
        [raw()], {"BAK73": [HUMAN["BAK73"][0] | {"instruction_options": ["red"] * 101}]}),
    "the price .* is not finite": lambda: ([raw(pricing="$" + "9" * 400)], made()),
}  # fmt: skip

@pytest.mark.parametrize("message", TOO_LARGE)
def test_files_of_hostile_sizes_are_refused_in_a_short_time(tmp_path, message):
    products, goals = TOO_LARGE[message]()
    paths, started = write(tmp_path, products=products, goals=goals), time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        Shop(**paths)
    assert time.process_time() - started < 3 and len(str(error.value)) < 400

@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_files_in_other_encodings_are_read(tmp_path, encoding):
    paths = write(tmp_path, products=PRODUCTS, goals=HUMAN, attributes=ATTRIBUTES)
    for path in map(Path, paths.values()):
        path.write_bytes(path.read_text().encode(encoding))
    assert len(Shop(**paths).loaded) == 1

def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Shop(products=tmp_path / "no.json", goals=tmp_path / "no.json")
    with pytest.raises(ValueError, match="name their file too"):
        Shop(goals=tmp_path / "no.json")
