"""What PPO is paid for, in whole small runs: the gain less the price of a false cause and less a
baseline, on failed trials of the reflector that is trained; with notes or without.
"""

import json
from collections import defaultdict
from pathlib import Path
from zlib import crc32

import pytest
import torch

import envs
import play
import retro.learn
import train
from envs.observer import Verdict
from retro import prompts
from retro.interop.open import open_model
from retro.learn import Contexts
from retro.memory import read_buffer
from tests.small_run import (  # noqa: F401
    GUESS,
    Killed,
    Partial,
    config,
    evaluated,
    outcome,
    short_games,
    slow,
)

def told(text: str) -> Verdict:
    """True, false or not told, by the letters of a reflection."""
    values = (True, False, None)
    n = crc32(text.encode())
    return Verdict("some", values[n % 3], values[n // 3 % 2], None, None, values[n // 6 % 3])

class Judged(Partial):
    def fresh(self) -> "Judged":
        return Judged()

    def judge(self, reflection: str, observation: str, steps: list) -> Verdict:
        assert observation.startswith("Guess the word") and len(steps) == 2
        return told(reflection)

@pytest.fixture
def judged(monkeypatch, short_games):  # noqa: F811
    """`guess` has a judge, and nothing is evaluated."""
    monkeypatch.setitem(envs.CLASSES, "guess", Judged)
    leave_out_evaluation(monkeypatch)

def leave_out_evaluation(patch) -> None:
    patch.setattr(train, "choose", lambda *args: {})
    patch.setattr(train, "compare_methods", lambda *args: None)

def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]

def worth(row: dict, price: float) -> float:
    said = " ".join(row["response"].split())
    assert row["cause"] is told(said).cause
    assert row["rating"] == row["next_return"] - row["return"]
    return row["rating"] - (0 if row["cause"] is True else price)

def spied(monkeypatch) -> list[list[float]]:
    """The ratings of each update, as PPO gets them."""
    seen, update = [], retro.learn.ppo_update

    def spy(policy, optimizer, batch, *rest, **settings):
        seen.append(batch.ratings.tolist())
        return update(policy, optimizer, batch, *rest, **settings)

    monkeypatch.setattr(retro.learn, "ppo_update", spy)
    return seen

@pytest.mark.parametrize("price", [0.0, 0.4])
def test_ppo_gets_the_worth_less_what_others_on_the_trial_were_worth(
    judged, tiny_base, tmp_path, monkeypatch, price
):
    """Against the replay buffer. Baseline of one of two: half of the way from the trial's running
    mean to the other one; the mean starts at half of the one rating that was collected.
    """
    seen = spied(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", envs="guess", updates=5, baseline_step=0.5,
                      cause_price=price, train_tasks=3))  # fmt: skip
    replay = lines(tmp_path / "run/replay.jsonl")
    means: dict[tuple, float] = {}
    for row in replay[:-20]:
        means[row["task_id"], row["prompt"]] = worth(row, price) / 2
    assert len(means) == 3 and any(means.values())
    for ratings, start in zip(seen, range(len(replay) - 20, len(replay), 4), strict=True):
        rows = replay[start : start + 4]
        own = [worth(row, price) for row in rows]
        for i, (row, rating) in enumerate(zip(rows, ratings, strict=True)):
            mean = means.get((row["task_id"], row["prompt"]), 0.0)
            sibling = own[i ^ 1]
            assert rows[i ^ 1]["prompt"] == row["prompt"]
            assert rating == pytest.approx(own[i] - (mean + sibling) / 2, abs=1e-6)
        for row, own_worth in zip(rows, own):
            key = row["task_id"], row["prompt"]
            means[key] = (means.get(key, 0.0) + own_worth) / 2
    assert len(means) > 3 and any(map(any, seen))  # some trials are of the trained reflector

def test_a_group_gets_no_second_baseline(judged, tiny_base, tmp_path, monkeypatch):
    seen = spied(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", envs="guess", advantage="group",
                      cause_price=0.4))  # fmt: skip
    rows = lines(tmp_path / "run/replay.jsonl")[-8:]
    assert sum(seen, []) == pytest.approx([worth(row, 0.4) for row in rows], abs=1e-6)

@pytest.mark.parametrize("price", [0.0, 0.4])
def test_with_a_price_only_true_causes_are_imitated(
    judged, tiny_base, tmp_path, monkeypatch, capsys, price
):
    """And the file of such a run loads as any other."""
    learnt, imitate = [], train.sft_update

    def spy(policy, optimizer, rows, **settings):
        learnt.extend(rows)
        return imitate(policy, optimizer, rows, **settings)

    monkeypatch.setattr(train, "sft_update", spy)
    train.main(config(tiny_base, tmp_path / "run", envs="guess", updates=1, train_tasks=32,
                      cause_price=price))  # fmt: skip
    path = tmp_path / "run/replay.jsonl"
    collected = lines(path)[:-4]
    better = [row for row in collected if row["rating"] > 0]
    true = [row for row in better if row["cause"] is True]
    assert 0 < len(true) < len(better) < len(collected)
    wanted = true if price else better
    assert [row.response for row in learnt] == [row["response"] for row in wanted]
    which = "those that raised the return" + " and state a true cause" * bool(price)
    said = f"SFT on {len(wanted)} of {len(collected)} reflections, {which}\n"
    assert said in capsys.readouterr().out
    lm = open_model(str(tiny_base), torch.device("cpu"), False)
    loaded = [rated.cause for rated in read_buffer(path, (-1.0, 1.0), lm)]
    assert loaded == [row["cause"] for row in lines(path)]

def test_an_updates_shares_are_in_its_metrics(judged, tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run", envs="guess,household", cause_price=0.4))
    replay = lines(tmp_path / "run/replay.jsonl")
    for number, row in enumerate(lines(tmp_path / "run/metrics.jsonl")):
        rows = replay[len(replay) - 8 + 4 * number :][:4]
        assert row["cause_true"] == sum(r["cause"] is True for r in rows) / 4
        assert row["mean_rating"] == pytest.approx(sum(r["rating"] for r in rows) / 4)
        own = [told(" ".join(r["response"].split())) for r in rows if r["env"] == "guess"]
        assert len(own) == 2
        for field in ("cause", "sound", "notes"):
            known = [v for v in (getattr(one, field) for one in own) if v is not None]
            share = sum(known) / len(known) if known else None
            assert row["faithfulness"]["guess"][field] == share
        assert 0 <= row["plan_sound"] <= 1 and "notes_true" in row

@pytest.mark.parametrize("mode", ["offline", slow("online")])
def test_a_price_runs_in_either_mode(judged, tiny_base, tmp_path, monkeypatch, mode):
    """Offline the reward model says the gain, and the judge what is false: for nothing."""
    seen = spied(monkeypatch)
    played, rollout = [], train.rollout

    def spy(*args):
        played.append(rollout(*args))
        return played[-1]

    monkeypatch.setattr(train, "rollout", spy)
    train.main(config(tiny_base, tmp_path / "run", envs="guess", mode=mode, cause_price=0.4,
                      baseline_step=0.0))  # fmt: skip
    for ratings, one in zip(seen, played, strict=True):
        causes = [told(r.text).cause for r in one.reflections]
        expected = [r - 0.4 * (c is not True) for r, c in zip(one.ratings, causes)]
        assert ratings == pytest.approx(expected, abs=1e-6)

def test_a_price_needs_somebody_who_can_tell(tiny_base, tmp_path):
    """Before there is a folder."""
    with pytest.raises(ValueError, match="^--cause-price 0.4: guess has no judge, so no cause can"):
        train.main(config(tiny_base, tmp_path / "x", envs="household,guess", cause_price=0.4))
    with pytest.raises(ValueError, match="^--cause-price 0.4: --from-buffer has no trials, so no"):
        train.main(config(tiny_base, tmp_path / "x", from_buffer="nowhere", cause_price=0.4))
    assert not (tmp_path / "x").exists()
    for name in ("household", "hotpot", "shop"):
        train.check_judges(config(tiny_base, "", cause_price=0.4), {name: envs.make(name)})

# ---- failed trials of the reflector that is trained

REFRESHED = dict(envs="guess", updates=5, train_tasks=3, collect_rounds=2, refresh=1.0)

def test_an_update_reflects_on_each_tasks_newest_failed_trials(
    tiny_base, tmp_path, monkeypatch
):
    """By failed.jsonl alone: of a task the last so many lines from before the update, as many as
    were collected. A retry that entered begins with what the update before it had written.
    """
    leave_out_evaluation(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", **REFRESHED))
    failed, replay = lines(tmp_path / "run/failed.jsonl"), lines(tmp_path / "run/replay.jsonl")
    collected = [row for row in failed if "update" not in row]
    assert failed[: len(collected)] == collected and len(collected) <= len(failed) - 8
    first = [row["trajectory"] for row in collected if row["trial"] == 0]
    for number in range(5):
        there: dict[str, list[str]] = defaultdict(list)
        sizes: dict[str, int] = defaultdict(int)
        for row in failed:
            own = row["trajectory"]
            sizes[own["task_id"]] += "update" not in row
            if row.get("update", -1) < number:
                there[own["task_id"]].append(own["steps"][-1]["action"])
        rows = replay[len(replay) - 20 + 4 * number :][:4]
        for row in rows:
            task = row["task_id"]
            assert row["prompt"].split("\n> ")[-1].split("\n")[0] in there[task][-sizes[task] :]
        for row in (row for row in failed if row.get("update") == number):
            own = row["trajectory"]
            if row["trial"] == 0:
                assert own in first
            else:
                said = {r["response"].strip() for r in rows if r["task_id"] == own["task_id"]}
                assert own["reflections"][-1] in said and not own["success"]
    assert max(row["trial"] for row in failed) > 1

@pytest.mark.parametrize(
    "owner, name, calls",
    [
        (train, "update", 3),
        slow(Contexts, "replace", 5),
        slow(train, "check_health", 4),
        slow(retro.learn, "reflect", 6),
        slow(train, "save_adapter", 2),
    ],
)
def test_resumed_with_other_failed_trials_equals_uninterrupted(
    tiny_base, tmp_path, monkeypatch, owner, name, calls
):
    """Killed right after a call, then resumed: the same files, byte for byte."""
    leave_out_evaluation(monkeypatch)
    train.main(config(tiny_base, tmp_path / "whole", **REFRESHED))
    left, function = calls, getattr(owner, name)

    def counted(*args, **kwargs):
        nonlocal left
        result, left = function(*args, **kwargs), left - 1
        if left == 0:
            raise Killed
        return result

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, counted)
        train.main(config(tiny_base, tmp_path / "killed", **REFRESHED))
    train.main(config(tiny_base, tmp_path / "killed", resume=True, **REFRESHED))
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    assert any(row.get("update", 0) > 2 for row in lines(tmp_path / "whole/failed.jsonl"))

def test_without_refresh_the_failed_trials_stay(tiny_base, tmp_path, monkeypatch):
    leave_out_evaluation(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", **REFRESHED | {"refresh": 0.0}))
    assert not any("update" in row for row in lines(tmp_path / "run/failed.jsonl"))

# ---- without notes

def test_a_run_without_notes_is_trained_evaluated_and_played_by_one_request(
    tiny_base, tmp_path, monkeypatch, capsys
):
    """The request ends in `Reflection: Cause:`, and what the memories hold begins with it."""
    asked, request = [], prompts.reflection_request

    def heard(*args, **kwargs):
        asked.append(request(*args, **kwargs))
        return asked[-1]

    monkeypatch.setattr(prompts, "reflection_request", heard)
    run = tmp_path / "run"
    train.main(config(tiny_base, run, notes=False, collect_rounds=2, **GUESS))
    assert json.loads((run / "config.json").read_text())["notes"] is False
    evaluated(run, tmp_path, report=str(tmp_path / "page.html"),
              transcripts=str(tmp_path / "t.txt"), methods="react,reflexion,retroformer")
    monkeypatch.setattr(play, "CANDIDATES", 2)
    play.main(play.Config(run_dir=str(run), env="guess", retries=1))
    assert len(asked) > 20 and all(text.endswith("\nReflection: Cause:") for text in asked)
    assert "\nCause:" in capsys.readouterr().out
    replay = lines(run / "replay.jsonl")
    assert all(row["prompt"].endswith("\nReflection: Cause:") for row in replay)
    second = [row["trajectory"] for row in lines(run / "failed.jsonl") if row["trial"] == 1]
    assert second and all(t["reflections"][-1].startswith("Cause:") for t in second)
    # what the actor reads has no `Cause:`, unless the model has written one, or nothing, itself
    shown = (tmp_path / "t.txt").read_text()
    assert "\nReflection: " in shown and shown.count("\nReflection: Cause: ") == 0

    lm = open_model(str(tiny_base), torch.device("cpu"), False)
    with pytest.raises(ValueError, match="replay.jsonl:1: prompt ends in 'Reflection: Cause:'"):
        read_buffer(run / "replay.jsonl", (-1.0, 1.0), lm)
    again = dict(from_buffer=str(run / "replay.jsonl"), updates=1, notes=False, envs="guess")
    train.main(config(tiny_base, tmp_path / "again", **again))
    again = {row["prompt"] for row in lines(tmp_path / "again/replay.jsonl")}
    assert again == {row["prompt"] for row in replay}

def test_a_chat_model_cannot_be_asked_without_notes(tiny_base, tiny_chat, tmp_path):
    settings = config(tiny_base, tmp_path / "x", reflector=str(tiny_chat), notes=False)
    with pytest.raises(ValueError, match="^--no-notes: .* is a chat model, which is asked in"):
        train.main(settings)
    assert not (tmp_path / "x").exists()
