"""The whole run, small: it can be killed anywhere and goes on as if nothing had happened; its
doors.
"""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import eval as evaluation
import train
from retro import actor, reflect
from retro.checkpoint import load, save

ROOT = Path(__file__).parent.parent
TIMES = ("rollout_seconds", "learn_seconds")


def config(base, folder, **changes):
    small = dict(
        gap_tasks=2,
        train_tasks=4,
        collect_rounds=1,
        batch_reflections=4,
        minibatch=2,
        updates=3,
        epochs=2,
        eval_tasks=2,
        retries=1,
        lr=1e-2,
        min_well_formed=0.0,
    )
    return train.Config(run_dir=str(folder), base=str(base), **small | changes)


@pytest.fixture(scope="module", autouse=True)
def short_games():
    """Three steps a trial, eight tokens a reflection: these tests are about the loop, not the game.
    """
    make = train.envs.make
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.envs, "make", lambda name: make(name, max_steps=3))
        patch.setattr(train, "CHUNK", 2)
        patch.setattr(actor, "ACTION_TOKENS", 4)
        patch.setattr(reflect, "REFLECTION_TOKENS", 8)
        yield


def outcome(folder):
    """All that a run leaves behind, but for the clock."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in m.items() if k not in TIMES} for m in metrics]
    files = (
        "replay.jsonl",
        "failed.jsonl",
        "results.json",
        "adapter/adapter_model.safetensors",
        "sft/adapter_model.safetensors",
    )
    return [metrics] + [(folder / name).read_bytes() for name in files]


class Killed(BaseException):
    """No handler of the program catches this, as none catches a kill -9."""


@pytest.fixture(scope="module")
def uninterrupted(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train.main(config(tiny_base, folder))
    return outcome(folder)


@pytest.mark.parametrize(
    "where, calls",
    [
        ("reflect", 1),
        ("retry", 2),
        ("ppo_update", 1),
        ("ppo_update", 3),
        ("measure_gap", 1),
        ("evaluate", 1),
        ("save_adapter", 1),
    ],
)
def test_resumed_equals_uninterrupted(
    tiny_base, tmp_path, monkeypatch, uninterrupted, where, calls
):
    """Killed right after the n-th call of a function, then resumed: the same files, byte for byte.
    """
    function, left = getattr(train, where), calls

    def killer(*args, **kwargs):
        nonlocal left
        result, left = function(*args, **kwargs), left - 1
        if left == 0:
            raise Killed
        return result

    monkeypatch.setattr(train, where, killer)
    with pytest.raises(Killed):
        train.main(config(tiny_base, tmp_path / "run"))
    monkeypatch.setattr(train, where, function)
    train.main(config(tiny_base, tmp_path / "run", resume=True))
    assert outcome(tmp_path / "run") == uninterrupted


def test_seed_decides_everything(tiny_base, tmp_path, uninterrupted):
    train.main(config(tiny_base, tmp_path / "other", seed=1))
    assert outcome(tmp_path / "other")[1] != uninterrupted[1]


def test_folder_in_use_is_refused_and_so_are_other_settings(tiny_base, tmp_path):
    settings = config(tiny_base, tmp_path / "run", updates=0)
    train.main(settings)
    with pytest.raises(ValueError, match="holds a run already"):
        train.main(settings)
    with pytest.raises(ValueError, match="started with another lr: 0.01, now 0.5"):
        train.main(dataclasses.replace(settings, lr=0.5, resume=True))
    with pytest.raises(ValueError, match="no run to resume"):
        train.main(dataclasses.replace(settings, run_dir=str(tmp_path / "none"), resume=True))


def test_collapse_stops_with_a_reason(tiny_base, tmp_path):
    """A random model writes nothing well-formed: the run must say so."""
    settings = config(tiny_base, tmp_path / "run")
    with pytest.raises(SystemExit, match="0% of the reflections are well-formed"):
        train.main(dataclasses.replace(settings, min_well_formed=0.5))
    stats = {"kl": 81.0, "well_formed": 1.0}
    with pytest.raises(SystemExit, match="KL 81 nats"):
        train.check_health(stats, settings)


def test_eval_reads_a_run(tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run"))
    evaluation.main(
        evaluation.Config(
            run_dir=str(tmp_path / "run"),
            tasks=2,
            retries=1,
            methods="react,retroformer",
            json=str(tmp_path / "r.json"),
            transcripts=str(tmp_path / "t.txt"),
        )
    )
    results = json.loads((tmp_path / "r.json").read_text())
    assert list(results) == ["env", "split", "seed", "methods"] and list(results["methods"]) == [
        "react",
        "retroformer",
    ]
    assert set(results["methods"]["react"]) == {
        "n",
        "success_by_retry",
        "ci95",
        "conditional_by_retry",
        "mean_return_by_retry",
    }
    assert "Reflection:" in (tmp_path / "t.txt").read_text()


@pytest.mark.parametrize(
    "command, word",
    [
        ("train.py --no-such-flag 1", "--no-such-flag"),
        ("train.py --updates -1", "--updates is -1"),
        ("train.py --lora-rank 0", "at least 1"),
        ("train.py --base /nowhere --run-dir {}/x", "/nowhere"),
        ("eval.py --run-dir {}/none", "none"),
        ("eval.py --tasks zero", "--tasks"),
        ("eval.py --methods react,magic", "magic"),
        ("train.py --env nowhere --run-dir {}/y", "nowhere"),
        ("-m retro.pretrain --out {} --tokens -5", "--tokens"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(tmp_path, command, word):
    done = subprocess.run(
        [sys.executable, *command.format(tmp_path).split()],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and word in last and "Traceback" not in done.stderr, done.stderr
    assert not list(tmp_path.iterdir())  # nothing half-written


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
