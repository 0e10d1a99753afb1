"""A whole run, small: its settings, what it leaves behind, how it is killed and evaluated."""

import json
from functools import cache

import pytest

import envs
import eval as evaluation
import train
from tests.guess import Guess

TIMES = ("rollout_seconds", "learn_seconds")

class Partial(Guess):
    """Partial credit by an action's letters: a random model's retries are not all worth nothing."""

    def fresh(self) -> "Partial":
        return Partial()

    def step(self, action: str) -> tuple:
        *rest, info = super().step(action)
        self.answer = (*rest, info | {"progress": sum(map(ord, action)) % 5 / 5})
        return self.answer

def config(base, folder, **changes):
    small = dict(
        envs="household,guess",
        gap_tasks=2,
        gap_check=False,  # a random model has none
        train_tasks=4,
        collect_rounds=1,
        batch_reflections=4,
        group=2,
        minibatch=2,
        updates=2,
        epochs=2,
        choice_tasks=2,
        eval_tasks=1,
        retries=1,
        lr=1e-2,
        min_well_formed=0.0,
        actor_temperature=1.0,
        offline_each=2,
        reward_epochs=2,
        best_of=2,
        action_tokens=2,
        reflection_tokens=4,
    )
    return train.Config(run_dir=str(folder), base=str(base), **small | changes)

@pytest.fixture(scope="session")
def small_run(tiny_base, tmp_path_factory):
    """small_run(mode) -> the folder of a whole run of that mode, the same for all tests; with
    `guess=True` of one environment and one update.
    """

    @cache
    def run(mode="online", guess=False):
        folder = tmp_path_factory.mktemp("small-run") / mode
        with pytest.MonkeyPatch.context() as patch:
            shorten(patch)
            train.main(config(tiny_base, folder, mode=mode, **GUESS if guess else {}))
        return folder

    return run

# tasks enough that some reflection of a base that knows nothing raises a return, for SFT
GUESS = dict(envs="guess", updates=1, train_tasks=8)

@pytest.fixture(scope="module", autouse=True)
def short_games():
    """Two steps a trial: these tests are about the loop, not the game."""
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        yield

def shorten(patch):
    make = envs.make

    def short(name, **kwargs):
        env = make(name, **kwargs)
        if name == "household":
            env.max_steps = 2
        return env

    patch.setitem(envs.CLASSES, "guess", Partial)
    patch.setattr(envs, "make", short)  # `make_all` makes them with it too
    patch.setattr(train, "CHUNK", 2)

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
        "reward/adapter_model.safetensors",
        "reward/head.safetensors",
        "choices.json",
        "trained_on.json",
    )
    files = [folder / name for name in files]
    return [metrics] + [file.read_bytes() if file.exists() else None for file in files]

def slow(*values):
    """A case that the fast tests leave out."""
    return pytest.param(*values, marks=pytest.mark.slow)

class Killed(BaseException):
    """No handler of the program catches this, as none catches a kill -9."""

def evaluated(run_dir, tmp_path, **changes):
    settings = dict(run_dir=str(run_dir), tasks=2, choice_tasks=2, retries=1,
                    json=str(tmp_path / "r.json"))  # fmt: skip
    evaluation.main(evaluation.Config(**settings | changes))
    return json.loads((tmp_path / "r.json").read_text())
