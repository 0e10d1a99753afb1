"""How long a reflection and an action may be: settings of a run, which its readers take over."""

import json
import shutil

import pytest

import eval as evaluation
import play
import train
from retro.interop.open import run_settings
from retro.language_model import LanguageModel
from retro.run.cli import parse
from retro.run.files import read_json, write_json
from tests.small_run import config, evaluated, short_games  # noqa: F401

@pytest.fixture
def asked(monkeypatch) -> set[int]:
    """How many tokens models were asked for, at most."""
    lengths, sample = set(), LanguageModel.sample

    def noted(self, chunks, max_new_tokens, *args):
        lengths.add(max_new_tokens)
        return sample(self, chunks, max_new_tokens, *args)

    monkeypatch.setattr(LanguageModel, "sample", noted)
    return lengths

def test_a_run_asks_for_its_lengths_and_keeps_them(tiny_base, tmp_path, asked):
    lengths = dict(reflection_tokens=5, action_tokens=3)
    train.main(config(tiny_base, tmp_path, envs="guess", updates=1, **lengths))
    assert asked == {5, 3}
    kept = read_json(tmp_path / "config.json")
    assert {key: kept[key] for key in lengths} == lengths
    (metrics,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert 1 <= metrics["tokens"] <= 5

def test_who_reads_a_run_has_its_lengths(small_run, tmp_path, asked, capsys):
    folder = small_run(guess=True)
    evaluated(folder, tmp_path, methods="react,reflexion")
    assert asked == {4, 2}
    asked.clear()
    evaluated(folder, tmp_path, methods="react,reflexion", action_tokens=3)
    assert asked == {4, 3}
    asked.clear()
    play.main(play.Config(run_dir=str(folder), env="guess", retries=1, delay=0.0))
    assert asked == {4, 2}

def test_defaults_and_a_run_from_before_they_were_settings(tmp_path, small_run):
    given = parse(train.Config, "", argv=["--reflection-tokens", "9", "--action-tokens", "5"])
    assert (given.reflection_tokens, given.action_tokens) == (9, 5)
    settings = read_json(small_run(guess=True) / "config.json")
    old = {k: v for k, v in settings.items() if k not in ("reflection_tokens", "action_tokens")}
    write_json(tmp_path / "config.json", old)
    found = run_settings(tmp_path)
    default = train.Config()
    assert found["reflection_tokens"] == default.reflection_tokens == 64
    assert found["action_tokens"] == default.action_tokens == 0
    write_json(tmp_path / "config.json", settings | {"reflection_tokens": 0})
    with pytest.raises(ValueError, match="config.json: --reflection-tokens is 0: must be bet"):
        run_settings(tmp_path)
    write_json(tmp_path / "config.json", settings | {"action_tokens": "x"})
    with pytest.raises(ValueError, match="action_tokens is 'x', no setting of train.py"):
        run_settings(tmp_path)

@pytest.mark.parametrize("key", ["reflection_tokens", "action_tokens"])
def test_runs_with_other_lengths_are_not_pooled(small_run, tmp_path, key):
    folder, other = small_run(guess=True), tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "checkpoint").unlink()  # an adapter that was copied away
    write_json(other / "config.json", read_json(folder / "config.json") | {key: 3})
    settings = evaluation.Config(runs=f"{folder},{other}", json=str(tmp_path / "r.json"))
    with pytest.raises(ValueError, match=f"--runs: {other} has another {key} than {folder}"):
        evaluation.main(settings)
