"""The contract that all environments share, checked on each of them; making several."""

import json
import random

import pytest

import envs
from envs.household import Household

NAMES = list(envs.CLASSES)
STRANGE = ("", " ", "x" * 100_000, "\0\x1b[31m", "看 тест", "[[[", "]", "Search[", "\n> go")

def test_make():
    assert isinstance(envs.make("household", max_steps=7), Household)
    with pytest.raises(ValueError, match="environment 'kitchen': must be one of household"):
        envs.make("kitchen")
    with pytest.raises(ValueError, match="environment 'kitchen': must be one of household"):
        envs.make_all("household,kitchen")
    with pytest.raises(ValueError, match="one is named twice"):
        envs.make_all("household,household")

@pytest.mark.parametrize("name", NAMES)
def test_tasks_are_json_and_fixed_by_their_arguments(name):
    env = envs.make(name)
    for split in ("train", "seen", "unseen"):
        tasks = env.tasks(split, 5, 7)
        assert json.loads(json.dumps(tasks)) == tasks == env.fresh().tasks(split, 5, 7)
        assert tasks != env.tasks(split, 5, 8) and len(tasks) == 5
        assert all(task["env"] == name and task["max_steps"] > 0 for task in tasks)
        assert len({task["id"] for task in tasks}) == 5
    with pytest.raises(ValueError, match="split 'other'"):
        env.tasks("other", 1, 0)

@pytest.mark.parametrize("name", NAMES)
def test_any_string_is_answered_and_the_end_is_the_end(name):
    env, rng = envs.make(name), random.Random(0)
    for task in env.tasks("seen", 20, 1):
        observation, info = env.reset(task)
        assert info == {"success": False, "progress": info["progress"]} and observation
        for _ in range(task["max_steps"]):
            legal = rng.choice(env.admissible_actions())
            action = rng.choice((legal, rng.choice(STRANGE)))
            answer = env.step(action)
            reply, reward, terminated, truncated, info = answer
            assert isinstance(reply, str) and 0 <= reward <= 1 and 0 <= info["progress"] <= 1
            assert not info["success"] or (terminated and info["progress"] == 1)
            if terminated or truncated:
                break
        assert terminated or truncated
        assert env.step("look") == env.step("") == answer

@pytest.mark.parametrize("name", NAMES)
def test_demonstrations_hold_what_pretraining_needs(name):
    env, kinds = envs.make(name), set()
    stream = env.demonstrations("train", "contract", 0.5, 0.3)
    for d, _ in zip(stream, range(100)):
        trial = env.fresh()
        text = "\n".join(["", d.observation, *(line for step in d.steps for line in step)])
        assert not any(f"\n{word}" in text for word in ("Question:", "Answer:", "Reflection:"))
        assert all(q and a and "\n" not in q + a for q, a in d.questions)
        if d.reflection is not None:
            assert "\n" not in d.reflection and not d.success
        kinds.add((bool(d.reflections), d.success, bool(d.steps)))
        for mention, end, _, _ in trial.bindings(text):
            assert text[:end].endswith(mention)
    assert len(kinds) >= 4, kinds

def test_making_several():
    listed = NAMES[::-1]
    made = envs.make_all(",".join(listed))
    assert list(made) == listed == [env.name for env in made.values()]
    for name, env in made.items():
        assert type(env) is type(envs.make(name)) and env.fresh() is not env

@pytest.mark.parametrize("name", NAMES)
def test_a_glance_shows_what_a_drill_asks_about(name):
    env, rng = envs.make(name), random.Random(0)
    for task in env.tasks("train", 10, 3):
        env.reset(task)
        views = env.glance(rng)
        assert views and all(isinstance(text, str) for view in views for text in view)
        assert not any(text in ("Nothing happens.", "Invalid action!") for _, text in views)
