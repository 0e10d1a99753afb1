"""The generator: solvable tasks, splits that keep their words apart, seeds that decide everything.
"""

import json
import random
import re
from itertools import islice

import pytest

import envs
import envs.household.tasks as rooms
from envs.demonstrations import play
from envs.household.demonstrations import Player

def words(tasks):
    return {
        word
        for t in tasks
        for word in re.findall(r"[a-z]+", " ".join([*t["receptacles"], *t["objects"]]))
    }

def test_same_arguments_same_tasks_other_seed_other_tasks():
    env = envs.make("household")
    assert env.tasks("seen", 5, 3) == env.tasks("seen", 5, 3)
    assert env.tasks("seen", 5, 3) != env.tasks("seen", 5, 4)
    assert env.tasks("seen", 3, 3) == env.tasks("seen", 5, 3)[:3]
    assert json.loads(json.dumps(env.tasks("unseen", 2, 0))) == env.tasks("unseen", 2, 0)

@pytest.mark.parametrize("n", [80, pytest.param(1500, marks=pytest.mark.slow)])
def test_unseen_names_never_occur_in_training(n):
    env = envs.make("household")
    known = words(env.tasks("train", n, 0)) | words(env.tasks("seen", n // 5, 1))
    for d in islice(env.demonstrations("train", 0, 0.3, 0.25), n):
        known |= set(re.findall(r"[a-z]+", repr(d)))  # slips, reflections and questions too
    unseen = words(env.tasks("unseen", min(n, 300), 0))
    shared = unseen & known
    assert shared <= {*rooms.APPLIANCE.values(), *rooms.LAMPS}, shared
    assert len(unseen) > 80

@pytest.mark.parametrize("n", [40, pytest.param(200, marks=pytest.mark.slow)])
def test_all_six_kinds_and_no_task_is_done_at_the_start(n):
    env, kinds = envs.make("household"), set()
    for split in ("train", "seen", "unseen"):
        for task in env.tasks(split, n, 5):
            kinds.add(task["goal"]["kind"])
            _, info = env.reset(task)
            assert not info["success"], task["id"]
    assert kinds == set(rooms.GOALS)

@pytest.mark.parametrize("n", [25, pytest.param(150, marks=pytest.mark.slow)])
def test_a_perfect_player_who_knows_the_room_wins_every_task(n):
    """Solvable: a player that is told where everything is carries the errand out within the limit.
    """
    env, lost = envs.make("household"), []
    for split in ("train", "unseen"):
        for task in env.tasks(split, n, 11):
            goal, things = task["goal"], task["objects"]
            wanted = [o for o in things if o.rsplit(" ", 1)[0] == goal["object"]]
            places = [things[o]["in"][0] for o in wanted]
            if goal["kind"] == "look_at_obj_in_light":
                lamp = next(o for o in things if o.rsplit(" ", 1)[0] == goal["target"])
                places.append(things[lamp]["in"][0])
            plan = "I know the room. Plan: search " + ", ".join(dict.fromkeys(places)) + "."
            lost += [task["id"]] * (not plays(env, task, plan))
    assert not lost, lost

def test_likely_places_come_first_and_renamed_ones_keep_their_order():
    places = ["bed 1", "fridge 1", "sinkbasin 1", "garbagecan 1", "fridge 2"]
    assert rooms.likely_first(places, "lettuce")[:2] == ["fridge 1", "fridge 2"]
    assert rooms.likely_first(places, "silkband") == places

def plays(env, task, reflection) -> bool:
    """A flawless demonstrator's success on a task."""
    observation, _ = env.reset(task)
    player = Player(observation, [reflection], random.Random(0))
    player.skill = type(player.skill)(0, 0, 0, 0, 0, 0)
    player.forgets = player.misplaces = False
    play(env, player, random.Random(0), slip_share=0)
    return env.info()["success"]
