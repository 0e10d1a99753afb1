"""eval.py on small runs: online, offline, of another environment, and what it refuses."""

import pytest

from retro.evaluate import methods_of
from tests.small_run import evaluated, short_games  # noqa: F401

@pytest.fixture
def offline_run(small_run):
    return small_run("offline", guess=True)

def test_eval_reads_a_run(small_run, tmp_path):
    run = small_run("online")
    both = evaluated(
        run, tmp_path, transcripts=str(tmp_path / "t.txt"), methods="react,retroformer"
    )
    assert [report["env"] for report in both] == ["household", "guess"]
    one = evaluated(run, tmp_path, env="guess", methods="react,retroformer")
    assert list(one) == ["env", "split", "seed", "methods"] and one == both[1]
    assert list(one["methods"]) == ["react", "retroformer"]
    assert set(one["methods"]["react"]) == {
        "n",
        "success_by_retry",
        "ci95",
        "conditional_by_retry",
        "mean_return_by_retry",
    }
    assert "Reflection:" in (tmp_path / "t.txt").read_text()
    with pytest.raises(ValueError, match="best-of 2: needs the reward model"):
        evaluated(run, tmp_path, best_of=2)
    with pytest.raises(ValueError, match="retroformer_offline'?: must be among"):
        evaluated(run, tmp_path, methods="retroformer_offline")

def test_eval_of_an_offline_run_transfers_and_picks_the_best(tiny_base, offline_run, tmp_path):
    """To an environment it was not trained on, with another actor, best of 3."""
    single = evaluated(offline_run, tmp_path)
    assert list(single["methods"]) == list(methods_of("offline")) and single["env"] == "guess"
    moved = evaluated(
        offline_run,
        tmp_path,
        env="household",
        actor=str(tiny_base),
        best_of=3,
        methods="react,retroformer_offline",
    )
    assert moved["env"] == "household" and "retroformer_offline" in moved["methods"]
    with pytest.raises(ValueError, match="--temperature above 0"):
        evaluated(offline_run, tmp_path, best_of=2, temperature=0.0)

@pytest.mark.parametrize(
    "change, message",
    [
        (dict(products="p.json"), "--goals is missing"),
        (dict(env="guess", data="d.json"), "a file of hotpot is given"),
        (dict(env="magic"), "magic"),
    ],
)
def test_eval_says_which_files_belong_together(offline_run, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        evaluated(offline_run, tmp_path, **change)
