"""TextWorldExpress: what is read off its texts, on recorded ones, without Java; the games, with it.
"""

import shutil
import sys
from collections import Counter
from itertools import islice
from random import Random

import pytest

import envs
import envs.check
from envs.demonstrations import SLIPS, play
from envs.textworld import demonstrations, observer
from envs.textworld.engine import FOLDS
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
# the kitchen's other exits were never taken
LOST = [("move east", LIVING), ("move west", KITCHEN), ("move up", UNKNOWN), ("take coin", UNKNOWN)]
PASSED = [("move east", LIVING), ("move north", BEDROOM), ("move south", LIVING)]

TIDY = (
    "Your task is to pick up objects, then place them in their usual locations in the environment. "
    "You are in the bathroom. In one part of the room you see a dressing table, that has nothing "
    "on it. There is also a sink, that has nothing on it. You also see a bath mat. In another part "
    "of the room you see a shower, that has nothing on it. In one part of the room you see a "
    "bathroom cabinet that is closed. You also see a toilet. In another part of the room you see a "
    "lip gloss. There is also an used Q-tip."
)
WRONG = [
    ("take lip gloss", "You take the lip gloss. Your score went up."),
    ("put lip gloss in sink", "You put the lip gloss in the sink. Your score went down."),
    ("take lip gloss", "You take the lip gloss. Your score went up."),
    ("open bathroom cabinet", "You open the bathroom cabinet. It's empty inside."),
    ("put lip gloss in bathroom cabinet",
     "You put the lip gloss in the bathroom cabinet. Your score went down."),
]  # fmt: skip
HALF = [
    *WRONG,
    ("take lip gloss", "You take the lip gloss. Your score went up."),
    ("put lip gloss in dressing table",
     "You put the lip gloss in the dressing table. Your score went up."),
]  # fmt: skip
TRIALS = [(COIN, LOST), (COIN, PASSED), (TIDY, WRONG), (TIDY, HALF)]
WRITTEN = [
    "Notes: take coin; not entered: corridor, pantry, bedroom; from kitchen: south corridor, north "
    "kitchen, west pantry, east kitchen, east living room, north bedroom. Cause: I never went into "
    "the corridor. Plan: move south, move north, move west, move east, move east, move north, take "
    "coin.",
    "Notes: take coin; coin in bedroom; from kitchen: east living room, north bedroom. Cause: I "
    "saw the coin in the bedroom but did not take it. Plan: move east, move north, take coin.",
    "Notes: put away lip gloss, used Q-tip; lip gloss not in sink, bathroom cabinet; used Q-tip "
    "never put. Cause: The lip gloss does not belong in the bathroom cabinet. Plan: put lip gloss "
    "in dressing table or shower, put used Q-tip in dressing table or sink or bathroom cabinet or "
    "shower.",
    "Notes: put away lip gloss, used Q-tip; lip gloss in dressing table; used Q-tip never put. "
    "Cause: I never put the used Q-tip anywhere. Plan: put lip gloss in dressing table, put used "
    "Q-tip in dressing table or sink or bathroom cabinet or shower.",
]

@pytest.mark.parametrize("trial, written", zip(TRIALS, WRITTEN))
def test_the_oracle_says_what_the_text_shows(trial, written):
    assert observer.oracle_reflection(*trial) == written
    assert "; ".join(observer.notes(*trial)) == written[7 : written.index(". Cause: ")]
    verdict = observer.judge(written, *trial)
    assert verdict[1:] == (True, True, True, False, True) and verdict.kind in observer.KINDS
    brief = written[written.index("Cause: ") :]
    assert observer.judge(brief, *trial) == verdict._replace(notes=None)

def test_a_plan_in_actions():
    assert observer.parse_plan(WRITTEN[3]) == [
        "put lip gloss in dressing table",
        *(f"put used Q-tip in {place}" for place in
          ("dressing table", "sink", "bathroom cabinet", "shower")),
    ]  # fmt: skip
    assert observer.parse_plan("I was slow. Plan: be quicker.") == []

@pytest.mark.parametrize(
    "trial, said, verdict",
    [  # kind, cause, sound, place, invented
        (0, "I never went into the living room. Plan: move east, move west, take coin.",
         ("not entered", False, False, True, False)),
        (0, "I never went into the cellar. Plan: move north, move south, take coin.",
         ("not entered", False, False, False, True)),
        (0, "I never went into the pantry. Plan: move west, move north, take coin.",
         ("not entered", True, True, False, False)),
        (1, "I never went into the pantry. Plan: move west, take coin.",
         ("not entered", False, False, True, False)),
        (1, "I saw the coin in the pantry but did not take it. Plan: move east, move north.",
         ("not taken", False, False, True, False)),
        (2, "The lip gloss does not belong in the sink. Plan: put lip gloss in shower, put used "
         "Q-tip in sink.", ("wrong place", True, True, True, False)),
        (2, "The lip gloss does not belong in the shower. Plan: put lip gloss in sink, put used "
         "Q-tip in sink.", ("wrong place", False, False, False, False)),
        (3, "I never put the lip gloss anywhere. Plan: put lip gloss in dressing table.",
         ("not put", False, False, True, False)),
        (3, "I knew all too late. Plan: put lip gloss in fridge.",
         ("too late", False, False, False, True)),
        (2, "I was slow. Plan: be quicker.", ("", None, False, None, False)),
    ],
)  # fmt: skip
def test_the_judge(trial, said, verdict):
    assert observer.judge(said, *TRIALS[trial])[:5] == verdict

def test_notes_with_one_wrong_fact_are_not_right():
    wrong = WRITTEN[3].replace("lip gloss in dressing table; ", "lip gloss in shower; ")
    assert observer.judge(wrong, *TRIALS[3]).notes is False
    wrong = WRITTEN[1].replace("coin in bedroom", "coin in pantry")
    assert observer.judge(wrong, *TRIALS[1]).notes is False

def test_following_ends_where_nothing_is_left_to_do():
    taken = ("take coin", "You take the coin. Your score went up.")
    corridor = ("move south", "You are in the corridor. You also see a coin.")
    assert observer.follows(WRITTEN[0], [corridor, taken])
    assert not observer.follows(WRITTEN[0], [("move east", LIVING), taken])
    assert not observer.follows(WRITTEN[0], [("look around", KITCHEN)])
    q_tip = ("put used Q-tip in sink", "You put the used Q-tip in the sink. Your score went up.")
    assert observer.follows(WRITTEN[3], [*HALF[-2:], q_tip])
    assert not observer.follows(WRITTEN[3], HALF[-2:])

@pytest.mark.parametrize("trial", TRIALS)
def test_flaws_templates_and_questions(trial):
    rng, right = Random(0), observer.oracle_reflection(*trial)
    flawed = [demonstrations.flawed_reflection(*trial, rng) for _ in range(300)]
    assert {text in demonstrations.VAGUE for text in flawed} == {True, False}
    noted = [text for text in flawed if text.startswith("Notes: ")]
    assert len(noted) > 60 and right not in flawed
    assert sum(text.startswith("Cause: ") for text in flawed) > 60
    for text in [*flawed, *(write(*trial) for write in observer.TEMPLATES.values())]:
        assert envs.check.REFLECTION.fullmatch(text), text
    asked = {pair for _ in range(30) for pair in demonstrations.questions(*trial, rng)}
    assert ("What matters?", "; ".join(observer.notes(*trial))) in asked
    assert {True, False} == {question.startswith("What ") for question, _ in asked}
    assert all(answer and "\n" not in answer for _, answer in asked)

@pytest.mark.parametrize("absent", ["java", "package"])
def test_without_java_or_the_package_one_line_says_so(absent, monkeypatch, capsys):
    if absent == "java":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    else:
        monkeypatch.setattr("envs.textworld.engine.find_spec", lambda name: None)
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
        tasks = env.tasks(split, 2500, 0)
        assert {task["fold"] for task in tasks} == {fold}
        counted = Counter((task["kind"], task["seed"]) for task in tasks)
        whole = {(kind, first + i) for kind in ("coin", "twc") for i in range(1000)}
        assert set(counted) == whole and set(counted.values()) == {1, 2}

def test_a_gold_path_ends_in_success_and_all_its_actions_are_valid(env):
    env = made("textworld", max_steps=100)
    for task in env.tasks("unseen", 8, 5):
        env.reset(task)
        for action in env.gold():
            assert action in env.admissible_actions()
            *_, terminated, _, info = env.step(action)
            if terminated:
                break
        assert info == {"success": True, "progress": 1.0}

def test_the_score_is_told_and_progress_is_the_best(env):
    (task,) = [t for t in env.tasks("train", 50, 0) if t["kind"] == "twc" and t["seed"] % 2][:1]
    observation, _ = env.reset(task)
    notes = observer.Notes(observation)
    thing, place = notes.things[0], next(p for p in notes.places if p not in notes.closed)
    reply, reward, *_ = env.step(f"take {thing}")
    assert reply == f"You take the {thing}. Your score went up." and reward > 0
    reply, again, _, _, info = env.step(f"put {thing} in {place}")
    assert reply.endswith((observer.UP, observer.DOWN)) and info["progress"] == reward + again
    assert again == (reward if reply.endswith(observer.UP) else 0)
    assert env.step("\ud800") and env.answer[0] == UNKNOWN

def test_games_played_side_by_side_do_not_meet(env):
    tasks = env.tasks("seen", 6, 2)
    rng = Random(0)
    alone = []
    for task in tasks:
        env.reset(task)
        actions = [rng.choice(env.admissible_actions())]
        alone.append((actions, env.step(actions[0])))
    copies = [env.fresh() for _ in tasks]
    for copy, task in zip(copies, tasks):
        copy.reset(task)
    for copy, (actions, answer) in [*zip(copies, alone)][::-1]:
        assert copy.step(actions[0]) == answer

def test_demonstrations_have_gold_paths(env):
    stream = list(islice(env.demonstrations("train", 3, 0.5), 80))
    assert sum(d.success and d.steps[0][0] == "look around" for d in stream) >= 3
    assert all(len(d.steps) <= 18 for d in stream)

def retried(env, kind: str, n: int) -> dict[str, float]:
    """Scripted players on the test fold: failed first trials; of these mended, by what is read."""

    def trial(task, reflections, seed):
        rng = Random(f"{task['id']} {seed}")
        observation, _ = env.reset(task)
        player = demonstrations.Player(observation, reflections, rng)
        steps, _ = play(env, player, rng, rng.choice(SLIPS))
        return observation, steps, env.info()["success"]

    tasks = [task for task in env.tasks("unseen", 3 * n, 0) if task["kind"] == kind][:n]
    first = [(task, *trial(task, [], 0)) for task in tasks]
    failed = [(task, (observation, steps)) for task, observation, steps, won in first if not won]
    mended = lambda write: sum(trial(task, [write(*own)], 1)[2] for task, own in failed)
    wins = {rule: mended(write) for rule, write in observer.TEMPLATES.items()}
    wins["oracle"] = mended(observer.oracle_reflection)
    wins["plain"] = mended(lambda *own: "")
    found = {name: n / len(failed) for name, n in wins.items()}
    said = [(observer.oracle_reflection(*own), own) for _, own in failed]
    causes = Counter(observer.judge(text, *own).kind for text, own in said)
    best = max(found[rule] for rule in observer.TEMPLATES)
    share = (best - found["plain"]) / (found["oracle"] - found["plain"])
    return found | {"failed": len(failed) / len(tasks), "template's share": share} | causes

@pytest.mark.slow
@pytest.mark.parametrize("kind, oracle", [("coin", 0.9), ("twc", 0.8)])
def test_scripted_players_on_the_test_fold(env, kind, oracle):
    found = retried(env, kind, 300)
    print(kind, found)
    assert 0.3 < found["failed"] < 0.6, found
    assert found["oracle"] > oracle and found["oracle"] > found["plain"] + 0.3, found
    assert found["template's share"] < 0.45, found
