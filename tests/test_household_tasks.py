"""The household's tasks: goals of each kind, progress towards them, and the end."""

import json

import pytest
from small_room import env_of_the_room, play, room  # noqa: F401

from envs.household import Household

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
