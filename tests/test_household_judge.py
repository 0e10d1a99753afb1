"""The judge of the household: by hand, against the game, and on the oracle's and flawed words."""

import json
import os
import random
from collections import Counter
from itertools import islice

import pytest

import envs
from envs.household import Household
from envs.household.demonstrations import flawed_reflection
from envs.household.observer import (
    TEMPLATES,
    command,
    judge,
    oracle_reflection,
    parse_plan,
    write_plan,
)
from envs.observer import Verdict
from retro.prompts import well_formed
from tests.small_room import play, room

DATA = os.environ.get("RETRO_DATA")
T, F = True, False

def trial(text: str, *actions: str):
    """A trial in the small room: (first observation, steps)."""
    env = Household()
    observation, _ = env.reset(room(goal={**room()["goal"], "text": text}))
    return observation, list(zip(actions, play(env, *actions)))

TRIALS = {
    "not cleaned": trial(
        "put a clean mug in desk.",
        *("go to desk 1", "go to cabinet 1", "open cabinet 1", "take mug 2 from cabinet 1"),
        *("go to desk 2", "put mug 2 in/on desk 2"),
    ),
    "not found": trial("put a mug in desk.", "go to desk 1"),
    "one of two": trial("put two mug in desk.", "go to sinkbasin 1"),
    "two of two": trial(
        "put two mug in desk.", "go to sinkbasin 1", "go to cabinet 1", "open cabinet 1"
    ),
    "half done": trial(
        "put two mug in sinkbasin.", "go to sinkbasin 1", "go to cabinet 1", "open cabinet 1"
    ),
    "hot": trial("heat some apple and put it in desk.", "go to fridge 1", "open fridge 1"),
    "no lamp": trial("look at apple under the desklamp.", "go to fridge 1", "open fridge 1"),
    "not lit": trial(
        "examine the apple with the desklamp.",
        *("go to desk 1", "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1"),
    ),
    "in two places": trial(
        "put a vase in fridge.", "go to desk 1", "go to cabinet 2", "open cabinet 2"
    ),
}
CLEAN = "clean mug 2 with sinkbasin 1"
LATE = "I took mug 2 from cabinet 1 too late."
LEFT_OUT = "I took mug 2 from cabinet 1 but did not clean it."
CASES = [  # trial, cause, plan, Verdict
    ("not cleaned", LEFT_OUT, f"take mug 2 from cabinet 1, {CLEAN}, put mug 2 in/on desk 2",
     ("not treated", T, T, T, F)),
    # another place of the target type, and harmless clauses
    ("not cleaned", LEFT_OUT,
     f"search cabinet 2, take mug 2 from cabinet 1, {CLEAN}, search desk 1, put mug 2 in/on desk 1",
     ("not treated", T, T, T, F)),
    # what the trial did: too little
    ("not cleaned", LATE, "take mug 2 from cabinet 1, put mug 2 in/on desk 2",
     ("too late", F, F, T, F)),
    # not what is asked for
    ("not cleaned", "I took mug 2 from cabinet 1 but did not heat it.",
     "take mug 2 from cabinet 1, heat mug 2 with microwave 1, put mug 2 in/on desk 2",
     ("not treated", F, F, T, F)),
    # where it lay at the end, not at first
    ("not cleaned", "I took mug 2 from desk 2 but did not clean it.",
     f"take mug 2 from desk 2, {CLEAN}, put mug 2 in/on desk 2", ("not treated", F, F, F, F)),
    # out of order; a wrong appliance; a wrong target; hands full; a target that is not there
    ("not cleaned", LEFT_OUT, f"take mug 2 from cabinet 1, put mug 2 in/on desk 2, {CLEAN}",
     ("not treated", T, F, T, F)),
    ("not cleaned", LEFT_OUT,
     "take mug 2 from cabinet 1, clean mug 2 with fridge 1, put mug 2 in/on desk 2",
     ("not treated", T, F, T, F)),
    ("not cleaned", LEFT_OUT, f"take mug 2 from cabinet 1, {CLEAN}, put mug 2 in/on cabinet 2",
     ("not treated", T, F, T, F)),
    ("not cleaned", LEFT_OUT,
     f"take knife 1 from desk 1, take mug 2 from cabinet 1, {CLEAN}, put mug 2 in/on desk 2",
     ("not treated", T, F, T, F)),
    ("not cleaned", LEFT_OUT, f"take mug 2 from cabinet 1, {CLEAN}, put mug 2 in/on desk 3",
     ("not treated", T, F, T, T)),
    # true, but of a thing that does not matter; untrue; invented; nothing said
    ("not cleaned", "I saw knife 1 in desk 1 but did not take it.", "take knife 1 from desk 1",
     ("not taken", F, F, T, F)),
    ("not cleaned", "I saw mug 2 in cabinet 1 but did not take it.",
     "take mug 2 from cabinet 1, put mug 2 in/on desk 2", ("not taken", F, F, T, F)),
    ("not cleaned", "I never found a mug.", "search fridge 1", ("never found", F, F, None, F)),
    ("not cleaned", "I saw mug 3 in cabinet 2 but did not take it.",
     "take mug 3 from cabinet 2, clean mug 3 with sinkbasin 1, put mug 3 in/on desk 2",
     ("not taken", F, F, None, T)),
    ("not cleaned", "I was hasty.", "be careful", ("", None, F, None, F)),
    # a search is needed: a fresh place, with free hands
    ("not found", "I never found a mug.", "search desk 1, cabinet 1",
     ("never found", T, T, None, F)),
    ("not found", "I never found a mug.", "search desk 1", ("never found", T, F, None, F)),
    ("not found", "I never found a mug.", "search drawer 1", ("never found", T, F, None, T)),
    ("not found", "I never found a pen.", "take knife 1 from desk 1, search fridge 1",
     ("never found", F, F, T, F)),
    ("not found", "I found only mug 1 in sinkbasin 1.", "take mug 1 from sinkbasin 1",
     ("one missing", F, F, None, T)),
    ("one of two", "I found only mug 1 in sinkbasin 1.",
     "take mug 1 from sinkbasin 1, put mug 1 in/on desk 1, search cabinet 1",
     ("one missing", T, T, T, F)),
    ("one of two", "I found only mug 1 in sinkbasin 1.", "search cabinet 1",
     ("one missing", T, T, None, F)),
    ("one of two", "I saw mug 1 in sinkbasin 1 but did not take it.",
     "take mug 1 from sinkbasin 1, put mug 1 in/on desk 1", ("not taken", T, F, T, F)),
    ("one of two", "I found only mug 1 in desk 2.",
     "take mug 1 from desk 2, put mug 1 in/on desk 1, search cabinet 1",
     ("one missing", F, F, F, F)),
    # two things have to come together
    ("two of two", "I saw mug 2 in cabinet 1 but did not take it.",
     "take mug 2 from cabinet 1, put mug 2 in/on desk 1, "
     "take mug 1 from sinkbasin 1, put mug 1 in/on desk 1", ("not taken", T, T, T, F)),
    ("two of two", "I found only mug 1 in sinkbasin 1.",
     "take mug 2 from cabinet 1, put mug 2 in/on desk 2, "
     "take mug 1 from sinkbasin 1, put mug 1 in/on desk 1", ("one missing", F, F, T, F)),
    ("two of two", "I saw mug 1 in sinkbasin 1 but did not take it.",
     "take mug 1 from sinkbasin 1, put mug 1 in/on desk 1", ("not taken", T, F, T, F)),
    ("half done", "I saw mug 2 in cabinet 1 but did not take it.",
     "take mug 2 from cabinet 1, put mug 2 in/on sinkbasin 1", ("not taken", T, T, T, F)),
    ("half done", "I saw mug 1 in sinkbasin 1 but did not take it.",
     "take mug 1 from sinkbasin 1, put mug 1 in/on sinkbasin 1", ("not taken", F, F, T, F)),
    # what is cooled again is not hot
    ("hot", "I saw apple 1 in fridge 1 but did not take it.",
     "take apple 1 from fridge 1, heat apple 1 with microwave 1, clean apple 1 with sinkbasin 1, "
     "put apple 1 in/on desk 1", ("not taken", T, T, T, F)),
    ("hot", "I saw apple 1 in fridge 1 but did not take it.",
     "take apple 1 from fridge 1, heat apple 1 with microwave 1, cool apple 1 with fridge 1, "
     "put apple 1 in/on desk 1", ("not taken", T, F, T, F)),
    # under a lamp
    ("no lamp", "I never found a desklamp, and apple 1 was in fridge 1.",
     "take apple 1 from fridge 1, search desk 1", ("no lamp", T, T, T, F)),
    ("no lamp", "I never found a desklamp.", "search desk 1", ("never found", T, T, None, F)),
    ("no lamp", "I never found a mug, and apple 1 was in fridge 1.",
     "take apple 1 from fridge 1, search fridge 1", ("no lamp", F, F, T, F)),
    ("not lit", "I took apple 1 from fridge 1 too late.",
     "take apple 1 from fridge 1, use desklamp 1 on desk 1", ("too late", T, T, T, F)),
    ("not lit", "I never found a desklamp, and apple 1 was in fridge 1.",
     "use desklamp 1 on desk 1, take apple 1 from fridge 1", ("no lamp", F, F, T, F)),
    ("not lit", "I took apple 1 from fridge 1 too late.",
     "take apple 1 from fridge 1, use desklamp 1 on desk 2", ("too late", T, F, F, F)),
    # either place of a thing is right
    ("in two places", "I saw vase 1 in desk 1 but did not take it.",
     "take vase 1 from desk 1, put vase 1 in/on fridge 1", ("not taken", T, T, T, F)),
    ("in two places", "I saw vase 1 in cabinet 2 but did not take it.",
     "take vase 1 from cabinet 2, put vase 1 in/on fridge 1", ("not taken", T, T, T, F)),
    ("in two places", "I saw vase 1 in desk 2 but did not take it.",
     "take vase 1 from desk 2, put vase 1 in/on fridge 1", ("not taken", F, F, F, F)),
]  # fmt: skip

@pytest.mark.parametrize("name, cause, plan, expected", CASES)
def test_by_hand(name, cause, plan, expected):
    assert judge(f"{cause} Plan: {plan}.", *TRIALS[name]) == Verdict(*expected)

@pytest.mark.parametrize("name", TRIALS)
def test_the_oracle_is_right_in_the_small_room(name):
    text = oracle_reflection(*TRIALS[name])
    verdict = judge(text, *TRIALS[name])
    assert (verdict.cause, verdict.sound, verdict.invented) == (T, T, F), (text, verdict)
    assert verdict.place in (T, None) and verdict.notes is T

def carried_out(env, task, plan) -> bool:
    """Does the game end well if a plan's clauses, and nothing else, are done in order?"""
    env.reset(task)
    for clause in plan:
        play(env, f"go to {clause[-1]}", f"open {clause[-1]}", command(clause))
    return env.info()["success"]

def spoilt(plan, env, rng) -> list:
    """A plan with one or two clauses left out, doubled, moved or changed."""
    plan = list(plan)
    for _ in range(rng.randint(1, 2)):
        i, other = rng.randrange(len(plan)), rng.randrange(len(plan))
        verb, thing, *rest = plan[i]
        match rng.choice(("drop", "double", "swap", "place", "thing", "treat")):
            case "drop" if len(plan) > 1:
                plan.pop(i)
            case "double":
                plan.insert(other, plan[i])
            case "swap":
                plan[i], plan[other] = plan[other], plan[i]
            case "place" if verb in ("take", "use"):
                plan[i] = (verb, thing, rng.choice(list(env.receptacles)))
            case "thing" if verb == "take":
                lying = [(o, r) for o, x in env.task["objects"].items() for r in x["in"]]
                plan[i] = (verb, *rng.choice(lying))
            case "treat":
                places = [r for r in env.receptacles if r.startswith(("microwave", "fridge"))]
                plan[i:i] = [(rng.choice(("heat", "cool")), thing, place) for place in places[:1]]
    return plan

def test_sound_is_what_the_game_says():
    """Who has seen everything must not search: a plan is sound if it wins, done to the letter."""
    env, rng, count = envs.make("household", max_steps=10**6), random.Random(3), Counter()
    for task in env.tasks("train", 50, 4) + env.tasks("unseen", 40, 4):
        observation, _ = env.reset(task)
        steps = env.glance(rng)
        best = parse_plan(oracle_reflection(observation, steps))
        for plan in [best, *(spoilt(best, env, rng) for _ in range(8))]:
            sound = judge(f"x Plan: {write_plan(plan)}.", observation, steps).sound
            assert sound == carried_out(env, task, plan), (sound, task["goal"]["text"], plan)
            count[sound] += 1
    assert min(count[T], count[F]) > 200, count

def verdicts(split: str, n: int):
    """Failed trials: (the writer -> its reflection, the writer -> the verdict on it)."""
    stream = envs.make("household").demonstrations(split, "judged", 0.3)
    failed = [d for d in islice(stream, n) if d.reflection]
    rng = random.Random(5)
    for d in failed:
        texts = {"oracle": oracle_reflection(d.observation, d.steps),
                 "flawed": flawed_reflection(d.observation, d.steps, rng)}  # fmt: skip
        texts |= {name: write(d.observation, d.steps) for name, write in TEMPLATES.items()}
        yield texts, {k: judge(text, d.observation, d.steps) for k, text in texts.items()}

@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
def test_verdicts_on_generated_trials(split):
    flawed, n = Counter(), 0
    for texts, verdict in verdicts(split, 500):
        right = verdict["oracle"]
        assert (right.cause, right.sound, right.invented) == (T, T, F), (texts, right)
        assert right.notes is T, (texts, right)
        assert right.place is not F and right.kind, (texts, right)
        if texts["flawed"] != texts["oracle"]:
            n += 1
            flawed["sound"] += verdict["flawed"].sound
            flawed["right"] += verdict["flawed"].sound and verdict["flawed"].cause is T
            assert verdict["flawed"].notes is not T, (texts, verdict["flawed"])
            assert (verdict["flawed"].notes is None) != texts["flawed"].startswith("Notes: ")
        for name in TEMPLATES:
            assert well_formed(texts[name]) and parse_plan(texts[name]), texts[name]
            assert verdict[name][:2] == ("", None) and not verdict[name].invented, texts[name]
            assert verdict[name].place is not F, texts[name]
    assert n > 40 and flawed["sound"] < 0.3 * n and flawed["right"] < 0.2 * n, (n, flawed)

def test_templates_by_hand():
    said = {name: write(*TRIALS["not cleaned"]) for name, write in TEMPLATES.items()}
    assert {name: text.split("Plan: ")[1] for name, text in said.items()} == {
        "all again": "search cabinet 2, cabinet 1, desk 2, desk 1, fridge 1, microwave 1.",
        "last again": "search desk 2.",
        "unsearched": "search cabinet 2, fridge 1, microwave 1, sinkbasin 1, bathtubbasin 1.",
        "first seen": "take mug 2 from cabinet 1, put mug 2 in/on desk 2.",
        "where seen": "search cabinet 1.",
    }
    untouched = trial("put a mug in desk.")
    assert all(parse_plan(write(*untouched)) for write in TEMPLATES.values())

@pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with ALFWorld's transcripts")
def test_the_oracle_is_right_on_real_transcripts():
    with open(os.path.join(DATA, "alfworld_transcripts.json")) as file:
        transcripts = json.load(file)
    judged = 0
    for transcript in transcripts:
        observation = transcript["intro"].split("\n\n", 1)[1]
        failed = [(action, reply) for action, reply, _, _, done in transcript["steps"] if not done]
        for end in (len(failed) // 3, len(failed)):
            text = oracle_reflection(observation, failed[:end])
            verdict = judge(text, observation, failed[:end])
            assert (verdict.cause, verdict.sound, verdict.invented) == (T, T, F), (text, verdict)
            assert verdict.place is not F and verdict.notes is T, (text, verdict)
            judged += 1
    assert judged == 192
