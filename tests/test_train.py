"""The whole run, small: it can be killed anywhere and goes on as if nothing had happened; its
doors.
"""

import dataclasses
import inspect
import json
import re
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

import envs
import retro.learn
import train
from envs.panel import content_hash
from retro import prompts
from retro.evaluate import methods_of
from retro.interop.open import open_model
from retro.learn import Arena, FailedTrial
from retro.report.outcomes import read_outcomes
from retro.report.page import FEW
from retro.report.pool import pooled, read_runs
from retro.run.checkpoint import load, save
from retro.run.files import JsonLines, read_json
from retro.tokenizer import Tokenizer
from tests.guess import Guess
from tests.small_run import GUESS, Killed, config, outcome, short_games, slow  # noqa: F401

ROOT = Path(__file__).parent.parent

@pytest.mark.parametrize(
    "mode, owner, name, calls",
    [
        ("online", train, "collect", 2),
        slow("online", Arena, "retry", 6),  # four in the collection, then one an update
        slow("offline", train, "fit", 1),
        slow("online", train, "update", 2),
        slow("offline", retro.learn, "ppo_update", 2),
        slow("online", retro.learn, "reflect", 5),  # as `retry`
        slow("online", retro.learn, "ppo_update", 1),
        slow("online", train, "measure_gap", 1),
        slow("online", train, "try_templates", 1),
        slow("online", train, "choose", 1),
        slow("online", train, "evaluate", 1),
        slow("online", train, "save_adapter", 1),
        slow("offline", train, "print_reward", 1),
    ],
)
def test_resumed_equals_uninterrupted(
    tiny_base, tmp_path, monkeypatch, small_run, mode, owner, name, calls
):
    """Killed right after the n-th call of a function, then resumed: the same files, byte for byte.
    """
    left = calls

    def count():
        nonlocal left
        left -= 1
        if left == 0:
            raise Killed

    folder = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, counted(getattr(owner, name), count))
        train.main(config(tiny_base, folder, mode=mode))
    train.main(config(tiny_base, folder, mode=mode, resume=True))
    assert outcome(folder) == outcome(small_run(mode))

def counted(function, count):
    """The same function, which calls `count` at its end."""

    def whole(*args, **kwargs):
        result = function(*args, **kwargs)
        count()
        return result

    def whole_generator(*args, **kwargs):
        yield from function(*args, **kwargs)
        count()

    return whole_generator if inspect.isgeneratorfunction(function) else whole

@pytest.mark.slow
def test_choices_survive_a_kill(tiny_base, tmp_path, monkeypatch, small_run):
    """Killed in the second environment's choice: the first one's is not made again."""
    folder, tried = tmp_path / "run", []
    try_temperatures = train.try_temperatures

    def counted(evaluation, *rest):
        tried.append(evaluation.env.name)
        if len(tried) == 2:
            raise Killed
        return try_temperatures(evaluation, *rest)

    monkeypatch.setattr(train, "try_temperatures", counted)
    with pytest.raises(Killed):
        train.main(config(tiny_base, folder))
    assert not (folder / "choices.json").exists()
    train.main(config(tiny_base, folder, resume=True))
    assert tried == ["household", "guess", "guess"]
    assert outcome(folder) == outcome(small_run("online"))

def killer(*args, **kwargs):
    raise Killed

def leave_out_evaluation(patch) -> None:
    patch.setattr(train, "choose", lambda *args: {})
    patch.setattr(train, "compare_methods", lambda *args: None)

def test_results_are_one_report_for_each_environment(small_run):
    runs = {mode: outcome(small_run(mode)) for mode in ("online", "offline")}
    both = {"household", "guess"}
    for mode, left in runs.items():
        reports, choices = json.loads(left[3]), json.loads(left[-2])
        assert [r["env"] for r in reports] == ["household", "guess"]
        methods = [name for name in methods_of(mode) if name not in ("last_attempt", "shuffled")]
        assert list(reports[0]["methods"]) == methods
        assert list(reports[1]["methods"]) == [m for m in methods if m != "template"]  # it has none
        written = ["reflexion", "sft", methods[-2]]
        for report in reports:
            own = choices[report["env"]]
            assert list(own["temperatures"]) == written
            for name in written:  # the table has each at the first of its best temperatures
                shares = own["temperatures"][name]
                assert list(shares) == ["0", "0.3", "1"]
                best = next(t for t in shares if shares[t] == max(shares.values()))
                assert report["methods"][name]["temperature"] == float(best)
            assert set(report["comparisons"]) == {methods[-2]}
        templates = choices["household"]["templates"]
        assert set(templates) == {*envs.make("household").templates} and reports[0]["template"]
        assert not choices["guess"]["templates"] and not reports[1]["template"]
        for row in left[0]:
            assert (row["success"] is None) == (mode == "offline")
            assert set(row["mean_rating_by_env"]) == set(row["faithfulness"]) == both
            assert set(row["mutual_information"]) <= both  # of one failed trial there is none
            said = row["faithfulness"]["household"]
            assert said["n"] == sum(said["kinds"].values()) == 2  # an update's, of one environment
            assert set(row["faithfulness"]["guess"]["kinds"]) == {""}  # it has no judge
    replay = [json.loads(line) for line in runs["online"][1].splitlines()]
    last = replay[-4:]  # an update's rated reflections: equal parts
    assert sorted(row["env"] for row in last) == ["guess"] * 2 + ["household"] * 2

def test_a_run_ends_with_its_page_and_says_where(small_run, tiny_base, capsys):
    """Resumed after its end it writes all of that again: the same, with a dozen episodes of an
    environment at most, in at most 80 columns of progress.
    """
    folder = small_run("online", guess=True)
    names = ("report.html", "outcomes.json", "results.svg", "results.json")
    before = {name: (folder / name).read_bytes() for name in names}
    for name in names:
        (folder / name).unlink()
    train.main(config(tiny_base, folder, resume=True, **GUESS))
    assert {name: (folder / name).read_bytes() for name in names} == before
    said = capsys.readouterr()
    wrote = "wrote adapter, metrics.jsonl, results.json, results.svg; open {} in a browser\n"
    assert said.out.endswith(f"see {folder}/\n" + wrote.format(folder / "report.html"))
    assert max(map(len, said.err.replace("\r", "\n").splitlines()), default=0) <= 80
    html, (report,) = before["report.html"].decode(), json.loads(before["results.json"])
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert [own["env"] for own in data["reports"]] == ["guess"] and len(data["metrics"]) == 1
    assert data["reports"][0]["runs"] == [folder.name] and len(data["reports"][0]["panel"]) == 64
    found = read_outcomes(folder)["guess"]
    for name, result in report["methods"].items():
        solved = found["methods"][name]["solved_at"]
        for retry, share in enumerate(result["success_by_retry"]):
            won = [at is not None and at <= retry for at in solved]
            assert sum(won) / len(won) == pytest.approx(share)
    (alone,) = pooled(read_runs([str(folder)]))  # a run that is pooled with none is itself
    assert alone["comparisons"] == report["comparisons"]
    for name, own in alone["methods"].items():
        assert own == {key: report["methods"][name][key] for key in own}
    tasks = envs.make("guess").tasks("unseen", len(found["tasks"]), 0)
    assert found["tasks"] == [content_hash(task) for task in tasks]

def test_the_page_at_a_runs_end_has_a_dozen_episodes(tiny_base, tmp_path, monkeypatch):
    """Of 14 failed first trials."""
    monkeypatch.setattr(Guess, "step", lambda self, action: ("No.", 0, False, True, self.info()))
    train.main(config(tiny_base, tmp_path / "run", **GUESS | {"updates": 0}, eval_tasks=14))
    html = (tmp_path / "run/report.html").read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.S)[1])
    assert data["failed"] == 14 and len(data["episodes"]) == FEW == 12

def test_repeats_are_more_first_trials_each_with_its_name(tiny_base, tmp_path, monkeypatch):
    """Four tasks, three times: 12 first trials of which almost none equals another."""
    monkeypatch.setattr(train, "imitate", killer)
    folder = tmp_path / "run"
    with pytest.raises(Killed):
        train.main(config(tiny_base, folder, envs="guess", train_repeats=3))
    lm = open_model(str(tiny_base), torch.device("cpu"), False)
    failed = [FailedTrial.from_json(row, lm) for row in JsonLines(folder / "failed.jsonl")]
    assert Counter(f.task_id for f in failed) == {f"train-0-{i}": 3 for i in range(4)}
    texts = {(f.task_id, f.trajectory.text()) for f in failed}
    assert len({f.key for f in failed}) == len(texts) > 8

# ---- files, and tasks that are trained on

def questions(path: Path, n: int, seed=0, **changes) -> str:
    """A file of HotpotQA's, of generated questions."""
    items = [task["item"] | changes for task in envs.make("hotpot").tasks("train", n, seed)]
    path.write_text(json.dumps(items))
    return str(path)

def test_a_task_is_refused_in_the_table_if_it_is_trained_on(tiny_base, tmp_path):
    """Under another id too; not where all are others."""
    data = questions(tmp_path / "a.json", 4)
    same, other = questions(tmp_path / "b.json", 1, _id="new"), questions(tmp_path / "c.json", 4, 1)
    settings = dict(envs="hotpot", data=data, eval_tasks=4)
    with pytest.raises(ValueError, match="hotpot: 1 of the table's 1 tasks are trained on, such"):
        train.set_up(config(tiny_base, tmp_path / "x", eval_data=same, **settings))
    assert not (tmp_path / "x").exists()
    training = train.set_up(config(tiny_base, tmp_path / "y", eval_data=other, **settings))
    assert [len(tasks) for tasks in training.eval_tasks.values()] == [4]
    hashes = read_json(tmp_path / "y/trained_on.json")["hashes"]
    assert hashes == sorted(content_hash(task) for task in training.train_tasks)
    assert len(set(hashes)) == 4 and not {*hashes} & {
        content_hash(task) for task in training.eval_tasks["hotpot"]
    }

def test_the_table_may_ask_for_training_tasks(tiny_base, tmp_path):
    settings = config(tiny_base, tmp_path / "x", envs="guess", eval_tasks=4)
    training = train.set_up(dataclasses.replace(settings, eval_split="train"))
    assert training.eval_tasks["guess"] == training.train_tasks

def test_without_other_files_the_table_has_generated_tasks(tiny_base, tmp_path):
    data = questions(tmp_path / "a.json", 2)
    settings = config(tiny_base, tmp_path / "x", envs="hotpot,guess", data=data)
    (own, guess), (other, same) = (found.values() for found in train.open_environments(settings))
    first = lambda env: env.tasks("unseen", 1, 5)[0]["item"]
    assert first(other) == first(envs.make("hotpot")) != first(own)
    assert same is guess
    assert (own.source, other.source, guess.source) == ("a.json", "", "")  # what the table names

@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(envs="guess", data="d"), "--envs guess: files of hotpot are given$"),
        (dict(envs="hotpot", games="d"), "--envs hotpot: files of household are given$"),
        (dict(envs="guess", eval_games="d"), "files of household are given for the table"),
        (dict(envs="shop", products="p"), "shop needs --products, and --attributes or --goals"),
        (dict(envs="shop", goals="g"), "--products '': shop needs"),
        (dict(envs="shop", eval_goals="g"), "name their file too"),
    ],
)
def test_files_belong_to_their_environment(tiny_base, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train.set_up(config(tiny_base, tmp_path / "x", **changes))
    assert not (tmp_path / "x").exists()

@pytest.mark.parametrize(
    "change",
    [
        dict(rating="next", group=1, lora_rank=1, adapt_prompt=True),
        slow(dict(advantage="group", mode="offline", memory=1)),
        slow(dict(kl_coef=0.0)),
        slow(dict(sft_epochs=0)),
        slow(dict(rating="next")),
        slow(dict(rating="success", mode="offline")),
        slow(dict(group=1)),
        slow(dict(advantage="group")),
        slow(dict(lora_rank=1, adapt_prompt=True)),
        slow(dict(adapt_prompt=True, mode="offline")),
    ],
)
def test_ablations_run_and_are_read(tiny_base, tmp_path, change, small_run):
    settings = config(tiny_base, tmp_path / "run", **GUESS | change)
    train.main(settings)
    left = outcome(tmp_path / "run")
    assert left[:2] != outcome(small_run(settings.mode, guess=True))[:2]
    assert left[3] is not None and len(left[0]) == 1
    replay = [json.loads(line) for line in left[1].splitlines()]
    if settings.mode == "online":  # the update's rows come in groups on one prompt
        first, second, third, fourth = (row["prompt"] for row in replay[-4:])
        assert second != third and {first == second, third == fourth} == {settings.group == 2}
    assert (left[0][0]["value_loss"] == 0) == (settings.advantage == "group")
    if settings.rating == "next":
        assert all(row["rating"] == row["next_return"] for row in replay)

def test_without_memory_every_method_is_a_plain_retry(tiny_base, tmp_path):
    train.main(config(tiny_base, tmp_path / "run", envs="guess", memory=0, updates=0, eval_tasks=9))
    (report,) = json.loads((tmp_path / "run" / "results.json").read_text())
    for result in report["methods"].values():
        shares = [key for key in result if key.endswith("_by_retry")]
        assert len(shares) == 3
        assert all(result[key] == report["methods"]["react"][key] for key in shares)
    for rivals in report["comparisons"].values():
        assert all(rival["wins"] == rival["losses"] == [0, 0] for rival in rivals.values())

def test_a_group_is_as_large_as_divides_the_batch(tiny_base, tmp_path, monkeypatch):
    leave_out_evaluation(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", group=6, updates=1, envs="guess"))
    replay = [json.loads(line) for line in (tmp_path / "run/replay.jsonl").read_text().splitlines()]
    first, second, third, fourth = (row["prompt"] for row in replay[-4:])
    assert first == second != third == fourth
    alone = config(tiny_base, tmp_path / "alone", group=3, advantage="group")
    with pytest.raises(ValueError, match="advantage group: each reflection would be alone"):
        train.main(alone)

def test_seed_decides_everything(tiny_base, tmp_path, small_run, monkeypatch):
    """Another one collects other ratings; `test_kill.py` has the same one twice."""
    known = outcome(small_run("online"))[1]
    monkeypatch.setattr(train, "imitate", killer)
    with pytest.raises(Killed):
        train.main(config(tiny_base, tmp_path / "run", seed=1))
    other = outcome(tmp_path / "run")[1]
    assert other and not known.startswith(other)

def test_folder_in_use_is_refused_and_so_are_other_settings(tiny_base, tmp_path, small_run):
    settings = config(tiny_base, small_run("online"))
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
    files = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.jsonl")}
    with pytest.raises(SystemExit, match="0% of the reflections are well-formed"):
        train.main(dataclasses.replace(settings, min_well_formed=0.5, resume=True))
    assert files == {path: path.read_bytes() for path in files}
    stats = {"kl": 81.0, "well_formed": 1.0}
    with pytest.raises(SystemExit, match="KL 81 nats"):
        train.check_health(stats, settings.max_kl, 0.5)

def test_a_prompt_is_built_and_encoded_once(tiny_base, tmp_path, monkeypatch):
    """When a trial has failed, it becomes a prompt: reflecting, retrying, learning and storing in
    two updates then build and encode nothing of it again. A retry that failed becomes one, too.
    """
    built, encoded, in_updates = [], [], []
    transcript, encode, one_update = prompts.transcript, Tokenizer.encode, train.one_update

    def counted_transcript(*args):
        built.append(args)
        return transcript(*args)

    def counted_encode(tokenizer, text):
        if text.endswith(prompts.REFLECT):
            encoded.append(text)
        return encode(tokenizer, text)

    def counted_update(*args):
        before = len(built), len(encoded)
        stats = one_update(*args)
        in_updates.append((len(built) - before[0], len(encoded) - before[1]))
        return stats

    monkeypatch.setattr(prompts, "transcript", counted_transcript)
    monkeypatch.setattr(Tokenizer, "encode", counted_encode)
    monkeypatch.setattr(train, "one_update", counted_update)
    leave_out_evaluation(monkeypatch)
    train.main(config(tiny_base, tmp_path / "run", refresh=0.0))
    failed = (tmp_path / "run/failed.jsonl").read_text().splitlines()
    assert in_updates == [(0, 0)] * 2
    assert len(encoded) == len(set(encoded)) == len(failed) == 8
    train.main(config(tiny_base, tmp_path / "new", refresh=1.0))
    rows = [json.loads(line) for line in (tmp_path / "new/failed.jsonl").read_text().splitlines()]
    for number, (built_now, encoded_now) in enumerate(in_updates[2:]):
        new = [row for row in rows if row.get("update") == number and row["trial"]]
        assert encoded_now == len(new) and built_now >= len(new)
    assert any(encoded_now for _, encoded_now in in_updates)

@pytest.mark.parametrize(
    "command, word",
    [
        ("train.py --no-such-flag 1", "--no-such-flag"),
        ("train.py --updates -1", "--updates is -1"),
        ("train.py --lora-rank 0", "between 1 and 4096"),
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

@pytest.mark.slow
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

@pytest.mark.parametrize("where", ["weight.a", "optimizer.0.0.exp_avg"])
def test_nan_in_a_checkpoint_is_named(tmp_path, where):
    weights = {"a": torch.nn.Parameter(torch.ones(3))}
    optimizer = torch.optim.AdamW(weights.values())
    weights["a"].sum().backward()
    optimizer.step()
    moment = optimizer.state[weights["a"]]["exp_avg"]
    (weights["a"].data if where == "weight.a" else moment)[1] = torch.nan
    save(tmp_path / "c", weights, [optimizer], {})
    with pytest.raises(ValueError, match=f"c: tensor {where} has a NaN or an infinity in it"):
        load(tmp_path / "c", weights, [optimizer])
