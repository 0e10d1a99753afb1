"""An environment of one's own: `tests/guess.py`, or the folder `tests/doors/`, is all it takes."""

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import envs
import retro.learn
import retro.pretrain.__main__ as pretrain
import train
from tests.doors import Doors
from tests.guess import Guess

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/new-environment.md").read_text()
SMALL = dict(
    tokens=3e5,
    batch_tokens=768,
    vocab_size=340,
    width=48,
    layers=2,
    heads=3,
    mlp_width=96,
    context=256,
    muon_lr=0.02,
)

def pretrained(folder, environment, **changes):
    """A base that can act, read and write in one small environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(envs.CLASSES, environment.name, environment)
        patch.setattr(pretrain, "TOKENIZER_DOCUMENTS", 200)
        patch.setattr(pretrain, "write_card", lambda *args: None)
        sizes = SMALL | dict(envs=environment.name, out=str(folder)) | changes
        pretrain.main(pretrain.Config(**sizes))
        yield folder

def test_the_page_followed_to_the_letter_makes_an_environment_that_lacks_nothing(tmp_path):
    """Its first three steps, in a copy: the checker says what the page says that it says."""
    for name in ("envs", "tests/doors"):
        shutil.copytree(ROOT / name, tmp_path / name)
    copy, check, said, *_ = re.findall(r"^```\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    subprocess.run(copy, shell=True, cwd=tmp_path, check=True)
    (line,) = re.findall(r"add to `CLASSES` in `envs/__init__.py`: `([^`]+)`", PAGE)
    code = (tmp_path / "envs/__init__.py").read_text()
    added = code.replace("CLASSES: dict[str, Any] = {", f"CLASSES: dict[str, Any] = {{{line}, ")
    (tmp_path / "envs/__init__.py").write_text(added)
    shutil.rmtree(tmp_path / "tests")  # the copy stands on its own feet
    command = check.strip().replace("python", sys.executable)
    ended = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, said, "")

@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A base of `guess`: 400 steps of pretraining."""
    yield from pretrained(tmp_path_factory.mktemp("guess-base"), Guess)

@pytest.fixture(scope="module")
def doors_base(tmp_path_factory):
    """A base of `doors`; its pretraining has to end within three minutes of one core."""
    clock = time.process_time()
    base = pretrained(tmp_path_factory.mktemp("doors-base"), Doors, tokens=1e6, context=384)
    for folder in base:
        assert time.process_time() - clock < 180
        yield folder

def trained(base, folder, env="guess", **changes) -> dict:
    """Success after one retry on unseen names, by method, sampled at temperature 1: greedily even
    the untrained reflector is right in `guess`; and what the reward model is worth.
    """
    small = dict(
        envs=env,
        gap_tasks=16,
        train_tasks=192,
        collect_rounds=1,
        updates=20,
        batch_reflections=48,
        minibatch=16,
        lr=2e-3,
        eval_tasks=100,
        retries=1,
    )
    train.main(train.Config(run_dir=str(folder), base=str(base), **small | changes))
    (report,) = json.loads((folder / "results.json").read_text())
    hot = lambda method: method.get("by_temperature", {}).get("1", method)
    after = {name: hot(m)["success_by_retry"][1] for name, m in report["methods"].items()}
    return after | {"ranking": report.get("reward", {}).get("ranking")}

@pytest.mark.slow
def test_a_new_environment_trains_and_not_with_the_sign_flipped(base, tmp_path, monkeypatch):
    online = trained(base, tmp_path / "online")
    rate = retro.learn.rate
    monkeypatch.setattr(retro.learn, "rate", lambda *args: -rate(*args))
    flipped = trained(base, tmp_path / "flipped", sft_epochs=0, min_well_formed=0.0)
    print(online, flipped, sep="\n")
    assert online["oracle"] > online["react"] + 0.2, online
    assert online["retroformer"] > online["reflexion"] + 0.15, online
    # how much it can lose hangs on the base: an untrained reflector may be worth next to nothing
    assert flipped["retroformer"] < flipped["reflexion"], flipped
    assert flipped["retroformer"] < online["retroformer"] - 0.25, (online, flipped)

@pytest.mark.slow
def test_the_offline_recipe_runs_to_its_end(base, tmp_path):
    """That it finishes and reports, not that it learns: with these few ratings the reward model
    does not rank better than chance.
    """
    offline = trained(base, tmp_path / "offline", mode="offline", updates=2)
    assert 0 <= offline["ranking"] <= 1 and offline["oracle"] > offline["react"] + 0.2, offline

@pytest.mark.slow
def test_a_room_with_doors_and_a_key_from_pretraining_to_ppo(doors_base, tmp_path):
    """Three names have to be right in a plan, of which two are copied from the trial: the trained
    reflector does it, a constant plan does not. Its judge says so too.
    """
    found = trained(doors_base, tmp_path, "doors", lr=1e-3)
    print(found)
    assert found["oracle"] > found["react"] + 0.5 > found["template"], found
    assert found["retroformer"] > found["reflexion"] + 0.15, found
    assert found["retroformer"] > found["template"] + 0.3, found
    (report,) = json.loads((tmp_path / "results.json").read_text())
    sound = {name: m["faithfulness"]["sound"] for name, m in report["methods"].items()
             if "faithfulness" in m}
    print(sound)
    assert sound["oracle"] == 1 and sound["retroformer"] > sound["template"] + 0.3, sound
