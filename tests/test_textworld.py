"""TextWorldExpress: what is read off recorded texts, without Java; the games, with it."""

import shutil
import sys
from itertools import islice
from random import Random

import pytest

import envs
import envs.check
from envs import textworld
from envs.demonstrations import SLIPS, play
from envs.textworld import FOLDS, UP, Player, reflect
from tests.optional import made

COIN = (
    "Your task is to search the environment and find the coin. Once you find the coin, take it. "
    "You are in the kitchen. In one part of the room you see a stove. There is also an oven. You "
    "also see a fridge that is closed. To the South you see the corridor. To the East you see the "
    "living room. To the West you see the pantry."
)
LIVING = (
    "You are in the living room. In one part of the room you see a sofa, that has nothing on it. "
    "To the North you see the bedroom. To the West you see the kitchen."
)
KITCHEN = "You are in the kitchen. " + COIN.partition("You are in the kitchen. ")[2]
BEDROOM = "You are in the bedroom. You also see a coin. To the South you see the living room."
UNKNOWN = "Unknown action: I'm not sure what you mean."
LOST = [("move east", LIVING), ("move west", KITCHEN), ("move up", UNKNOWN), ("take coin", UNKNOWN)]
PASSED = [("move east", LIVING), ("move north", BEDROOM), ("move south", LIVING)]
TIDY = (
    "Your task is to pick up objects, then place them in their usual locations in the environment. "
    "You are in the bathroom. In one part of the room you see a dressing table, that has nothing "
    "on it. There is also a sink, that has nothing on it. You also see a bath mat. In one part of "
    "the room you see a bathroom cabinet that is closed. You also see a toilet. There is also a "
    "toilet roll holder, that has nothing on it. In another part of the room you see a lip gloss. "
    "There is also an used Q-tip."
)
WRONG = [
    ("take lip gloss", "You take the lip gloss. Your score went up."),
    ("put lip gloss in bathroom cabinet", UNKNOWN),
    ("put lip gloss in sink", "You put the lip gloss in the sink. Your score went down."),
    ("put used Q-tip in sink", UNKNOWN),
]
HALF = [
    *WRONG,
    ("take lip gloss", "You take the lip gloss. Your score went up."),
    ("put lip gloss in dressing table",
     "You put the lip gloss in the dressing table. Your score went up."),
]  # fmt: skip
Q_TIP = ("put used Q-tip in dressing table, put used Q-tip in sink, put used Q-tip in bathroom "
         "cabinet, put used Q-tip in toilet roll holder")  # fmt: skip
WRITTEN = [
    (COIN, LOST, "I never tried coin in corridor. Plan: move south, move north, move west, move "
     "east, move east, move north, take coin."),
    (COIN, PASSED, "I was too slow. Plan: move east, move north, take coin."),
    (TIDY, HALF, "I never tried used Q-tip in dressing table. Plan: put lip gloss in dressing "
     f"table, {Q_TIP}."),
]  # fmt: skip

@pytest.mark.parametrize("observation, steps, written", WRITTEN)
def test_the_oracle_says_what_the_text_shows(observation, steps, written):
    assert reflect(observation, steps) == written
    assert written.endswith(f"Plan: {', '.join(textworld.CLAUSE.findall(written))}.")

def test_a_place_is_tried_once_a_thing_lies_there():
    assert reflect(TIDY, WRONG) == (
        "I never tried lip gloss in dressing table. Plan: put lip gloss in dressing table, put "
        "used Q-tip in dressing table, put used Q-tip in sink, put lip gloss in bathroom cabinet, "
        "put used Q-tip in bathroom cabinet, put lip gloss in toilet roll holder, put used Q-tip "
        "in toilet roll holder."
    )

def test_a_player_does_what_a_plan_says_then_what_is_left():
    player = Player(TIDY, ["Plan: put used Q-tip in sink, put lip gloss in sink."], Random(0))
    said = [player.act() for _ in range(2)]
    player.read(said[-1], "You put the used Q-tip in the sink. Your score went up.")
    said += [player.act() for _ in range(2)]
    assert said == ["take used Q-tip", "put used Q-tip in sink", "take lip gloss",
                    "put lip gloss in sink"]  # fmt: skip
    player.read(said[-1], "You put the lip gloss in the sink. Your score went down.")
    for _ in range(3):
        assert player.act() == "take lip gloss"
        while not (action := player.act()).startswith("put lip gloss in "):
            assert action == "open bathroom cabinet"
        player.read(action, "You put the lip gloss there. Your score went down.")
    assert player.act() == "look around" and len(player.tried) == 5

def test_a_way_back_is_the_way_there_reversed():
    player = Player(COIN, [], Random(0))
    for step in PASSED[:1]:
        player.read(*step)
    pantry = textworld.walk(player.here, player.ways["find coin in pantry"])
    assert pantry == ["move west", "move west"] and player.act() in ("move north", "move west")
    player.read(*PASSED[1])
    assert player.act() == "take coin"

def test_templates_go_by_order_alone():
    again, in_order = (rule(COIN, LOST) for rule in textworld.TextWorld.templates.values())
    assert again == "I was slow. Plan: move east, move west, move up, take coin."
    assert in_order.endswith("Plan: move south, move north, move east, move west, move west, "
                             "take coin.")  # fmt: skip

@pytest.mark.parametrize("absent", ["java", "package"])
def test_without_java_or_the_package_one_line_says_so(absent, monkeypatch, capsys):
    if absent == "java":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr("envs.textworld.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="needs Java, and `pip install textworld-express`"):
        envs.make("textworld")
    assert envs.check.main(["textworld"]) == 2
    error = capsys.readouterr().err
    assert error == "error: textworld: needs Java, and `pip install textworld-express`\n"
    assert "py4j" not in sys.modules or made("textworld")  # nothing was imported for it

# ---- With Java

@pytest.fixture(scope="module")
def env():
    return made("textworld")

def test_each_split_is_a_fold(env):
    for split, (fold, first) in FOLDS.items():
        tasks = env.tasks(split, 300, 0)
        assert {(task["fold"], task["seed"] // 1000 * 1000) for task in tasks} == {(fold, first)}
        assert {task["kind"] for task in tasks} == {"coin", "twc"}

def test_a_gold_path_ends_in_success_and_all_its_actions_are_valid():
    env = made("textworld", max_steps=100)
    for task in env.tasks("unseen", 8, 5):
        env.reset(task)
        for action in env.java.getGoldActionSequence():
            assert action in env.admissible_actions()
            *_, info = env.step(action)
        assert env.answer[2] and info == {"success": True, "progress": 1.0}

def test_the_score_is_told_and_progress_is_the_best(env):
    task = next(task for task in env.tasks("train", 50, 0) if task["kind"] == "twc")
    observation, _ = env.reset(task)
    ways = Player(observation, [], Random(0)).ways.values()
    take, put = next(way for way in ways if len(way) == 2)
    reply, reward, *_ = env.step(take)
    assert reply.startswith("You take") and reply.endswith(UP) and reward > 0
    reply, again, _, _, info = env.step(put)
    assert reply.endswith((UP, textworld.DOWN)) and info["progress"] == reward + again
    assert again == (reward if reply.endswith(UP) else 0)
    assert env.step("\ud800") and env.answer[0] == UNKNOWN

def test_games_played_side_by_side_do_not_meet(env):
    rng, alone = Random(0), []
    for task in env.tasks("seen", 6, 2):
        env.reset(task)
        action = rng.choice(env.admissible_actions())
        alone.append((env.fresh(), task, action, env.step(action)))
    for copy, task, *_ in alone:
        copy.reset(task)
    for copy, _, action, answer in alone[::-1]:
        assert copy.step(action) == answer

def test_some_players_are_told_the_gold_path(env, monkeypatch):
    told, make = [], Player
    monkeypatch.setattr(textworld, "Player", lambda *own: told.append(own[1]) or make(*own))
    stream = list(islice(env.demonstrations("train", 3, 0.5), 100))
    assert sum(plan[:1] != [] and plan[0].startswith("Plan: look around") for plan in told) >= 1
    assert all(len(d.steps) <= 18 for d in stream)

def retried(env, kind: str, n: int) -> dict[str, float]:
    """Scripted players on the test fold: failed first trials; of these mended, by what is read."""

    def trial(task, reflections, seed):
        rng = Random(f"{task['id']} {seed}")
        observation, _ = env.reset(task)
        steps, _ = play(env, Player(observation, reflections, rng), rng, rng.choice(SLIPS))
        return observation, steps, env.info()["success"]

    tasks = [task for task in env.tasks("unseen", 3 * n, 0) if task["kind"] == kind][:n]
    first = [(task, *trial(task, [], 0)) for task in tasks]
    failed = [(task, (observation, steps)) for task, observation, steps, won in first if not won]
    mended = lambda write: sum(trial(task, [write(*own)], 1)[2] for task, own in failed)
    rules = env.templates | {"oracle": reflect, "plain": lambda *own: ""}
    found = {name: mended(write) / len(failed) for name, write in rules.items()}
    best = max(found[rule] for rule in env.templates)
    share = (best - found["plain"]) / (found["oracle"] - found["plain"])
    return found | {"failed": len(failed) / len(tasks), "template's share": share}

@pytest.mark.slow
@pytest.mark.parametrize("kind", ["coin", "twc"])
def test_scripted_players_on_the_test_fold(env, kind):
    found = retried(env, kind, 300)
    print(kind, found)
    assert 0.2 < found["failed"] < 0.6, found
    assert found["oracle"] > 0.85 and found["oracle"] > found["plain"] + 0.2, found
    assert found["template's share"] < 0.5, found
