"""The base model, from nothing: text that the environments generate, a tokenizer, a GPT, a card.

    python -m retro.pretrain --out DIR        hours on a laptop CPU; goes on where it stopped
    ... --out DIR --start assets --envs a,b   from another base, whose vocabulary grows
    ... --out DIR --tokens 120e6              a longer way: it may be changed at any time
    python -m retro.pretrain.skills DIR       what it can do by now, also while it goes on

The corpus is trials by players of mixed skill, reflections of mixed quality between them, and
questions about what happened. Afterwards the model can act, follow a reflection and write one,
right or wrong by chance (`oracle_share`). Each checkpoint leaves a whole base in DIR beside the
state from which the run goes on. Each of several processes makes its part of the documents and
learns from its part; the weights are the same everywhere. Read before: retro/model.py, corpus.py.
Two aids save tens of millions of tokens: first weights that copy (first_weights.py), a reading
loss (reader.py).
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import random
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

import envs
from retro.fast.decoder import accelerate
from retro.model import GPT, GPTConfig
from retro.pretrain import bpe
from retro.pretrain.card import write_card
from retro.pretrain.corpus import (
    NOTHING,
    PARTS,
    Document,
    Row,
    deal,
    pack,
    part_documents,
    steps_of,
    weighted_texts,
)
from retro.pretrain.first_weights import grow_vocabulary, head_start
from retro.pretrain.muon import Muon
from retro.pretrain.packed import packed
from retro.pretrain.reader import Reader
from retro.pretrain.skills import own_tokenizer
from retro.run import checkpoint
from retro.run.cli import FROM_1, option, parse
from retro.run.device import autocast, pick_device, release_memory
from retro.run.files import fingerprint, hash_of, make_folder
from retro.run.folder import lock
from retro.run.processes import ALONE, Processes, join, launch
from retro.run.progress import progress
from retro.tokenizer import Tokenizer

T = TypeVar("T")
data, sizes, optimisation = (partial(option, group=g) for g in ("data", "model", "optimisation"))

@dataclass(frozen=True)
class Config:
    out: str = option("runs/base", "folder of the checkpoint; a run there goes on", "run")
    start: str = option("", "folder of a base to begin with; none: from nothing", "run")
    seed: int = option(0, "number from which every random draw follows", "run", low=0)
    checkpoint_minutes: float = option(2.5, "minutes between two checkpoints", "run", low=0)
    games: str = option("", "folder of ALFWorld's training games, for a row of the card", "run")

    envs: str = data("household,hotpot,shop", "environments, comma-separated")
    tokens: float = data(80e6, "length of the run, in tokens seen", low=1)
    batch_tokens: int = data(4096, "tokens of one step, of all processes together", **FROM_1)
    oracle_share: float = data(0.15, "share of right ones among the reflections", low=0, high=1)
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
    decay: float = optimisation(0.7, "share, at the end, in which they fall to 0", low=0, high=1)
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

# settings that a resumed run may change; the base that it began with is known by its hash
FREE = ("out", "start", "games", "tokens", "decay", "checkpoint_minutes")
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
    state: dict[str, Any]  # what JSON can hold: see `start`
    path: Path  # of the checkpoint
    frozen_steps: int = 0  # FROZEN_STEPS, or 0
    processes: Processes = ALONE

    @property
    def parameters(self) -> dict[str, torch.nn.Parameter]:
        probes = {f"reader.{name}": p for name, p in self.reader.named_parameters()}
        return dict(self.model.named_parameters()) | probes

    def save(self) -> None:
        """The state, and beside it the base as it is now, as any other base in bfloat16."""
        checkpoint.save(self.path, self.parameters, self.optimizers, self.state)
        with torch.device("meta"):
            base = GPT(self.model.config)
        weights = {name: w.bfloat16() for name, w in self.model.state_dict().items()}
        base.load_state_dict(weights, assign=True)
        base.save_pretrained(self.path.parent)

def main(config: Config) -> None:
    environments, device = envs.make_all(config.envs), pick_device()
    if config.games:  # read before hours are spent
        envs.make("household", games=config.games)
    processes = join(device)
    torch.manual_seed(config.seed)
    base_tokenizer = own_tokenizer(config.start) if config.start else None
    held = prepare(config, environments, base_tokenizer) if processes.is_main else None
    processes.barrier()
    training = start(config, own_tokenizer(config.out), base_tokenizer, processes)
    train(config, training, tuple(environments))
    write_card(config, training.state, processes)
    processes.barrier()
    processes.leave()
    if held:
        held.close()

def prepare(config: Config, environments: dict[str, envs.Environment],
            base_tokenizer: Tokenizer | None) -> TextIO:  # fmt: skip
    """Lock the folder, and make the tokenizer of a new run; ValueError if it holds something else.
    """
    out = Path(config.out)
    begun = (out / "pretrain.state").exists()
    others = [path.name for name in OTHERS for path in sorted(out.glob(name))]
    if others and not begun:
        raise ValueError(f"--out {out}: holds a model or a run already ({others[0]} is there), and "
                         "no pretrain.state to go on from; name another folder")  # fmt: skip
    make_folder(out)
    held = lock(out)
    if not begun:  # a run that was killed before its first checkpoint may have left another one
        texts = tokenizer_texts(environments, config.seed)
        bpe.train(texts, config.vocab_size, start=base_tokenizer).save(out)
    return held

def tokenizer_texts(environments: dict[str, envs.Environment], seed: int) -> list[str]:
    """The first documents of each environment, made-up names in parts."""
    rng, texts = random.Random(seed), []
    for env in environments.values():
        for d in islice(env.demonstrations("train", "tokenizer", 0.5), TOKENIZER_DOCUMENTS):
            texts.append(env.cut_names("".join(text for text, _ in weighted_texts(d, rng))))
    return texts

def start(config: Config, tokenizer: Tokenizer, base_tokenizer: Tokenizer | None,
          processes: Processes = ALONE) -> Training:  # fmt: skip
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
    state: dict[str, Any] = dict(
        config=asdict(config), start=given, tokenizer=tokenizer_files, processes=processes.world,
        shard=0, taken=0,  # steps of this shard
        tokens=0, seconds=0.0, steps=0, rate=0.0, loss=0.0, reading=0.0,
    )  # fmt: skip
    own = optimizers(model, reader, config, processes)
    training = Training(model, reader, own, state, path, frozen_steps, processes)
    if path.exists():
        state = training.state = checkpoint.load(path, training.parameters, own)
        processes.print0(f"resumed at {state['tokens'] / 1e6:.1f}M tokens")
        if state["processes"] != processes.world:
            processes.print0(f"note: {path} was written by another number of processes: the same "
                             "documents follow, but sums are rounded otherwise")  # fmt: skip
        state |= dict(config=asdict(config), processes=processes.world)
    return training

def optimizers(model: GPT, reader: Reader, config: Config,
               processes: Processes) -> list[Optimizer]:  # fmt: skip
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or "layers" not in n]
    groups = [{"params": rest}, {"params": list(reader.parameters())}]
    adam = torch.optim.AdamW(groups, lr=config.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, config.muon_lr, config.muon_decay, processes), adam]

def train(config: Config, training: Training, env_names: tuple[str, ...]) -> None:
    """Shard after shard, up to `config.tokens`, with a checkpoint every few minutes."""
    state, processes = training.state, training.processes
    started, saved = time.time() - state["seconds"], time.time()
    bar = progress(int(config.tokens), "read", "tokens", initial=state["tokens"], unit_scale=True,
                   shown=processes.is_main)  # fmt: skip
    documents = shards(config, env_names, processes, state["shard"])
    while state["tokens"] < config.tokens:  # not in a run that has ended: its card is left to write
        steps = steps_of(next(documents), config.batch_tokens, config.context)
        if not steps:
            raise ValueError(f"--context {config.context}: the documents of shard {state['shard']} "
                             "are all longer")  # fmt: skip
        for own in steps[state["taken"] :]:
            bar.update(step(config, training, own))
            state["seconds"] = time.time() - started
            ended = state["tokens"] >= config.tokens
            losses = "loss {loss:.4f}, reading {reading:.4f}".format(**state)
            if state["steps"] % 20 == 0:
                bar.set_postfix_str(losses)
            due = time.time() - saved > 60 * config.checkpoint_minutes
            if processes.is_main and (ended or due):
                training.save()
                saved = time.time()
                bar.write("{:.2f}M tokens, {:.0f} minutes, {}".format(
                    state["tokens"] / 1e6, state["seconds"] / 60, losses))  # fmt: skip
            if ended:
                break
        else:
            state |= dict(shard=state["shard"] + 1, taken=0)
            release_memory()
    bar.close()

def step(config: Config, training: Training, documents: list[Document]) -> int:
    """One step of both optimisers, in all processes the same -> its tokens."""
    model, reader, state = training.model, training.reader, training.state
    processes, tokens = training.processes, sum(len(d.ids) for d in documents)
    progress, done = state["tokens"] / config.tokens, tokens / config.tokens
    rate = learning_rate(state["rate"], progress, done, config.warmup, config.decay)
    frozen = state["steps"] < training.frozen_steps
    peaks = (0 if frozen else config.muon_lr, config.adam_lr)
    for optimizer, peak in zip(training.optimizers, peaks):
        for group in optimizer.param_groups:
            group["lr"] = peak * rate
    own = deal(documents, processes.world)[processes.rank]
    row = pack(own or [NOTHING], model.device)
    loss, reading = losses_of(model, reader, row, processes)
    if frozen:  # the probes learn to read, but the blocks are not asked to help them
        reading.backward(retain_graph=True, inputs=list(reader.parameters()))
        loss.backward()
    else:
        (loss + config.reading_weight * reading).backward()
    weights = list(training.parameters.values())
    gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in weights]
    shares = torch.stack((loss, reading)).detach()
    (loss, reading), *gradients = processes.all_reduce_many([shares, *gradients])
    for weight, gradient in zip(weights, gradients):
        weight.grad = gradient
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    if not (norm + loss + reading).isfinite():
        raise FloatingPointError(f"loss {loss}, gradient {norm}: step {state['steps']} not taken")
    for optimizer in training.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    for name, now in (("loss", loss.item()), ("reading", reading.item())):  # over the last steps
        state[name] = 0.98 * state[name] + 0.02 * now if state["steps"] else now
    state |= dict(rate=rate, steps=state["steps"] + 1, taken=state["taken"] + 1)
    state["tokens"] += tokens
    return tokens

def losses_of(model: GPT, reader: Reader, row: Row,
              processes: Processes) -> tuple[Tensor, Tensor]:  # fmt: skip
    """This process's shares of two means over the targets of all processes: cross-entropy (nats per
    token) and reading loss (nats per target). The shares of all processes add up to the means.
    """
    predicted = row.loss_weights > 0  # (1, T)
    weights, targets = row.loss_weights[predicted], row.ids[predicted]  # (N,)
    questions = reader.questions(row.ids, predicted, row.binding_targets)
    own = [weights.sum(), *(asked.numel() for _, asked in questions)]
    counts = processes.all_reduce(torch.tensor(own, device=model.device))
    with autocast(model.device):
        states = model.hidden(row.ids, packed=packed(model, row.lengths))  # (1, T, D)
        before = states[predicted.roll(-1, 1)]  # (N, D): of the token before each
        losses = F.cross_entropy(model.logits(before), targets, reduction="none")
        loss = (losses * weights).sum() / counts[0]
        return loss, reader.loss(model, questions, counts[1:])

def learning_rate(last: float, progress: float, done: float, warmup: float, decay: float) -> float:
    """Factor on the peak rate at `progress` in [0, 1] of the run, of which a step does `done`: up
    from the last step's factor at the pace of the warm-up, flat, down to zero. So it goes on
    without a jump upwards where a run is made longer.
    """
    risen = last + done / warmup if warmup else 1.0
    falling = (1 - progress) / decay if decay else 1.0
    return max(0.0, min(1.0, risen, falling))

def shards(config: Config, env_names: tuple[str, ...], processes: Processes,
           first: int) -> Iterator[list[Document]]:  # fmt: skip
    """All documents of each shard from `first` on, in one order for any number of processes. On a
    CPU each process makes its parts; beside a GPU it has workers that are three shards ahead.
    """
    own = range(PARTS)[processes.rank :: processes.world]
    make = partial(part_documents, env_names, config.out, config.seed, config.oracle_share,
                   config.drills)  # fmt: skip
    at_work = written_ahead if pick_device().type != "cpu" else map
    numbers = ((number, part) for number in count(first) for part in own)
    made = at_work(make, numbers)
    while True:
        parts = processes.all_gather([(part, next(made)) for part in own])
        yield [d for _, documents in sorted(parts, key=lambda pair: pair[0]) for d in documents]

def written_ahead(make: Callable[[T], list[Document]],
                  numbers: Iterator[T]) -> Iterator[list[Document]]:  # fmt: skip
    """map(make, numbers) by worker processes, three shards ahead."""
    with get_context("spawn").Pool(PARTS) as pool:
        pending = deque(pool.apply_async(make, (n,)) for n in islice(numbers, 3 * PARTS))
        while pending:
            yield pending.popleft().get()
            pending += (pool.apply_async(make, (n,)) for n in islice(numbers, 1))

if __name__ == "__main__":
    launch(main, parse(Config, __doc__), left="the same command goes on")
