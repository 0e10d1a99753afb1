"""The whole run, small: it can be killed anywhere and goes on as if nothing had happened; its
doors.
"""

import dataclasses
import inspect
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import retro.learn
import train
from retro import prompts
from retro.evaluate import methods_of
from retro.learn import Arena
from retro.run.checkpoint import load, save
from retro.run.files import read_tensors
from retro.tokenizer import Tokenizer
from tests.small_run import GUESS, Killed, config, outcome, short_games, slow  # noqa: F401

ROOT = Path(__file__).parent.parent

@pytest.mark.parametrize(
    "mode, owner, name, calls",
    [
        ("online", train, "collect", 2),
        slow("online", Arena, "retry", 6),  # four in the collection, then one an update
        slow("offline", train, "fit", 1),
        slow("online", train, "update", 2),
        slow("offline", retro.learn, "ppo_update", 2),
        slow("online", retro.learn, "reflect", 5),  # as `retry`
        slow("online", retro.learn, "ppo_update", 1),
        slow("online", train, "measure_gap", 1),
        slow("online", train, "evaluate", 1),
        slow("online", train, "save_adapter", 1),
        slow("offline", train, "print_reward", 1),
    ],
)
def test_resumed_equals_uninterrupted(
    tiny_base, tmp_path, monkeypatch, small_run, mode, owner, name, calls
):
    """Killed right after the n-th call of a function, then resumed: the same files, byte for byte.
    """
    left = calls

    def count():
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, counted(getattr(owner, name), count))
        train.main(config(tiny_base, folder, mode=mode))
    train.main(config(tiny_base, folder, mode=mode, resume=True))
    assert outcome(folder) == outcome(small_run(mode))

def counted(function, count):
    """The same function, which calls `count` at its end."""

    def whole(*args, **kwargs):
        result = function(*args, **kwargs)
        count()
        return result

    def whole_generator(*args, **kwargs):
        yield from function(*args, **kwargs)
        count()

    return whole_generator if inspect.isgeneratorfunction(function) else whole

def test_a_run_of_an_older_version_resumes(tiny_base, tmp_path, small_run, monkeypatch):
    """It called the baselines "earned", and its config.json lacks what came later."""
    folder, saves = tmp_path / "run", train.RunFolder.save

    def save_as_before(self, **state):
        if "baselines" in state:
            state["earned"] = state.pop("baselines")
        saves(self, **state)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.RunFolder, "save", save_as_before)
        patch.setattr(train, "check_health", killer)
        train.main(config(tiny_base, folder))
    state = json.loads(bytes(read_tensors(folder / "checkpoint")["state"].tolist()))
    assert state["updates"] == 1 and any(state["earned"].values()) and "baselines" not in state
    train.main(config(tiny_base, folder, resume=True))
    assert outcome(folder) == outcome(small_run("online"))

def killer(*args, **kwargs):
    raise Killed

def test_results_are_one_report_for_each_environment(small_run):
    runs = {mode: outcome(small_run(mode)) for mode in ("online", "offline")}
    for mode, left in runs.items():
        reports = json.loads(left[3])
        assert [r["env"] for r in reports] == ["household", "guess"]
        methods = [name for name in methods_of(mode) if name not in ("last_attempt", "shuffled")]
        assert all(list(r["methods"]) == methods for r in reports)
        assert {m["success"] is None for m in left[0]} == {mode == "offline"}
        assert all(set(m["mean_rating_by_env"]) == {"household", "guess"} for m in left[0])
    replay = [json.loads(line) for line in runs["online"][1].splitlines()]
    last = replay[-4:]  # an update's rated reflections: equal parts
    assert sorted(row["env"] for row in last) == ["guess"] * 2 + ["household"] * 2

@pytest.mark.parametrize(
    "change",
    [
        dict(rating="next", group=1, lora_rank=1, adapt_prompt=True),
        dict(advantage="group", mode="offline", memory=1),
        slow(dict(kl_coef=0.0)),
        slow(dict(sft_epochs=0)),
        slow(dict(rating="next")),
        slow(dict(rating="success", mode="offline")),
        slow(dict(group=1)),
        slow(dict(advantage="group")),
        slow(dict(lora_rank=1, adapt_prompt=True)),
        slow(dict(adapt_prompt=True, mode="offline")),
        slow(dict(temperature=0.0)),
    ],
)
def test_ablations_run_and_are_read(tiny_base, tmp_path, change, small_run):
    settings = config(tiny_base, tmp_path / "run", **GUESS | change)
    train.main(settings)
    left = outcome(tmp_path / "run")
    if change != dict(temperature=0.0):
        assert left[:2] != outcome(small_run(settings.mode, guess=True))[:2]
    assert left[3] is not None and len(left[0]) == 1
    replay = [json.loads(line) for line in left[1].splitlines()]
    if settings.mode == "online":  # the update's rows come in groups on one prompt
        first, second, third, fourth = (row["prompt"] for row in replay[-4:])
        assert second != third and {first == second, third == fourth} == {settings.group == 2}
    assert (left[0][0]["value_loss"] == 0) == (settings.advantage == "group")
    if settings.rating == "next":
        assert all(row["rating"] == row["next_return"] for row in replay)

def test_the_mean_of_a_trials_ratings_is_taken_from_its_next_ones(tiny_base, tmp_path, monkeypatch):
    """Against the replay buffer: one half of the way to each new rating, from 0."""
    seen, update = [], retro.learn.ppo_update

    def spy(policy, optimizer, batch, *rest, **settings):
        seen.append(batch.ratings.tolist())
        return update(policy, optimizer, batch, *rest, **settings)

    monkeypatch.setattr(retro.learn, "ppo_update", spy)
    settings = config(tiny_base, tmp_path / "run", envs="guess", updates=4, baseline_step=0.5)
    monkeypatch.setattr(train, "compare_methods", lambda training: None)
    train.main(settings)
    replay = [json.loads(line) for line in (tmp_path / "run/replay.jsonl").read_text().splitlines()]
    past: dict[tuple, list[float]] = {}
    for ratings, start in zip(seen, range(len(replay) - 16, len(replay), 4), strict=True):
        rows = replay[start : start + 4]
        for row, rating in zip(rows, ratings, strict=True):
            own = past.get((row["task_id"], row["trial"]), [])
            baseline = sum(r * 0.5 ** (len(own) - i) for i, r in enumerate(own))
            assert rating == pytest.approx(row["rating"] - baseline, abs=1e-6)
        for row in rows:
            past.setdefault((row["task_id"], row["trial"]), []).append(row["rating"])
    assert max(map(len, past.values())) > 2 and any(map(any, past.values()))

def test_without_memory_every_method_is_a_plain_retry(tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run", envs="guess", memory=0, updates=0, eval_tasks=9))
    for report in json.loads((tmp_path / "run" / "results.json").read_text()):
        results = list(report["methods"].values())
        assert all(result == results[0] for result in results)

def test_a_group_is_as_large_as_divides_the_batch(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "compare_methods", lambda training: None)
    train.main(config(tiny_base, tmp_path / "run", group=6, updates=1, envs="guess"))
    replay = [json.loads(line) for line in (tmp_path / "run/replay.jsonl").read_text().splitlines()]
    first, second, third, fourth = (row["prompt"] for row in replay[-4:])
    assert first == second != third == fourth
    alone = config(tiny_base, tmp_path / "alone", group=3, advantage="group")
    with pytest.raises(ValueError, match="advantage group: each reflection would be alone"):
        train.main(alone)

def test_seed_decides_everything(tiny_base, tmp_path, small_run, monkeypatch):
    """Another one collects other ratings; `test_kill.py` has the same one twice."""
    monkeypatch.setattr(train, "imitate", killer)
    with pytest.raises(Killed):
        train.main(config(tiny_base, tmp_path / "run", seed=1))
    other = outcome(tmp_path / "run")[1]
    assert other and not outcome(small_run("online"))[1].startswith(other)

def test_folder_in_use_is_refused_and_so_are_other_settings(tiny_base, tmp_path, small_run):
    settings = config(tiny_base, small_run("online"))
    with pytest.raises(ValueError, match="holds a run already"):
        train.main(settings)
    with pytest.raises(ValueError, match="started with another lr: 0.01, now 0.5"):
        train.main(dataclasses.replace(settings, lr=0.5, resume=True))
    with pytest.raises(ValueError, match="no run to resume"):
        train.main(dataclasses.replace(settings, run_dir=str(tmp_path / "none"), resume=True))

def test_collapse_stops_with_a_reason(tiny_base, tmp_path):
    """A random model writes nothing well-formed: the run must say so."""
    settings = config(tiny_base, tmp_path / "run", envs="guess")
    with pytest.raises(SystemExit, match="0% of the reflections are well-formed"):
        train.main(dataclasses.replace(settings, min_well_formed=0.5))
    stats = {"kl": 81.0, "well_formed": 1.0}
    with pytest.raises(SystemExit, match="KL 81 nats"):
        train.check_health(stats, settings.max_kl, 0.5)

def test_a_prompt_is_built_and_encoded_once(tiny_base, tmp_path, monkeypatch):
    """When a trial has failed, it becomes a prompt: reflecting, retrying, learning and storing in
    two updates then build and encode nothing of it again.
    """
    built, encoded, in_updates = [], [], []
    transcript, encode, one_update = prompts.transcript, Tokenizer.encode, train.one_update

    def counted_transcript(*args):
        built.append(args)
        return transcript(*args)

    def counted_encode(tokenizer, text):
        if text.endswith(prompts.REFLECT):
            encoded.append(text)
        return encode(tokenizer, text)

    def counted_update(*args):
        before = len(built), len(encoded)
        stats = one_update(*args)
        in_updates.append((len(built) - before[0], len(encoded) - before[1]))
        return stats

    monkeypatch.setattr(prompts, "transcript", counted_transcript)
    monkeypatch.setattr(Tokenizer, "encode", counted_encode)
    monkeypatch.setattr(train, "one_update", counted_update)
    monkeypatch.setattr(train, "compare_methods", lambda training: None)
    train.main(config(tiny_base, tmp_path / "run"))
    failed = (tmp_path / "run/failed.jsonl").read_text().splitlines()
    assert in_updates == [(0, 0)] * 2
    assert len(encoded) == len(set(encoded)) == len(failed) == 8

@pytest.mark.parametrize(
    "command, word",
    [
        ("train.py --no-such-flag 1", "--no-such-flag"),
        ("train.py --updates -1", "--updates is -1"),
        ("train.py --lora-rank 0", "at least 1"),
        ("train.py --envs household --base /nowhere --run-dir {}/x", "/nowhere"),
        ("eval.py --run-dir {}/none", "none"),
        ("eval.py --tasks zero", "--tasks"),
        ("train.py --mode sideways", "--mode"),
        ("train.py --memory -1", "--memory is -1"),
        ("train.py --envs nowhere --run-dir {}/y", "nowhere"),
        ("-m retro.pretrain --out {} --tokens -5", "--tokens"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, monkeypatch, capsys, command, word):
    """In this process, as if it were a new one: `test_as_a_program` starts one."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", command.removeprefix("-m ").format(tmp_path).split())
    run = runpy.run_module if command.startswith("-m ") else runpy.run_path
    with pytest.raises(SystemExit) as ended:
        run(sys.argv[0], run_name="__main__")
    assert ended.value.code == 2 and word in capsys.readouterr().err.strip().splitlines()[-1]
    assert not list(tmp_path.iterdir())  # nothing half-written

@pytest.mark.slow
def test_as_a_program(tmp_path):
    command = [sys.executable, "train.py", "--base", "/nowhere", "--run-dir", str(tmp_path / "x")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 2 and len(said) == 1 and "/nowhere" in said[0], done.stderr
    assert not list(tmp_path.iterdir())

def test_checkpoint_restores_weights_moments_and_state(tmp_path):
    def parts(seed):
        torch.manual_seed(seed)
        weights = {
            "a": torch.nn.Parameter(torch.randn(3, 2)),
            "b": torch.nn.Parameter(torch.randn(4)),
        }
        return weights, torch.optim.AdamW(weights.values(), lr=0.1)

    def step(weights, optimizer):
        sum((w**2).sum() for w in weights.values()).backward()
        optimizer.step()
        optimizer.zero_grad()

    weights, optimizer = parts(0)
    step(weights, optimizer)
    save(tmp_path / "c", weights, [optimizer], {"updates": 1, "é": [1.5, None]})
    others, other_optimizer = parts(1)
    assert load(tmp_path / "c", others, [other_optimizer]) == {"updates": 1, "é": [1.5, None]}
    step(weights, optimizer)
    step(others, other_optimizer)
    assert all(torch.equal(weights[k], others[k]) for k in weights)
    with pytest.raises(ValueError, match="not a checkpoint of this run"):
        load(tmp_path / "c", {"a": weights["a"]}, [])
