"""ALFWorld's game files: read, refused in one line, and played as the real engine was recorded."""

import json
import os
import re
import tarfile
import time
from collections import Counter

import pytest
from small_room import room

from envs.household import Household, find_games, load_game, load_games
from envs.household.engine import ACTIONS
from envs.household.furniture import furniture
from envs.household.observer import Notes
from envs.household.tasks import FURNITURE, GOALS

DATA = os.environ.get("RETRO_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="RETRO_DATA names no folder with ALFWorld's games")

@pytest.fixture(scope="module")
def games(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alfworld")
    with tarfile.open(os.path.join(DATA, "alfworld_games.tgz")) as archive:
        archive.extractall(folder, filter="data")
    return folder / "json_2.1.1"

# ---- Against the real engine

HELP = "Available commands:\n  look:   look around\n  move (object) to (receptacle):  place it\n"
RULES = json.dumps({"help.feedback": [{"rhs": "\n" + HELP}]})
HELP_RULE = f"""action help {{
    template :: "help";
    feedback :: "#help.feedback#";
    grammar :: {'"' * 3}{RULES}{'"' * 3};
}}"""
HELP_TEXT = f'action help {{\n    template :: "help";\n    feedback :: "\n{HELP}";\n}}\n'
NEW_WORDS = {"You arrive at {lend.name}.": "You arrive at {r.name}.",
             "put {o} in/on {r}": "move {o} to {r}",
             "You put the {o.name} in/on the {r.name}.": "You move the {o.name} to the {r.name}."}

def renewed(path, target, help_action=HELP_TEXT):
    """A game file in the words of ALFWorld 0.4's release of the games."""
    game = json.loads(path.read_text())
    for old, new in NEW_WORDS.items():
        assert old in game["grammar"]
        game["grammar"] = game["grammar"].replace(old, new)
    target.mkdir(parents=True, exist_ok=True)
    game["grammar"] += help_action
    (target / "game.tw-pddl").write_text(json.dumps(game))
    return target / "game.tw-pddl"

def new_words(text):
    """A recorded command or answer as the new grammar says it."""
    text = re.sub(r"^(You arrive at) loc \d+\. (On the|The) (\w+ \d+)", r"\1 \3. \2 \3", text)
    text = re.sub(r"^You put the (\w+ \d+) in/on ", r"You move the \1 to ", text)
    return re.sub(r"^put (\w+ \d+) in/on (\w+ \d+)$", r"move \1 to \2", text)

def new_list(commands):
    return sorted(["help", *map(new_words, commands)])

@needs_data
@pytest.mark.parametrize("grammar", ["old", "new"])
@pytest.mark.parametrize("every, won", [(7, 6), pytest.param(1, 43, marks=pytest.mark.slow)])
def test_every_recorded_answer_of_the_real_engine(games, tmp_path, every, won, grammar):
    with open(os.path.join(DATA, "alfworld_transcripts.json")) as file:
        transcripts = json.load(file)
    env, wins = Household(max_steps=10**9), 0
    say, listed = (str, list) if grammar == "old" else (new_words, new_list)
    for i, transcript in enumerate(transcripts[::every]):
        path = games / transcript["game"]
        if grammar == "new":
            path = renewed(path, tmp_path / str(i), [HELP_TEXT, HELP_RULE][i % 2])
        observation, info = env.reset(load_game(path))
        assert transcript["intro"] == f"-= Welcome to TextWorld, ALFRED! =-\n\n{observation}"
        assert env.admissible_actions() == listed(transcript["admissible0"])
        for i, (action, expected, admissible, reward, done) in enumerate(transcript["steps"]):
            if grammar == "new" and not env.answer[2]:
                assert env.step("help")[:4] == (HELP, 0, False, False)
            answer = env.step(say(action))
            where = (transcript["game"], i, action)
            assert answer[:4] == (say(expected), reward, done, False), where
            assert env.admissible_actions() == listed(admissible), where
            assert answer[4]["success"] == done == (answer[4]["progress"] == 1), where
        wins += done
    assert len(transcripts) == 96 and wins == won, (len(transcripts), wins)

@needs_data
def test_what_the_new_grammar_adds_to_a_task(games, tmp_path):
    path = games / "valid_seen/look_at_obj_in_light-AlarmClock-None-DeskLamp-323"
    path = next(path.rglob("game.tw-pddl"))
    new, old = load_game(renewed(path, tmp_path / "a" / "b")), load_game(path)
    assert new.pop("grammar") == {
        "go": "You arrive at {0}.", "move": "You move the {0} to the {1}.", "help": HELP}
    assert new == {**old, "id": "a/b"}
    game = json.loads(path.read_text())
    for good, bad in [("put {o} in/on {r}", "drop {o} at {r}"), ("{lend.name}", "{lend.id}")]:
        path = tmp_path / "game.tw-pddl"
        path.write_text(json.dumps({**game, "grammar": game["grammar"].replace(good, bad)}))
        with pytest.raises(ValueError, match=f"^{path}: a grammar that is not supported: "):
            load_game(path)

def test_a_reader_learns_the_same_in_both_grammars():
    known = []
    for words in ({}, {"go": "You arrive at {0}.", "move": "You move the {0} to the {1}."}):
        env, task = Household(), room(grammar=words)
        task["goal"]["text"] = "put a mug in desk."
        notes, put = Notes(env.reset(task)[0]), ACTIONS["move" if words else "put"]
        for action in ("go to desk 1", "take vase 1 from desk 1", "go to cabinet 1", "go to desk 2",
                       put.format("vase 1", "desk 2"), "go to fridge 1"):  # fmt: skip
            notes.read(action, env.step(action)[0])
        assert "You arrive at fridge 1." in notes.reply or not words
        known.append({k: x for k, x in vars(notes).items() if k != "reply"})
    assert known[0] == known[1] and known[0]["contents"]["desk 2"] == ["vase 1"]
    assert known[0]["at"] == "fridge 1" and known[0]["closed"] == {"cabinet 1", "fridge 1"}

def test_both_grammars_understand_put_and_move_and_list_their_own():
    env, lists = Household(), {}
    for grammar in ({}, {"grammar": {"move": "You move the {0} to the {1}.", "help": "Help!"}}):
        for command in ("put mug 1 in/on sinkbasin 1", "move mug 1 to sinkbasin 1"):
            env.reset(room(**grammar))
            for action in ("go to sinkbasin 1", "take mug 1 from sinkbasin 1"):
                env.step(action)
            lists[len(grammar)] = [x for x in env.admissible_actions() if x[0] in "pm"]
            assert env.step(command)[0].startswith(f"You {command[:3]}")
        assert env.step("help")[0] == ("Help!" if grammar else "Nothing happens.")
    assert lists == {0: ["put mug 1 in/on sinkbasin 1"], 1: ["move mug 1 to sinkbasin 1"]}

@needs_data
@pytest.mark.slow
def test_all_games_load_quickly_and_are_json(games):
    paths, seconds = find_games(games), []
    assert len(paths) == 340 and paths == sorted(paths)
    for path in paths:
        start = time.process_time()
        task = load_game(path)
        seconds.append(time.process_time() - start)
        assert json.loads(json.dumps(task)) == task
    assert sorted(seconds)[170] < 0.02, f"median {1000 * sorted(seconds)[170]:.1f} ms a file"

# ---- Furniture

@needs_data
def test_furniture_is_that_of_the_training_games_alone(games):
    paths = find_games(games / "valid_train")
    assert furniture([load_game(path) for path in paths]) == FURNITURE
    plans = [int(path.split("/")[-3].rsplit("-", 1)[1]) for path in paths]  # 301 is a bedroom
    for i, name in enumerate(["kitchen", "", "livingroom", "bedroom", "bathroom"]):
        share = sum(plan // 100 == i for plan in plans) / len(paths)
        assert share == pytest.approx(FURNITURE["rooms"][name]["share"] if name else 0, abs=0.005)
    rooms = FURNITURE["rooms"].values()
    for kind in GOALS:  # the folder's name starts with the kind
        share = sum(room["share"] * room["goals"].get(kind, 0) for room in rooms)
        found = sum(f"/{kind}-" in path for path in paths) / len(paths)
        assert share == pytest.approx(found, abs=0.01), kind

def test_what_furniture_counts():
    one, two = room(), room("pick_two_obj_and_place")
    for task in (one, two):
        task["receptacles"]["bed 1"] = {"loc": 1, "openable": False, "open": False}
    two["receptacles"].pop("cabinet 2")
    two["objects"]["vase 1"]["in"] = ["desk 1"]
    counts = furniture([one, one, two, two])
    bedroom = counts["rooms"]["bedroom"]
    assert bedroom["goals"] == {"pick_and_place_simple": 0.5, "pick_two_obj_and_place": 0.5}
    # a second cabinet in two of the games, at the first one's spot; of desk and sink in all four
    assert counts["together"] == 2 / (2 + 4 + 4)
    assert bedroom["share"] == 1 and counts["rooms"]["kitchen"]["share"] == 0
    assert bedroom["receptacles"]["cabinet"] == [1, 1, 2, 2]
    assert bedroom["receptacles"]["sinkbasin"] == [1, 2, 2, 2]  # one of them called bathtubbasin
    assert bedroom["objects"]["vase"] == [1, 1.5, {"desk": 4, "cabinet": 2}]
    assert bedroom["objects"]["mug"] == [1, 2, {"cabinet": 4, "sinkbasin": 4}]
    assert "egg" not in bedroom["objects"]  # it lies nowhere
    assert counts["openable"] == {"cabinet": 1, "fridge": 1, "microwave": 1}
    assert counts["accepts"]["desk"] == ["apple", "knife", "mug", "vase"]
    assert counts["traits"]["isreceptacle"] == ["mug"]

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

def test_links_are_followed_and_circles_end(tmp_path):
    game_file(tmp_path / "elsewhere")
    folder = tmp_path / "games"
    inner = game_file(folder / "inner").parent
    (inner / "up").symlink_to(folder)  # a circle
    (folder / "z").symlink_to(tmp_path / "elsewhere")
    parts = ("a_task", "a_trial", "game.tw-pddl")
    assert find_games(folder) == [str(folder.joinpath(x, *parts)) for x in ("inner", "z")]

def test_games_that_alfworld_skips_are_skipped_and_counted(tmp_path):
    game_file(tmp_path / "a")
    game_file(tmp_path / "b", solvable=False, pddl_problem="of no matter")
    for name in ("pick-AppleSliced-1", "pick_with_movable_recep", "movable-and-Sliced"):
        game_file(tmp_path / name, solvable=False).write_text("never read")
    path = game_file(tmp_path / "c")
    path.write_text(path.read_text().replace('"solvable"', '"solved"'))
    tasks, skipped = load_games(tmp_path)
    assert tasks == [load_game(tmp_path / "a/a_task/a_trial/game.tw-pddl")]
    assert skipped == Counter(unsolvable=1, sliced=1, movable=2, unchecked=1)

    game_file(tmp_path / "copy/a")
    with pytest.raises(ValueError, match="several tasks have one id, such as a_task/a_tri"):
        load_games(tmp_path)
    with pytest.raises(ValueError, match=r"b: all games in it are skipped \(1 unsolvable\)$"):
        load_games(tmp_path / "b")
    for content in ("{", "[]", "{}"):
        path.write_text(content)
        with pytest.raises(ValueError, match=f"^{path}: (not JSON|not an ALFWorld game)"):
            load_games(tmp_path)

def test_a_folder_of_games_in_place_of_the_generator(tmp_path):
    for i in range(5):
        path = game_file(tmp_path / str(i))
        path.parent.rename(path.parent.with_name(f"trial_{i}"))
    game_file(tmp_path / "x", solvable=False)
    env = Household(games=tmp_path, max_steps=7)
    ids = [task["id"] for task in env.tasks("train", 9, 1)]
    assert sorted(ids) == [f"a_task/trial_{i}" for i in range(5)] and env.skipped["unsolvable"] == 1
    assert [task["id"] for task in env.tasks("unseen", 3, 1)] == ids[:3]
    assert [task["id"] for task in env.tasks("train", 9, 2)] != ids
    env.reset(env.tasks("train", 1, 1)[0])
    assert env.limit == 7 and not Household().skipped
