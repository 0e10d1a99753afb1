"""A run that is resumed takes its settings from its folder, may have more updates, and names all
that differs; several seeds in one folder; a run that can't work says why before it trains.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

import eval as evaluation
import train
from retro.run import alone, checkpoint
from retro.run import folder as run_folder
from retro.run.cli import option_of, parse
from retro.run.files import read_json, write_json
from retro.run.finished import is_finished, part_of, read_run, runs_in
from tests.small_run import GUESS, Killed, config, outcome, short_games, slow  # noqa: F401

ROOT = Path(__file__).parent.parent

def given(*argv) -> train.Config:
    """What train.py makes of a command line."""
    return parse(train.Config, "", train.defaults, [str(word) for word in argv])

def refused(capsys, *argv) -> str:
    """The one line with which train.py refuses these settings."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        given(*argv)
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    return said

@pytest.fixture
def whole(small_run, tmp_path) -> Path:
    """A copy of a whole run of one update."""
    return Path(shutil.copytree(small_run("online", guess=True), tmp_path / "run"))

# ---- the settings of a resumed run

def test_a_bare_resume_has_the_settings_of_the_run(whole, tiny_base):
    """None of them is a default; the folder is where it is now, not where it was."""
    settings = given("--run-dir", whole, "--resume")
    known = config(tiny_base, whole, resume=True, **GUESS)
    assert settings == known and known.lr != train.Config().lr and not known.gap_check
    assert given("--run-dir", whole).lr == train.Config().lr  # no run is resumed
    assert given("--resume", "--run-dir", whole / "none") == train.Config(
        resume=True, run_dir=str(whole / "none")
    )
    over = given("--run-dir", whole, "--resume", "--timeout", "9", "--lr", "0.5", "--gap-check")
    assert over == replace(known, timeout=9.0, lr=0.5, gap_check=True)

@pytest.mark.slow
def test_an_offline_runs_settings_are_not_its_defaults(small_run):
    settings = given("--run-dir", small_run("offline", guess=True), "--resume")
    assert settings.mode == "offline" and settings.updates == 1 != train.OFFLINE["updates"]

def test_all_that_differs_is_named_in_one_line(whole, tiny_base):
    """Of what is given; neither what is the same, nor what changes no result."""
    argv = "--lr 0.5 --updates 0 --seed 5 --envs guess --group 2 --timeout 9 --gap-check".split()
    with pytest.raises(ValueError) as error:
        train.main(given("--run-dir", whole, "--resume", *argv))
    assert str(error.value) == (
        f"{whole}/config.json: was started with another seed: 0, now 5; another updates: 1, now 0 "
        "(it may only grow); another lr: 0.01, now 0.5"
    )
    assert outcome(whole)[3] and read_json(whole / "config.json")["updates"] == 1

@pytest.mark.parametrize("key, value, message", [
    ("lr", "fast", "config.json: --lr is 'fast': must be a number"),
    ("updates", -3, "config.json: --updates is -3: must be between 0 and 1000000"),
    ("mode", "sideways", "config.json: --mode is 'sideways': must be one of online, offline"),
])  # fmt: skip
def test_a_setting_edited_by_hand_is_named_with_its_file(whole, capsys, key, value, message):
    write_json(whole / "config.json", read_json(whole / "config.json") | {key: value})
    assert message in refused(capsys, "--run-dir", whole, "--resume")

def test_where_there_is_no_run_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(ValueError, match="no run to resume here .it has no config.json."):
        train.main(given("--run-dir", tmp_path / "none", "--resume", "--envs", "guess"))

# ---- more updates

def rows_of(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]

def test_a_finished_run_grows(whole, capsys):
    """The updates that there were stay as they are. The learning rate is that of the new total:
    for update n of N it is lr (1 - n/N). All that follows the last update is made anew.
    """
    before, (first,) = outcome(whole), rows_of(whole)
    (whole / "adapter/notes.txt").write_text("mine")
    (whole / "results.svg").write_bytes(b"old")
    capsys.readouterr()
    train.main(given("--run-dir", whole, "--resume", "--updates", "4"))
    note = f"note: {whole} grows from 1 to 4 updates; what follows the last one is made anew\n"
    assert note in capsys.readouterr().err
    rows = rows_of(whole)
    assert rows[0] == first and [row["update"] for row in rows] == [0, 1, 2, 3]
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.0075, 0.005, 0.0025])
    after = outcome(whole)
    assert after[1].startswith(before[1]) and after[4] != before[4]  # replay; adapter
    assert after[3] and after[-2]  # results and choices
    assert (whole / "results.svg").read_bytes() != b"old"
    assert (whole / "adapter/notes.txt").read_text() == "mine"
    assert read_json(whole / "config.json")["updates"] == 4 == given(
        "--run-dir", whole, "--resume").updates  # fmt: skip
    assert read_run(whole)["updates"] == 4 and is_finished(whole, 4) and not is_finished(whole, 1)
    with pytest.raises(ValueError, match="another updates: 4, now 1 .it may only grow"):
        train.main(given("--run-dir", whole, "--resume", "--updates", "1"))

@pytest.mark.slow
def test_a_run_that_was_interrupted_grows_too(tiny_base, tmp_path, monkeypatch):
    """At its last update: the rest is as of one that has finished and then grew."""
    folders = [tmp_path / "finished", tmp_path / "interrupted"]
    train.main(config(tiny_base, folders[0], **GUESS))
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "choose", killer)
        train.main(config(tiny_base, folders[1], **GUESS))
    assert is_finished(folders[0], 1) and not is_finished(folders[1], 1)
    for folder in folders:
        train.main(given("--run-dir", folder, "--resume", "--updates", "2"))
    assert outcome(folders[0]) == outcome(folders[1])

def killer(*args, **kwargs):
    raise Killed

@pytest.mark.parametrize("calls", [slow(1), 2, slow(3), slow(4)])
def test_a_kill_while_it_grows_loses_nothing(whole, tmp_path, monkeypatch, calls):
    """Before and after config.json is written, and the old end removed; the checkpoint saved."""
    grown = Path(shutil.copytree(whole, tmp_path / "grown"))
    train.main(given("--run-dir", grown, "--resume", "--updates", "2"))
    stages = [(run_folder, "keep_growth"), (run_folder.RunFolder, "clear_end"),
              (checkpoint, "save"), (train, "check_gaps")]  # fmt: skip
    owner, name = stages[calls - 1]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(owner, name, killer)
        train.main(given("--run-dir", whole, "--resume", "--updates", "2"))
    train.main(given("--run-dir", whole, "--resume", *(["--updates", "2"] if calls == 1 else [])))
    assert outcome(whole) == outcome(grown)

def test_what_is_half_grown_is_not_evaluated(whole, monkeypatch):
    """Its adapter is that of fewer updates than its settings say."""
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(run_folder.RunFolder, "clear_end", killer)
        train.main(given("--run-dir", whole, "--resume", "--updates", "2"))
    with pytest.raises(ValueError, match="was started with another updates: 1, now 2"):
        read_run(whole)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "learn_by_ppo", killer)
        train.main(given("--run-dir", whole, "--resume"))
    assert read_run(whole)["updates"] == 2
    with pytest.raises(ValueError, match="run/adapter: is not there, the run has not come to its"):
        part_of(whole, "adapter")

# ---- it can't work, and says why

@pytest.mark.slow
def test_a_run_without_a_gap_ends_before_it_collects(tiny_base, tmp_path, capsys):
    """A model of random numbers, with a household's and a guesser's tasks; it goes on if it must,
    and is then resumed as any other.
    """
    folder = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        train.main(config(tiny_base, folder, gap_check=True))
    why = "the actor does no better with an oracle's reflections than without any"
    assert ended.value.code == (
        f"no gap: in household {why}; in guess {why}; start a new run with another --actor, "
        "--base, tasks or --envs, or go on with --resume --no-gap-check"
    )
    assert "the gap in guess: success 0.00 at first; after one retry" in capsys.readouterr().out
    assert not (folder / "failed.jsonl").stat().st_size
    with pytest.raises(SystemExit, match="no gap: in household the actor does no better"):
        train.main(given("--run-dir", folder, "--resume"))
    for _ in range(2):  # the second time as after a crash: it has gone on already
        train.main(given("--run-dir", folder, "--resume", *["--no-gap-check"] * (not _)))
    assert is_finished(folder, 2)

@pytest.mark.parametrize("gap, reason", [
    ([0.5, 0.75, 0.75], "in guess the actor does no better with an oracle's reflections than"),
    ([0.5, 0.75, 0.7], "in guess the actor does no better with an oracle's reflections than"),
    ([0.5, 1.0, 1.0], "no gap: in guess a retry without reflection solves every task already;"),
    ([1.0, 1.0, 1.0], "no gap: in guess a retry without reflection solves every task already;"),
    ([0.5, 0.75, 0.78], ""),
])  # fmt: skip
def test_the_true_reason_is_said(tiny_base, tmp_path, monkeypatch, gap, reason):
    monkeypatch.setattr(train, "measure_gap", lambda *args: gap)
    training = train.set_up(config(tiny_base, tmp_path / "run", gap_check=True, **GUESS))
    if not reason:
        return train.check_gaps(training)
    with pytest.raises(SystemExit, match=reason):
        train.check_gaps(training)

def test_a_base_without_the_form_is_not_told_about_the_learning_rate(tiny_base, tmp_path):
    settings = config(tiny_base, tmp_path / "run", envs="guess", min_well_formed=0.5)
    for resume in (False, True):
        with pytest.raises(SystemExit) as ended:
            train.main(replace(settings, resume=resume))
        assert ended.value.code == (
            "only 0% of the reflections are well-formed before the first update: this base does "
            "not know their form, or has lost it by --sft-lr; start a new run with another one, or "
            "with --min-well-formed 0"
        )

def test_a_form_that_is_lost_in_training_is_a_collapse(tiny_base, tmp_path, monkeypatch):
    update = train.one_update
    monkeypatch.setattr(train, "one_update", lambda training, number, *rest: (
        update(training, number, *rest) | {"well_formed": 1.0 - number}))  # fmt: skip
    settings = config(tiny_base, tmp_path / "run", envs="guess", min_well_formed=0.5)
    with pytest.raises(SystemExit, match="collapse: only 0% .* start a new run with a lower --lr"):
        train.main(settings)

# ---- several seeds

@pytest.fixture
def at_once(monkeypatch):
    """What --seeds would run in processes of their own is run in this one: its command lines."""
    commands = []

    def run(command):
        assert command[:2] == [sys.executable, train.__file__]
        commands.append(parse(train.Config, "", train.defaults, command[2:]))
        try:
            train.main(commands[-1])
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        return 0

    monkeypatch.setattr(train, "run_alone", run)
    return commands

THREE = dict(GUESS, seeds="0,2,1", train_tasks=4, eval_tasks=2)

def test_seeds_are_the_runs_that_each_seed_alone_makes_and_one_table(
    tiny_base, tmp_path, at_once, small_run, capsys
):
    group = tmp_path / "group"
    train.train_each(config(tiny_base, group, **THREE | dict(seeds="0,2")))
    assert [(c.seed, c.seeds, c.run_dir, c.resume) for c in at_once] == [
        (seed, "", f"{group}/s{seed}", False) for seed in (0, 2)
    ]
    train.main(config(tiny_base, tmp_path / "alone", seed=2, **THREE | dict(seeds="")))
    assert outcome(group / "s2") == outcome(tmp_path / "alone") != outcome(group / "s0")
    said = capsys.readouterr().out
    assert f"seed 2: see {group}/s2/" in said and "4 tasks (unseen), 2 runs" in said
    drawn = f"wrote {group}/success.svg"
    assert drawn in said and (group / "success.svg").exists()
    # eval.py takes the group for its runs
    found = tmp_path / "r.json"
    asked = dict(tasks=2, retries=1, methods="react,sft", choice_tasks=2, json=str(found))
    evaluation.main(evaluation.Config(run_dir=str(group), **asked))
    assert json.loads(found.read_text())["runs"] == ["s0", "s2"]
    assert runs_in(group) == [group / "s0", group / "s2"]
    with pytest.raises(ValueError, match=f"holds the runs of several seeds; .* as {group}/s0"):
        read_run(group)

@pytest.mark.slow
def test_seeds_are_resumed_as_a_whole(tiny_base, tmp_path, at_once, monkeypatch, capsys):
    """Killed in the second one's training: the first one is not touched, the second one goes on,
    the third one begins. A bare --resume knows the seeds.
    """
    group, ppo = tmp_path / "group", train.learn_by_ppo

    def dies(training, failed):
        if training.config.seed == 2:
            raise Killed
        return ppo(training, failed)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train, "learn_by_ppo", dies)
        train.train_each(config(tiny_base, group, **THREE))
    first = outcome(group / "s0"), (group / "s0/checkpoint").read_bytes()
    assert not (group / "success.svg").exists()
    at_once.clear()
    settings = given("--run-dir", group, "--resume")
    assert settings.seeds == "0,2,1" and settings.lr == 0.01
    train.train_each(settings)
    assert [(c.seed, c.resume) for c in at_once] == [(2, True), (1, False)]
    assert (outcome(group / "s0"), (group / "s0/checkpoint").read_bytes()) == first
    said = capsys.readouterr().out
    assert f"seed 0: finished, see {group}/s0/" in said and "3 runs" in said
    with pytest.raises(ValueError, match="another seeds: '0,2,1', now '0,2' .it may only grow"):
        train.train_each(given("--run-dir", group, "--resume", "--seeds", "0,2"))

@pytest.mark.slow
def test_seeds_and_their_updates_may_be_more(tiny_base, tmp_path, at_once):
    group = tmp_path / "group"
    train.train_each(config(tiny_base, group, **THREE | dict(seeds="0")))
    at_once.clear()
    train.train_each(given("--run-dir", group, "--resume", "--seeds", "0,1", "--updates", "2"))
    assert [(c.seed, c.resume, c.updates) for c in at_once] == [(0, True, 2), (1, False, 2)]
    assert [len(rows_of(run)) for run in runs_in(group)] == [2, 2]
    bare = given("--run-dir", group, "--resume")
    assert bare.seeds == "0,1" and bare.updates == 2

def test_seeds_that_are_refused_leave_nothing_behind(tiny_base, tmp_path, at_once, capsys):
    group = tmp_path / "group"
    for base, names, message in (("/nowhere", "guess", "/nowhere"), (tiny_base, "no", "'no'")):
        with pytest.raises(SystemExit) as ended:
            train.train_each(config(base, group, **THREE | dict(envs=names)))
        assert ended.value.code == 2 and message in capsys.readouterr().err
        assert not group.exists()
    train.train_each(config(tiny_base, group, **THREE | dict(seeds="0")))
    with pytest.raises(ValueError, match="group: holds a run already .config.json is there"):
        train.train_each(config(tiny_base, group, **THREE))

def test_a_run_is_no_group_and_a_group_no_run(tiny_base, whole, tmp_path, at_once):
    with pytest.raises(ValueError, match="another seeds: '', now '0,1'"):
        train.train_each(given("--run-dir", whole, "--resume", "--seeds", "0,1"))
    group = tmp_path / "group"
    train.train_each(config(tiny_base, group, **THREE | dict(seeds="0")))
    with pytest.raises(ValueError, match="another seeds: '0', now ''"):
        train.main(given("--run-dir", group, "--resume", "--seeds="))

def test_torchrun_starts_one_run(tiny_base, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "in_torchrun", lambda: True)
    with pytest.raises(ValueError, match="--seeds 0,2,1: torchrun starts one run, give it --seed"):
        train.train_each(config(tiny_base, tmp_path / "group", **THREE))
    assert not (tmp_path / "group").exists()

# ---- a process of its own

def test_a_command_alone_has_its_status(tmp_path, capfd):
    assert alone.run_alone([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert alone.run_alone([sys.executable, "-c", "print('x')"]) == 0
    killed = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert alone.run_alone([sys.executable, "-c", killed]) == 137
    out, err = capfd.readouterr()
    assert out == "x\n" and err == "error: SIGKILL has ended it; --resume goes on\n"

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_a_command_alone_ends_with_its_starter(tmp_path, name):
    """It hears of the signal and has the last word; of SIGKILL it hears SIGTERM."""
    waits = ("import os, signal, sys, time\n"
             "def end(n, _): open(sys.argv[1] + '.end', 'w').write(str(int(n))); os._exit(77)\n"
             "for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(n, end)\n"
             "open(sys.argv[1], 'w').write(str(os.getpid()))\n"
             "time.sleep(60)\n")  # fmt: skip
    begun, end = tmp_path / "begun", tmp_path / "begun.end"
    starts = ("import sys; from retro.run.alone import run_alone\n"
              "sys.exit(run_alone([sys.executable, '-c', *sys.argv[1:]]))")  # fmt: skip
    starter = subprocess.Popen([sys.executable, "-c", starts, waits, str(begun)], cwd=ROOT)
    give_up = time.time() + 60
    while not (begun.exists() and begun.read_text()) and time.time() < give_up:
        time.sleep(0.01)
    time.sleep(0.2)  # until it listens
    number = getattr(signal, name)
    os.kill(starter.pid, number)
    starter.wait(20)
    while not (end.exists() and end.read_text()) and time.time() < give_up:
        time.sleep(0.01)
    heard = signal.SIGTERM if name == "SIGKILL" else number
    assert int(end.read_text()) == heard
    assert starter.returncode == (-9 if name == "SIGKILL" else 77)

@pytest.mark.slow
def test_seeds_as_a_program_interrupted_and_resumed(tiny_base, tmp_path):
    """Two seeds of hotpot: Ctrl-C in the first one's training, then --resume."""
    group = tmp_path / "group"
    small = dict(base=tiny_base, run_dir=group, seeds="0,1", envs="hotpot", gap_tasks=2,
                 train_tasks=8, updates=2, batch_reflections=4, minibatch=2, choice_tasks=2,
                 eval_tasks=2, retries=1, min_well_formed=0.0, max_kl=1e9)  # fmt: skip
    flags = [f"{option_of(name)}={value}" for name, value in small.items()] + ["--no-gap-check"]
    env = os.environ | dict(OMP_NUM_THREADS="1")
    start = lambda *argv: subprocess.Popen(
        [sys.executable, "train.py", *argv], cwd=ROOT, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    first = start(*flags)
    while not (group / "s0/checkpoint").exists():
        assert first.poll() is None, first.communicate()
        time.sleep(0.05)
    first.send_signal(signal.SIGINT)
    out, err = first.communicate(timeout=60)
    assert first.returncode == 130 and "Traceback" not in err, err
    last = err.replace("\r", "\n").strip().splitlines()[-1]
    assert last == "error: interrupted; --resume goes on from the last checkpoint"
    second = start("--run-dir", str(group), "--resume")
    out, err = second.communicate(timeout=300)
    assert second.returncode == 0, err
    assert out.count("4 tasks (unseen), 2 runs.") == 1
    assert (group / "success.svg").exists()
    assert all(is_finished(run, 2) for run in runs_in(group))

def test_is_there_anything_to_finish(tmp_path):
    assert not is_finished(tmp_path, 0) and runs_in(tmp_path) == [tmp_path]
