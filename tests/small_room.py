"""A room of the household made by hand, and playing in it."""

import pytest

from envs.household import Household

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

@pytest.fixture(name="env")
def env_of_the_room():
    env = Household()
    env.reset(room())
    return env
