"""The shop's corpus: tasks of the generator, the people who play them, what they write and ask."""

import json
import random
import re
from collections import Counter
from itertools import combinations, islice, product
from pathlib import Path

import pytest
from small_shop import GOAL, raw, shop_perfectly, task

import envs.shop.tasks as catalog
from envs.demonstrations import SLIPS, play
from envs.observer import read_trial
from envs.shop import Shop, purchase_reward
from envs.shop.demonstrations import (
    Player,
    Skill,
    bindings,
    everything,
    flawed_reflection,
    misread,
    questions,
    what_if,
)
from envs.shop.engine import MATCHED, token_set_ratio
from envs.shop.files import product as shown
from envs.shop.observer import Notes, command, parse, parse_plan, reflect_on, write_plan
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
    for a, b in combinations(catalog.COLORS + catalog.SIZES + catalog.PATTERNS, 2):
        assert token_set_ratio(a, b) <= MATCHED
    for shade, color in product(*catalog.WORDS["shades"]):  # no colour passes for its shade
        goal, lamp = GOAL | {"goal_options": [f"{shade} {color}"]}, shown(raw(), ["easy clean"])
        for chosen, reward in ((color, 3 / 4), (f"{shade} {color}", 1)):
            assert purchase_reward(lamp, {"color": chosen}, 1, goal) == reward

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
    assert 0.38 < first < 0.55 and plain < 0.2 and told > 0.96, figures
    assert slipping > 0.92 and shuffled < 0.1 and misled < 0.3, figures

def test_oracle_states_only_what_the_trial_showed(trials):
    env = Shop()
    for _, observation, steps in failed(trials):
        said = env.oracle_reflection(observation, steps)
        text = prompts.transcript(observation, [], steps)
        assert prompts.well_formed(said) and said == prompts.one_line(said)
        assert parse_plan(said)
        for verb, what in parse_plan(said):
            assert verb in ("buy", "next") or {*what.split()} <= {*re.findall(r"\w+", text)}, said
        for asin, price in re.findall(r"(\w+) cost (\S+),", said):
            assert f"[{asin}]\n" in text and f"\n{price}\n" in text
        for asin, value in re.findall(r"(\w\w+) had no (\w[\w ]*)\.", said):
            view = text.split(f"> click[{asin}]\n")[1].split("\nPrice:")[0]
            assert f"[{value}]" not in view, said

def test_what_the_oracle_faults_is_a_fault(trials):
    env = Shop()
    for t, observation, steps in failed(trials):
        said = env.oracle_reflection(observation, steps)
        if match := re.match(r".*Cause: (\w\w+) (had no|was not|cost|was no) ", said):
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

# an answer's words that are not copied
OWN = "none nothing is cost had yes no fits bought before choosing without with not too dear"

def test_questions_are_answered_by_the_text(trials):
    rng = random.Random(0)
    for _, observation, steps, _ in trials[:150]:
        text = prompts.transcript(observation, [], steps)
        asked = Shop().questions(observation, steps, rng)
        assert 1 <= len(asked) <= 4
        asked += questions(observation, steps, rng, n=8) + [everything(observation, steps, rng)]
        for question, answer in asked:
            for word in re.findall(r"[\w.$]+", answer):
                assert word.lstrip("$") in text or word in OWN.split(), question

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
    assert answers["What is the price limit?"] == "$20.0"
    cheap = questions(observation, steps, random.Random(0), 1, ["cheap"])
    assert cheap == [("Which products are cheap enough?", "BAK73 yes, BEL10 no")]
    assert "BEL10 cost $90.0" in everything(observation, steps, random.Random(0))[1]

@pytest.mark.parametrize("bought", [False, True])
def test_another_wish_is_read_as_if_it_were_the_task(trials, bought):
    """The answers are those of an observer who reads the same trial under another instruction; of
    a purchase the score tells the attribute that was asked for, and no other one.
    """
    rng, whole, noted = random.Random(0), 0, 0
    for _, observation, steps, _ in trials:
        own = read_trial(Notes(observation), steps)
        if (own.score is not None) != bought:
            continue
        for _ in range(4):
            other = what_if(own, rng)
            if other is None:
                continue
            question, answer = other
            if task := re.fullmatch(r"What if the task were: (.*)\?", question):
                read = read_trial(Notes(observation.replace(own.instruction, task[1])), steps)
                read.proved, read.task = own.proved, own.task
                whole += 1
                assert read.instruction == task[1] and parse(answer).plan, question
                assert answer == reflect_on(read), question
            else:
                wanted_ = re.fullmatch(r"What matters for (.*)\?", question)
                noted += 1
                assert wanted_ and answer.startswith(f"{wanted_[1]}"), question
    assert whole > 10 and noted > 10, (whole, noted)

def test_flawed_reflections_are_hasty_careless_or_vague(trials):
    env, rng, kinds = Shop(), random.Random(3), Counter()
    for _, observation, steps in failed(trials):
        said = flawed_reflection(observation, steps, rng)
        assert prompts.well_formed(said) and said.count("Cause: ") == said.count("Plan: ") == 1
        verdict = env.judge(said, observation, steps)
        if said.startswith("Notes: "):
            own, right = parse(said), parse(env.oracle_reflection(observation, steps))
            assert own != right and not verdict.notes, said
            # one mistake: of a product, of what is wanted (which may turn all verdicts), of a page
            changed = {*own.facts} ^ {*right.facts}
            assert len(changed) <= 4 or own.facts[0] != right.facts[0], said
            assert (own.cause, own.plan) != (right.cause, right.plan), said
            kinds["careless"] += 1
        else:
            assert said.startswith("Cause: ") and verdict.notes is None
            kinds["hasty" if parse_plan(said) else "vague"] += 1
    assert min(kinds.values()) > 0.1 * kinds.total() and len(kinds) == 3, kinds

def test_a_mistake_is_of_one_reader_only(trials):
    """Misreading changes nothing of the notes that it starts from."""
    rng = random.Random(4)
    for _, observation, steps in failed(trials)[:100]:
        notes = read_trial(Notes(observation), steps)
        before = reflect_on(notes)
        wrong = misread(notes, rng)
        assert reflect_on(notes) == before and (wrong is None or reflect_on(wrong) != before)

@pytest.mark.parametrize("colors, patterns, clicked", [
    (["red", "dark red"], ["dotted", "plain"], ["red", "small", "dotted"]),
    (["dark red", "red"], ["dotted", "plain"], ["dark red", "small", "dotted"]),
    (["blue", "dark red"], ["plain", "dotted"], ["dark red", "small"]),
])  # fmt: skip
def test_what_stands_behind_is_overlooked_by_the_careless(colors, patterns, clicked):
    values = {"color": colors, "size": ["tall", "small"], "pattern": patterns}
    options = {group: [{"value": v} for v in shown_] for group, shown_ in values.items()}
    wish = "color dark red, size small and pattern dotted"
    t = task(raw(customization_options=options)) | {
        "instruction": f"find one padded velvet lamp in {wish}, and price lower than 20.00 dollars"}
    for exact in (False, True):
        env = Shop()
        player = Player(env.reset(t)[0], [], random.Random(0))
        player.traits = Skill(*[False] * len(Skill._fields))._replace(exact=exact)
        steps, _ = play(env, player, random.Random(0), 0.0)
        expected = ["dark red", "small", "dotted"] if exact else clicked
        assert [action[6:-1] for action, _ in steps[2:-1]] == expected

def test_next_page_and_open_a_kind():
    env = Shop()
    t = task(*[raw(f"BAX{i}", f"Norvik{i} velvet lamp") for i in range(10, 14)])
    said = "Plan: next page, open velvet lamp, choose red, buy."
    observation, _ = env.reset(t)
    player = Player(observation, [said], random.Random(0))
    steps, _ = play(env, player, random.Random(0), 0.0)
    assert [a for a, _ in steps] == [
        "search[velvet lamp]", "click[Next >]", "click[BAX13]", "click[red]", "click[Buy Now]"
    ]  # fmt: skip
    assert env.follows(said, steps) and not env.follows(said, steps[2:])
    assert not env.follows("Plan: open oak lamp, choose red, buy.", steps)
    observation, _ = env.reset(t)
    player = Player(observation, ["Plan: open BAX13, choose small, buy."], random.Random(0))
    steps, _ = play(env, player, random.Random(0), 0.0)  # it turns the page to find it
    assert [a for a, _ in steps][1:3] == ["click[Next >]", "click[BAX13]"]

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
