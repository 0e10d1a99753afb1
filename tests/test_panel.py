"""Panels of evaluation tasks: hashes that hold on every machine, and the command."""

import copy
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_hotpot import ITEM, TASK
from test_shop_files import ATTRIBUTES, PRODUCTS, write

import envs
from envs.panel import (
    check_panel,
    content_hash,
    difference,
    main,
    make_panel,
    manifest,
    panel_hash,
    task_hash,
    write_panel,
)

NAMES = ("household", "hotpot", "shop")

def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()

# ---- Hashes.

def test_canonical_json_is_what_is_hashed():
    task = {"b": (1, 2.5), "a": "é", "c": {"z": None, "y": 1e22}}
    assert task_hash(task) == sha(r'{"a":"\u00e9","b":[1,2.5],"c":{"y":1e+22,"z":null}}')
    products, listed = [{"price": 0.1}], sha('[{"price":0.1}]')
    assert task_hash({"i": 0, "products": products}) == sha(f'{{"i":0,"products":"{listed}"}}')
    rows = [{"id": "x", "task": "t", "first": "f"}]
    assert panel_hash(rows) == sha('[{"first":"f","id":"x","task":"t"}]')

@pytest.mark.parametrize("name", NAMES)
def test_a_task_keeps_its_hash_through_a_file(name):
    env = envs.make(name)
    tasks = env.tasks("seen", 20, 3)
    read = json.loads(json.dumps(tasks, sort_keys=True, indent=2))
    rows = manifest(env, tasks)
    assert [row["task"] for row in rows] == [*map(task_hash, read)]
    assert len({row["task"] for row in rows}) == len({row["first"] for row in rows}) == 20
    assert [row["id"] for row in rows] == [task["id"] for task in tasks]
    assert rows[7]["first"] == sha(env.reset(tasks[7])[0])
    assert manifest(env, env.tasks("seen", 20, 3)) == rows
    assert manifest(env, env.tasks("seen", 20, 4)) != rows

FIXED = {  # until a generator changes
    "hotpot": "e8e3e2ddb1ae87b03460b0cc491c8794a864a822de056caf3a3bd3cd9e836359",
    "shop": "b8466321151dd043e1175b1b2abc337ee5684ea73f8a94d89d6db167c445dcb0",
}

@pytest.mark.parametrize("name", FIXED)
def test_generated_tasks_are_those_of_every_machine(name):
    assert make_panel(name, "unseen", 20, 1_000_000)["hash"] == FIXED[name]

def test_the_seed_of_pythons_own_hashes_has_no_effect():
    code = "from envs.panel import make_panel as p; print([p(e, 'seen', 5, 0)['hash'] for e in %r])"
    for seed in ("1", "2"):
        said = subprocess.run([sys.executable, "-c", code % (NAMES,)], capture_output=True,
                              text=True, check=True, cwd=Path(__file__).parent.parent,
                              env=os.environ | {"PYTHONHASHSEED": seed}).stdout  # fmt: skip
        assert said == f"{[make_panel(e, 'seen', 5, 0)['hash'] for e in NAMES]}\n"

def test_content_is_what_is_played():
    renamed = TASK | {"id": "y", "max_steps": 3, "item": ITEM | {"_id": "y"}}
    assert task_hash(renamed) != task_hash(TASK) and content_hash(renamed) == content_hash(TASK)
    for change in ({"answer": "no"}, {"question": "?"}, {"context": ITEM["context"][:2]}):
        assert content_hash(TASK | {"item": ITEM | change}) != content_hash(TASK)
    assert TASK["id"] == TASK["item"]["_id"] == "x", "nothing was changed"
    for name in NAMES:
        tasks = envs.make(name).tasks("train", 50, 0)
        assert len({*map(content_hash, tasks)}) == 50
        again = copy.deepcopy(tasks[0]) | {"id": "other"}
        assert content_hash(again) == content_hash(tasks[0])

def test_a_shared_list_of_products_is_hashed_once():
    products = envs.make("shop").tasks("train", 1, 0)[0]["products"] * 300
    one = envs.make("shop").tasks("train", 1, 0)[0] | {"products": products}
    tasks = [one | {"id": str(i)} for i in range(300)]
    started, shared = time.perf_counter(), {}
    hashes = [task_hash(task, shared) for task in tasks]
    assert time.perf_counter() - started < 1 and len(shared) == 1
    assert hashes[:2] == [*map(task_hash, copy.deepcopy(tasks[:2]))]
    other = tasks[0] | {"products": products[1:]}
    assert task_hash(other, shared) != hashes[0]

# ---- Panels.

def test_the_first_difference_is_named():
    rows = manifest(envs.make("hotpot"), envs.make("hotpot").tasks("seen", 4, 0))
    assert difference(rows, copy.deepcopy(rows)) == ""
    other = copy.deepcopy(rows)
    other[1]["first"] = other[3]["task"] = "0"
    assert difference(rows, other) == "2 of 4 tasks differ, first seen-0-1 (first)"
    assert difference(rows, rows[:3]) == "1 of 4 tasks differ, first seen-0-3 (on one side only)"
    assert difference(rows[:3], rows) == difference(rows, rows[:3])

@pytest.mark.parametrize("name", NAMES)
def test_write_and_check(tmp_path, capsys, name):
    path = str(tmp_path / "panel.json")
    assert main(["write", path, "--env", name, "--tasks", "7", "--seed", "5"]) == 0
    panel = json.loads(Path(path).read_text())
    assert capsys.readouterr().out == f"7 tasks of {name}, panel {panel['hash']}\n"
    assert panel == make_panel(name, "unseen", 7, 5)
    assert panel["rows"] == manifest(envs.make(name), envs.make(name).tasks("unseen", 7, 5))
    assert main(["check", path]) == 0
    assert capsys.readouterr().out == f"{path}: the same tasks\n"
    panel["rows"][2]["task"] = "0" * 64
    write_panel(path, panel | {"hash": panel_hash(panel["rows"])})
    assert main(["check", path]) == 1
    said = f"1 of 7 tasks differ, first {panel['rows'][2]['id']} (task)"
    assert capsys.readouterr().out == f"{path}: {said}\n"

def test_panels_of_files(tmp_path, capsys):
    items = [ITEM | {"_id": str(i), "question": f"{i}?"} for i in range(5)]
    paths = write(tmp_path, data=items, other=items[:4], again=items)
    path = str(tmp_path / "panel.json")
    made = ["--env", "hotpot", "--tasks", "9", "--seed", "0", "--data", paths["data"]]
    assert main(["write", path, *made]) == 0
    panel = json.loads(Path(path).read_text())
    assert panel["files"] == {"data": "data.json"} and len(panel["rows"]) == 5
    assert str(tmp_path) not in Path(path).read_text(), "no path of this machine"
    assert main(["check", path, "--data", paths["again"]]) == 0
    assert main(["check", path, "--data", paths["other"]]) == 1
    assert " of 5 tasks differ, first " in capsys.readouterr().out
    with pytest.raises(ValueError, match="made with --data data.json; give the same options"):
        check_panel(path)
    shop = write(tmp_path, products=PRODUCTS, goals=ATTRIBUTES, attributes=ATTRIBUTES)
    write_panel(path, make_panel("shop", "unseen", 9, 0, **shop))
    assert check_panel(path, **shop) == ""
    changed = write(tmp_path, products=PRODUCTS[:1])
    assert check_panel(path, **shop | changed).startswith("4 of 4 tasks differ, first BAK73-")

@pytest.mark.parametrize(
    "options, wrong",
    [
        ("write P --env hotpot --seed 1 --games x", "--games: hotpot has no such file"),
        ("write P --env hotpot --seed 1 --tasks 0", "--tasks 0: must be at least 1"),
        ("write P --env hotpot --seed 1 --split x", "must be train, seen or unseen"),
        ("write P --env hotpot --seed 1 --data nowhere", "nowhere: cannot be read"),
        ("write nowhere/P --env hotpot --seed 1 --tasks 1", "No such file"),
        ("write P --env chess --seed 1", "invalid choice: 'chess'"),
        ("check nowhere", "nowhere: cannot be read"),
        ("check text", "text: not JSON"),
        ("check list", "list: not a panel"),
        ("check changed", "changed: not a panel, or not as it was written"),
        ("check own --data x", "own: made with no files; give the same options"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, capsys, monkeypatch, options, wrong):
    monkeypatch.chdir(tmp_path)
    panel = make_panel("hotpot", "seen", 1, 0)
    write_panel("own", panel)
    write_panel("changed", panel | {"rows": []})
    Path("text").write_text("{")
    Path("list").write_text("[]")
    with pytest.raises(SystemExit) as stop:
        main(options.split())
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 2 and wrong in last, last
