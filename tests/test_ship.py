"""The adapter that is shipped with the base: whole, of this base, and told of on the card."""

import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from retro.lora import load_adapter
from retro.model import GPT
from retro.run import finished
from retro.run.files import fingerprint, read_json, write_json
from retro.run.finished import shipped_adapter
from train import Config

ROOT = Path(__file__).parent.parent
ORIGIN = ROOT / "assets/adapter/origin.json"
sys.path.insert(0, str(ROOT / "docs"))
import ship  # noqa: E402

@pytest.fixture
def assets(tmp_path, monkeypatch) -> Path:
    """A copy of assets/, which play.py and ship.py take for the real one."""
    folder = tmp_path / "assets"
    shutil.copytree(ROOT / "assets", folder)
    monkeypatch.setattr(finished, "model_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(ship, "ASSETS", folder)
    return folder

def test_the_shipped_adapter_is_of_the_shipped_base():
    """Another base in assets/ needs another adapter: docs/ship.py."""
    assert read_json(ORIGIN)["models"] == {"base": fingerprint("assets")}
    assert shipped_adapter({"base": "assets"}) == ROOT / "assets/adapter"

def test_it_fits_the_base_and_changes_it():
    model = GPT.from_pretrained("assets")
    load_adapter(model, shipped_adapter({"base": "assets"}))
    weight = model.model.layers[0].self_attn.q_proj
    assert (weight.merged() != weight.weight).any()

def test_another_base_or_a_changed_adapter_is_refused(assets, tiny_base):
    with pytest.raises(ValueError, match=f"{tiny_base}: is not the base that .*adapter was tr"):
        shipped_adapter({"base": str(tiny_base)})
    weights = assets / "adapter/adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="safetensors: is not what the run has written; put that"):
        shipped_adapter({"base": "assets"})
    weights.unlink()
    with pytest.raises(ValueError, match="safetensors: is gone; put back what the run has written"):
        shipped_adapter({"base": "assets"})
    (assets / "adapter/origin.json").unlink()
    with pytest.raises(ValueError, match="origin.json: cannot be read"):
        shipped_adapter({"base": "assets"})

def test_the_card_says_how_it_was_made():
    """Pretraining writes the card of a base alone; docs/ship.py adds the adapter's section."""
    card, origin = (ROOT / "assets/CARD.md").read_text(), read_json(ORIGIN)
    assert card.endswith(ship.section()) and card.count(ship.HEADING) == 1
    for value in (origin["command"], f"seed {origin['seed']}", origin["versions"]["git"],
                  *list(origin["sealed"].values())[1:]):  # fmt: skip
        assert value in card.split(ship.HEADING)[1]

def run_of(assets: Path, folder: Path, **changes) -> Path:
    """A run whose checkpoint is gone, with the shipped adapter."""
    write_json(folder / "config.json", asdict(Config()) | {"run_dir": str(folder)} | changes)
    versions = read_json(ORIGIN)["versions"] | {"git": "f00d"}
    write_json(folder / "versions.json", {"runs": [versions]})
    shutil.copytree(assets / "adapter", folder / "adapter")
    (folder / "adapter/adapter_config.json").write_text(json.dumps({"r": 7}))
    return folder

def test_a_run_is_shipped(assets, tmp_path):
    before = (assets / "CARD.md").read_text().split(ship.HEADING)[0]
    for seed in (3, 4):  # the second one takes the place of the first
        ship.main(str(run_of(assets, tmp_path / f"run{seed}", seed=seed, lr=0.002)))
        origin, card = read_json(assets / "adapter/origin.json"), (assets / "CARD.md").read_text()
        assert origin["command"] == f"python train.py --lr=0.002 --seed={seed}"
        assert origin["seed"] == seed and origin["versions"]["git"] == "f00d"
        assert shipped_adapter({"base": "assets"}) == assets / "adapter"
        assert card.startswith(before + ship.HEADING) and card.count(ship.HEADING) == 1
        assert f"seed {seed}" in card and "rank 7" in card and "`f00d`" in card

def test_a_run_with_other_roles_is_not_shipped(assets, tmp_path):
    kept = (assets / "CARD.md").read_text()
    run = run_of(assets, tmp_path / "run", actor_temperature=0.7)
    with pytest.raises(ValueError, match="actor_temperature is 0.7; to be shipped, .* have 0.3"):
        ship.main(str(run))
    assert (assets / "CARD.md").read_text() == kept
