"""The package as others install it: from any directory, with the shipped base inside."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from retro.run.files import fingerprint, model_folder

ROOT = Path(__file__).parent.parent
PROGRAM = """
import retro
from pathlib import Path
from retro.run.files import model_folder
lm, env = retro.LanguageModel.open(), retro.make_all("household")["household"]
tasks = env.tasks("seen", 2, 0)
import torch
actor = retro.LMActor(lm, 0.0, torch.Generator())
print(len(retro.run_trials({"household": env}, tasks, actor, [[], []])))
print(retro.__file__)
print(model_folder("assets"))
"""

def test_every_folder_of_code_or_data_is_a_package():
    """pyproject.toml lists them, since the base lies outside: a forgotten one would be left out."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 has it")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    files = [path for name in ("envs", "retro") for path in (ROOT / name).rglob("*")
             if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip
    folders = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in files}
    assert {*settings["packages"]} == folders | {"retro.assets"}
    assert settings["package-dir"] == {"retro.assets": "assets"}
    assert settings["package-data"]["retro.assets"] == ["*", "adapter/*"]
    kinds = {path.suffix for path in files} - {".py"}
    assert {f"*{kind}" for kind in kinds} <= {*settings["package-data"]["*"]}

def test_the_shipped_base_is_meant_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").mkdir()  # of a website, say
    assert model_folder("assets") == model_folder("assets/") == ROOT / "assets"
    assert model_folder("./other") == Path("other") and model_folder(tmp_path) == tmp_path
    assert fingerprint("assets") == fingerprint(ROOT / "assets") != fingerprint(tmp_path / "assets")

@pytest.mark.slow
def test_it_is_installed_with_its_base_and_runs_elsewhere(tmp_path):
    pytest.importorskip("setuptools", "77", reason="pip would have to fetch setuptools")
    ignore = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "runs", "tests")
    shutil.copytree(ROOT, tmp_path / "clone", ignore=ignore)
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation"]
    there = tmp_path / "there"
    subprocess.run([*install, "--target", there, tmp_path / "clone"], check=True)
    shutil.rmtree(tmp_path / "clone")
    said = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, text=True, check=True,
                          env={"PYTHONPATH": str(there)}, capture_output=True)  # fmt: skip
    trials, package, base = said.stdout.split()
    assert trials == "2"
    assert package == str(there / "retro/__init__.py") and base == str(there / "retro/assets")
    assert fingerprint(base) == fingerprint("assets")
    names = lambda folder: sorted(path.name for path in Path(folder).iterdir())
    assert names(f"{base}/adapter") == names(ROOT / "assets/adapter")
