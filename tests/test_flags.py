"""Random combinations of settings, valid and invalid: each runs, or ends in one line with status 2
before there is a run folder. A run that has begun may only end as a whole one, or collapse.
"""

import random
from dataclasses import fields
from importlib import import_module

import pytest

import eval as evaluation
import train
from retro.run.cli import option_of, parse, run_script
from tests.small_run import GUESS, config, short_games  # noqa: F401

HOSTILE = ["nan", "inf", "-inf", "-1", "1e30", "1e-300", "0", "", "x", "-0.5", "9" * 30, "\x1b[2J"]
SMALL = dict(
    seed=[0, 7], mode=["online", "offline"], collect_rounds=[1, 2], offline_each=[1, 2],
    rating=["delta", "next", "success"], train_repeats=[1, 2],
    lora_rank=[1, 5], lora_alpha=[0.5, 16.0], sft_epochs=[0, 1], sft_lr=[1e-3, 1.0], best_of=[1, 2],
    reward_lr=[1e-3], updates=[0, 1], batch_reflections=[4, 6], group=[1, 2, 5], minibatch=[1, 8],
    advantage=["gae", "group"], epochs=[1, 2], lr=[1e-3, 1.0], clip_coef=[0.1, 10.0],
    kl_coef=[0.0, 0.5, 1000.0], kl_target=[0.0, 6.0, 100.0], kl_horizon=[2.0, 2000.0],
    target_kl=[1e-9, 0.1], vf_coef=[0.0, 1000.0], ent_coef=[0.0, 0.1], gamma=[0.0, 0.9],
    gae_lambda=[0.0, 0.9], baseline_step=[0.0, 1.0], refresh=[0.0, 1.0],
    cause_price=[0.0, 0.5], max_grad_norm=[1e-9, 1e9],
    max_kl=[1e-9, 80.0], min_well_formed=[0.0, 1.0], eval_split=["train", "seen", "unseen", "test"],
    retries=[0, 1], memory=[0, 3], actor_temperature=[0.0, 1.0, 1e9], context=[0, 10, 300, 10**9],
    envs=["guess", "guess,guess", "nowhere", ""], gap_tasks=[1], reward_epochs=[1],
)  # fmt: skip
EVALUATED = dict(
    split=["train", "seen", "unseen", "test"], tasks=[1, 2], repeats=[1, 2], retries=[0, 1],
    methods=["react", "sft,react", "react,react", "template", "reflexion,oracle", "x", ","],
    temperatures=["0", "0,1", "0,0", "nan", "1e999", "0,x", ","], best_of=[1, 2], seed=[0, 1000000],
    env=["guess", "household", "x", "guess,guess"], context=[0, 10, 300], concurrency=[1, 2],
)  # fmt: skip

def combination(rng, config_class, known):
    """Flags for some of the fields: three in four have a value that is known to make sense alone,
    or not to.
    """
    flags = []
    for one in rng.sample([one for one in fields(config_class) if one.name in known], 3):
        values = known[one.name] if rng.random() < 0.8 else HOSTILE
        flags.append(f"{option_of(one.name)}={rng.choice(values)}")
    return flags

def ending(capsys, work) -> tuple[object, str]:
    """(status, what was said on stderr but for progress bars)."""
    capsys.readouterr()
    status: object = 0
    try:
        work()
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr().err
    return status, said[said.find("error: ") :] if "error: " in said else ""

@pytest.mark.parametrize("count", [4, pytest.param(300, marks=pytest.mark.slow)])
def test_training_runs_or_is_refused_before_any_work(tiny_base, tmp_path, capsys, count):
    rng, ran, small = random.Random(count), 0, config(tiny_base, "", **GUESS)
    plain = [f"{option_of(name)}={value}" for name, value in vars(small).items()
             if type(value) in (int, float, str) and name != "run_dir"]  # fmt: skip
    for number in range(count):
        run_dir = tmp_path / str(number)
        argv = [*plain, "--no-gap-check", *combination(rng, train.Config, SMALL),
                f"--run-dir={run_dir}"]  # fmt: skip
        work = lambda: run_script(train.main, parse(train.Config, "", argv=argv))
        status, said = ending(capsys, work)
        if status == 2:
            assert said.startswith("error: ") and said.count("\n") == 1, (argv, said)
            assert not run_dir.exists() and "\x1b" not in said, (argv, said)
        else:  # a collapse and a NaN are said in words too
            assert status in (0, 1) or "start a new run" in str(status), (argv, status, said)
            assert (run_dir / "config.json").exists(), (argv, status)
            ran += 1
    assert count < 100 or count / 5 < ran < count, ran

@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_evaluation_runs_or_is_refused_before_any_work(small_run, tmp_path, capsys, count):
    rng, ran = random.Random(count), 0
    plain = [f"--run-dir={small_run(guess=True)}", "--tasks=2", "--choice-tasks=2", "--retries=1"]
    for _ in range(count):
        path = tmp_path / "r.json"
        path.unlink(missing_ok=True)
        argv = [*plain, *combination(rng, evaluation.Config, EVALUATED), f"--json={path}"]
        work = lambda: run_script(evaluation.main, parse(evaluation.Config, "", argv=argv))
        status, said = ending(capsys, work)
        assert status in (0, 2) and path.exists() == (status == 0), (argv, status, said)
        if status:
            assert said.startswith("error: ") and said.count("\n") == 1, (argv, said)
        ran += status == 0
    assert 0 < ran < count, ran

@pytest.mark.parametrize("name", ["train", "eval", "play", "retro.pretrain.__main__"])
def test_any_value_of_any_option_is_taken_or_refused_in_one_line(name, capsys):
    config_class, rng = import_module(name).Config, random.Random(0)
    for one in fields(config_class):
        for value in rng.sample(HOSTILE, 6):
            flag = option_of(one.name) + f"={value}" * (one.type is not bool)
            status, said = ending(capsys, lambda: parse(config_class, "", argv=[flag]))
            assert status == 0 or (status == 2 and said.count("\n") == 1), (flag, status, said)
            if one.type in (int, float) and value in ("nan", "inf", "-inf", "x", ""):
                assert status == 2, flag

TOGETHER = [
    ("train", "--kl-target 6 --kl-coef 0", "--kl-target 6.0: needs a --kl-coef above 0"),
    ("train", "--kl-target 90", "and a --max-kl above it"),
    ("train", "--kl-target 6 --kl-horizon 10", "--kl-horizon 10.0: must be at least --batch-refl"),
    ("train", "--eval-split bogus", "--eval-split"),
    ("train", "--lora-alpha 1e7", "--lora-alpha is 10000000.0: must be above 0 and at most"),
    ("train", "--lr -1", "--lr is -1.0: must be above 0 and at most 1"),
    ("train", "--clip-coef -0.2", "--clip-coef is -0.2: must be above 0"),
    ("train", "--seed 99999999999999999999", "--seed is 99999999999999999999: must be at most 10"),
    ("eval", "--runs a,b,a", "--runs 'a,b,a': one is named twice"),
    ("eval", "--methods react,react", "--methods 'react,react': one is named twice"),
    ("eval", "--runs a,b/../a/", "--runs 'a,b/../a/': one is named twice"),
    ("eval", "--temperatures 1,1.0", "--temperatures '1,1.0': one is named twice"),
    ("eval", "--temperatures 0,-0", "--temperatures '0,-0': one is named twice"),
    ("eval", "--temperatures x,1", "--temperatures 'x,1': numbers from 0, such as 0,0.3,1"),
    ("train", "--run-dir=", "--run-dir is '': must be a text that is not empty"),
    ("eval", "--run-dir=", "--run-dir is '': must be a text that is not empty"),
    ("retro.interop.export", "--out=", "--out is '': must be a text that is not empty"),
    ("retro.pretrain.__main__", "--out=", "--out is '': must be a text that is not empty"),
    ("retro.pretrain.skills", "--tasks 0", "--tasks is 0: must be between 1 and 1000000"),
    ("train", "--train-tasks 1000000000000000000", "must be between 1 and 1000000"),
    ("eval", "--split bogus", "--split"),
    ("retro.pretrain.__main__", "--warmup .5 --decay .6", "together above 1"),
    ("retro.pretrain.__main__", "--width 100", "hidden_size 100 is not a multiple of num_att"),
    ("retro.pretrain.__main__", "--vocab-size 256", "--vocab-size is 256: must be between 257"),
    ("retro.pretrain.__main__", "--adam-lr inf", "--adam-lr is inf: must be above 0 and at most"),
]  # fmt: skip

@pytest.mark.parametrize("name, flags, message", TOGETHER)
def test_settings_that_make_no_sense_are_refused_when_they_are_read(name, flags, message, capsys):
    config_class = import_module(name).Config
    status, said = ending(capsys, lambda: parse(config_class, "", argv=flags.split()))
    assert status == 2 and message in said and said.count("\n") == 1, said
