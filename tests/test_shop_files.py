"""WebShop's own files: goals that people wrote, goals made from attributes, and broken ones."""

import json
from pathlib import Path

import pytest
from small_shop import raw, shop_perfectly

from envs.shop import Shop

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
    assert said == "I did not choose red. Plan: open BAK73, choose red, buy."
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

@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"products": "[{", "goals": HUMAN}, r"products.json: not JSON"),
        ({"products": {}, "goals": HUMAN}, r"products.json: expected a JSON array"),
        ({"products": [{"asin": "B1"}], "goals": HUMAN}, r"product 0 is broken .*pricing"),
        ({"products": [3], "goals": HUMAN}, r"product 0 is broken"),
        ({"products": [raw(pricing="$1.2.3")], "goals": HUMAN}, r"product 0 is broken .*1\.2\.3"),
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

def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        Shop(products=tmp_path / "no.json", goals=tmp_path / "no.json")
    with pytest.raises(ValueError, match="name their file too"):
        Shop(goals=tmp_path / "no.json")
