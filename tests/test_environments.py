"""The contract that all environments share: the checker (`envs/check.py`), tried on good ones and
on ones with a fault; making several.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import envs
import envs.check
import train
from envs import Environment
from envs.household import Household
from envs.observer import Verdict
from retro.run.cli import parse, run_script
from tests.doors import Doors
from tests.guess import Guess
from tests.optional import OPTIONAL, made

ROOT = Path(__file__).parent.parent
NAMES = list(envs.CLASSES)

def test_make():
    assert isinstance(envs.make("household", max_steps=7), Household)
    with pytest.raises(ValueError, match="environment 'kitchen': must be one of household"):
        envs.make("kitchen")
    with pytest.raises(ValueError, match="environment 'kitchen': must be one of household"):
        envs.make_all("household,kitchen")
    with pytest.raises(ValueError, match="one is named twice"):
        envs.make_all("household,household")

def test_making_several():
    listed = [name for name in NAMES[::-1] if name not in OPTIONAL]
    made = envs.make_all(",".join(listed))
    assert list(made) == listed == [env.name for env in made.values()]
    for name, env in made.items():
        assert type(env) is type(envs.make(name)) and env.fresh() is not env

@pytest.mark.parametrize("environment", [*NAMES, Guess, Doors])
def test_nothing_is_missing(environment):
    env = environment() if isinstance(environment, type) else made(environment)
    assert not envs.check.problems(env)

# ---- Faults, each told by name in one line. Nothing else is told, but for what follows from it.

@pytest.mark.parametrize("method", envs.PARTS)
def test_a_forgotten_method_is_one_line_wherever_it_is_noticed(method, monkeypatch, capsys):
    """A class with everything but one method: in the checker, in `make`, in a script."""
    own = {name: getattr(Guess, name) for name in (*envs.PARTS, "fresh", "name") if name != method}
    partial = type("Partial", (Environment,), own)
    (line,) = envs.check.problems(partial())
    part = envs.PARTS[method]
    wanted = f"{method}: missing (or give the base class {part}). " if part else f"{method}: missi"
    assert line.startswith(wanted) and line.endswith(".") and "\n" not in line
    assert len(line) > len(wanted) + 20, "what it is for"

    monkeypatch.setitem(envs.CLASSES, "guess", partial)
    with pytest.raises(SystemExit) as ended:
        run_script(train.main, parse(train.Config, "", argv=["--envs", "guess"]))
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.count("\n") == 1
    assert said.startswith(f"error: environment 'guess': lacks {method}; `python -m envs.check")

def test_a_module_that_lacks_a_function_is_told_too():
    observer = SimpleNamespace(oracle_reflection=Doors.observer.oracle_reflection)
    partial = type("Partial", (Doors,), {"observer": observer})
    (line,) = envs.check.problems(partial())
    assert line.startswith("follows: missing (or give the base class observer.follows). whether")

def test_a_name_that_is_not_its_own_and_a_class_that_is_not_there(monkeypatch):
    monkeypatch.setitem(envs.CLASSES, "word", Guess)
    with pytest.raises(ValueError, match="'word': its `name` is 'guess', and must be the same"):
        envs.make("word")
    monkeypatch.setitem(envs.CLASSES, "kitchen", "Kitchen")
    with pytest.raises(ValueError, match="environment 'kitchen': No module named 'envs.kitchen'"):
        envs.make("kitchen")
    monkeypatch.setitem(envs.CLASSES, "hotpot", "Hotspot")
    with pytest.raises(ValueError, match="environment 'hotpot': module 'envs.hotpot' has no attr"):
        envs.make("hotpot")
    nameless = {name: getattr(Guess, name) for name in envs.PARTS}
    assert envs.lacking(type("Nameless", (Environment,), nameless)()) == ["name"]

def changed(method: str, change):
    """Doors with a method whose result is changed."""
    original = getattr(Doors, method)
    wrapped = lambda self, *args: change(original(self, *args))
    return type("Changed", (Doors,), {method: wrapped})

def rewritten(found, **values):
    """Endless demonstrations with other values."""
    return (d._replace(**{key: value(d) for key, value in values.items()}) for d in found)

FAULTS = [
    ("tasks", lambda found: [task | {"id": "a"} for task in found], "tasks: tasks('train', 5, 7)"),
    ("tasks", lambda found: [task | {"env": "x"} for task in found], "tasks: a task's `env` is no"),
    ("tasks", lambda found: [t | {"max_steps": 0} for t in found], "tasks: a task's `max_steps` i"),
    ("tasks", lambda found: [t | {"key": (t["key"],)} for t in found], "tasks: a task is not what"),
    ("tasks", lambda found: [t | {"n": object.__hash__(t)} for t in found], "tasks: the same argu"),
    ("reset", lambda found: ("", found[1]), "trials: reset does not give a text and info"),
    ("admissible_actions", lambda found: found[::-1], "trials: admissible_actions is not sorted"),
    ("step", lambda found: (*found[:3], False, found[4]), "trials: after `max_steps` steps a tr"),
    ("step", lambda found: (found[0], 2.0, *found[2:]), "trials: a step gives no text, or a rewa"),
    ("oracle_reflection", lambda said: said.replace("Plan", "So"), "oracle: 'I never took the key"),
    ("oracle_reflection", lambda said: f"{said}\n", "oracle: 'I never took the key. Plan: open"),
    ("judge", lambda verdict: verdict._replace(sound=False), "oracle: judge finds fault with the"),
    ("follows", lambda found: False, "oracle: follows is true of 0 of "),
    ("bindings", lambda found: [("nowhere", 4, "x", False)], "demonstrations: bindings gives an o"),
    ("cut_names", lambda text: text.upper(), "demonstrations: cut_names changes more than line"),
    ("glance", lambda views: [], "glances: glance gives no pairs of texts"),
    ("demonstrations", lambda found: rewritten(found, reflections=lambda d: []),
     "demonstrations: some of these never occur"),
    ("demonstrations", lambda found: rewritten(found, questions=lambda d: [("Where?", "")]),
     "demonstrations: a question or its answer is empty"),
    ("demonstrations", lambda found: rewritten(found, success=lambda d: not d.reflections),
     "oracle: players succeed in 1.00 of their first trials and in 0.00 after"),
    ("demonstrations", lambda found: rewritten(found, observation=lambda d: "a\nAnswer: b"),
     "demonstrations: a line of a trial begins with 'Answer:'"),
]  # fmt: skip

@pytest.mark.parametrize("method, change, message", FAULTS)
def test_a_fault_is_told_by_name(method, change, message):
    found = envs.check.problems(changed(method, change)())
    assert any(line.startswith(message) for line in found), found
    assert all("\n" not in line and len(line) < 500 for line in found)

def test_an_exception_of_the_environment_is_one_line_with_its_place():
    found = envs.check.problems(changed("judge", lambda verdict: verdict.nonsense)())
    (line,) = found
    assert line.startswith("oracle: AttributeError 'Verdict' object has no attribute 'nonsense' (")
    assert "test_environments.py:" in line

def test_chance_and_shared_state_are_found():
    class Shared(Doors):
        def fresh(self):
            return self

    assert any("fresh gives no copy" in line for line in envs.check.problems(Shared()))
    turns = iter(range(10**6))
    chance = changed("step", lambda found: (f"{found[0]} {next(turns)}", *found[1:]))
    assert any("depends on chance" in line for line in envs.check.problems(chance()))

def test_a_trial_without_an_end_is_told_and_not_played():
    endless = changed("step", lambda found: (*found[:3], False, found[4]))
    (line,) = envs.check.problems(endless())
    assert line.startswith("trials: after `max_steps` steps a trial is neither terminated nor")

def test_without_a_judge_nothing_is_told_and_nothing_is_wrong():
    silent = type("Silent", (Doors,), {"judge": lambda self, *args: Verdict(), "templates": {}})
    assert not envs.check.problems(silent())

# ---- The command

def checked(*arguments: str) -> tuple[int, str, str]:
    ended = subprocess.run([sys.executable, "-m", "envs.check", *arguments], cwd=ROOT,
                           capture_output=True, text=True)  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr

def test_the_command_names_what_is_missing_or_says_that_nothing_is(tmp_path, monkeypatch):
    status, said, _ = checked("tests.doors:Doors")
    assert status == 0 and said.startswith("doors: nothing is missing. Its players succeed in 0.")
    first, after = (float(word) for word in said.split() if word.startswith("0."))
    assert first < 0.5 and after > 0.9, said
    (tmp_path / "mine.py").write_text("from envs import Environment\nclass Mine(Environment):\n"
                                      "    name = 'mine'\n")  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    status, said, _ = checked("mine:Mine")
    assert status == 1 and [line.partition(":")[0] for line in said.splitlines()] == [*envs.PARTS]
    for wrong, message in (("kitchen", "error: environment 'kitchen': must be one of household"),
                           ("nowhere:X", "error: nowhere:X: No module named 'nowhere'"),
                           ("mine:X", "error: mine:X: module 'mine' has no attribute 'X'")):
        status, said, error = checked(wrong)
        assert status == 2 and not said and error.startswith(message) and error.count("\n") == 1
    status, _, error = checked()
    assert status == 2 and error.startswith("error: python -m envs.check NAME: household, hotpot")
