"""The shop: WebShop's reward, pages and files, the generator and the people of its corpus."""

import json
import os
import random
import re
from itertools import combinations, islice, product
from pathlib import Path

import pytest

from envs import shop_catalog as catalog
from envs.chains import SLIPS, play
from envs.shop import Shop, index, purchase_reward, rank
from envs.shop_files import product as shown
from envs.shop_notes import Notes, bindings, everything, questions, read_trial
from envs.shop_players import Player
from envs.shop_reflections import command, flawed_reflection, parse_plan, write_plan
from envs.shop_reward import MATCHED, nouns, token_set_ratio
from retro import prompts, tokenizer
from retro.corpus import encode, pieces

DATA = os.environ.get("RETRO_DATA")
SPLITS = ("train", "seen", "unseen")


def raw(asin="BAK73", name="Norvik velvet lamp", pricing="$15.00", **changes) -> dict:
    """A product in WebShop's own schema."""
    values = {"color": ["Red", "Navy/Blue"], "Size": ["small", "large"]}
    fields = {
        "asin": asin,
        "name": name,
        "category": "home",
        "query": "Velvet Lamp ",
        "product_category": "Home › Lamps › Velvet",
        "pricing": pricing,
        "customization_options": {
            group: [{"value": v, "image": None} for v in shown_] for group, shown_ in values.items()
        },
        "small_description": ["washable cover", "padded foot"],
        "full_description": "By Norvik.",
    }
    return fields | changes


GOAL = {
    "asin": "BAK73",
    "category": "home",
    "query": "velvet lamp",
    "name": "Norvik velvet lamp",
    "product_category": "Home › Lamps › Velvet",
    "attributes": ["washable", "easy clean"],
    "goal_options": {"color": "red", "size": "small"},
    "price_upper": 20.0,
}


def task(*raws, goal=GOAL, max_steps=30, attributes=("easy to clean",)) -> dict:
    return {
        "env": "shop",
        "id": "hand",
        "max_steps": max_steps,
        "products": [shown(r, list(attributes)) for r in raws],
        "goal": goal,
        "instruction": "find one washable velvet lamp in color red and size small, and price lower "
        "than 20.00 dollars",
    }


# ---- The reward.

BOTH = {"color": "red", "size": "small"}


@pytest.mark.parametrize(
    ("changes", "attributes", "options", "price", "goal", "expected"),
    [
        ({}, ["easy to clean"], BOTH, 15, {}, 1.0),  # (2 + 2 + 1) / 5
        ({}, [], BOTH, 15, {}, 4 / 5),  # `easy clean` nowhere
        ({}, ["easy to clean"], BOTH, 20.01, {}, 4 / 5),
        ({}, ["easy to clean"], {"color": "red"}, 15, {}, 4 / 5),
        ({}, ["easy to clean"], {"color": "light red #3", "size": "large"}, 15, {}, 4 / 5),
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
    assert nouns("The 2 Red Lamps for a Desk") == ["lamps", "desk"]


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
        notes = read_trial(first, steps)
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
    assert rank("nothing", documents) == [] == rank("lamp", [])


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


# ---- The generator.


def shop_perfectly(env, t) -> dict:
    """Look through the results, open what fits, choose, buy."""
    goal = t["goal"]
    env.reset(t)
    reply = env.step(f"search[{goal['query']}]")[0]
    while f"[{goal['asin']}]" not in reply:
        reply = env.step("click[Next >]")[0]
    env.step(f"click[{goal['asin']}]")
    for value in goal["goal_options"].values():
        env.step(f"click[{value}]")
    env.step("click[Buy Now]")
    return env.info()


@pytest.mark.parametrize("split", SPLITS)
def test_every_task_has_one_answer(split):
    env = Shop()
    tasks = env.tasks(split, 200, 0)
    assert tasks == env.tasks(split, 200, 0) != env.tasks(split, 200, 1)
    for t in tasks:
        assert t == json.loads(json.dumps(t)) and t["env"] == "shop" and 3 <= len(t["products"])
        assert shop_perfectly(env, t) == {"success": True, "progress": 1.0}
        for p in t["products"]:  # nothing else scores 1, whatever is chosen
            for values in product(*([None, *v] for v in p["options"].values())):
                chosen = {g: v for g, v in zip(p["options"], values) if v}
                right = p["asin"] == t["goal"]["asin"] and chosen == t["goal"]["goal_options"]
                assert (purchase_reward(p, chosen, p["price"], t["goal"]) == 1.0) == right
    with pytest.raises(ValueError, match="split 'test'"):
        env.tasks("test", 1, 0)


def test_words_do_not_pass_for_each_other():
    for a, b in combinations(catalog.ATTRIBUTES, 2):
        assert token_set_ratio(a, b) <= MATCHED
    for a, b in combinations(catalog.COLORS + catalog.SIZES, 2):
        assert token_set_ratio(a, b) <= MATCHED


def names_of(t: dict) -> set[str]:
    products = t["products"]
    kinds = {p["query"] for p in products}
    return kinds | {p["asin"] for p in products} | {p["Title"].split()[0] for p in products}


def test_unseen_names_are_in_no_training_text():
    env = Shop()
    unseen = set().union(*map(names_of, env.tasks("unseen", 300, 0)))
    known = set().union(*(names_of(t) for s in SPLITS[:2] for t in env.tasks(s, 500, 0)))
    assert len(unseen) > 500 and not unseen & known
    rng, stream = random.Random(0), env.demonstrations("train", 0, 0.5, 0.3)
    text = "".join(text for d in islice(stream, 500) for text, _ in pieces(d, rng))
    words = set(re.findall(r"\w+", text))
    pairs = set(re.findall(r"(?=\b(\w+ \w+)\b)", text))
    assert not unseen & words and not unseen & pairs and known & words and known & pairs


# ---- Reading and reflecting.


@pytest.fixture(scope="module")
def trials():
    """(env, task, observation, steps, info) of first trials by players with their slips."""
    env, rng, out = Shop(), random.Random(1), []
    for t in env.tasks("unseen", 500, 3):
        observation, _ = env.reset(t)
        steps, _ = play(env, Player(observation, [], rng), rng, rng.choice(SLIPS))
        out.append((t, observation, steps, env.info()))
    return out


def failed(trials):
    return [(t, o, s) for t, o, s, info in trials if not info["success"]]


def retried(env, trials, reflections, seed, slips=None) -> float:
    """Share of failed trials that a retry by freshly drawn players makes good."""
    rng, won = random.Random(seed), 0
    for (t, observation, _), memory in zip(failed(trials), reflections):
        env.reset(t)
        play(env, Player(observation, memory, rng), rng, rng.choice(slips or SLIPS))
        won += env.info()["success"]
    return won / len(failed(trials))


def test_retries_need_what_the_trial_showed(trials):
    env = Shop()
    oracle = [[env.oracle_reflection(o, s)] for _, o, s in failed(trials)]
    first = 1 - len(oracle) / len(trials)
    plain = retried(env, trials, [[]] * len(oracle), 2)
    told = retried(env, trials, oracle, 3, slips=(0.0,))
    slipping = retried(env, trials, oracle, 4)
    shuffled = retried(env, trials, oracle[1:] + oracle[:1], 5)
    rng = random.Random(6)
    flawed = [[flawed_reflection(o, s, rng)] for _, o, s in failed(trials)]
    misled = retried(env, trials, flawed, 7)
    figures = f"{first=:.3f} {plain=:.3f} {told=:.3f} {slipping=:.3f} {shuffled=:.3f} {misled=:.3f}"
    print(figures)
    assert 0.38 < first < 0.52 and 0.1 < plain < 0.3 and told > 0.94, figures
    assert slipping > 0.88 and shuffled < 0.1 and misled < 0.2, figures


def test_oracle_states_only_what_the_trial_showed(trials):
    env = Shop()
    for _, observation, steps in failed(trials):
        said = env.oracle_reflection(observation, steps)
        text = prompts.transcript(observation, [], steps)
        assert prompts.well_formed(said) and said == prompts.one_line(said)
        assert parse_plan(said)
        for verb, what in parse_plan(said):
            assert verb == "buy" or re.search(rf"\b{re.escape(what)}\b", text), said
        for asin, price in re.findall(r"(\w+) cost (\S+),", said):
            assert f"[{asin}]\n" in text and f"\n{price}\n" in text
        for asin, value in re.findall(r"(\w+) had no (\w+)\.", said):
            view = text.split(f"> click[{asin}]\n")[1].split("\nPrice:")[0]
            assert f"[{value}]" not in view, said


def test_what_the_oracle_faults_is_a_fault(trials):
    env = Shop()
    for t, observation, steps in failed(trials):
        said = env.oracle_reflection(observation, steps)
        if match := re.match(r"(\w+) (had no|was not|cost|was no) ", said):
            bought = next(p for p in t["products"] if p["asin"] == match[1])
            assert bought["asin"] != t["goal"]["asin"], said


def test_plans_and_following():
    plan = [("search", "velvet lamp"), ("open", "BAK73"), ("choose", "navy | blue"), ("buy", "")]
    said = f"I never searched. Plan: {write_plan(plan)}."
    assert said.endswith("search velvet lamp, open BAK73, choose navy | blue, buy.")
    assert parse_plan(said) == plan and parse_plan("Plan: be quick.") == []
    steps = [(command(*clause), "") for clause in plan]
    assert [a for a, _ in steps[1:3]] == ["click[BAK73]", "click[navy | blue]"]
    env = Shop()
    assert env.follows(said, [("click[Features]", ""), *steps])
    assert not env.follows(said, steps[::-1]) and not env.follows(said, steps[:-1])


def test_a_reader_does_exactly_the_plan():
    env, t = Shop(), task(raw(), raw("BEL10", "Oskar velvet lamp", "$90.00"))
    for seed in range(20):  # whatever its skill
        observation, _ = env.reset(t)
        said = "Plan: open BEL10, choose small, open BAK73, choose green, buy."
        player = Player(observation, ["x. Plan: open BAK73, buy.", said, "Plan: go."],
                        random.Random(seed))
        steps, _ = play(env, player, random.Random(seed), 0.0)
        assert [a for a, _ in steps] == [
            "search[velvet lamp]", "click[BEL10]", "click[small]", "click[< Prev]",
            "click[BAK73]", "click[green]", "click[Buy Now]",
        ]  # fmt: skip


def test_questions_are_answered_by_the_text(trials):
    rng = random.Random(0)
    for _, observation, steps, _ in trials[:150]:
        text = prompts.transcript(observation, [], steps)
        asked = Shop().questions(observation, steps, rng)
        assert 1 <= len(asked) <= 4
        asked += questions(observation, steps, rng, n=8) + [everything(observation, steps, rng)]
        for question, answer in asked:
            for word in re.findall(r"[\w.$]+", answer):
                assert word in text or word in ("none", "nothing", "is", "cost", "had"), question


def test_answers_by_hand():
    env = Shop()
    observation, _ = env.reset(task(raw(), raw("BEL10", "Oskar velvet lamp", "$90.00")))
    actions = ["search[velvet]", "click[BAK73]", "click[Features]"]
    steps = [(action, env.step(action)[0]) for action in actions]
    answers = dict(questions(observation, steps, random.Random(0), n=400))
    assert answers["What did BEL10 cost?"] == "$90.0"
    assert answers["Which product is from Oskar?"] == "BEL10"
    assert answers["Which brand is BAK73?"] == "Norvik"
    assert answers["Which products were not opened?"] == "BEL10"
    assert answers["Which color had BAK73?"] == "red, navy | blue"
    assert answers["What are the features of BAK73?"] == "washable cover, padded foot"
    assert answers["What is the price limit?"] == "20.00 dollars"
    assert "BEL10 cost $90.0" in everything(observation, steps, random.Random(0))[1]


def test_bindings_by_hand():
    text = (
        "> search[velvet lamp]\n[Back to Search]\nPage 1 (Total results: 1)\n[BAK73]\n"
        "Norvik velvet lamp\n$15.0\n> click[BAK73]\n[Back to Search]\n[< Prev]\ncolor [red]\n"
        "Norvik velvet lamp\nPrice: $15.0\nRating: N.A.\n[Buy Now]\nQuestion: BAK73?"
    )
    found = bindings(text)
    assert all(text[:end].endswith(name) for name, end, _, _ in found)
    assert [(name, other, later) for name, _, other, later in found] == [
        ("Norvik", "BAK73", False),
        ("$15.0", "BAK73", False),
        ("BAK73", "Norvik", True),
        ("red", "BAK73", False),
        ("Norvik", "BAK73", True),
        ("BAK73", "Norvik", True),
    ]
    assert bindings("no shop at all") == []


def test_demonstrations_make_documents():
    env, rng = Shop(), random.Random(0)
    coder = tokenizer.load(Path(__file__).parent.parent / "assets")
    demos = list(islice(env.demonstrations("train", 0, 0.3, 0.3), 200))
    assert demos == list(islice(env.fresh().demonstrations("train", 0, 0.3, 0.3), 200))
    for d in demos:
        document = encode(pieces(d, rng), env, coder)
        assert len(document.ids) < 2560 and any(document.said)
        assert any(first >= 0 for first, _, _ in document.bound) or not Notes(d.observation).titles
        assert not re.search(r"^(Question:|Answer:|Reflection:|>)", d.observation, re.MULTILINE)
        assert d.reflection is None or prompts.well_formed(d.reflection)
    assert {d.success for d in demos} == {True, False}
    assert tokenizer.EOS not in "".join(d.observation for d in demos)


# ---- WebShop's own files.


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
