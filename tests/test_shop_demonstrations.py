"""The shop's corpus: tasks of the generator, the people who play them, what they write and ask."""

import json
import random
import re
from itertools import combinations, islice, product
from pathlib import Path

import pytest
from small_shop import raw, shop_perfectly, task

import envs.shop.tasks as catalog
from envs.demonstrations import SLIPS, play
from envs.shop import Shop, purchase_reward
from envs.shop.demonstrations import (
    Player,
    bindings,
    everything,
    flawed_reflection,
    questions,
)
from envs.shop.engine import MATCHED, token_set_ratio
from envs.shop.observer import Notes, command, parse_plan, write_plan
from retro import prompts, tokenizer
from retro.pretrain.corpus import to_document, weighted_texts

SPLITS = ("train", "seen", "unseen")

# ---- The generator.

@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("n", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_every_task_has_one_answer(split, n):
    env = Shop()
    tasks = env.tasks(split, n, 0)
    assert tasks == env.tasks(split, n, 0) != env.tasks(split, n, 1)
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

@pytest.mark.parametrize("n", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_unseen_names_are_in_no_training_text(n):
    env = Shop()
    unseen = set().union(*map(names_of, env.tasks("unseen", n, 0)))
    known = set().union(*(names_of(t) for s in SPLITS[:2] for t in env.tasks(s, 2 * n, 0)))
    assert len(unseen) > min(500, 4 * n) and not unseen & known
    rng, stream = random.Random(0), env.demonstrations("train", 0, 0.5, 0.3)
    text = "".join(text for d in islice(stream, n) for text, _ in weighted_texts(d, rng))
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
    steps = [(command(clause), "") for clause in plan]
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
    cheap = questions(observation, steps, random.Random(0), 1, ["cheap"])
    assert cheap == [("Which products are cheap enough?", "BAK73 yes, BEL10 no")]
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
    demos = list(islice(env.demonstrations("train", 0, 0.3, 0.3), 60))
    assert demos == list(islice(env.fresh().demonstrations("train", 0, 0.3, 0.3), 60))
    for d in demos:
        document = to_document(weighted_texts(d, rng), env, coder)
        assert len(document.ids) < 2560 and any(document.loss_weights)
        bound = any(first >= 0 for first, _, _ in document.binding_targets)
        assert bound or not Notes(d.observation).titles
        assert not re.search(r"^(Question:|Answer:|Reflection:|>)", d.observation, re.MULTILINE)
        assert d.reflection is None or prompts.well_formed(d.reflection)
    assert {d.success for d in demos} == {True, False}
    assert tokenizer.EOS not in "".join(d.observation for d in demos)
