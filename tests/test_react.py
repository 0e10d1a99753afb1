"""What an endpoint's model is told, and how its reply becomes one action."""


import pytest

import envs
from retro.interop import guides
from retro.interop.api_actor import read_reply
from tests.optional import OPTIONAL

@pytest.mark.parametrize(
    "reply, thought, action",
    [
        (" go to drawer 1", "", "go to drawer 1"),
        ("> go to drawer 1\n> look", "", "go to drawer 1"),
        ("Thought: It is late.\nAction: look", "It is late", "look"),
        ("Thought 2: a\nmore of it\nAction 2: Search[Silk Road]", "a", "Search[Silk Road]"),
        ("**Thought:** a\n\n**Action:** `click[Next >]`", "a", "click[Next >]"),
        ("Thought: I search. Action: Search[The Live Action: A Film]", "I search",
         "Search[The Live Action: A Film]"),
        ("Actions:\n```\nopen fridge 1\n```", "", "open fridge 1"),
        ("```text\nAction: look.\n```", "", "look"),
        ("```look```", "", "look"),
        ("Sure, here it is:\n> use desklamp 1\nYou turn on", "", "use desklamp 1"),
        ("think: where is it", "where is it", ""),
        ("think[B07: fits]", "B07: fits", ""),
        ("<think>Action: no\nno</think>\nclick[red]", "", "click[red]"),
        ("<think>cut off", "", ""),
        ("Observation: You see\nAction: look", "", ""),
        ("Finish[\"Yes\", he said]", "", 'Finish["Yes", he said]'),
        ("", "", ""), ("\n\n```\n```\n", "", ""), ("Action:", "", ""), (">", "", ""),
    ],
)  # fmt: skip
def test_replies_become_one_action(reply, thought, action):
    assert read_reply(reply) == (thought, action)

def test_the_household_example_is_what_the_engine_says():
    """Letter for letter, played in a room built for it."""
    places = {"cabinet 2": 3, "cabinet 1": 2, "countertop 1": 4, "fridge 1": 7, "shelf 1": 5,
              "sinkbasin 1": 6}  # fmt: skip
    closed = ("cabinet 2", "cabinet 1", "fridge 1")
    things = {"bread 1": "countertop 1", "spoon 2": "countertop 1", "cup 1": "cabinet 1"}
    task = {
        "env": "household", "id": "example", "max_steps": 50, "start": None,
        "goal": {"kind": "pick_clean_then_place_in_recep", "object": "cup", "target": "shelf",
                 "text": "put a clean cup in shelf."},
        "receptacles": {p: {"loc": n, "openable": p in closed, "open": False}
                        for p, n in places.items()},
        "objects": {o: {"in": [p], "traits": ["pickupable", "cleanable"]}
                    for o, p in things.items()},
        "accepts": {"shelf": ["cup"]},
    }  # fmt: skip
    env, guide = envs.make("household"), guides.HOUSEHOLD
    assert env.reset(task)[0] == guide.first
    for turn in guide.turns:
        answer, _, _, _, info = env.step(turn.action)
        assert answer == turn.answer
    assert info["success"]

def test_every_environment_has_a_guide_that_its_openings_find():
    assert set(guides.GUIDES) == set(envs.CLASSES) - OPTIONAL
    for name, guide in guides.GUIDES.items():
        assert guides.guide_of(guide.first, list(guides.GUIDES)) is guide
        assert guides.guide_of("whatever", [name]) is guide
        messages = guides.chat_messages(guide, guide.first, guide.turns)
        roles = [m["role"] for m in messages]
        assert roles == ["system", *["user", "assistant"] * (2 * len(guide.turns)), "user"]
        assert guide.first in messages[2 * len(guide.turns) + 1]["content"]
        for turn, message in zip(guide.turns * 2, messages[2::2]):
            assert read_reply(message["content"])[1] == turn.action
        text = guides.completion_prompt(guide, guide.first, guide.turns)
        assert text.count(f"> {guide.turns[-1].action}\n") == 2 and text.endswith("\n>")

@pytest.mark.parametrize("name", list(guides.GUIDES))
def test_openings_carry_the_mark_of_their_guide_and_no_other(name):
    env = envs.make(name)
    for task in env.tasks("seen", 20, 0):
        opening = env.reset(task)[0]
        assert [n for n, g in guides.GUIDES.items() if g.mark in opening] == [name]
