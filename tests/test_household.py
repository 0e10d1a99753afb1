"""ALFWorld's household: recordings of the real engine, then each rule by hand in a small room."""

import copy
import itertools
import json
import os
import random
import tarfile
import time

import pytest

from envs.household import ACTIONS, Household, find_games, load_game

DATA = os.environ.get("RETRO_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with ALFWorld's games")
NOTHING = "Nothing happens."


@pytest.fixture(scope="module")
def games(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(os.path.join(DATA, "alfworld_games.tgz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "json_2.1.1"


# ---- Against the real engine


@needs_data
def test_every_recorded_answer_of_the_real_engine(games):
    with open(os.path.join(DATA, "alfworld_transcripts.json")) as file:
        transcripts = json.load(file)
    env, wins = Household(max_steps=10**9), 0
    for transcript in transcripts:
        observation, info = env.reset(load_game(games / transcript["game"]))
        assert transcript["intro"] == f"-= Welcome to TextWorld, ALFRED! =-\n\n{observation}"
        assert env.admissible_actions() == transcript["admissible0"]
        for i, (action, expected, admissible, reward, done) in enumerate(transcript["steps"]):
            answer = env.step(action)
            where = (transcript["game"], i, action)
            assert answer[:4] == (expected, reward, done, False), where
            assert env.admissible_actions() == admissible, where
            assert answer[4]["success"] == done == (answer[4]["progress"] == 1), where
        wins += done
    assert len(transcripts) == 96 and wins == 43, (len(transcripts), wins)


@needs_data
def test_all_games_load_quickly_and_are_json(games):
    paths, seconds = find_games(games), []
    assert len(paths) == 340 and paths == sorted(paths)
    for path in paths:
        start = time.process_time()
        task = load_game(path)
        seconds.append(time.process_time() - start)
        assert json.loads(json.dumps(task)) == task
    assert sorted(seconds)[170] < 0.02, f"median {1000 * sorted(seconds)[170]:.1f} ms a file"


# ---- Rules, in a room made by hand. Expected sentences are spelled out, not computed.


def thing(places, *traits, **more) -> dict:
    return {"in": places, "traits": [*traits], **more}


def room(kind="pick_and_place_simple", obj="mug", target="desk", **changes) -> dict:
    task = {
        "env": "household",
        "id": "by hand",
        "max_steps": 50,
        "goal": {"kind": kind, "object": obj, "target": target, "text": "do it."},
        "receptacles": {
            "cabinet 2": {"loc": 3, "openable": True, "open": False},
            "cabinet 1": {"loc": 3, "openable": True, "open": False},
            "desk 2": {"loc": 5, "openable": False, "open": False},
            "desk 1": {"loc": 4, "openable": False, "open": False},
            "fridge 1": {"loc": 6, "openable": True, "open": False},
            "microwave 1": {"loc": 7, "openable": True, "open": True},
            "sinkbasin 1": {"loc": 8, "openable": False, "open": False},
            "bathtubbasin 1": {"loc": 9, "openable": False, "open": False, "type": "sinkbasin"},
        },
        "objects": {
            "apple 1": thing(
                ["fridge 1"], "pickupable", "cleanable", "heatable", "coolable", "sliceable"
            ),
            "desklamp 1": thing(["desk 1"], "toggleable"),
            "egg 1": thing([], "sliceable", at=[4]),
            "knife 1": thing(["desk 1"], "pickupable", "cleanable"),
            "mug 2": thing(["cabinet 1"], "pickupable", "cleanable", "coolable", "isreceptacle"),
            "mug 1": thing(
                ["sinkbasin 1"], "pickupable", "isreceptacle", holds=["pen 2", "fork 1"]
            ),
            "vase 1": thing(["cabinet 2", "desk 1"], "pickupable"),
        },
        "accepts": {
            "cabinet": ["mug", "vase"],
            "desk": ["apple", "knife", "mug", "vase"],
            "fridge": ["apple"],
            "microwave": ["apple"],
            "sinkbasin": ["apple", "mug"],
        },
        "start": None,
    }
    return {**task, **changes}


def play(env, *actions) -> list[str]:
    return [env.step(action)[0] for action in actions]


@pytest.fixture
def env():
    env = Household()
    env.reset(room())
    return env


def test_reset_lists_the_room_and_says_the_task(env):
    observation, info = env.reset(room())
    assert observation == (
        "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, "
        "a cabinet 1, a desk 2, a desk 1, a fridge 1, a microwave 1, a sinkbasin 1, "
        "and a bathtubbasin 1.\n\nYour task is to: do it."
    )
    assert info == {"success": False, "progress": 0.0}
    assert env.admissible_actions() == [
        "go to bathtubbasin 1", "go to cabinet 1", "go to cabinet 2", "go to desk 1",
        "go to desk 2", "go to fridge 1", "go to microwave 1", "go to sinkbasin 1", "inventory",
        "look",
    ]  # fmt: skip


def test_look_sees_the_room_only_at_first(env):
    assert play(env, "look", "go to desk 1", "look", "go to cabinet 1", "look")[::2] == [
        "You are in the middle of a room. Looking quickly around you, you see nothing.",
        "You are facing the desk 1. Next to it, you see nothing.",
        "You are facing the cabinet 2, and cabinet 1. Next to it, you see nothing.",
    ]


def test_going_shows_what_is_there_but_not_where_one_stands(env):
    assert play(env, "go to desk 1", "go to desk 2", "go to cabinet 2", "go to microwave 1") == [
        "You arrive at loc 4. On the desk 1, you see a desklamp 1, a knife 1, and a vase 1.",
        "You arrive at loc 5. On the desk 2, you see nothing.",
        "You arrive at loc 3. The cabinet 2 is closed.",
        "You arrive at loc 7. The microwave 1 is open. In it, you see nothing.",
    ]
    assert play(env, "go to cabinet 1", "go to cabinet 1", "go to cabinet 2") == [
        "You arrive at loc 3. The cabinet 1 is closed.", NOTHING, NOTHING,
    ]  # fmt: skip


def test_opening_and_closing(env):
    assert play(env, "open cabinet 1", "go to cabinet 2", "open cabinet 1", "open cabinet 1") == [
        NOTHING,
        "You arrive at loc 3. The cabinet 2 is closed.",
        "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 2.",
        NOTHING,
    ]
    assert play(env, "close cabinet 2", "close cabinet 1", "examine cabinet 1", "open desk 1") == [
        NOTHING, "You close the cabinet 1.", "The cabinet 1 is closed.", NOTHING,
    ]  # fmt: skip


def test_taking_needs_an_open_place_and_an_empty_hand(env):
    assert play(env, "inventory", "go to cabinet 1", "take mug 2 from cabinet 1") == [
        "You are not carrying anything.",
        "You arrive at loc 3. The cabinet 1 is closed.",
        NOTHING,
    ]
    play_on = ["open cabinet 1", "take mug 2 from cabinet 2", "take mug 2 from cabinet 1"]
    assert play(env, *play_on) == [
        "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 2.",
        NOTHING,
        "You pick up the mug 2 from the cabinet 1.",
    ]
    assert play(env, "inventory", "open cabinet 2", "take vase 1 from cabinet 2") == [
        "You are carrying: a mug 2.",
        "You open the cabinet 2. The cabinet 2 is open. In it, you see a vase 1.",
        NOTHING,
    ]
    assert play(env, "go to desk 1", "take desklamp 1 from desk 1")[1] == NOTHING


def test_putting_follows_what_a_type_accepts_and_keeps_the_order(env):
    play(env, "go to desk 1", "take knife 1 from desk 1", "go to fridge 1", "open fridge 1")
    assert play(env, "put knife 1 in/on fridge 1", "go to desk 1", "put knife 1 in/on desk 1") == [
        NOTHING,
        "You arrive at loc 4. On the desk 1, you see a desklamp 1, and a vase 1.",
        "You put the knife 1 in/on the desk 1.",
    ]
    assert play(env, "examine desk 1", "inventory") == [
        "On the desk 1, you see a desklamp 1, a knife 1, and a vase 1.",
        "You are not carrying anything.",
    ]


def test_putting_needs_an_open_place(env):
    play(env, "go to desk 1", "take vase 1 from desk 1", "go to cabinet 1")
    put = "put vase 1 in/on cabinet 1"
    assert play(env, put, "open cabinet 1", put) == [
        NOTHING,
        "You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 2.",
        "You put the vase 1 in/on the cabinet 1.",
    ]


def test_move_is_understood_and_not_listed(env):
    play(env, "go to desk 1", "take vase 1 from desk 1", "go to desk 2")
    assert not [a for a in env.admissible_actions() if a.startswith("move")]
    assert play(env, "move vase 1 to desk 1", "move vase 1 to desk 2", "examine desk 2") == [
        NOTHING, "You move the vase 1 to the desk 2.", "On the desk 2, you see a vase 1.",
    ]  # fmt: skip


def test_an_object_in_two_places_is_taken_from_one(env):
    play(env, "go to cabinet 2", "open cabinet 2", "take vase 1 from cabinet 2")
    assert play(env, "go to desk 1", "put vase 1 in/on desk 1", "examine desk 1") == [
        "You arrive at loc 4. On the desk 1, you see a desklamp 1, a knife 1, and a vase 1.",
        "You put the vase 1 in/on the desk 1.",
        "On the desk 1, you see a desklamp 1, a knife 1, and a vase 1.",
    ]


def test_heat_cool_clean_and_what_examining_says(env):
    play(env, "go to fridge 1", "open fridge 1")
    assert play(env, "examine apple 1", "take apple 1 from fridge 1", "examine apple 1") == [
        NOTHING,
        "You pick up the apple 1 from the fridge 1.",
        "There's nothing special about apple 1.",
    ]
    assert play(env, "cool apple 1 with fridge 1", "examine apple 1") == [
        "You cool the apple 1 using the fridge 1.", "This is a cold apple 1.",
    ]  # fmt: skip
    play(env, "go to sinkbasin 1")
    assert play(env, "heat apple 1 with sinkbasin 1", "clean apple 1 with sinkbasin 1") == [
        NOTHING, "You clean the apple 1 using the sinkbasin 1.",
    ]  # fmt: skip
    assert play(env, "examine apple 1") == ["This is a cool and clean apple 1."]
    play(env, "go to microwave 1", "close microwave 1")
    assert play(env, "heat apple 1 with microwave 1", "examine apple 1") == [
        "You heat the apple 1 using the microwave 1.", "This is a hot and clean apple 1.",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "state, words",
    [
        ([], "There's nothing special about apple 1."),
        (["sliced"], "This is a sliced apple 1."),
        (["clean"], "This is a clean apple 1."),
        (["hot"], "This is a hot apple 1."),
        (["cool"], "This is a cold apple 1."),
        (["hot", "sliced"], "This is a hot sliced apple 1."),
        (["cool", "sliced"], "This is a cool sliced apple 1."),
        (["clean", "sliced"], "This is a clean sliced apple 1."),
        (["cool", "clean"], "This is a cool and clean apple 1."),
        (["cool", "clean", "sliced"], "This is a cool and clean sliced apple 1."),
        (["hot", "clean", "sliced"], "This is a hot and clean sliced apple 1."),
    ],
)
def test_examining_a_state_given_at_the_start(state, words):
    task = room()
    task["objects"]["apple 1"]["traits"] += state
    env = Household()
    env.reset(task)
    play(env, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1")
    assert play(env, "examine apple 1") == [words]


def test_an_untreatable_object_stays_as_it_is(env):
    play(env, "go to sinkbasin 1", "take mug 1 from sinkbasin 1")
    assert play(env, "clean mug 1 with sinkbasin 1", "examine mug 1") == [
        NOTHING, "This is a normal mug 1. In it, you see a pen 2, and a fork 1.",
    ]  # fmt: skip


def test_a_receptacles_type_may_differ_from_its_name(env):
    play(env, "go to desk 1", "take knife 1 from desk 1", "go to bathtubbasin 1")
    assert play(env, "clean knife 1 with bathtubbasin 1") == [
        "You clean the knife 1 using the bathtubbasin 1."
    ]


def test_using_a_lamp_turns_it_on_every_time(env):
    assert play(env, "use desklamp 1", "go to desk 1", "use desklamp 1", "use desklamp 1") == [
        NOTHING,
        "You arrive at loc 4. On the desk 1, you see a desklamp 1, a knife 1, and a vase 1.",
        "You turn on the desklamp 1.",
        "You turn on the desklamp 1.",
    ]


def test_slicing_reaches_into_closed_places_and_to_the_floor(env):
    play(env, "go to desk 1")
    assert play(env, "slice egg 1 with knife 1", "take knife 1 from desk 1") == [
        NOTHING, "You pick up the knife 1 from the desk 1.",
    ]  # fmt: skip
    assert play(env, "slice egg 1 with knife 1", "slice apple 1 with knife 1") == [
        "You sliced the egg 1 with the knife 1.", NOTHING,
    ]  # fmt: skip
    assert play(env, "go to fridge 1", "slice apple 1 with knife 1") == [
        "You arrive at loc 6. The fridge 1 is closed.", "You sliced the apple 1 with the knife 1.",
    ]  # fmt: skip


@pytest.mark.parametrize("length", [0, 1, 4, 9, 15])
def test_admissible_is_all_that_does_something(length):
    """Every form filled with every names, tried in copies of the state: an enumeration."""
    rng, env = random.Random(length), Household()
    env.reset(room(kind="look_at_obj_in_light", obj="nothing", target="nothing"))
    for _ in range(length):
        env.step(rng.choice([a for a in env.admissible_actions() if a[:2] not in ("lo", "in")]))
    names, works = [*env.receptacles, *env.objects], []
    for verb, form in ACTIONS.items():
        for args in itertools.product(names, repeat=form.count("{}")):
            trial = copy.copy(env)  # a shallow copy, and the parts of the state that change:
            trial.contents, trial.opened = copy.deepcopy(env.contents), set(env.opened)
            trial.states, trial.sliced_at = copy.deepcopy((env.states, env.sliced_at))
            if verb != "move" and trial.step(form.format(*args))[0] != NOTHING:
                works.append(form.format(*args))
    assert env.admissible_actions() == sorted(works)


# ---- Goals, progress and the end


def progress(env, *actions) -> list[float]:
    return [env.step(action)[4]["progress"] for action in actions]


MUG_TO_DESK = ["go to sinkbasin 1", "take mug 1 from sinkbasin 1", "go to desk 2"]


def test_pick_and_place():
    env = Household()
    env.reset(room())
    assert progress(env, *MUG_TO_DESK) == [0, 1 / 2, 1 / 2]
    answer = env.step("put mug 1 in/on desk 2")
    assert answer[1:] == (1, True, False, {"success": True, "progress": 1})


def test_what_was_reached_once_stays_counted(env):
    play(env, *MUG_TO_DESK, "go to sinkbasin 1")
    assert env.step("put mug 1 in/on sinkbasin 1")[4] == {"success": False, "progress": 1 / 2}


@pytest.mark.parametrize(
    "verb, appliance", [("heat", "microwave 1"), ("cool", "fridge 1"), ("clean", "sinkbasin 1")]
)
def test_treat_and_place(verb, appliance):
    env = Household()
    env.reset(room(f"pick_{verb}_then_place_in_recep", "apple", "desk"))
    play(env, "go to fridge 1", "open fridge 1")
    assert progress(env, "take apple 1 from fridge 1", "go to desk 1") == [1 / 3, 1 / 3]
    answer = env.step("put apple 1 in/on desk 1")
    assert answer[1:3] == (0, False) and answer[4]["progress"] == 1 / 3  # placed, but not treated
    play(env, "take apple 1 from desk 1", f"go to {appliance}")
    assert progress(env, f"{verb} apple 1 with {appliance}", "go to desk 2") == [2 / 3, 2 / 3]
    assert env.step("put apple 1 in/on desk 2")[1:3] == (1, True)


def test_heating_undoes_cooling_for_the_goal_too():
    env = Household()
    env.reset(room("pick_cool_then_place_in_recep", "apple", "desk"))
    play(env, "go to fridge 1", "open fridge 1", "take apple 1 from fridge 1")
    play(env, "cool apple 1 with fridge 1", "go to microwave 1", "heat apple 1 with microwave 1")
    play(env, "go to desk 1")
    assert env.step("put apple 1 in/on desk 1")[1:3] == (0, False)


def test_light_needs_the_object_in_hand_and_a_lamp_that_was_switched():
    env = Household()
    env.reset(room("look_at_obj_in_light", "knife", "desklamp"))
    assert progress(env, "go to desk 1", "take knife 1 from desk 1") == [0, 1 / 2]
    assert env.step("use desklamp 1")[1:3] == (1, True)

    env.reset(room("look_at_obj_in_light", "mug", "desklamp"))  # switched first: arriving is enough
    assert progress(env, "go to desk 1", "use desklamp 1", *MUG_TO_DESK)[-1] == 1 / 2
    assert env.step("go to desk 1")[1:3] == (1, True)


def test_two_objects_must_lie_in_the_same_receptacle():
    env = Household()
    env.reset(room("pick_two_obj_and_place", "mug", "desk"))
    play(env, *MUG_TO_DESK)
    assert progress(env, "put mug 1 in/on desk 2", "go to cabinet 1") == [2 / 4, 2 / 4]
    play(env, "open cabinet 1")
    assert progress(env, "take mug 2 from cabinet 1", "go to desk 1") == [3 / 4, 3 / 4]
    answer = env.step("put mug 2 in/on desk 1")
    assert answer[1:3] == (0, False) and answer[4]["progress"] == 3 / 4
    play(env, "take mug 2 from desk 1", "go to desk 2")
    assert env.step("put mug 2 in/on desk 2")[1:3] == (1, True)


def test_two_objects_one_of_them_in_place_from_the_start():
    task = room("pick_two_obj_and_place", "mug", "sinkbasin")
    assert Household().reset(task)[1] == {"success": False, "progress": 1 / 2}


def test_a_sliced_goal():
    task = room("pick_and_place_simple", "apple", "desk")
    task["goal"]["sliced"] = True
    env = Household()
    env.reset(task)
    play(env, "go to desk 1", "take knife 1 from desk 1", "go to fridge 1", "open fridge 1")
    play(env, "slice apple 1 with knife 1", "go to desk 1", "put knife 1 in/on desk 1")
    play(env, "go to fridge 1")
    assert progress(env, "take apple 1 from fridge 1", "go to desk 1") == [2 / 3, 2 / 3]
    assert env.step("put apple 1 in/on desk 1")[1:3] == (1, True)


def test_after_the_end_the_last_answer_comes_again(env):
    last = [env.step(action) for action in [*MUG_TO_DESK, "put mug 1 in/on desk 2"]][-1]
    assert [env.step(action) for action in ("look", "take mug 1 from desk 2", "")] == [last] * 3


def test_truncation_at_the_step_limit_counts_malformed_actions():
    env = Household()
    env.reset(room(max_steps=3))
    answers = [env.step(action) for action in ("look", "hum", "go to desk 1", "go to desk 2")]
    assert [truncated for _, _, _, truncated, _ in answers] == [False, False, True, True]
    assert not any(terminated for _, _, terminated, _, _ in answers)
    assert answers[3] == answers[2]
    env = Household(max_steps=1)
    env.reset(room())
    assert env.step("look")[2:4] == (False, True)


def test_success_on_the_last_step_is_not_truncation():
    env = Household()
    env.reset(room(max_steps=4))
    assert [env.step(a) for a in [*MUG_TO_DESK, "put mug 1 in/on desk 2"]][-1][2:4] == (True, False)


def test_resetting_starts_anew_and_leaves_the_task_alone(env):
    task = room()
    before = json.dumps(task)
    for _ in range(2):
        env.reset(task)
        assert [env.step(a) for a in [*MUG_TO_DESK, "put mug 1 in/on desk 2"]][-1][2]
    assert json.dumps(task) == before


# ---- Any string


@pytest.mark.parametrize(
    "action",
    ["", " ", "go", "go to", "GO TO DESK 1", "Go to desk 1", "go  to desk 1", "go to desk  1",
     "go to desk", "go to desk 1.", "go to desk 01", "go to desk １", "go to desk 9", "go to loc 4",
     "goto desk 1", "go to desk 1\nlook", "go to\tdesk 1", "examine", "take", "take from",
     "take mug from sinkbasin", "put  in/on ", "look around", "look at", "inventory 1", "\x00",
     "\x1b[2J", "идти к столу", "去书桌", "🙂", "\ud800", "go to {}", "%s", "__class__", "_go",
     "type", "step", "reset 1", "move {} to {}"],
)  # fmt: skip
def test_what_is_not_a_command(env, action):
    assert env.step(action)[:4] == (NOTHING, 0, False, False)


def test_white_space_around_a_command_does_not_matter(env):
    answer = env.step(" \tgo to desk 2\r\n")
    assert answer[0] == "You arrive at loc 5. On the desk 2, you see nothing."


@pytest.mark.parametrize(
    "action",
    ["x" * 100_000, " " * 100_000, "\x00" * 100_000, "take " + "a" * 100_000,
     "take " + "a 1 from " * 11_000, "take" + " 1" * 50_000, "go to " + "1" * 100_000,
     "go to " + "字" * 100_000, "take " + "a" * 50_000 + " 1 from " + "b" * 50_000],
)  # fmt: skip
def test_a_huge_string_is_answered_at_once(env, action):
    start = time.process_time()
    assert env.step(action)[0] == NOTHING
    assert time.process_time() - start < 0.1


def test_random_strings_never_raise(env):
    rng = random.Random(0)
    pieces = [*ACTIONS.values(), *env.receptacles, *env.objects, *" \n1é\x07", "from"]
    env.limit = 10**9
    for _ in range(3000):
        action = rng.choice(["", " "]).join(rng.choices(pieces, k=rng.randrange(5)))
        observation = env.step(action)[0]
        known = action.strip().split(" ")[0] in ACTIONS
        assert observation == NOTHING or known and observation, action


# ---- Files


GRAMMAR = """grammar :: { "task": [ { "rhs": "Your task is to: put a \\"cup\\" on it." } ] }"""
GOAL = """(and (exists (?r - receptacle) (exists (?o - object) (and
    (inReceptacle ?o ?r) %s (objectType ?o MugType) (receptacleType ?r ShelfType)))))"""
PLAIN_GOAL = GOAL % ""
PROBLEM = """(define (problem x) (:domain alfred) (:objects agent1 - agent)
(:init
  (receptacleType Shelf_bar__plus_1 ShelfType) (receptacleAtLocation Shelf_bar__plus_1 loc_bar_2)
  (receptacleType Shelf_bar__minus_1 ShelfType) (receptacleAtLocation Shelf_bar__minus_1 loc_bar_1)
  (receptacleType Bathtub_bar_1_bar_SinkBasin SinkBasinType)
  (receptacleAtLocation Bathtub_bar_1_bar_SinkBasin loc_bar_3)
  (openable Shelf_bar__plus_1) (opened Shelf_bar__plus_1)
  (objectType Mug_bar__plus_1 MugType) (inReceptacle Mug_bar__plus_1 Shelf_bar__plus_1)
  (objectType Mug_bar__minus_1 MugType) (inReceptacle Mug_bar__minus_1 Shelf_bar__plus_1)
  (objectType Mug_bar__plus_2 MugType) (objectAtLocation Mug_bar__plus_2 loc_bar_4)
  (inReceptacleObject Pen_bar_1 Mug_bar__plus_1) (isReceptacleObject Mug_bar__plus_1)
  (objectType Egg_bar_1 EggType) (sliceable Egg_bar_1) (objectAtLocation Egg_bar_1 loc_bar_4)
  (isCool Mug_bar__minus_1) (atLocation agent1 loc_bar_4)
  (canContain ShelfType MugType) (canContain ShelfType MugType) (canContain ShelfType CupType)
  (canContain SofaType MugType)
)
(:goal %s))"""


def game_file(folder, goal=PLAIN_GOAL, **changes):
    game = {"grammar": GRAMMAR, "pddl_problem": PROBLEM % goal, "pddl_domain": "", "solvable": True}
    path = folder / "a_task" / "a_trial" / "game.tw-pddl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**game, **changes}))
    return path


def test_names_numbers_and_order_of_a_file(tmp_path):
    assert load_game(game_file(tmp_path)) == {
        "env": "household",
        "id": "a_task/a_trial",
        "max_steps": 50,
        "goal": {
            "kind": "pick_and_place_simple", "object": "mug", "target": "shelf",
            "text": 'put a "cup" on it.',
        },
        "receptacles": {
            "bathtubbasin 1": {"loc": 2, "openable": False, "open": False, "type": "sinkbasin"},
            "shelf 2": {"loc": 4, "openable": False, "open": False},
            "shelf 1": {"loc": 3, "openable": True, "open": True},
        },
        "objects": {
            "egg 1": {"in": [], "traits": ["sliceable"], "at": [1]},
            "mug 3": {"in": ["shelf 1"], "traits": ["cool"]},
            "mug 2": {"in": ["shelf 1"], "traits": ["isreceptacle"], "holds": ["pen 1"]},
        },
        "accepts": {"shelf": ["mug"], "sinkbasin": []},
        "start": 1,
    }  # fmt: skip


def test_a_sliced_goal_is_read(tmp_path):
    goal = load_game(game_file(tmp_path, GOAL % "(sliceable ?o) (isSliced ?o)"))["goal"]
    assert (goal["kind"], goal["sliced"]) == ("pick_and_place_simple", True)


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"goal": "(opened ?r)"}, "a goal of a kind that is not supported: (opened ?r)"),
        ({"goal": GOAL % "(openable ?r)"}, "a goal of a kind that is not supported"),
        ({"goal": f"(or {PLAIN_GOAL})"}, "a goal of a kind that is not supported"),
        ({"grammar": "grammar :: {}"}, "not an ALFWorld game"),
        ({"grammar": None}, "not an ALFWorld game"),
        ({"pddl_problem": 7}, "not an ALFWorld game"),
        ({"pddl_problem": "(define (:domain blocks) (:init) (:goal))"}, "not an ALFWorld game"),
        ({"pddl_problem": PROBLEM[:300]}, "not an ALFWorld game"),
        ({"pddl_problem": (PROBLEM % PLAIN_GOAL).replace("(openable ", "(openable x ")},
         "(openable x shelf_bar__plus_1) should have 1 argument"),
    ],
)  # fmt: skip
def test_a_foreign_game_is_refused_in_one_line(tmp_path, changes, reason):
    path = game_file(tmp_path, **changes)
    with pytest.raises(ValueError) as error:
        load_game(path)
    assert str(error.value).startswith(f"{path}: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"[1]", b"null", b'"a"', b"{}", b"\x00" * 9, b"[" * 100_000]
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "game.tw-pddl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not JSON|not an ALFWorld game") as error:
        load_game(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = game_file(tmp_path)
    text = path.read_text()
    for length in range(0, len(text), 97):
        path.write_text(text[:length])
        with pytest.raises(ValueError, match="not JSON"):
            load_game(path)


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path):
    for path in (tmp_path / "none.tw-pddl", tmp_path):
        with pytest.raises(ValueError, match=f"^{path}: cannot be read"):
            load_game(path)
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match=f"^{folder}: no game.tw-pddl"):
            find_games(folder)


def test_games_are_found_in_order(tmp_path):
    paths = [game_file(tmp_path / name) for name in ("b", "a", "c/d")]
    assert find_games(tmp_path) == sorted(map(str, paths))


# ---- The contract


def test_speed_of_random_play():
    """Measured: 60,000 to 130,000 steps a second; the bound is loose for busy machines."""
    rng, env, steps, seconds = random.Random(0), Household(max_steps=10**9), 0, 0.0
    env.reset(room("pick_two_obj_and_place", "vase", "bed"))
    for _ in range(2000):
        action = rng.choice(env.admissible_actions())
        start = time.process_time()
        env.step(action)
        seconds += time.process_time() - start
        steps += 1
    assert steps / seconds > 5000, f"{steps / seconds:.0f} steps/s"
