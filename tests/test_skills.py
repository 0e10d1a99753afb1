"""The skills of a base: shares of what they count, also of a run in progress; and a card that names
no path.
"""

import math
import re
from dataclasses import replace
from itertools import cycle
from types import SimpleNamespace

import pytest
import torch

import envs
import retro.pretrain.__main__ as module
from envs.observer import Verdict
from retro.pretrain import card, corpus, skills
from retro.pretrain.__main__ import Config, Training, main
from retro.pretrain.skills import measure_skills, open_base, rows_of, table
from retro.run.processes import ALONE, join, launch
from tests.guess import Guess
from tests.test_processes import linux

class Judged(Guess):
    """Words of a reflection say what its verdict is."""

    def judge(self, reflection, observation, steps):
        return Verdict(sound="sound" in reflection, notes=None if "none" in reflection else
                       "right" in reflection)  # fmt: skip

def test_reflections_are_judged_sampled_and_greedily(tiny_lm, monkeypatch):
    monkeypatch.setitem(envs.CLASSES, "guess", Judged)
    asked = {}

    def reflect(lm, prompts, *, temperature, generator):
        asked[temperature] = len(prompts)
        texts = {1.0: ("right, sound", "right", "none"), 0.0: ("none, sound", "right", "wrong")}
        return [SimpleNamespace(text=text) for text, _ in zip(cycle(texts[temperature]), prompts)]

    monkeypatch.setattr(skills, "reflect", reflect)
    found = measure_skills(envs.make("guess"), tiny_lm, "seen", 7, 0, 1.0)
    assert asked == {1.0: 7, 0.0: 7}  # who knows nothing fails each time
    assert found["careful"] == 3 / 7 and found["noting"] == 2 / 7
    assert found["acting"] == found["writing"] == 0
    assert list(found) == ["acting", "following", "oracle_retry", "reading", "writing", "careful",
                           "noting"]  # fmt: skip

def test_a_table_has_a_row_for_each_environment_and_split_and_games(tiny_lm, tmp_path, monkeypatch):
    shares = {"first": 0.25, "second": math.nan}
    known = lambda env, lm, split, n, seed, temperature: shares | {"tasks": n}
    monkeypatch.setattr(skills, "measure_skills", known)
    monkeypatch.setattr(envs.household.engine, "load_games", lambda folder: ([{}], {}))
    rows = rows_of("hotpot,household", "seen,unseen", str(tmp_path))
    assert [row.env.name for row in rows] == ["hotpot"] * 2 + ["household"] * 3
    assert rows[-1].env.games and not rows[-2].env.games
    assert table(tiny_lm, rows[1:], 7, ALONE).splitlines() == [
        "| | first | second | tasks |",
        "|---|---|---|---|",
        "| hotpot, unseen | 0.250 | - | 7.000 |",
        "| household, seen | 0.250 | - | 7.000 |",
        "| household, unseen | 0.250 | - | 7.000 |",
        "| household, real games | 0.250 | - | 7.000 |",
    ]
    with pytest.raises(ValueError, match="--split 'seen,all': 'all' must be one of tra"):
        rows_of("hotpot", "seen,all", "")

@linux
def test_processes_share_the_rows(tiny_lm, tmp_path, monkeypatch):
    who = lambda env, *rest: {"rank": join(torch.device("cpu")).rank}
    monkeypatch.setattr(skills, "measure_skills", who)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)

    def script(_):
        processes = join(torch.device("cpu"))
        found = table(tiny_lm, rows_of("hotpot,shop", "seen,train", ""), 7, processes)
        (tmp_path / str(processes.rank)).write_text(found)
        processes.barrier()

    launch(script, None)
    first, second = ((tmp_path / name).read_text() for name in "01")
    assert first == second and re.findall(r"\w+, \w+ \| [\d.]+", first) == [
        "hotpot, seen | 0.000", "hotpot, train | 1.000", "shop, seen | 0.000", "shop, train | 1.000"
    ]  # fmt: skip

def test_a_run_in_progress_is_a_base_and_an_ended_one_has_a_card(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "DOCUMENTS", 4)
    monkeypatch.setattr(module, "TOKENIZER_DOCUMENTS", 40)
    monkeypatch.setattr(skills, "measure_skills", lambda *args: {"acting": 0.5})
    saved, save = [], Training.save

    def look(training):
        if not saved:  # what a kill before the first checkpoint leaves
            with pytest.raises(ValueError, match=f"{tmp_path / 'run'}: has no checkpoint yet$"):
                open_base(tmp_path / "run")
        save(training)
        lm = open_base(tmp_path / "run")
        for name, weight in training.model.state_dict().items():
            assert torch.equal(lm.model.state_dict()[name], weight.bfloat16().float()), name
        saved.append(training.state["steps"])

    monkeypatch.setattr(Training, "save", look)
    small = dict(envs="household", tokens=6000, batch_tokens=2048, vocab_size=400, width=48,
                 layers=2, heads=3, mlp_width=32, checkpoint_minutes=0.0)  # fmt: skip
    config = Config(out=str(tmp_path / "run"), **small)
    main(config)
    assert saved == [*range(1, len(saved) + 1)] and len(saved) > 2
    text = (tmp_path / "run" / "CARD.md").read_text()
    assert "`python -m retro.pretrain --envs household --tokens 6000 " in text
    assert f"{saved[-1]} steps" in text and "in 1 process" in text and str(tmp_path) not in text

    (tmp_path / "run").rename(tmp_path / "base")
    monkeypatch.setattr(card, "rows_of", lambda *names: rows_of("hotpot", "seen", ""))
    state = dict(steps=1, tokens=1e6, seconds=1.0, loss=0.1, reading=0.1, processes=2)
    config = replace(config, out=str(tmp_path / "base"), start=str(tmp_path / "base"),
                     games=str(tmp_path))  # fmt: skip
    card.write_card(config, state, ALONE)
    text = (tmp_path / "base" / "CARD.md").read_text()
    assert " --start base" in text and "in 2 processes" in text and str(tmp_path) not in text
