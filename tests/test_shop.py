"""The shop: WebShop's reward, its pages, and a transcript letter by letter."""

import json
import math
import os
import random
import re
from pathlib import Path

import pytest
from small_shop import GOAL, raw, task

from envs.observer import read_trial
from envs.shop import Shop, purchase_reward
from envs.shop.engine import index, nouns, rank, token_set_ratio, type_reward
from envs.shop.files import product as shown
from envs.shop.observer import Notes
from retro import prompts

DATA = os.environ.get("RETRO_DATA")

# ---- The reward.

BOTH = {"color": "red", "size": "small"}

@pytest.mark.parametrize(
    ("changes", "attributes", "options", "price", "goal", "expected"),
    [
        ({}, ["easy to clean"], BOTH, 15, {}, 1.0),  # (2 + 2 + 1) / 5
        ({}, [], BOTH, 15, {}, 4 / 5),  # `easy clean` nowhere
        ({}, ["easy to clean"], BOTH, 20.01, {}, 4 / 5),
        ({}, ["easy to clean"], {"color": "red"}, 15, {}, 4 / 5),
        ({}, ["easy to clean"], {"color": "bright red #3", "size": "large"}, 15, {}, 4 / 5),
        ({}, ["easy to clean"], {}, 99, {}, 2 / 5),
        ({}, [], {}, 15, {"goal_options": [], "attributes": ["washable"]}, 1.0),
        ({}, ["washable", "washable"], {}, 15, {"goal_options": [], "attributes": ["padded"]}, 1.0),
        ({}, [], {"a": "red", "b": "red"}, 15, {"attributes": ["padded"]}, 3 / 4),  # red once
        ({}, ["easy to clean"], BOTH, 99, {"price_upper": 0}, 1.0),
        # another thing of another query and category: one noun of three is enough, none is not
        ({"name": "Oskar paper lamp", "query": "x", "product_category": "Toys"}, ["easy to clean"],
         BOTH, 15, {}, 1.0),
        ({"name": "Oskar paper kite", "query": "x", "product_category": "Toys"}, ["easy to clean"],
         BOTH, 15, {}, 0.0),
        ({"name": "Oskar lamp", "query": "x", "product_category": "Toys"}, ["easy to clean"], BOTH,
         15, {"name": "lamp desk reading bulb stand metal"}, 0.5),  # 1 noun of 6
        ({"name": "Oskar lamp", "query": "x"}, ["easy to clean"], BOTH, 15,
         {"name": "lamp desk reading bulb stand metal"}, 1.0),  # the same with two categories alike
        ({"name": "Oskar lamp"}, ["easy to clean"], BOTH, 15,
         {"name": "lamp " + " ".join("abcdefghijk"[i] * 3 for i in range(11))}, 0.1),  # 1 of 12
    ],
)  # fmt: skip
def test_reward_by_hand(changes, attributes, options, price, goal, expected):
    bought = shown(raw(**changes), attributes)
    assert purchase_reward(bought, options, price, GOAL | goal) == pytest.approx(expected)

def test_fuzzy_matching():
    assert token_set_ratio("easy clean", "Clean, easy!") == 100
    assert token_set_ratio("", "red") == 0
    assert token_set_ratio("abcd", "abce") == 75  # 2 * 3 common letters of 8
    # "a b" against "a b cc" (2 * 3 / 9) and "a b d" (2 * 3 / 8), and these: 2 * 4 / 11
    assert token_set_ratio("a b cc", "a b d") == pytest.approx(75)
    assert token_set_ratio("décor_red", "Dcor red") == 100  # no accents, `_` parts words
    assert nouns("The 2 Red Lamps for a Desk") == ["lamps", "desk"]

# What WebShop's own tests of its reward fix: likeness of kinds, attributes, options, colours.

@pytest.mark.parametrize(
    ("categories", "alike"),
    [("c › a › b", True), ("x › y › z", False), ("a › x › b", True), ("a › a › b", True),
     ("a › a › x", False)],
)  # fmt: skip
def test_two_different_categories_make_one_kind(categories, alike):
    product = {"query": "q", "name": "lamp", "product_category": "a › b › c"}
    other = product | {"query": "r", "name": "lamp desk reading bulb stand metal"}  # 1 noun of 6
    assert type_reward(product | {"product_category": categories}, other) == (1 if alike else 0.5)
    assert type_reward(product, product | {"name": "3 + 4"}) == 1  # a goal without nouns

@pytest.mark.parametrize(
    ("has", "features", "description", "found"),
    [(["pine tar", "scented oil", "fresh herbs"], [], "", 3),  # a plural counts
     (["scented oil", "fresh herbs"], [], "", 2),
     ([], ["With scented oils, for men"], "Soap of fresh herbs.", 2),
     (["pine cone", "green soap"], ["Calming, fresh smell"], "Soap with oil", 0)],
)  # fmt: skip
def test_attributes_of_a_product_or_in_its_texts(has, features, description, found):
    raws = raw(small_description=features, full_description=description)
    goal = GOAL | {"attributes": ["pine tar", "scented oils", "fresh herbs"], "goal_options": []}
    got = purchase_reward(shown(raws, has), {}, 99, goal)
    assert got == pytest.approx(found / 4)

@pytest.mark.parametrize(
    ("asked", "chosen", "found"),
    [(["grey", "XL", "pack of 6"], ["pack of 6", "grey", "xl"], 3),
     (["grey", "XL", "pack of 6"], ["pack of 6", "blue", "XL"], 2),
     (["fine winter mist", "XL"], ["XL", "winter mist"], 2),  # words of the other
     ([], ["one", "two"], 0), (["one", "two"], [], 0),
     # colours: the first of the list that occurs, even within a word
     (["forest of black"], ["black 7"], 1), (["lavender"], ["violet lavender"], 1),
     (["violet"], ["violet lavender"], 0), (["fuchsia"], ["steelfuchsia"], 1),
     (["alabaster"], ["12alabaster"], 1), (["light red"], ["light blue"], 0),
     (["light red"], ["light"], 1), (["standard"], ["tan"], 1)],
)  # fmt: skip
def test_options_in_any_order(asked, chosen, found):
    options = dict(zip("abc", chosen))
    for named in (asked, dict(zip("xyz", asked))):
        goal = GOAL | {"goal_options": named, "attributes": ["padded"]}
        got = purchase_reward(shown(raw(small_description=[]), []), options, 99, goal)
        assert got == pytest.approx(found / (len(asked) + 2))

# ---- Pages.

BUTTONS = r"\[Description\]\n\[Features\]\n\[Reviews\]\n(\[Attributes\]\n)?\[Buy Now\]"
PRICE = r"\$\d+\.\d+( to \$\d+\.\d+)?"
HIT = rf"\n\[\w{{5,10}}\]\n.+\n{PRICE}"
PAGES = {
    "start": r"Webshop\nInstruction:\n.+\n\[Search\]",
    "results": r"\[Back to Search\]\nPage \d+ \(Total results: \d+\)(\n\[< Prev\])?(\n\[Next >\])?"
    rf"({HIT}){{0,3}}",
    "item": r"\[Back to Search\]\n\[< Prev\]\n([a-z][^\[\n]* (\[\[?[^\[\]]+\]\]?)+\n)*"
    rf".+\nPrice: {PRICE}\nRating: \S+\n{BUTTONS}",
    "sub": r"\[Back to Search\]\n\[< Prev\](\n(?!Price: ).+)*",
    "said": r"OK\.|Invalid action!|You have clicked .+\.|"
    r"Your score \(min 0\.0, max 1\.0\): \d\.\d+",
}

def page(text: str) -> str | None:
    """What kind of page a text is; one recorded page has a warning of the recorder's behind it."""
    text = re.sub(r"\n/\S+: DeprecationWarning: .*", "", text, flags=re.DOTALL)
    text = "\n".join(line.strip() for line in text.splitlines()).strip()
    return next((name for name, form in PAGES.items() if re.fullmatch(form, text)), None)

@pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with WebShop's episodes")
def test_every_recorded_page_is_of_the_same_grammar():
    episodes = json.loads((Path(DATA) / "webshop_episodes.json").read_text())
    texts = [text for episode in episodes for _, text in episode["steps"]]
    kinds = [page(text) for text in texts if text]  # two recorded replies are empty
    assert len(texts) - len(kinds) == 2
    assert not [text for text in texts if text and page(text) is None][:3]
    assert {"start", "results", "item", "said"} <= set(kinds)

def test_our_pages_are_of_that_grammar():
    env, rng = Shop(max_steps=60), random.Random(0)
    kinds = set()
    for t in env.tasks("train", 40, 1):
        observation, _ = env.reset(t)
        assert page(observation) == "start"
        for _ in range(30):
            actions = [a for a in env.admissible_actions() if a != "click[Buy Now]"]
            reply = env.step(rng.choice(actions))[0]
            assert reply != "Invalid action!" and page(reply), reply
            kinds.add(page(reply))
    assert kinds == set(PAGES)

@pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with WebShop's episodes")
def test_notes_read_recorded_pages():
    episodes = json.loads((Path(DATA) / "webshop_episodes.json").read_text())
    opened = 0
    for episode in episodes:
        (_, first), *steps = episode["steps"]
        notes = read_trial(Notes(first), steps)
        assert notes.score == episode["score"] or not episode["steps"][-1][1]
        clicked = [a[6:-1] for a, o in steps if a.startswith("click[") and "[Buy Now]" in o]
        assert notes.opened == list(dict.fromkeys(clicked))
        opened += len(notes.values)
        assert prompts.well_formed(Shop().oracle_reflection(first, steps))
    assert opened > 200

TRANSCRIPT = [
    ("click[BAK73]", "Invalid action!"),
    ("think[hm]", "OK."),
    ("search[velvet lamp]", "[Back to Search]\nPage 1 (Total results: 2)\n[BAK73]\n"
     "Norvik velvet lamp\n$15.0\n[BEL10]\nOskar velvet lamp\n$9.5 to $30.0"),
    ("search[lamp]", "Invalid action!"),
    ("click[BAK73]", "[Back to Search]\n[< Prev]\ncolor [red][navy | blue]\nsize [small][large]\n"
     "Norvik velvet lamp\nPrice: $15.0\nRating: N.A.\n[Description]\n[Features]\n[Reviews]\n"
     "[Buy Now]"),
    ("click[green]", "Invalid action!"),
    ("click[red]", "You have clicked red."),
    ("click[Features]", "[Back to Search]\n[< Prev]\nwashable cover\npadded foot"),
    ("click[Buy Now]", "Invalid action!"),
    ("click[< Prev]", "[Back to Search]\n[< Prev]\ncolor [[red]][navy | blue]\n"
     "size [small][large]\nNorvik velvet lamp\nPrice: $15.0\nRating: N.A.\n[Description]\n"
     "[Features]\n[Reviews]\n[Buy Now]"),
    ("click[Description]", "[Back to Search]\n[< Prev]\nBy Norvik."),
    ("click[< Prev]", ...),
    ("click[Reviews]", "[Back to Search]\n[< Prev]"),
    ("", "Invalid action!"),
    ("buy", "Invalid action!"),
    ("click[< Prev]", ...),
    ("click[small]", "You have clicked small."),
    (" click[Buy Now] ", "Your score (min 0.0, max 1.0): 1.0"),
    ("search[anything]", "Your score (min 0.0, max 1.0): 1.0"),
]  # fmt: skip

def test_transcript_letter_by_letter():
    env = Shop()
    first, info = env.reset(task(raw(), raw("BEL10", "Oskar velvet lamp", "$9.50 - $30.00")))
    assert first == (
        "Webshop\nInstruction:\nfind one washable velvet lamp in color red and size small, and "
        "price lower than 20.00 dollars\n[Search]"
    )
    assert info == {"success": False, "progress": 0.0}
    for action, expected in TRANSCRIPT:
        reply, reward, terminated, truncated, info = env.step(action)
        assert expected in (..., reply), action
        assert (terminated, reward) == ((True, 1.0) if "score" in reply else (False, 0.0))
    assert info == {"success": True, "progress": 1.0} and not truncated

def test_paging_and_going_back():
    env = Shop()
    env.reset(task(*[raw(f"BAX{i}", f"Norvik velvet lamp {i}") for i in range(10, 17)]))

    def asins(action):
        return re.findall(r"\[(BAX\d+)\]", env.step(action)[0])

    assert asins("search[velvet]") == ["BAX10", "BAX11", "BAX12"]
    assert asins("click[Next >]") == ["BAX13", "BAX14", "BAX15"]
    assert asins("click[Next >]") == ["BAX16"]
    assert env.step("click[Next >]")[0] == "Invalid action!"
    assert asins("click[< Prev]") == ["BAX13", "BAX14", "BAX15"]
    env.step("click[BAX14]")
    assert asins("click[< Prev]") == ["BAX13", "BAX14", "BAX15"]
    assert env.step("click[BAX10]")[0] == "Invalid action!"
    assert asins("click[< Prev]")[0] == "BAX10"
    assert page(env.step("click[< Prev]")[0]) == "start"
    assert env.step("search[qqq]")[0] == "[Back to Search]\nPage 1 (Total results: 0)"
    assert page(env.step("click[Back to Search]")[0]) == "start"
    assert page(env.step("search[velvet]")[0]) == "results"

def test_ranking_by_hand():
    documents = index([shown(raw(name=n), []) for n in ("red lamp", "velvet lamp", "oak chair")])
    assert rank("velvet lamp", documents) == [1, 0]  # both words, then one
    assert rank("chair chair", documents) == [2]
    assert rank("nothing", documents) == [] == rank("lamp", index([]))

def test_ranking_is_bm25():
    rng = random.Random(0)
    texts = [" ".join(rng.choices("abcdef", k=rng.randint(1, 30))) for _ in range(40)]
    bare = {"small_description": [], "full_description": ""}
    found = rank("b e e zz", index([shown(raw(name=text, **bare), []) for text in texts]))
    mean = sum(len(text.split()) for text in texts) / 40

    def score(text):
        total = 0.0
        for word in "be":
            count, having = text.split().count(word), sum(word in other for other in texts)
            length = 0.6 + 0.4 * len(text.split()) / mean
            total += math.log(1 + (40.5 - having) / (having + 0.5)) * count / (count + 0.9 * length)
        return round(total, 9)

    expected = [i for i in range(40) if score(texts[i])]
    assert found == sorted(expected, key=lambda i: (-score(texts[i]), i))

def test_loaded_products_are_indexed_once(tmp_path):
    (tmp_path / "p").write_text(json.dumps([raw()]))
    (tmp_path / "g").write_text(json.dumps({"BAK73": {"attributes": ["a"], "instruction": "x",
                                                      "instruction_attributes": ["a"]}}))
    env = Shop(products=tmp_path / "p", attributes=tmp_path / "g")
    copy = env.fresh()
    copy.reset(env.tasks("seen", 1, 0)[0])
    assert "[BAK73]" in copy.step("search[lamp]")[0] and copy.indexed is env.indexed

def test_progress_truncation_and_fresh():
    env = Shop(max_steps=4)
    env.reset(task(raw(), raw("BEL10", "Oskar velvet lamp", "$90.00")))
    seen = []
    actions = ["search[velvet]", "click[BEL10]", "click[< Prev]", "click[BAK73]", "click[red]"]
    for action in actions:
        seen.append(env.step(action))
    assert [s[-1]["progress"] for s in seen] == [0.0, 0.0, 0.0, 0.1, 0.1]
    assert [s[3] for s in seen] == [False, False, False, True, True]
    assert seen[4] == seen[3]
    other = env.fresh()
    other.reset(task(raw()))
    assert other.limit == 4 and other.page == "start" and env.page == "item"
