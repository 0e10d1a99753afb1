"""Damaged run folders: what is resumed, evaluated or exported gives what an undamaged folder gives,
or ends in one line.

    RETRO_TRIES=2000 pytest --all -n 0 -s tests/test_damage.py -k campaign      2,000 of each
"""

import dataclasses
import json
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest

import eval as evaluation
import train
from retro.interop import export
from retro.run import checkpoint
from retro.run import folder as run_folder
from retro.run.files import fingerprint, read_json, write_json
from retro.run.finished import read_choices, read_hashes, read_run
from tests.small_run import GUESS, config, outcome, short_games  # noqa: F401
from tests.trainer import Trainer, numbers, tell, tries

if sys.platform != "linux":
    pytest.skip("forks", allow_module_level=True)
MODES = ("online", "offline", "buffer")

def settings_of(mode, base, folder, buffer="", **changes):
    if mode == "buffer":
        return config(base, folder, from_buffer=str(buffer), **GUESS | changes)
    return config(base, folder, mode=mode, **GUESS | changes)

@pytest.fixture(scope="module")
def stages(small_run, tiny_base, tmp_path_factory):
    """By mode: the settings of a whole run, and copies of its folder before and after each
    checkpoint, the last one of the whole.
    """
    root, found = tmp_path_factory.mktemp("stages"), {}
    save, buffer = checkpoint.save, small_run("online", guess=True) / "replay.jsonl"
    for mode in MODES:
        folder, copies = root / mode, []

        def copied(*args):
            copies.append(shutil.copytree(folder, root / f"{mode}-{len(copies)}"))
            save(*args)
            copies.append(shutil.copytree(folder, root / f"{mode}-{len(copies)}"))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(checkpoint, "save", copied)
            train.main(settings_of(mode, tiny_base, folder, buffer))
        found[mode] = settings_of(mode, tiny_base, folder, buffer, resume=True), [*copies, folder]
    return found

def left(folder: Path) -> list:
    return outcome(folder) + [path.read_bytes() for path in sorted(folder.rglob("adapter*.json"))]

# ---- one damage

def lines_changed(data, rng, how):
    lines = data.splitlines(True)
    i = rng.randrange(len(lines)) if lines else 0
    return b"".join([*lines[:i], *lines[i : i + 1] * how, *lines[i + 1 :]])

def garbled(data, rng):
    at, n = rng.randrange(len(data) + 1), rng.randint(1, 40)
    return data[:at] + rng.randbytes(n) + data[at + n :]

def bit_flipped(data, rng):
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes(b ^ 1 << rng.randrange(8) for b in data[at : at + 1]) + data[at + 1 :]

def key_dropped(data, rng):
    """As by hand: a key of a JSON object is gone, or has another kind of value."""
    try:
        value = json.loads(data)
        key = rng.choice(sorted(value))
        value[key] = rng.choice([None, [], {}, "x", -1, 1e9])
        if rng.random() < 0.5:
            del value[key]
        return json.dumps(value).encode()
    except (ValueError, TypeError, LookupError):
        return garbled(data, rng)

HARM = {
    "cut": lambda data, rng: data[: rng.randrange(len(data) + 1)],
    "last byte": lambda data, rng: data[:-1],
    "emptied": lambda data, rng: b"",
    "deleted": lambda data, rng: None,
    "garbled": garbled,
    "bit": bit_flipped,
    "line dropped": lambda data, rng: lines_changed(data, rng, 0),
    "line doubled": lambda data, rng: lines_changed(data, rng, 2),
    "key": key_dropped,
}

def damaged(folder: Path, copy: Path, rng) -> tuple[str, str]:
    """A copy with a random file of it harmed: (which, how)."""
    shutil.copytree(folder, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    path, how = rng.choice(files), rng.choice(list(HARM))
    data = HARM[how](path.read_bytes(), rng)
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    return path.relative_to(copy).as_posix(), how

def one_line(said: str) -> None:
    assert "Traceback" not in said, said
    assert said.splitlines()[-1].startswith("error: "), said

@pytest.mark.slow
def test_campaign_of_resumed_runs(stages, tmp_path):
    rng, ends, whole = numbers(), Counter(), {mode: left(stages[mode][1][-1]) for mode in MODES}
    for n in range(tries(60)):
        mode, copy = MODES[n % 3], tmp_path / "copy"
        settings, copies = stages[mode]
        stage = rng.choice(copies)
        what = f"{stage.name}: {damaged(stage, copy, rng)}"
        status, said = Trainer(dataclasses.replace(settings, run_dir=str(copy))).finish()
        assert status in (0, 2), f"{what}: {said}"
        if status == 0:
            assert left(copy) == whole[mode], what
        else:
            one_line(said)
        ends[status] += 1
        shutil.rmtree(copy)
        tell(n, f"resumed from a damaged folder: {dict(ends)}")

@pytest.mark.slow
def test_campaign_of_readers(stages, tmp_path):
    """eval.py and export on a damaged folder of a finished run."""
    rng, ends, whole = numbers(), Counter(), {}
    for n in range(-4, tries(40)):
        mode, reader = ("online", "offline")[n % 2], ("eval", "export")[n // 2 % 2]
        copy, out = tmp_path / "copy", tmp_path / "out"
        what = ""
        if n < 0:  # undamaged
            shutil.copytree(stages[mode][1][-1], copy)
        else:
            what = damaged(stages[mode][1][-1], copy, rng)
        if reader == "eval":
            best_of = 2 if mode == "offline" else 1
            asked = evaluation.Config(run_dir=str(copy), tasks=2, choice_tasks=2, retries=1,
                                      best_of=best_of, json=str(out / "r"))  # fmt: skip
            status, said = Trainer(asked, main=evaluation.main).finish()
        else:
            asked = export.Config(run_dir=str(copy), out=str(out))
            status, said = Trainer(asked, main=export.main).finish()
        assert status in (0, 2), f"{mode} {reader} {what}: {said}"
        if status == 0:
            found = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
            assert found == whole.setdefault((mode, reader), found), f"{mode} {reader} {what}"
        else:
            assert n >= 0 and not out.exists()
            one_line(said)
        ends[reader, status] += n >= 0
        shutil.rmtree(copy)
        shutil.rmtree(out, ignore_errors=True)
        tell(n, f"read from a damaged folder: {dict(ends)}")

# ---- each kind by its message

@pytest.fixture
def resumed(small_run, tiny_base, tmp_path):
    """resumed(damage, ...) -> a whole run's copy that was damaged and resumed in this process."""

    def resume(damage, base=tiny_base, **changes):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(small_run("online", guess=True), copy)
        damage(copy)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train, "choose", lambda *args: {})
            patch.setattr(train, "compare_methods", lambda *args: None)
            train.main(settings_of("online", base, copy, **dict(resume=True) | changes))
        return copy

    return resume

@pytest.mark.slow
@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda f: (f / "replay.jsonl").write_bytes((f / "replay.jsonl").read_bytes()[:-1]),
         r"replay.jsonl: holds only \d+ of the \d+ lines that the checkpoint knows"),
        (lambda f: (f / "failed.jsonl").unlink(), "failed.jsonl: holds only 0 of"),
        (lambda f: (f / "metrics.jsonl").write_text(""), "metrics.jsonl: holds only 0 of the 1"),
        (lambda f: (f / "checkpoint").unlink(), "checkpoint: is gone, but metrics.jsonl is there"),
        (lambda f: (f / "checkpoint").write_bytes(b"x"), "checkpoint: is not a whole safetensors"),
        (lambda f: flip(f / "checkpoint", -1), "checkpoint: is damaged"),
        (lambda f: shutil.rmtree(f / "sft"), "sft/adapter_config.json: is gone"),
        (lambda f: flip(f / "sft/adapter_model.safetensors", -1), "is not what the run has"),
        (lambda f: (f / "versions.json").write_text("{}"), "versions.json: holds no list of runs"),
        (lambda f: (f / "versions.json").write_text('{"runs": [3]}'), "holds no list of runs"),
        (lambda f: (f / "config.json").write_text("{}"), "config.json: was started with another"),
    ],
)  # fmt: skip
def test_what_is_gone_is_named(resumed, damage, message):
    with pytest.raises(ValueError, match=message):
        resumed(damage)

def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)

def test_a_checkpoint_belongs_to_its_settings_its_base_and_its_tasks(
    resumed, small_run, tiny_base, tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match="copy: holds a run already .checkpoint is there"):
        resumed(lambda folder: (folder / "config.json").unlink(), resume=False, seed=5)
    with pytest.raises(ValueError, match="checkpoint: was started with another seed: 0, now 5"):
        resumed(edit("config.json", seed=5), seed=5)
    base = shutil.copytree(tiny_base, tmp_path / "base")
    with pytest.raises(ValueError, match="was started with another base"):
        resumed(lambda folder: None, base)
    run = shutil.copytree(small_run("online", guess=True), tmp_path / "run")
    edit("config.json", base=str(base))(run)
    assert read_run(run)["base"] == str(base)  # the same model elsewhere
    flip(base / "model.safetensors", -1)
    with pytest.raises(ValueError, match="base: is not the base that .*run was trained with"):
        read_run(run)
    monkeypatch.setattr(run_folder, "fingerprint", lambda folder: "another")
    with pytest.raises(ValueError, match="is not the base that .*copy was trained with"):
        resumed(lambda folder: None)
    monkeypatch.undo()
    monkeypatch.setattr(train, "content_hashes", lambda tasks: {"another"})
    with pytest.raises(ValueError, match="was started with other training tasks"):
        resumed(lambda folder: None)

@pytest.mark.parametrize("name", ["sft", "adapter", "reward", "choices.json", "results.json",
                                  "trained_on.json", "checkpoint", "failed.jsonl"])  # fmt: skip
def test_what_another_run_has_left_is_not_taken_over(small_run, tiny_base, tmp_path, name):
    source, folder = small_run("offline", guess=True), tmp_path / "run"
    folder.mkdir()
    (shutil.copytree if (source / name).is_dir() else shutil.copy)(source / name, folder / name)
    with pytest.raises(ValueError, match=f"run: holds a run already .{name} is there"):
        train.main(settings_of("online", tiny_base, folder))
    assert {path.name for path in folder.iterdir()} == {name, "lock"}

@pytest.mark.parametrize("name", ["sft", "adapter", "reward", "choices.json"])
def test_readers_refuse_what_the_checkpoint_does_not_know(small_run, tmp_path, name):
    """As after a kill between the file and the checkpoint, or where an older run had left it."""
    run = shutil.copytree(small_run("offline", guess=True), tmp_path / "run")
    read_run(run)
    tensors, state = checkpoint.read(run / "checkpoint")
    state["sealed"] = {k: v for k, v in state["sealed"].items() if not k.startswith(name)}
    checkpoint.save(run / "checkpoint", {}, [], state)
    with pytest.raises(ValueError, match=f"{name}: .*the run has not come to its end"):
        read_run(run)

def test_settings_that_change_no_result_may_differ(resumed, small_run, tmp_path):
    free = dict(max_requests=7, max_tokens=8, timeout=9.0, concurrency=2, answers="elsewhere")
    run = resumed(lambda folder: None, **free)
    edit("config.json", **free)(run)
    read_run(run)
    edit("config.json", seed=5)(run)
    with pytest.raises(ValueError, match="config.json: was started with another seed: 0, now 5"):
        read_run(run)

def edit(name, **changes):
    return lambda folder: write_json(folder / name, read_json(folder / name) | changes)

def test_a_fingerprint_is_of_weights_settings_and_tokenizer(tiny_base, tmp_path):
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    known = fingerprint(copy)
    (copy / "CARD.md").write_text("words")
    assert fingerprint(copy) == known == fingerprint(tiny_base)
    (copy / "results.json").write_text("[]")
    (copy / "adapter_model.safetensors").write_bytes(b"")
    assert fingerprint(copy) == known
    for name in ("generation_config.json", "tokenizer.json", "chat_template.jinja",
                 "chat_template.json", "model-1-of-2.safetensors"):  # fmt: skip
        (copy / name).write_text("x")
        assert fingerprint(copy) != known
        (copy / name).unlink()
    for name in ("model.safetensors", "config.json", "tokenizer.tiktoken"):
        flip(copy / name, -2)
        assert fingerprint(copy) != known
        flip(copy / name, -2)
    assert fingerprint(copy) == known

def test_resume_leaves_what_the_user_has_put_there(resumed):
    def litter(folder):
        (folder / "notes.tmp").write_text("mine")
        (folder / "x.tmp").mkdir()
        (folder / "deep").mkdir()
        (folder / "deep/.checkpoint.7.retro-scratch").write_text("not in a folder of ours")
        (folder / "sft/.adapter_config.json.7.retro-scratch").write_text("half of")
        for name in ("sft", "adapter"):
            (folder / name / "mine").mkdir()
            (folder / name / "notes.txt").write_text("mine")
        state = checkpoint.read(folder / "checkpoint")[1]
        assert not [name for name in state["sealed"] if "notes" in name]
        (folder / ".checkpoint.7.retro-scratch").mkdir()

    copy = resumed(litter)
    assert (copy / "notes.tmp").read_text() == "mine" and (copy / "x.tmp").is_dir()
    assert [*(copy / "deep").iterdir()] and not [*(copy / "sft").glob(".*")]

@pytest.mark.parametrize("key, value", [("mode", None), ("mode", "sideways"), ("memory", "3"),
                                        ("base", 5), ("adapt_prompt", 1), ("envs", []),
                                        ("actor_temperature", float("nan"))])  # fmt: skip
def test_settings_edited_by_hand_are_named(tmp_path, key, value):
    good = dict(base="b", mode="online", memory=3, adapt_prompt=False, envs="guess",
                actor_temperature=0.5)  # fmt: skip
    write_json(tmp_path / "config.json", good)
    missing = {"reflector": "", "actor": "", "bfloat16": False, "cause_price": 0.0}  # older runs
    assert read_run(tmp_path, *good) == good | missing
    write_json(tmp_path / "config.json", good | {key: value})
    with pytest.raises(ValueError, match=f"config.json: {key} is "):
        read_run(tmp_path, *good)
    write_json(tmp_path / "config.json", {k: v for k, v in good.items() if k != key})
    with pytest.raises(ValueError, match=f"config.json: {key} is None"):
        read_run(tmp_path, *good)

@pytest.mark.parametrize("found", [{"guess": {}}, {"guess": 3}, {"guess": {"templates": {}}},
                                   {"guess": {"templates": {"a": "x"}, "temperatures": {}}},
                                   {"guess": {"templates": {}, "temperatures": {"sft": {"x": 1}}}},
                                   {"guess": {"templates": {}, "temperatures": []}}])  # fmt: skip
def test_choices_and_hashes_edited_by_hand_are_named(tmp_path, found):
    assert read_choices(tmp_path) == {} and read_hashes(tmp_path) == set()
    write_json(tmp_path / "choices.json", found)
    with pytest.raises(ValueError, match="choices.json: guess has no shares"):
        read_choices(tmp_path)
    for hashes in ({}, {"hashes": 3}, {"hashes": [3]}):
        write_json(tmp_path / "trained_on.json", hashes)
        with pytest.raises(ValueError, match="trained_on.json: hashes is"):
            read_hashes(tmp_path)
