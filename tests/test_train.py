"""The whole run, small: it can be killed anywhere and goes on as if nothing had happened; its
doors.
"""

import dataclasses
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import retro.learn
import train
from retro.evaluate import methods_of
from retro.run.checkpoint import load, save
from tests.small_run import Killed, config, outcome, short_games  # noqa: F401

ROOT = Path(__file__).parent.parent


def slow(*values):
    """A case that the fast tests leave out."""
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.fixture(scope="module")
def uninterrupted(tiny_base, tmp_path_factory):
    """What a whole run leaves behind, by its mode."""
    done = {}
    for mode in ("online", "offline"):
        folder = tmp_path_factory.mktemp("runs") / mode
        train.main(config(tiny_base, folder, mode=mode))
        done[mode] = outcome(folder)
    return done


@pytest.mark.parametrize(
    "mode, where, calls",
    [
        ("online", "collect", 2),
        ("online", "learn.retry", 2),
        ("online", "learn", 2),
        ("offline", "fit", 1),
        ("offline", "learn.ppo_update", 2),
        slow("online", "learn.reflect", 1),
        slow("online", "learn.ppo_update", 1),
        slow("online", "measure_gap", 1),
        slow("online", "evaluate", 1),
        slow("online", "save_adapter", 1),
        slow("offline", "print_reward", 1),
    ],
)
def test_resumed_equals_uninterrupted(
    tiny_base, tmp_path, monkeypatch, uninterrupted, mode, where, calls
):
    """Killed right after the n-th call of a function, then resumed: the same files, byte for byte.
    """
    module = retro.learn if where.startswith("learn.") else train
    name = where.removeprefix("learn.")
    function, left = getattr(module, name), calls

    def killer(*args, **kwargs):
        nonlocal left
        result, left = function(*args, **kwargs), left - 1
        if left == 0:
            raise Killed
        return result

    monkeypatch.setattr(module, name, killer)
    with pytest.raises(Killed):
        train.main(config(tiny_base, tmp_path / "run", mode=mode))
    monkeypatch.setattr(module, name, function)
    train.main(config(tiny_base, tmp_path / "run", mode=mode, resume=True))
    assert outcome(tmp_path / "run") == uninterrupted[mode]


def test_results_are_one_report_for_each_environment(uninterrupted):
    for mode, left in uninterrupted.items():
        reports = json.loads(left[3])
        assert [r["env"] for r in reports] == ["household", "guess"]
        methods = [name for name in methods_of(mode) if name not in ("last_attempt", "shuffled")]
        assert all(list(r["methods"]) == methods for r in reports)
        assert {m["success"] is None for m in left[0]} == {mode == "offline"}
        assert all(set(m["mean_rating_by_env"]) == {"household", "guess"} for m in left[0])
    replay = [json.loads(line) for line in uninterrupted["online"][1].splitlines()]
    last = replay[-4:]  # an update's rated reflections: equal parts
    assert sorted(row["env"] for row in last) == ["guess"] * 2 + ["household"] * 2


# tasks enough that some reflection of a base that knows nothing raises a return, for SFT
GUESS = dict(envs="guess", updates=1, train_tasks=24)


@pytest.fixture(scope="module")
def guessed(tiny_base, tmp_path_factory):
    """As `uninterrupted`, of one environment and one update."""
    done = {}
    for mode in ("online", "offline"):
        folder = tmp_path_factory.mktemp("guessed") / mode
        train.main(config(tiny_base, folder, mode=mode, **GUESS))
        done[mode] = outcome(folder)
    return done


@pytest.mark.parametrize(
    "change",
    [
        dict(kl_coef=0.0),
        dict(sft_epochs=0),
        dict(rating="next"),
        dict(rating="success", mode="offline"),
        dict(group=1),
        dict(advantage="group"),
        dict(advantage="group", mode="offline", memory=1),
        dict(lora_rank=1, adapt_prompt=True),
        dict(adapt_prompt=True, mode="offline"),
        dict(temperature=0.0),
    ],
)
def test_ablations_run_and_are_read(tiny_base, tmp_path, change, guessed):
    settings = config(tiny_base, tmp_path / "run", **GUESS | change)
    train.main(settings)
    left = outcome(tmp_path / "run")
    if change != dict(temperature=0.0):
        assert left[0] != guessed[settings.mode][0] or left[1] != guessed[settings.mode][1]
    assert left[3] is not None and len(left[0]) == 1
    replay = [json.loads(line) for line in left[1].splitlines()]
    if settings.mode == "online":  # the update's rows come in groups on one prompt
        first, second, third, fourth = (row["prompt"] for row in replay[-4:])
        assert second != third and {first == second, third == fourth} == {settings.group == 2}
    assert (left[0][0]["value_loss"] == 0) == (settings.advantage == "group")
    if settings.rating == "next":
        assert all(row["rating"] == row["next_return"] for row in replay)


def test_what_a_trial_has_earned_is_taken_from_its_next_ratings(tiny_base, tmp_path, monkeypatch):
    """Against the replay buffer: one half of the way to each new rating, from 0."""
    seen, update = [], retro.learn.ppo_update

    def spy(policy, optimizer, batch, **settings):
        seen.append(batch.ratings.tolist())
        return update(policy, optimizer, batch, **settings)

    monkeypatch.setattr(retro.learn, "ppo_update", spy)
    train.main(config(tiny_base, tmp_path / "run", envs="guess", updates=6, baseline_step=0.5))
    replay = [json.loads(line) for line in (tmp_path / "run/replay.jsonl").read_text().splitlines()]
    past: dict[tuple, list[float]] = {}
    for ratings, start in zip(seen, range(len(replay) - 24, len(replay), 4), strict=True):
        rows = replay[start : start + 4]
        for row, rating in zip(rows, ratings, strict=True):
            own = past.get((row["task_id"], row["trial"]), [])
            earned = sum(r * 0.5 ** (len(own) - i) for i, r in enumerate(own))
            assert rating == pytest.approx(row["rating"] - earned, abs=1e-6)
        for row in rows:
            past.setdefault((row["task_id"], row["trial"]), []).append(row["rating"])
    assert max(map(len, past.values())) > 2 and any(map(any, past.values()))


def test_without_memory_every_method_is_a_plain_retry(tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run", envs="guess", memory=0, updates=0, eval_tasks=9))
    for report in json.loads((tmp_path / "run" / "results.json").read_text()):
        results = list(report["methods"].values())
        assert all(result == results[0] for result in results)


def test_a_group_is_as_large_as_divides_the_batch(tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run", group=6, updates=1, envs="guess"))
    replay = [json.loads(line) for line in (tmp_path / "run/replay.jsonl").read_text().splitlines()]
    first, second, third, fourth = (row["prompt"] for row in replay[-4:])
    assert first == second != third == fourth
    alone = config(tiny_base, tmp_path / "alone", group=3, advantage="group")
    with pytest.raises(ValueError, match="advantage group: each reflection would be alone"):
        train.main(alone)


def test_seed_decides_everything(tiny_base, tmp_path, uninterrupted):
    train.main(config(tiny_base, tmp_path / "other", seed=1, updates=0))
    assert outcome(tmp_path / "other")[1] != uninterrupted["online"][1]


def test_folder_in_use_is_refused_and_so_are_other_settings(tiny_base, tmp_path):
    settings = config(tiny_base, tmp_path / "run", updates=0, envs="guess")
    train.main(settings)
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
