"""A GPU gives what the CPU gives, within bounds, and all that is made for it is on it.

    pytest -m gpu                           on a machine with a GPU
    pytest -n 0 --all tests/test_gpu.py     the tests themselves, on a CPU

The bounds are those of bfloat16, eight bits of a number: about three times what its emulation on a
CPU is off. There it is switched on for the test.
"""

import subprocess
import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import retro.fast
import train
from retro import policy
from retro.interop.open import open_model
from retro.language_model import LanguageModel, generate, pad
from retro.learn import Baselines, FailedTrial, Rollout, update
from retro.lora import lora_parameters
from retro.policy import Policy
from retro.ppo import PPOConfig
from retro.pretrain import __main__ as pretraining
from retro.pretrain import corpus
from retro.reflect import reflect, reflection_prompt
from retro.run import checkpoint
from retro.run.device import seeded
from tests.fixtures import ASSETS
from tests.small_run import config, evaluated, short_games  # noqa: F401
from tests.small_trials import failed_trials
from tests.stand_in import Inline, run_on

CPU = torch.device("cpu")
GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"))
TOKENS = 24

DEVICES = [pytest.param("cuda", marks=GPU), pytest.param("cpu", marks=pytest.mark.slow)]

@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    """Where everything runs, in bfloat16 where train.py would use it on a GPU."""
    run_on(monkeypatch, device := torch.device(request.param))
    if device == CPU:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        products(monkeypatch, partial(torch.autocast, "cpu", torch.bfloat16, cache_enabled=False))
    return device

def products(patch, kind) -> None:
    """What `autocast(device)` is, in all modules."""
    for module in [*sys.modules.values()]:
        if vars(module).get("autocast") is not None and module.__name__.startswith("retro"):
            patch.setattr(module, "autocast", lambda device: kind())

def float32(patch) -> None:
    products(patch, nullcontext)

def own(device) -> LanguageModel:
    """The shipped base, with an adapter that matters."""
    lm = open_model(str(ASSETS), device, False)
    lm.add_adapter("reflector", 4, 8.0, seeded("adapter", device=device))
    for i, weight in enumerate(lora_parameters(lm.model)):  # the same on every device
        drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(i))
        weight.data.copy_(0.02 * drawn)
    return lm

def tensors(thing) -> list[Tensor]:
    """All in it: of a module, an optimiser, a list, an object's attributes."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, nn.Module):
        return [*thing.parameters(), *thing.buffers()]
    if isinstance(thing, torch.optim.Optimizer):
        return [t for s in thing.state.values() for name, t in s.items() if name != "step"]
    if isinstance(thing, dict):
        return tensors([*thing.values()])
    if isinstance(thing, list | tuple):
        return [t for part in thing for t in tensors(part)]
    return tensors(vars(thing)) if type(thing).__module__.startswith("retro") else []

def all_on(device, *things) -> None:
    found = tensors(list(things))
    assert found and {t.device.type for t in found} == {device.type}

@pytest.fixture(scope="module")
def failed():
    return failed_trials(6, steps=6)

def log_probabilities(lm, ids) -> Tensor:
    """Of the tokens of ids (B, S), on the CPU: (B, S - 1)."""
    with torch.no_grad():
        logits = lm.model(ids.to(lm.device))[:, :-1].float()
    return logits.log_softmax(-1).gather(-1, ids[:, 1:, None].to(lm.device))[..., 0].cpu()

def test_a_forward_pass_gives_the_cpus_numbers(device, failed):
    """In float32 to a thousandth of a nat; in bfloat16 to a tenth in the mean."""
    there, here = own(device), own(CPU)
    rows = [there.tokenizer.encode(trial.text())[:200] for trial in failed]
    ids, _ = pad([row for row in rows if len(row) == 200])
    all_on(device, there.model)
    wanted = log_probabilities(here, ids)
    found = log_probabilities(there, ids)
    assert found.dtype == torch.float32 and (found - wanted).abs().max() < 1e-3
    with policy.autocast(device):
        gap = (log_probabilities(there, ids) - wanted).abs()
        assert there.model.dtype == torch.bfloat16
    print(f"bfloat16: {gap.mean():.4f} nats a token in the mean, {gap.max():.3f} at most")
    assert 0 < gap.mean() < 0.1 and gap.max() < 1

@pytest.mark.parametrize("fast", [True, False])
def test_generation(device, failed, monkeypatch, fast):
    """Greedy tokens are the CPU's, but for a near tie; a sample's log p is a forward pass's."""
    monkeypatch.setattr(retro.fast, "enabled", fast)
    there, here = own(device), own(CPU)
    chunks = [there.tokenizer.encode(trial.text())[: 60 + 20 * i] for i, trial in enumerate(failed)]
    found = generate(there.model, chunks, TOKENS, temperature=0)
    wanted = generate(here.model, chunks, TOKENS, temperature=0)
    all_on(device, found)
    agree = sum(a == b for a, b in zip(found.response_ids, wanted.response_ids))
    assert agree >= len(chunks) - 1
    draws = [seeded("row", i, device=device) for i in range(len(chunks))]
    assert {g.device.type for g in draws} == {device.type}
    out = generate(there.model, chunks, TOKENS, generator=draws)
    for chunk, response, logprobs in zip(chunks, out.response_ids, out.logprobs.tolist()):
        ids = torch.tensor([chunk + response])
        again = log_probabilities(there, ids)[0, len(chunk) - 1 :].tolist()
        assert logprobs == pytest.approx(again, abs=1e-3)

def learnt(lm, failed, reflections, ratings, device):
    """(metrics, how far the adapter moves) in one update by a plain gradient step."""
    policy = Policy(lm)
    weights = lora_parameters(lm.model)
    before = torch.cat([w.detach().flatten().clone() for w in weights])
    optimizer = torch.optim.SGD([*weights, *policy.parameters()], lr=1.0)
    trials = [FailedTrial.of(trial, 0, lm) for trial in failed]
    played = Rollout(trials, reflections, ratings, [], 1)
    settings = PPOConfig(epochs=1, minibatch_size=len(failed), clip_coef=0.2, vf_coef=0.5,
                         ent_coef=0.0, gamma=1.0, gae_lambda=1.0, max_grad_norm=1.0,
                         target_kl=None)  # fmt: skip
    stats = update(policy, optimizer, played, settings, 0.02, Baselines(0.3, {}), seeded("rows"))
    all_on(device, policy, policy.load_batch(reflections))
    return stats, (torch.cat([w.detach().flatten() for w in weights]) - before).cpu()

def test_reflections_and_an_update(device, failed, monkeypatch):
    """In bfloat16, against the CPU in float32: what they were sampled with, and the step."""
    there, here = own(device), own(CPU)
    asked = [reflection_prompt(trial, there) for trial in failed]
    caches = list(there.prefill(asked))
    all_on(device, caches)
    draws = seeded("reflections", device=device)
    written = reflect(there, asked, temperature=1.0, generator=draws, caches=caches)
    assert draws.device.type == device.type
    ratings = torch.linspace(-0.5, 1.0, len(failed)).tolist()
    stats, moved = learnt(there, failed, written, ratings, device)
    with monkeypatch.context() as patch:
        float32(patch)
        rows = torch.arange(len(written))
        exact = Policy(here).load_batch(written).logprobs(rows)
        wanted, step = learnt(here, failed, written, ratings, CPU)
    gaps = [abs(a - b) for r, row in zip(written, exact.tolist()) for a, b in zip(r.logprobs, row)]
    alike = torch.cosine_similarity(moved, step, dim=0)
    mean = sum(gaps) / len(gaps)
    print(f"log p of samples: {mean:.4f} nats off in the mean, {max(gaps):.3f} at most; cosine of "
          f"the steps {alike:.4f}; ratio off by {stats['first_ratio_error']:.1e}")
    assert mean < 0.03 and max(gaps) < 0.5
    assert stats["first_ratio_error"] < 1e-3  # the same pass twice
    assert alike > 0.95 and stats["updates"] == wanted["updates"] == 1
    assert stats["kl"] == pytest.approx(wanted["kl"], rel=0.05, abs=0.05)
    assert stats["policy_loss"] == pytest.approx(wanted["policy_loss"], rel=0.05, abs=0.01)

@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_run_and_its_resumption(device, tiny_base, tmp_path, monkeypatch, mode):
    """Everything of a run is on the device; what was kept comes back to it, bit for bit."""
    set_up, seen = train.set_up, []

    def watched(settings):
        training = set_up(settings)
        seen.append(training)
        path = training.run.path / "checkpoint"
        if settings.resume:
            kept = checkpoint.read(path)[0]
            for name, weight in training.run.weights.items():
                assert torch.equal(weight.detach().cpu(), kept[f"weight.{name}"])
        return training

    monkeypatch.setattr(train, "set_up", watched)
    for changes in ({}, {"updates": 3, "resume": True}):
        train.main(config(tiny_base, tmp_path / "run", mode=mode, train_tasks=8, **changes))
        training = seen[-1]
        all_on(device, training.lm.model, training.policy, training.optimizer)
        if training.reward:
            all_on(device, training.reward)
        drawn = training.actor.generator, training.generator("update", 0)
        assert {generator.device.type for generator in drawn} == {device.type}
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3
    evaluated(tmp_path / "run", tmp_path, best_of=2 if mode == "offline" else 1)

SMALL = dict(envs="household", batch_tokens=2048, vocab_size=400, width=48, layers=2, heads=3,
             mlp_width=32, checkpoint_minutes=0.0)  # fmt: skip

def test_pretraining(device, tmp_path, monkeypatch):
    """The first loss is the CPU's; it falls; a run goes on where it ended."""
    monkeypatch.setattr(corpus, "DOCUMENTS", 4)
    monkeypatch.setattr(pretraining, "TOKENIZER_DOCUMENTS", 40)
    monkeypatch.setattr(pretraining, "write_card", lambda *args: None)
    monkeypatch.setattr(pretraining, "get_context", Inline)
    step, losses, batches = pretraining.step, [], []

    def watched(settings, training, batch):
        all_on(device, training.model, training.reader)
        batches.append(batch)
        losses.append(step(settings, training, batch)[0].item())
        all_on(device, *training.optimizers)
        return torch.tensor(losses[-1]), torch.tensor(0.0)

    monkeypatch.setattr(pretraining, "step", watched)
    for tokens in (20_000, 30_000):
        pretraining.main(pretraining.Config(out=str(tmp_path / "base"), tokens=tokens, **SMALL))
    assert losses[-1] < losses[0] - 0.2
    run_on(monkeypatch, CPU)
    float32(monkeypatch)
    monkeypatch.setattr(pretraining, "shards", lambda *args: iter([[]]))
    monkeypatch.setattr(pretraining, "batches", lambda *args: batches[:1])
    monkeypatch.setattr(pretraining, "step", lambda *asked: ends(step(*asked), losses))
    with pytest.raises(KeyboardInterrupt):
        pretraining.main(pretraining.Config(out=str(tmp_path / "cpu"), tokens=20_000, **SMALL))
    assert losses[0] == pytest.approx(losses[-1], abs=0.02)

def ends(found, losses) -> None:
    losses.append(found[0].item())
    raise KeyboardInterrupt

def test_the_smallest_run_of_the_script(device, tmp_path):
    """As README has it, but for the numbers."""
    root = Path(__file__).parent.parent
    few = "--train-tasks 12 --updates 2 --eval-tasks 4 --gap-tasks 4 --choice-tasks 4"
    command = [sys.executable, "train.py", *few.split(), "--no-gap-check"]  # of 4 tasks it is luck
    done = subprocess.run([*command, "--run-dir", str(tmp_path / "run")], cwd=root,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "wrote adapter, metrics.jsonl, results.json" in done.stdout
