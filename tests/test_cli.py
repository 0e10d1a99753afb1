"""The command line of every script: help for each option, and one line for each wrong value."""

import math
import random
from dataclasses import dataclass, fields
from importlib import import_module
from types import SimpleNamespace
from typing import Literal

import pytest

from retro.run.cli import Spent, flags_of, option, option_of, parse, run_script

SCRIPTS = ("train", "eval", "play", "retro.pretrain.__main__",
           "retro.pretrain.skills", "retro.interop.export")
CONFIGS = [pytest.param(import_module(name).Config, id=name) for name in SCRIPTS]

def outside(one) -> list[float]:
    """Values that the bounds of a field exclude; of a float NaN and infinity too."""
    bounds = one.metadata["bounds"]
    below = [bounds["low"] - 1] if bounds["low"] is not None else []
    above = [bounds["high"] + 1] if bounds["high"] is not None else []
    edge = [bounds["above"]] if bounds["above"] is not None else []
    return below + above + edge + [math.nan, math.inf, -math.inf] * (one.type is float)

@pytest.mark.parametrize("config_class", CONFIGS)
def test_help_names_every_option_with_its_text_and_default(config_class, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as ended:
        parse(config_class, "", argv=["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for one in fields(config_class):
        (at,) = [i for i, line in enumerate(lines) if line.split()[:1] and
                 line.split()[0].rstrip(",") == option_of(one.name)]  # fmt: skip
        said = " ".join(lines[at : at + 2])  # a long option has its text on the next line
        assert len(one.metadata["help"].split()) > 1 and one.metadata["help"] in said
        shown = "none" if one.default == "" else one.default
        if one.type is bool:
            shown = "on" if one.default else "off"
        assert f"default: {shown})" in said, said
        assert f"{one.metadata['group']}:" in lines

@pytest.mark.parametrize("config_class", CONFIGS)
def test_a_value_out_of_bounds_is_one_line_and_status_2(config_class, capsys):
    numbers = [one for one in fields(config_class) if one.type in (int, float)]
    for one in numbers:
        assert outside(one), f"{one.name} has no bounds"
        for value in outside(one):
            with pytest.raises(SystemExit) as ended:
                parse(config_class, "", argv=[f"{option_of(one.name)}={one.type(value)}"])
            said = capsys.readouterr().err
            assert ended.value.code == 2 and said.count("\n") == 1
            assert said.startswith(f"error: {option_of(one.name)} is {one.type(value)}: must be ")

@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_count_has_a_bound(config_class):
    """But for seeds, and what a budget or a context may hold."""
    free = {"seed", "max_requests", "max_tokens", "memory", "context", "reply_tokens"}
    for one in fields(config_class):
        if one.type is int and one.name not in free:
            assert one.metadata["bounds"]["high"] <= 10**6, one.name

@pytest.mark.parametrize("error, line", [
    (MemoryError(), "error: out of memory\n"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
     "error: out of memory: DefaultCPUAllocator: can't allocate memory: you"),
    (FloatingPointError("a NaN"), "error: training broke down: a NaN\n"),
    (RuntimeError("a mistake"), None),
])  # fmt: skip
def test_what_a_machine_has_not_is_one_line(error, line, capsys, tmp_path):
    def main(config):
        raise error

    @dataclass
    class Run:
        run_dir: str = str(tmp_path)
        resume: bool = False

    with pytest.raises(SystemExit if line else RuntimeError) as ended:
        run_script(main, Run())
    said = capsys.readouterr().err
    assert not line or (ended.value.code == 1 and said.startswith(line) and said.count("\n") == 1)
    if isinstance(error, FloatingPointError):
        (tmp_path / "checkpoint").touch()
        with pytest.raises(SystemExit):
            run_script(main, Run())
        assert "a NaN; the last checkpoint is whole" in capsys.readouterr().err

def test_an_error_after_a_checkpoint_says_how_the_run_goes_on(capsys, tmp_path):
    def main(config):
        if config.resume:
            (tmp_path / "checkpoint").write_text("x")
        raise Spent("budget spent")

    for resume, line in ((False, ""), (True, "; --resume goes on from the last checkpoint")):
        with pytest.raises(SystemExit):
            run_script(main, SimpleNamespace(run_dir=str(tmp_path), resume=resume))
        assert capsys.readouterr().err == f"error: budget spent{line}\n"

@dataclass(frozen=True)
class Shared:
    size: int = option(3, "how large, in cm", "shape", low=1)

@dataclass(frozen=True)
class Small(Shared):
    name: str = option("", "100 % of a name", "first")
    fast: bool = option(True, "skip the checks", "first")
    way: Literal["up", "down"] = option("up", "where to", "shape")

def test_what_is_given_what_is_not_and_defaults_that_depend_on_it():
    assert parse(Small, "", argv=[]) == Small()
    given = ["--no-fast", "--way", "down", "--size", "4"]
    assert parse(Small, "", argv=given) == Small(size=4, fast=False, way="down")
    changed = lambda seen: {"size": 9} if seen.way == "down" else {}
    assert parse(Small, "", changed, ["--way", "down"]).size == 9
    assert parse(Small, "", changed, given).size == 4 and parse(Small, "", changed, []).size == 3

@pytest.mark.parametrize(
    "given", ["--way left", "--size x", "--siz 4", "--size", "--nothing", "stray"]
)
def test_what_argparse_refuses_is_one_line_too(given, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Small, "", argv=given.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and said.count("\n") == 1

def test_own_options_come_first_and_a_switch_tells_its_default_once(capsys):
    with pytest.raises(SystemExit):
        parse(Small, "", argv=["--help"])
    said = capsys.readouterr().out
    assert said.index("first:") < said.index("shape:") and said.count("(default: on)") == 1
    assert "100 % of a name (default: none)" in said

@pytest.mark.parametrize("name, given, line", [
    ("train", "--updtes 30", "--updtes: did you mean --updates?"),
    ("train", "--updtes=30 --learning-rate 1 --seeed 1", "--updtes: did you mean --updates?; "
     "--learning-rate: no such option here; --help lists them; --seeed: did you mean --seed?"),
    ("train", "--run_dir x", "--run_dir: did you mean --run-dir?"),
    ("train", "-updates 3", "-updates: did you mean --updates?"),
    ("train", "--no-resum", "--no-resum: did you mean --no-resume?"),
    ("train", "--upd 3", "--upd: did you mean --updates?"),
    ("train", "resume", "'resume' belongs to no option; --help lists them"),
    ("eval", "--transcript x", "--transcript: did you mean --transcripts?"),
    ("eval", "--kl-coef 1", "--kl-coef: no such option here; --help lists them"),
    ("play", "--rundir x", "--rundir: did you mean --run-dir?"),
    ("retro.pretrain.__main__", "--token 3", "--token: did you mean --tokens?"),
    ("retro.interop.export", "--merged", "--merged: did you mean --merge?"),
])  # fmt: skip
def test_a_wrong_option_names_the_nearest_one(name, given, line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(import_module(name).Config, "", argv=given.split())
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"

@pytest.mark.parametrize("given, line", [
    ("--lr -1", "--lr is -1.0: must be above 0 and at most 1"),
    ("--lr -1e-3", "--lr is -0.001: must be above 0 and at most 1"),
    ("--sft-lr -.5", "--sft-lr is -0.5: must be above 0 and at most 1"),
    ("--reward-lr -inf", "--reward-lr is -inf: must be above 0 and at most 1"),
    ("--lr 0", "--lr is 0.0: must be above 0 and at most 1"),
    ("--lr 2", "--lr is 2.0: must be above 0 and at most 1"),
    ("--updates -3", "--updates is -3: must be between 0 and 1000000"),
    ("--kl-coef -2e2", "--kl-coef is -200.0: must be between 0 and 1000"),
    ("--seeds 0,-1", "--seeds '0,-1': whole numbers from 0 to 1000000000000000000, such as 0,1,2"),
    ("--seeds -1,0", "--seeds '-1,0': whole numbers from 0 to 1000000000000000000, such as 0,1,2"),
    ("--seeds 0,1,00", "--seeds '0,1,00': one is named twice"),
    ("--seeds 0,1 --seed 4", "--seed 4: --seeds 0,1 is in its place"),
])  # fmt: skip
def test_a_number_that_makes_no_sense_is_named_with_what_it_may_be(given, line, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(import_module("train").Config, "", argv=given.split())
    assert ended.value.code == 2 and capsys.readouterr().err == f"error: {line}\n"

@pytest.mark.parametrize("config_class", CONFIGS)
def test_the_flags_of_a_config_make_it_again(config_class):
    """Of one whose values are all other ones than the defaults, as far as that is allowed."""
    rng, others = random.Random(0), {}
    for one in fields(config_class):
        bounds = one.metadata["bounds"]
        if one.type is bool:
            others[one.name] = not one.default
        elif one.type is float:
            high = 1e3 if bounds["high"] is None else bounds["high"]
            others[one.name] = high * rng.uniform(0.1, 0.4)
        elif one.type is str and one.name in ("run_dir", "base", "out", "answers", "games"):
            others[one.name] = "-a 'path', é\\ and=more"
    try:
        config = config_class(**others)
    except ValueError:  # these do not go together
        config = config_class(**{name: v for name, v in others.items() if type(v) is not float})
    assert parse(config_class, "", argv=flags_of(config)) == config != config_class()
