"""Every stage on a device that is not the CPU: no tensor and no generator is left behind. A token
waits for the device once: is it the last one?
"""

import io
import sys
from types import SimpleNamespace

import pytest
import torch

import play
import retro.actor
import retro.fast
import retro.language_model
import retro.pretrain.skills
import train
from retro.language_model import LanguageModel
from retro.model import GPTConfig
from retro.pretrain import __main__ as pretraining
from retro.pretrain import corpus
from retro.run.device import batch_size, seeded
from tests.fixtures import ASSETS
from tests.small_run import GUESS, config, evaluated, short_games, slow  # noqa: F401
from tests.stand_in import DEVICE, Inline, There, stand_in

@pytest.fixture
def there():
    """Everything runs on the stand-in."""
    with stand_in() as waits:
        yield waits

LARGE = dict(train_tasks=8, updates=2)
CASES = [("online", True, GUESS), slow("online", True, LARGE), slow("offline", False, LARGE)]

@pytest.mark.slow
@pytest.mark.parametrize("mode, fast, changes", CASES)
def test_a_run_is_all_on_the_device(there, tiny_base, tmp_path, monkeypatch, capsys,
                                    mode, fast, changes):  # fmt: skip
    """Training; in the slow cases also going on, evaluation, and a game to watch."""
    monkeypatch.setattr(retro.fast, "enabled", fast)
    seen, set_up = [], train.set_up
    monkeypatch.setattr(train, "set_up", lambda config: seen.append(set_up(config)) or seen[-1])
    small = changes | {"mode": mode}
    for settings in (small, small | {"updates": 3, "resume": True})[: 1 if changes is GUESS else 2]:
        train.main(config(tiny_base, tmp_path / "run", **settings))
        weights = [*seen[-1].lm.model.parameters(), *seen[-1].policy.parameters()]
        assert all(isinstance(weight.data, There) for weight in weights)
    if changes is GUESS:
        return
    evaluated(tmp_path / "run", tmp_path, best_of=2 if mode == "offline" else 1)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    play.main(play.Config(run_dir=str(tmp_path / "run"), delay=0, retries=1))
    assert "Retry 1" in capsys.readouterr().out

@pytest.mark.slow
def test_pretraining_is_all_on_the_device(there, tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "DOCUMENTS", 2)
    monkeypatch.setattr(pretraining, "TOKENIZER_DOCUMENTS", 20)
    monkeypatch.setattr(pretraining, "get_context", Inline)
    measure = pretraining.measure_skills
    one = lambda env, lm, split, n, *rest: measure(env, lm, split, 1, *rest)
    monkeypatch.setattr(pretraining, "measure_skills", one)
    monkeypatch.setattr(retro.actor, "ACTION_TOKENS", 2)
    monkeypatch.setattr(retro.language_model, "REFLECTION_TOKENS", 4)
    monkeypatch.setattr(retro.pretrain.skills, "ANSWER_TOKENS", 4)
    small = dict(envs="hotpot", batch_tokens=2048, vocab_size=300, width=48, layers=2, heads=3,
                 mlp_width=32, out=str(tmp_path / "base"))  # fmt: skip
    for tokens in (2000, 4000):
        pretraining.main(pretraining.Config(tokens=tokens, **small))
    assert (tmp_path / "base" / "CARD.md").exists()
    assert there["__main__.py step"] and not there["muon.py step"]

@pytest.mark.parametrize("fast", [True, False])
def test_a_token_waits_once(monkeypatch, fast):
    """Passes of the model are counted; beside one wait a pass there are those of a whole call."""
    monkeypatch.setattr(retro.fast, "enabled", fast)
    with stand_in() as waits:
        lm = LanguageModel.open(ASSETS, DEVICE)
        kind = type(lm.decoder())
        passes, name = [], "states" if fast else "hidden"
        whole = getattr(kind, name)
        counted = lambda *args, **kwargs: passes.append(1) or whole(*args, **kwargs)
        monkeypatch.setattr(kind, name, counted)
        texts = ["You are in the middle of a room.", "You open the drawer 1.", "You go"]
        waits.clear()
        generator = seeded("waits", device=DEVICE)
        out = lm.sample([lm.tokenizer.encode(text) for text in texts], 20, 1.0, generator)
    assert len(passes) > 5 and sum(map(len, out.response_ids)) > 10
    where = "drafts.py decode" if fast else "language_model.py one_by_one"
    assert waits[where] <= len(passes) + (1 if fast else 9), waits
    assert sum(waits.values()) - waits[where] <= (0 if fast else 9), waits

def test_batches_follow_a_gpus_memory(monkeypatch):
    """A token of the shipped base takes 4 bytes for each of 2 * 5 * 192 kept and 4 * 576 passing
    numbers, so a row of 2560 of them 43 MB: 148 rows fill a quarter of 24 GiB.
    """
    config, gpu = GPTConfig(2560, 192, 384, 5, 3, 3), torch.device("cuda")
    assert batch_size(torch.device("cpu"), 64, config, 2560) == 64
    for gibibytes, rows in ((4, 64), (24, 148), (80, 496), (400, 1024)):
        known = SimpleNamespace(total_memory=gibibytes << 30)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: known)
        assert batch_size(gpu, 64, config, 2560) == rows
        assert batch_size(gpu, 8192, config) == min(16 * 8192, gibibytes * 2**28 // 16896)

def test_a_tensor_left_behind_is_found():
    """Or the tests above would hold of nothing."""
    with stand_in():
        weight = torch.ones(3, device=DEVICE)
        assert isinstance(weight, There) and (2 * weight).tolist() == [2, 2, 2]
        with pytest.raises(RuntimeError, match="is on the CPU"):
            weight + torch.ones(3)
        with pytest.raises(RuntimeError, match="is on the CPU"):
            torch.cat((weight, torch.zeros(1)))
        with pytest.raises(RuntimeError, match="generator is of cpu"):
            torch.rand(3, device=DEVICE, generator=torch.Generator())
        with pytest.raises(RuntimeError, match="generator is of meta"):
            torch.randperm(3, generator=torch.Generator(DEVICE))
        with pytest.raises(RuntimeError, match="is on the CPU"):
            torch.ones(3)[weight.long()]
        assert weight[torch.tensor([2, 0])].tolist() == [1, 1]  # a GPU takes these numbers
    assert torch.Generator().device.type == "cpu"
