"""eval.py on small runs: online, offline, two adapters, another environment; what it refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import envs
import eval as evaluation
from envs.panel import content_hash, manifest, panel_hash
from retro.evaluate import UNTRAINED, Evaluation, methods_of
from retro.run.files import read_json, write_json
from tests.small_run import evaluated, short_games  # noqa: F401

ROOT = Path(__file__).parent.parent

@pytest.fixture
def offline_run(small_run):
    return small_run("offline", guess=True)

@pytest.fixture
def two_runs(small_run, tmp_path):
    """--runs of two: one run, and the same with another adapter and no checkpoint to tell."""
    run = small_run("online", guess=True)
    other = shutil.copytree(run, tmp_path / "other", ignore=lambda *_: ["checkpoint"])
    path = other / "adapter/adapter_model.safetensors"
    draws = torch.Generator().manual_seed(0)
    save_file({k: torch.randn(w.shape, generator=draws) for k, w in load_file(path).items()}, path)
    return f"{run},{other}"

@pytest.fixture
def played(monkeypatch) -> list[int]:
    """The number of trials asked for at each retry, of those that Evaluation has played."""
    counts, trials = [], Evaluation.trials

    def counted(self, retry, asked):
        counts.append(len(asked))
        return trials(self, retry, asked)

    monkeypatch.setattr(Evaluation, "trials", counted)
    return counts

def test_eval_reads_a_run(small_run, tmp_path, capsys):
    run = small_run("online")
    both = evaluated(
        run, tmp_path, transcripts=str(tmp_path / "t.txt"), methods="react,retroformer"
    )
    assert capsys.readouterr().out.endswith(f"\nwrote {tmp_path}/r.json, {tmp_path}/t.txt\n")
    assert [report["env"] for report in both] == ["household", "guess"]
    one = evaluated(run, tmp_path, env="guess", methods="react,retroformer")
    assert one == both[1]
    assert set(one) == {"env", "split", "seed", "repeats", "template", "methods", "comparisons",
                        "runs", "panel"}  # fmt: skip
    assert list(one["methods"]) == ["react", "retroformer"]
    shares = {"n", "success_by_retry", "ci95", "conditional_by_retry", "mean_return_by_retry"}
    written = shares | {"faithfulness"}
    react, ours = one["methods"].values()
    assert set(react) == shares | {"temperature"} and react["temperature"] is None
    assert set(ours) == written | {"temperature", "by_temperature", "mutual_information"}
    assert list(ours["by_temperature"]) == ["0", "0.3", "1"]
    assert all(set(own) == written for own in ours["by_temperature"].values())
    assert {k: ours[k] for k in written} == ours["by_temperature"][f"{ours['temperature']:g}"]
    (versus,) = one["comparisons"]["retroformer"].values()
    assert set(versus) == {"difference_by_retry", "ci95", "wins", "losses", "p"}
    env = envs.make("guess")
    assert one["panel"] == panel_hash(manifest(env, env.tasks("unseen", 2, 1)))
    assert one["runs"] == ["online"]
    assert "Reflection:" in (tmp_path / "t.txt").read_text()
    with pytest.raises(ValueError, match="best-of 2: needs the reward model"):
        evaluated(run, tmp_path, best_of=2)
    with pytest.raises(ValueError, match="retroformer_offline'?: must be among"):
        evaluated(run, tmp_path, methods="retroformer_offline")

def test_eval_of_an_offline_run_transfers_and_picks_the_best(tiny_base, offline_run, tmp_path):
    """To an environment it was not trained on, with another actor, best of 3."""
    single = evaluated(offline_run, tmp_path)
    assert list(single["methods"]) == [m for m in methods_of("offline") if m != "template"]
    assert single["env"] == "guess"
    moved = evaluated(
        offline_run,
        tmp_path,
        env="household",
        actor=str(tiny_base),
        best_of=3,
        methods="react,template,retroformer_offline,best_of",
    )
    assert moved["env"] == "household" and moved["template"] in envs.make("household").templates
    assert list(moved["methods"]) == ["react", "template", "retroformer_offline", "best_of"]
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/config.json").write_bytes((offline_run / "config.json").read_bytes())
    with pytest.raises(ValueError, match="best-of: each run has a reward model of its own"):
        evaluated(offline_run, tmp_path, runs=f"{offline_run},{tmp_path}/copy", best_of=3)

def test_two_adapters_are_pooled_and_what_has_none_is_played_once(two_runs, tmp_path, played):
    """Nobody ever wins: each of 3 tasks x 2 repeats has all its retries, in all that is played."""
    both = evaluated("unused", tmp_path, runs=two_runs, tasks=3, repeats=2,
                     methods="react,reflexion,retroformer,best_of", best_of=5, temperatures="0.5,1")
    rows = 3 * 2
    # react; reflexion and retroformer at two temperatures, the latter twice; best_of twice
    assert played[-2:] == [rows, rows * (1 + 2 + 2 * 2 + 5 * 2)]
    assert both["runs"] == ["online", "other"] and both["repeats"] == 2
    assert {name: own["n"] for name, own in both["methods"].items()} == dict.fromkeys(
        ("react", "reflexion", "retroformer", "best_of"), 3
    )
    alone = [evaluated(run, tmp_path, tasks=3, repeats=2, methods="react,retroformer",
                       temperatures="0.5") for run in two_runs.split(",")]  # fmt: skip
    ours = both["methods"]["retroformer"]["by_temperature"]["0.5"]
    mean = lambda key: [sum(pair) / 2 for pair in zip(*(
        one["methods"]["retroformer"][key] for one in alone
    ))]  # fmt: skip
    assert ours["mean_return_by_retry"] == pytest.approx(mean("mean_return_by_retry"))
    assert ours["success_by_retry"] == mean("success_by_retry") == [0, 0]
    assert alone[0]["methods"]["react"] == alone[1]["methods"]["react"] == both["methods"]["react"]
    assert alone[0]["methods"]["retroformer"] != alone[1]["methods"]["retroformer"]

def test_choices_are_the_runs_or_made_now(two_runs, tmp_path, played, monkeypatch):
    """Made now if the run has none for the environment, or another reflector writes."""
    run, other = two_runs.split(",")
    short = dict(methods="react,retroformer", tasks=1)
    evaluated(run, tmp_path, **short)
    assert len(played) == 2  # the first trials, the retry
    shares = dict.fromkeys(("reflexion", "sft", "retroformer"), {"0": 0.0, "0.3": 1.0, "1": 0.0})
    found = {"guess": {"templates": {}, "temperatures": shares}}
    write_json(tmp_path / "other/choices.json", found)
    assert evaluated(other, tmp_path, **short)["methods"]["retroformer"]["temperature"] == 0.3
    pooled = evaluated("", tmp_path, runs=two_runs, **short)  # (0, 0, 0) and (0, 1, 0)
    assert pooled["methods"]["retroformer"]["temperature"] == 0.3 and len(played) == 6
    found = evaluated(other, tmp_path, temperatures="0,1", **short)
    assert found["methods"]["retroformer"]["temperature"] == 0.0 and len(played) == 8
    evaluated(other, tmp_path, temperatures="0,0.7", **short)
    assert len(played) == 12  # 0.7 has not been tried
    (tmp_path / "other/choices.json").unlink()
    evaluated(other, tmp_path, **short)
    assert len(played) == 16
    for lacks in ({"sft": shares["sft"]}, {"retroformer": {"0": 0.0, "1": 0.0}}):  # methods differ
        found = {"guess": {"templates": {}, "temperatures": lacks}}
        write_json(tmp_path / "other/choices.json", found)
        before = len(played)
        evaluated("", tmp_path, runs=two_runs, **short)
        assert len(played) == before + 4

def test_another_actor_makes_the_runs_choices_anew(two_runs, tiny_base, tmp_path, played):
    run = two_runs.split(",")[0]
    evaluated(run, tmp_path, methods="react,retroformer", tasks=1, actor=str(tiny_base))
    assert len(played) == 4

def test_an_offline_runs_temperatures_are_for_its_number_of_samples(offline_run, tmp_path, played):
    settings = dict(methods="react,retroformer_offline", tasks=1)
    trained_with = read_json(offline_run / "config.json")["best_of"]
    evaluated(offline_run, tmp_path, best_of=trained_with, **settings)
    assert len(played) == 2
    evaluated(offline_run, tmp_path, **settings)
    assert len(played) == 6

@pytest.mark.parametrize("temperatures, at", [("0", 0.0), ("0.3", 0.3), ("0.3,1", 0.3)])
def test_shuffled_without_its_method_is_played_at_a_temperature_that_was_asked_for(
    two_runs, tmp_path, temperatures, at
):
    found = evaluated("", tmp_path, runs=two_runs, methods="react,shuffled",
                      temperatures=temperatures)  # fmt: skip
    assert found["methods"]["shuffled"]["temperature"] == at
    assert list(found["methods"]) == ["react", "shuffled"]

@pytest.mark.slow
@pytest.mark.parametrize("tasks", [1, 5])  # 1: the second process has none
def test_two_processes_find_what_one_finds(small_run, tmp_path, tasks):
    """Shuffled too, whose texts come from the tasks of both."""
    found = []
    for threads in "12":
        command = ["eval.py", f"--run-dir={small_run('online')}", "--env=household", "--repeats=3",
                   f"--tasks={tasks}", "--retries=1", "--methods=react,reflexion,shuffled",
                   "--temperatures=1", f"--json={tmp_path / threads}"]  # fmt: skip
        done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True,
                              env=os.environ | dict(OMP_NUM_THREADS=threads))  # fmt: skip
        assert done.returncode == 0, done.stderr
        said = done.stdout.replace(str(tmp_path / threads), "FILE")
        found.append((read_json(tmp_path / threads), said))
    (report, _), other = found
    assert other == (report, _) and report["methods"]["react"]["n"] == tasks
    assert tasks == 1 or report["methods"]["shuffled"]["faithfulness"]["n"] > 1

def test_another_reflector_has_no_adapter(offline_run, tiny_chat, tmp_path):
    found = evaluated(offline_run, tmp_path, reflector=str(tiny_chat))
    assert list(found["methods"]) == [m for m in UNTRAINED if m != "template"]

# ---- what it refuses

def test_tasks_that_a_run_was_trained_on_are_refused(two_runs, tmp_path):
    """Whatever they are called. Not where training tasks are asked for."""
    other = tmp_path / "other"
    tasks = envs.make("guess").tasks("unseen", 2, 1)
    named = [content_hash(task | {"id": "new", "max_steps": 9}) for task in tasks[1:]]
    write_json(other / "trained_on.json", {"hashes": named})
    message = f"{other}: was trained on 1 of the 2 tasks of guess, such as unseen-1-1"
    for runs in (str(other), two_runs):
        with pytest.raises(ValueError, match=message):
            evaluated("", tmp_path, runs=runs, methods="react")
    evaluated(other, tmp_path, methods="react", seed=2)
    assert evaluated(other, tmp_path, methods="react", split="train", seed=0)["split"] == "train"

@pytest.mark.parametrize(
    "key, value", dict(mode="offline", base="x", adapt_prompt=True, memory=9,
                       actor_temperature=0.5).items()
)  # fmt: skip
def test_runs_of_another_kind_are_not_pooled(two_runs, tmp_path, key, value):
    settings = read_json(tmp_path / "other/config.json")
    write_json(tmp_path / "other/config.json", settings | {key: value})
    with pytest.raises(ValueError, match=f"--runs: .*other has another {key} than .*online"):
        evaluated("", tmp_path, runs=two_runs)

@pytest.mark.parametrize(
    "change, message",
    [
        (dict(products="p.json"), "shop needs --products, and --attributes or --goals"),
        (dict(env="guess", data="d.json"), "a file of hotpot is given"),
        (dict(env="guess", methods="template"), "guess has no templates"),
        (dict(env="magic"), "magic"),
        (dict(temperatures="0,hot"), "--temperatures '0,hot': numbers from 0"),
        (dict(temperatures="-1"), "--temperatures '-1'"),
        (dict(temperatures="nan"), "--temperatures 'nan'"),
    ],
)
def test_eval_says_what_is_wrong(offline_run, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        evaluated(offline_run, tmp_path, **change)

def spoil_adapter(run: Path) -> None:
    (run / "adapter/adapter_model.safetensors").write_bytes(b"x")

def spoil_sft(run: Path) -> None:
    shutil.rmtree(run / "sft")

def spoil_choices(run: Path) -> None:
    write_json(run / "choices.json", {"guess": 3})

def spoil_tasks(run: Path) -> None:
    (task, _) = envs.make("guess").tasks("unseen", 2, 1)
    write_json(run / "trained_on.json", {"hashes": [content_hash(task)]})

@pytest.mark.parametrize("harm, change, message", [
    (spoil_adapter, {}, "last/adapter/adapter_model.safetensors: is not a whole safetensors file"),
    (spoil_sft, {}, "last/sft: is not there, the run has not come to its end; train.py --run-dir .*"
     "last --resume goes on with it"),
    (spoil_choices, {}, "last/choices.json: guess has no shares by template"),
    (spoil_tasks, {}, "last: was trained on 1 of the 2 tasks of guess, such as unseen-1-0"),
    (None, dict(methods="template"), "--methods template: guess has no templates"),
    (None, dict(env="household,hotpot", data="/none.json"), "/none.json: cannot be read"),
    (None, dict(json="/dev/null/r.json"), "/dev/null/r.json: cannot be written"),
    (None, dict(actor="/nowhere"), "/nowhere"),
])  # fmt: skip
def test_it_is_said_before_anything_is_played(
    small_run, tmp_path, played, harm, change, message
):
    """Of the last run, and of the last environment, in whose turn it would have come out."""
    runs = [small_run("online"), tmp_path / "last"]
    shutil.copytree(runs[0], runs[1], ignore=lambda *_: ["checkpoint"])
    played.clear()  # of the run itself
    if harm:
        harm(runs[1])
    with pytest.raises(ValueError, match=message):
        evaluated("", tmp_path, runs=",".join(map(str, runs)), **change)
    assert not played and not (tmp_path / "r.json").exists()

def test_without_a_run_there_is_train_py_to_be_run_first(tmp_path):
    message = f"{tmp_path}/none: holds no run .no config.json is there.: run train.py first, or"
    with pytest.raises(ValueError, match=message):
        evaluated(tmp_path / "none", tmp_path)
    with pytest.raises(ValueError, match=f"{tmp_path}/none: holds no run"):
        evaluated("", tmp_path, runs=f"{tmp_path}/none,{tmp_path}/other")

@pytest.mark.parametrize("seed, said", [(999_999, False), (1_000_000, True), (2_000_000, False)])
def test_a_test_seed_is_named(seed, said):
    found = dict(env="guess", split="unseen", seed=seed, repeats=3, runs=["a", "b"], panel="0" * 64)
    text = evaluation.heading(found, 9, envs.make("guess"))
    assert ("a test seed" in text) is said
    assert "9 tasks of guess (unseen), 3 times each, adapters of 2 runs; panel 000000000000" in text
    assert "test seed" not in evaluation.heading(found | {"split": "seen"}, 9, envs.make("guess"))

@pytest.mark.slow
def test_a_reflector_behind_an_api_writes_once(small_run, tmp_path, url, key, played):
    """At temperature 1; how it weighs its words is not known here."""
    run = small_run("online", guess=True)
    played.clear()
    found = evaluated(run, tmp_path, methods="react,reflexion", reflector="openai",
                      base_url=f"{url}/v1", reflector_model="base", api="completions",
                      answers=str(tmp_path / "answers"))  # fmt: skip
    reflexion = found["methods"]["reflexion"]
    assert reflexion["temperature"] == 1.0 and "by_temperature" not in reflexion
    assert reflexion["mutual_information"] is None and reflexion["faithfulness"]["n"] == 2
    assert len(played) == 2
