"""ALFWorld's household: each rule by hand in a small room, any string as an action, the speed."""

import copy
import itertools
import random
import time

import pytest
from small_room import env_of_the_room, play, room  # noqa: F401

from envs.household.engine import ACTIONS, Household

NOTHING = "Nothing happens."

# ---- Rules, in a room made by hand. Expected sentences are spelled out, not computed.

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
            trial.contents, trial.opened = {r: [*x] for r, x in env.contents.items()}, {*env.opened}
            trial.states, trial.sliced_at = (
                {o: {*x} for o, x in part.items()} for part in (env.states, env.sliced_at)
            )
            if verb != "move" and trial.step(form.format(*args))[0] != NOTHING:
                works.append(form.format(*args))
    assert env.admissible_actions() == sorted(works)

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
    for _ in range(1000):
        action = rng.choice(["", " "]).join(rng.choices(pieces, k=rng.randrange(5)))
        observation = env.step(action)[0]
        known = action.strip().split(" ")[0] in ACTIONS
        assert observation == NOTHING or known and observation, action

# ---- The contract

def test_speed_of_random_play():
    """Measured: 60,000 to 130,000 steps a second; the bound is loose for busy machines."""
    rng, env, steps, seconds = random.Random(0), Household(max_steps=10**9), 0, 0.0
    env.reset(room("pick_two_obj_and_place", "vase", "bed"))
    for _ in range(500):
        action = rng.choice(env.admissible_actions())
        start = time.process_time()
        env.step(action)
        seconds += time.process_time() - start
        steps += 1
    assert steps / seconds > 5000, f"{steps / seconds:.0f} steps/s"
