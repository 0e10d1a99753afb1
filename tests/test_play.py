"""play.py with piped input: every role, every end, and no text from outside reaches the terminal
raw.
"""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import envs
import play
from envs.observer import Verdict
from retro.lora import adapter_state, add_lora, save_adapter
from retro.model import GPT
from retro.report.terminal import Screen, visible
from retro.run.cli import parse
from retro.run.files import write_json
from retro.trial import Trajectory, run_trials
from tests.optional import made
from tests.scripted import ScriptedActor

ROOT = Path(__file__).parent.parent

@pytest.fixture(autouse=True)
def small(monkeypatch, tiny_base, tmp_path):
    """The tiny base; two actions a trial, each of few tokens."""
    make = play.envs.make
    short = lambda name, **kwargs: make(name, **{"max_steps": 2} | kwargs)
    monkeypatch.setattr(play.envs, "make", short)
    settings = play.run_settings
    own = {"base": str(tiny_base), "action_tokens": 4, "reflection_tokens": 8}
    monkeypatch.setattr(play, "run_settings", lambda run: {**settings(run), **own})
    monkeypatch.setattr(play, "CANDIDATES", 2)
    model = GPT.from_pretrained(tiny_base, "cpu")
    add_lora(model, 2, 4.0, torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "shipped")
    monkeypatch.setattr(play, "shipped_adapter", lambda settings: tmp_path / "shipped")

def told(capsys, monkeypatch, typed="", **changes):
    """What is printed when `typed` is piped in."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    play.interruptible(play.Config(**changes))
    out = capsys.readouterr().out
    assert "\x1b" not in out, "colour in a pipe"
    return out

@pytest.mark.parametrize("env", envs.CLASSES)
def test_watching_every_environment(capsys, monkeypatch, env):
    made(env)
    out = told(capsys, monkeypatch, env=env, retries=1)
    assert "reflector: after training" in out
    assert [f"[{n} left] > " in out for n in ("2 steps", "1 step")] == [True, True]
    assert out.count(" left] > ") == 4
    first, reflection, retry = map(out.index, ("First trial", "Reflection ─", "Retry"))
    assert first < reflection < retry and "rating of the reflection: " in out[retry:]
    assert told(capsys, monkeypatch, env=env, retries=1) == out  # the same seed, the same task

def test_a_run_brings_its_reflector(capsys, monkeypatch, tmp_path, tiny_base):
    model = GPT.from_pretrained(tiny_base, "cpu")
    add_lora(model, 2, 4.0, torch.Generator().manual_seed(0))
    save_adapter(model, tmp_path / "adapter")
    write_json(tmp_path / "config.json", {"base": str(tiny_base), "actor_temperature": 0.5})
    assert "after training" in told(capsys, monkeypatch, run_dir=str(tmp_path), retries=1)
    with pytest.raises(ValueError, match="nowhere: holds no run .*: run train.py first, or name"):
        told(capsys, monkeypatch, run_dir="nowhere")
    (tmp_path / "adapter").rename(tmp_path / "away")
    with pytest.raises(ValueError, match="adapter: is not there, the run has not come to its end"):
        told(capsys, monkeypatch, run_dir=str(tmp_path))
    write_json(tmp_path / "config.json", {"base": str(tiny_base), "seeds": "4,5"})
    with pytest.raises(ValueError, match=f"several seeds; name one of them, such as {tmp_path}/s4"):
        told(capsys, monkeypatch, run_dir=str(tmp_path))

class Told(envs.Environment):
    """A task is its own id; a reflection's cause is what it says."""

    def judge(self, reflection, observation, steps):
        causes = {"true": True, "false": False}
        return Verdict(cause=next((causes[w] for w in reflection.split() if w in causes), None))

def trial_of(task: dict, success: bool, memory=()) -> Trajectory:
    own = tuple(memory), (), float(success), success, True, False
    return Trajectory("told", task["id"], "", *own)

def looked(texts: str, mends: str):
    """What `showpiece` finds. Of each task: "-" if it is solved at first, else the word in its
    reflection, and whether the retry succeeds.
    """
    texts, tasks = texts.split(), [{"id": str(i)} for i in range(len(texts.split()))]
    word = lambda task: texts[int(task["id"])]

    def trials(tasks, number, memories):
        solved = [mends[int(t["id"])] == "1" if number else word(t) == "-" for t in tasks]
        return [trial_of(*one) for one in zip(tasks, solved, memories)]

    task, known, said = play.showpiece(
        Told(), tasks, trials, lambda tasks, number, failed: [f"so {word(t)}" for t in tasks])
    return task["id"], [(t.task_id, t.success, t.reflections) for t in known], said

def test_no_false_cause_is_the_showpiece(monkeypatch):
    """Mended but false, true but not mended, no cause: passed over, and counted."""
    monkeypatch.setattr(play, "AT_ONCE", 3)
    task, known, said = looked("false true none - true false true", "1010110")
    assert (task, known) == ("4", [("4", False, ()), ("4", True, ("so true",))])
    assert said == ("Looked at 6 tasks: 5 failed at first; the trained reflector mended 4, 1 with "
                    "a true cause. This is the first of these.")  # fmt: skip
    task, known, said = looked("- false true", "010")
    assert task == "1" and known[1] == ("1", True, ("so false",))
    assert said == ("Looked at 3 tasks: 2 failed at first; the trained reflector mended 1, 0 with "
                    "a true cause. This is the first that failed.")  # fmt: skip
    assert looked("- -", "00") == ("0", [], "Looked at 2 tasks: 0 failed at first; the trained "
                                            "reflector mended 0, 0 with a true cause.")  # fmt: skip

def test_what_the_judge_says_is_said():
    said = {word: play.judged(Told(), trial_of({"id": "0"}, False), word)
            for word in ("true", "false", "x")}  # fmt: skip
    assert said == {"true": "The cause that it states is true, says the judge.",
                    "false": "The cause that it states is false, says the judge.",
                    "x": "The judge knows no cause in it."}  # fmt: skip

@pytest.mark.parametrize(
    "given, others",
    [({}, [{"untrained": True}, {"you": "reflector"}, {"seed": 1}]),
     ({"untrained": True, "env": "shop"},
      [{"env": "shop"}, {"env": "shop", "you": "reflector"},
       {"env": "shop", "untrained": True, "seed": 1}]),
     ({"you": "reflector", "run_dir": "my runs/a"},
      [{"run_dir": "my runs/a", "untrained": True}, {"run_dir": "my runs/a"},
       {"run_dir": "my runs/a", "you": "reflector", "seed": 1}])],
)  # fmt: skip
def test_what_to_try_next_is_accepted_and_is_what_it_says(given, others):
    lines = [line.split("  ")[0] for line in play.advice(play.Config(**given)).splitlines()]
    assert (lines[3:] == ["python train.py"]) == ("run_dir" not in given)
    commands = [shlex.split(line) for line in lines[:3]]
    assert all(command[:2] == ["python", "play.py"] for command in commands)
    found = [parse(play.Config, "", argv=command[2:]) for command in commands]
    assert found == [play.Config(**other) for other in others]

def test_untrained_is_the_same_task_without_the_adapter(capsys, monkeypatch, tmp_path, tiny_base):
    model = GPT.from_pretrained(tiny_base, "cpu")
    add_lora(model, 2, 4.0, torch.Generator().manual_seed(0))
    for name, weight in adapter_state(model).items():
        weight.data.normal_(std=2.0, generator=torch.Generator().manual_seed(len(name)))
    save_adapter(model, tmp_path / "shipped")  # the fixture's changes nothing
    trained = told(capsys, monkeypatch, retries=1)
    untrained = told(capsys, monkeypatch, retries=1, untrained=True)
    assert "chosen for what the trained one does" not in trained
    first = lambda out: (out.split("─ Reflection")[0].replace("untrained", "after training")
                         .replace(" It was chosen for what the trained one does: a comparison is "
                                  "in docs/results.md.", ""))  # fmt: skip
    assert untrained.startswith("Looked at 2") and "chosen for what" in untrained.split("\n")[0]
    assert first(trained) == first(untrained) and "reflector: untrained" in untrained
    assert trained.split("─ Reflection")[1] != untrained.split("─ Reflection")[1]
    assert "without the adapter" in trained and "with the adapter" in untrained
    with pytest.raises(ValueError, match="--untrained: there is no other reflector beside"):
        play.Config(untrained=True, you="reflector")

def test_you_as_the_actor(capsys, monkeypatch):
    typed = "?\nlook\nfly \x1b[2Jaway\n"
    out = told(capsys, monkeypatch, typed, you="actor", retries=0)
    assert "inventory\n" in out  # ? lists it
    assert "[1 step left] > fly ␛[2Jaway\nNothing happens." in out and "FAILED" in out

def test_you_as_the_reflector(capsys, monkeypatch):
    typed = "I never looked. Plan: look.\n\n"
    out = told(capsys, monkeypatch, typed, you="reflector", retries=2)
    again, last = out.split("─ Retry 1")[1], out.split("─ Retry 2")[1]
    assert "\nReflection: I never looked. Plan: look.\n" in again
    assert last.count("Reflection: ") == 1  # an empty line adds none
    assert again.count("rating of the reflection") == 2

PACED = """
import runpy, sys, time
slept, time.sleep = [], lambda seconds: slept.append(seconds)
sys.argv = ["play.py"]
runpy.run_path("play.py", run_name="__main__")
print("seconds", time.process_time() + sum(slept))
"""

@pytest.mark.slow
def test_the_shipped_adapter_mends_a_trial_within_ten_seconds():
    """On a terminal, with its pauses. Only the processor's time counts; on a busy machine even that
    may double.
    """
    pty = pytest.importorskip("pty")
    reader, writer = pty.openpty()
    said, env = b"", os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    with subprocess.Popen([sys.executable, "-c", PACED], cwd=ROOT, stdout=writer, env=env):
        os.close(writer)
        with contextlib.suppress(OSError):  # Linux says so at the end
            while part := os.read(reader, 4096):
                said += part
    os.close(reader)
    out = " ".join(said.decode().split())
    looked = re.search(r"Looked at (\d+) tasks: (\d+) failed at first; the trained reflector "
                       r"mended (\d+), (\d+) with a true cause. This is the first of these.", out)
    n, failed, mended, true = map(int, looked.groups())
    assert play.AT_ONCE <= n and n >= failed >= mended >= true >= 1
    order = ["reflector: after training", "FAILED", "The cause that it states is true", "SOLVED",
             "What to try next"]  # fmt: skip
    assert [out.index(part) for part in order] == sorted(out.index(part) for part in order)
    assert 1 < float(out.rpartition("seconds ")[2]) < 2 * 10

@pytest.mark.parametrize("typed", ["", "look\n"])
def test_the_end_of_input_is_no_error(capsys, monkeypatch, typed):
    assert told(capsys, monkeypatch, typed, you="actor").endswith("\nGoodbye.\n")

@pytest.mark.slow
def test_as_a_program():
    """The end of input after bytes that are no UTF-8; a reader that goes away: no traceback."""
    run = lambda line, typed=b"": subprocess.run(
        line, shell=True, input=typed, capture_output=True, cwd=ROOT, executable="/bin/bash",
        env=os.environ | {"PY": sys.executable, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    ended = run('"$PY" play.py --you actor', b"l\xff\xfeok\n")
    assert ended.returncode == 0 and ended.stdout.endswith(b"Goodbye.\n") and not ended.stderr
    gone = run('set -o pipefail; "$PY" play.py --you actor | head -n 1', b"look\n" * 60)
    assert not gone.stderr

@pytest.mark.parametrize(
    "wrong", [{"env": "chess"}, {"env": "hotpot", "games": "x"}, {"games": "nowhere"},
              {"products": "x"}, {"goals": "x"}, {"games": "x", "data": "x"}]
)
def test_wrong_settings(capsys, monkeypatch, wrong):
    with pytest.raises(ValueError):
        told(capsys, monkeypatch, **wrong)

@pytest.mark.parametrize("wrong", ["--you nobody", "--delay nan", "--delay -1", "--delay 61"])
def test_wrong_options(wrong):
    with pytest.raises(SystemExit, match="2"):
        parse(play.Config, "", argv=wrong.split())

def test_real_game_files(capsys, monkeypatch, tmp_path):
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("needs RETRO_DATA, the folder with alfworld_games.tgz")
    with tarfile.open(Path(os.environ["RETRO_DATA"]) / "alfworld_games.tgz") as archive:
        game = next(m for m in archive if m.name.endswith("game.tw-pddl"))
        (tmp_path / "game").write_bytes(archive.extractfile(game).read())
    out = told(capsys, monkeypatch, "inventory\n" * 2, games=str(tmp_path / "game"), you="actor")
    assert "You are not carrying anything." in out

def test_real_questions(capsys, monkeypatch):
    pytest.importorskip("envs.hotpot")
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("needs RETRO_DATA, the folder with hotpotqa_distractor_50.json")
    data = str(Path(os.environ["RETRO_DATA"]) / "hotpotqa_distractor_50.json")
    out = told(capsys, monkeypatch, "think[so]\n" * 2, data=data, you="actor")
    assert "FAILED" in out

def test_real_products(capsys, monkeypatch):
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("needs RETRO_DATA, the folder with webshop_products_1000.json")
    files = {f: f"{os.environ['RETRO_DATA']}/webshop_{f}_1000.json"
             for f in ("products", "attributes")}  # fmt: skip
    out = told(capsys, monkeypatch, "search[lamp]\n" * 2, **files, you="actor")
    assert "(Total results: 24)" in out

class Hostile(envs.Environment):
    """Answers with what would clear the screen, retitle the window and turn the text around."""

    name, text = "hostile", "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r\b\x00\ud800 x\tx"

    def fresh(self):
        return self

    def reset(self, task, seed=None):
        return self.text, {}

    def step(self, action):
        return self.text, 0.0, True, False, {"success": False, "progress": 0.0}

def test_hostile_text_is_shown_and_does_nothing(capsys):
    screen, player = Screen(0.0), ScriptedActor(lambda text: Hostile.text)
    player.memory = 3
    task = {"env": "hostile", "id": Hostile.text, "max_steps": 1}
    aloud = play.Aloud(player, screen, None, 1)
    trajectory = run_trials({"hostile": Hostile()}, [task], aloud, [[Hostile.text]])[0]
    play.tell_end(screen, trajectory, None, "")
    out = capsys.readouterr().out
    assert out.count("␛[2J␛]0;title␇<U+009B>31m<U+202E>") == 4  # twice observed, read, done
    assert all(c == "\n" or c.isprintable() for c in out)

def test_colours_on_a_terminal_only_and_not_if_unwanted(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    Screen(0.0).say("look", "act", "> ")
    assert capsys.readouterr().out == "\x1b[1;33m> look\x1b[0m\n"
    monkeypatch.setenv("NO_COLOR", "1")
    Screen(0.0).say("look", "act", "> ")
    assert capsys.readouterr().out == "> look\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    assert Screen(3.0).delay == 0

@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=40))
def test_visible_text_only_prints(text):
    shown = visible(text)
    assert all(c == "\n" or c.isprintable() for c in shown) and visible(shown) == shown
    assert shown.count("\n") == text.count("\n")
    if text.isprintable():
        assert shown == text
