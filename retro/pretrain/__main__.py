"""The base model, from nothing: text that the environments generate, a tokenizer, a GPT, a card.

    python -m retro.pretrain --out DIR        hours on a laptop CPU; goes on where it stopped
    ... --out DIR --start assets --envs a,b   from another base, whose vocabulary grows

The corpus is trials by players of mixed skill, reflections of mixed quality between them, and
questions about what happened. Afterwards the model can act, follow a reflection and write one,
right or wrong by chance (`oracle_share`). Read before: retro/model.py, corpus.py. Two aids save
tens of millions of tokens: first weights that copy (first_weights.py), a reading loss (reader.py).
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import hashlib
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

import envs
from retro.actor import TEMPERATURE
from retro.fast.decoder import accelerate
from retro.language_model import LanguageModel
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe
from retro.pretrain.corpus import Document, batches, shard_documents, weighted_texts
from retro.pretrain.first_weights import grow_vocabulary, head_start
from retro.pretrain.muon import Muon
from retro.pretrain.reader import Reader
from retro.pretrain.skills import measure_skills
from retro.run import checkpoint
from retro.run.cli import FROM_1, option, option_of, parse
from retro.run.device import autocast, pick_device
from retro.run.files import fingerprint, hash_of, make_folder, write_atomically
from retro.run.folder import lock
from retro.run.processes import launch
from retro.run.progress import progress
from retro.tokenizer import Tokenizer, load

data, sizes, optimisation = (partial(option, group=g) for g in ("data", "model", "optimisation"))

@dataclass(frozen=True)
class Config:
    out: str = option("runs/base", "folder of the checkpoint; a run there goes on", "run")
    start: str = option("", "folder of a base to begin with; none: from nothing", "run")
    seed: int = option(0, "number from which every random draw follows", "run", low=0)
    checkpoint_minutes: float = option(3.0, "minutes between two checkpoints", "run", low=0)

    envs: str = data("household,hotpot,shop", "environments, comma-separated")
    tokens: float = data(47e6, "length of the run, in tokens seen", low=1)
    batch_tokens: int = data(4096, "tokens of one step, padding included", **FROM_1)
    oracle_share: float = data(0.3, "share of right ones among the reflections", low=0, high=1)
    drills: float = data(0.8, "share of drills at first; later a quarter", low=0, high=1)

    vocab_size: int = sizes(2560, "tokens of the vocabulary", low=257, high=10**6)
    width: int = sizes(192, "width of the residual stream", **FROM_1)
    layers: int = sizes(5, "transformer blocks", **FROM_1)
    heads: int = sizes(3, "heads of a block, each with its own keys and values", low=3, high=10**6)
    mlp_width: int = sizes(384, "inner width of the MLP", **FROM_1)
    context: int = sizes(2560, "tokens; longer documents are left out", low=256, high=10**6)
    # mostly slow rotations: like must find like across a whole trial
    rope_theta: float = sizes(1e6, "base of the rotary angles", above=0)

    # at 0.01 the noise hides the signal
    muon_lr: float = optimisation(0.004, "learning rate of the blocks' matrices", above=0, high=1)
    # without it they grow until attention saturates
    muon_decay: float = optimisation(0.2, "weight decay of the blocks' matrices", low=0, high=1)
    adam_lr: float = optimisation(1e-3, "learning rate of embeddings and norms", above=0, high=1)
    warmup: float = optimisation(0.01, "share of the run in which rates rise", low=0, high=1)
    decay: float = optimisation(0.7, "share, at the end, in which they fall to 0", above=0, high=1)
    reading_weight: float = optimisation(2.0, "of the reading loss beside the next token's", low=0)

    def __post_init__(self) -> None:
        """ValueError on settings that make no sense together."""
        if self.warmup + self.decay > 1:
            raise ValueError(f"--warmup {self.warmup} and --decay {self.decay}: together above 1")
        if not self.start:
            shape_of(self, self.vocab_size)

def shape_of(config: Config, vocab_size: int) -> GPTConfig:
    """The sizes of a model from nothing; ValueError if they don't fit together."""
    return GPTConfig(vocab_size, config.width, config.mlp_width, config.layers, config.heads,
                     config.heads, config.context, config.rope_theta)  # fmt: skip

FREE = ("out", "tokens", "decay", "checkpoint_minutes")  # settings that a resumed run may change
OTHERS = ("config.json", "checkpoint", "*.safetensors*", "*.jsonl", "tokenizer.json")
TOKENIZER_FILES = ("tokenizer.tiktoken", "tokenizer_config.json")
FROZEN_STEPS = 200  # of a given base's matrices: untrained probes and tokens would wipe them out
TOKENIZER_DOCUMENTS = 3000  # of each environment, for training the tokenizer

@dataclass
class Training:
    """A run in progress: what is trained, by what, and how far it is."""

    model: GPT
    reader: Reader
    optimizers: list[Optimizer]  # Muon, AdamW
    state: dict[str, Any]  # config, shard, tokens, seconds, steps, loss: what JSON can hold
    path: Path  # of the checkpoint
    frozen_steps: int  # FROZEN_STEPS, or 0

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        probes = {f"reader.{name}": p for name, p in self.reader.named_parameters()}
        return dict(self.model.named_parameters()) | probes

def main(config: Config) -> None:
    out, environments = Path(config.out), envs.make_all(config.envs)
    torch.manual_seed(config.seed)
    base_tokenizer = own_tokenizer(config.start) if config.start else None
    begun = (out / "pretrain.state").exists()
    others = [path.name for name in OTHERS for path in sorted(out.glob(name))]
    if others and not begun:
        raise ValueError(f"--out {out}: holds a model or a run already ({others[0]} is there), and "
                         "no pretrain.state to go on from; name another folder")  # fmt: skip
    make_folder(out)
    held = lock(out)  # until this function ends
    if not begun:  # a run that was killed before its first checkpoint may have left another one
        texts = tokenizer_texts(environments, config.seed)
        bpe.train(texts, config.vocab_size, start=base_tokenizer).save(out)
    training = start(config, own_tokenizer(out), base_tokenizer)
    train(config, training, tuple(environments))
    training.model.to(torch.bfloat16).save_pretrained(out)
    write_card(out, config, training.state)
    held.close()

def own_tokenizer(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder; ValueError if it is a pretrained model's."""
    tokenizer = load(folder)
    if not isinstance(tokenizer, Tokenizer):
        raise ValueError(f"{folder}: holds a pretrained model's tokenizer, not one of ours")
    return tokenizer

def tokenizer_texts(environments: dict[str, envs.Environment], seed: int) -> list[str]:
    """The first documents of each environment, made-up names in parts."""
    rng, texts = random.Random(seed), []
    for env in environments.values():
        for d in islice(env.demonstrations("train", "tokenizer", 0.5), TOKENIZER_DOCUMENTS):
            texts.append(env.cut_names("".join(text for text, _ in weighted_texts(d, rng))))
    return texts

def start(config: Config, tokenizer: Tokenizer, base_tokenizer: Tokenizer | None) -> Training:
    """A new run, or the one that `config.out` holds; ValueError if its settings are others."""
    device, path = pick_device(), Path(config.out) / "pretrain.state"
    given = fingerprint(config.start) if config.start else ""
    tokenizer_files = {name: hash_of(path.with_name(name)) for name in TOKENIZER_FILES}
    if path.exists():  # before a model is made that does not fit
        known = checkpoint.read(path)[1]
        kept = {k: v for k, v in asdict(config).items() if k not in FREE}
        if changed := [k for k, v in kept.items() if known["config"].get(k) != v]:
            raise ValueError(f"{path}: was written with other {', '.join(changed)}")
        if known.get("start") != given:
            raise ValueError(f"{path}: the run began with another base than {config.start} is now")
        for name, own_hash in tokenizer_files.items():
            if known.get("tokenizer", {}).get(name) != own_hash:
                raise ValueError(f"{path.with_name(name)}: is not what the run began with; put "
                                 "that back")  # fmt: skip
    generator = torch.Generator().manual_seed(config.seed)
    if base_tokenizer:
        model = grow_vocabulary(GPT.from_pretrained(config.start), base_tokenizer, tokenizer)
    else:
        model = GPT(shape_of(config, tokenizer.vocab_size), generator)
        head_start(model, generator)
    model = model.to(device)
    accelerate(model)
    reader = Reader(model).to(device)
    grows = base_tokenizer and tokenizer.vocab_size > base_tokenizer.vocab_size
    frozen_steps = FROZEN_STEPS if base_tokenizer and (config.reading_weight or grows) else 0
    state: dict[str, Any] = dict(config=asdict(config), start=given, tokenizer=tokenizer_files,
                                 shard=0, tokens=0, seconds=0.0, steps=0)  # fmt: skip
    own = optimizers(model, reader, config)
    training = Training(model, reader, own, state, path, frozen_steps)
    if path.exists():
        state = training.state = checkpoint.load(path, training.parameters, own)
        print(f"resumed at {state['tokens'] / 1e6:.1f}M tokens")
    return training

def optimizers(model: GPT, reader: Reader, config: Config) -> list[Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or "layers" not in n]
    groups = [{"params": rest}, {"params": list(reader.parameters())}]
    adam = torch.optim.AdamW(groups, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, lr=config.muon_lr, weight_decay=config.muon_decay), adam]

def train(config: Config, training: Training, env_names: tuple[str, ...]) -> None:
    """Shard after shard, up to `config.tokens`, with a checkpoint every few minutes."""
    state, started, saved = training.state, time.time() - training.state["seconds"], time.time()
    bar = progress(int(config.tokens), "read", "tokens", initial=state["tokens"], unit_scale=True)
    means: list[Tensor] = []  # of the two losses, over the last steps
    documents = shards(config, state["shard"], env_names)
    while state["tokens"] < config.tokens:  # not in a run that has ended: its card is left to write
        rng = random.Random(f"batches {config.seed} {state['shard']}")
        for batch in batches(next(documents), config.batch_tokens, config.context, rng):
            if not batch:
                continue  # no document is short enough
            losses = step(config, training, batch)
            means = [0.98 * m + 0.02 * x for m, x in zip(means or losses, losses)]
            bar.update(batch[0].numel())
            if state["steps"] % 20 == 0:
                bar.set_postfix_str("loss {:.3f}, reading {:.3f} nats".format(*means))
        if not means:
            raise ValueError(f"--context {config.context}: the documents of shard {state['shard']} "
                             "are all longer")  # fmt: skip
        state |= dict(shard=state["shard"] + 1, seconds=time.time() - started, loss=means[0].item())
        if state["tokens"] >= config.tokens or time.time() - saved > 60 * config.checkpoint_minutes:
            checkpoint.save(training.path, training.parameters, training.optimizers, state)
            saved = time.time()
            bar.write("{:.2f}M tokens, {:.0f} minutes, loss {:.4f}, reading {:.4f}".format(
                state["tokens"] / 1e6, state["seconds"] / 60, *means))  # fmt: skip
    bar.close()

def step(config: Config, training: Training, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """One step of both optimisers -> the two losses before it."""
    model, reader, state = training.model, training.reader, training.state
    factor = learning_rate(state["tokens"] / config.tokens, config.warmup, config.decay)
    frozen = state["steps"] < training.frozen_steps
    peaks = (0 if frozen else config.muon_lr, config.adam_lr)
    for optimizer, peak in zip(training.optimizers, peaks):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor
    loss, reading = losses_of(model, reader, *(x.to(model.device) for x in batch))
    if frozen:  # the probes learn to read, but the blocks are not asked to help them
        reading.backward(retain_graph=True, inputs=list(reader.parameters()))
        loss.backward()
    else:
        (loss + config.reading_weight * reading).backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not (norm + loss + reading).isfinite():
        raise FloatingPointError(f"loss {loss}, gradient {norm}: step {state['steps']} not taken")
    for optimizer in training.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    state["steps"] += 1
    state["tokens"] += batch[0].numel()
    return loss.detach(), reading.detach()

def losses_of(model: GPT, reader: Reader, ids: Tensor, loss_weights: Tensor,
              binding_targets: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(B, T), (B, T), (B, T, 3) -> cross-entropy (nats per token), reading loss (nats a target)."""
    predicted = loss_weights > 0
    next_predicted = predicted[:, 1:]
    with autocast(ids.device):
        states = model.hidden(ids[:, :-1])[next_predicted]  # (N, D): before each of those tokens
        losses = F.cross_entropy(model.logits(states), ids[:, 1:][next_predicted], reduction="none")
        weights = loss_weights[:, 1:][next_predicted]  # (N,)
        loss = (losses * weights).sum() / weights.sum()
        return loss, reader.loss(model, ids[:, :-1], predicted[:, :-1], binding_targets[:, :-1])

def learning_rate(progress: float, warmup: float, decay: float) -> float:
    """Factor on the peak rate at `progress` in [0, 1] of the run: up, flat, down to zero."""
    if progress < warmup:
        return progress / warmup
    return 1.0 if progress < 1 - decay else max(0.0, (1 - progress) / decay)

def shards(config: Config, first: int, env_names: tuple[str, ...]) -> Iterator[list[Document]]:
    """From shard `first` on. Beside a GPU two processes prepare them, three shards ahead."""
    shard = partial(shard_documents, env_names, config.out, config.seed, config.oracle_share,
                    config.drills)  # fmt: skip
    if pick_device().type == "cpu":
        yield from map(shard, count(first))
        return
    with get_context("spawn").Pool(2) as pool:
        pending = [pool.apply_async(shard, (first + ahead,)) for ahead in range(3)]
        for number in count(first + 3):
            yield pending.pop(0).get()
            pending.append(pool.apply_async(shard, (number,)))

def write_card(out: Path, config: Config, state: dict, n: int = 200) -> None:
    """CARD.md: what the checkpoint is, how it was made, what it can do."""
    lm = LanguageModel.open(out, pick_device())
    lines: list[str] = []
    for name, env in envs.make_all(config.envs).items():
        for split in ("seen", "unseen"):
            skills = measure_skills(env, lm, split, n, 1, TEMPERATURE)
            lines = lines or [f"| | {' | '.join(skills)} |", "|---" * (len(skills) + 1) + "|"]
            lines += [f"| {name}, {split} | {' | '.join(f'{s:.3f}' for s in skills.values())} |"]
    changed = {k: v for k, v in asdict(config).items() if v != getattr(Config(), k)}
    card = Path(__file__).with_name("card.txt").read_text().format(
        million=sum(p.numel() for p in lm.model.parameters()) / 1e6, vocab=lm.tokenizer.vocab_size,
        flags=" ".join(f"{option_of(k)} {v}" for k, v in changed.items() if k != "out"),
        date=time.strftime("%Y-%m-%d"), names=config.envs.replace(",", ", "), state=state,
        model=lm.model.config, tokens=state["tokens"] / 1e6, hours=state["seconds"] / 3600,
        config=config, n=n,
        hash=hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        temperature=TEMPERATURE, table="\n".join(lines),
    )  # fmt: skip
    write_atomically(out / "CARD.md", card.encode())
    print(f"{card}\nwrote {out}/")

if __name__ == "__main__":
    launch(main, parse(Config, __doc__), 1)
