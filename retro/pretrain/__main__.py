"""The base model, from nothing: text that the environments generate, a tokenizer, a GPT, a card.

    python -m retro.pretrain --out DIR        hours on a laptop CPU; goes on where it stopped
    ... --out DIR --start assets --envs a,b   from another base, whose vocabulary grows

The corpus plays the part that web text plays for a large model: chains of trials by players of
mixed skill, reflections of mixed quality between them, and neutral questions about what happened.
Afterwards the model can act, can follow a reflection and can write one; whether what it writes is
right is left to chance (`oracle_share`), and to Retroformer.

Two aids, without which it takes tens of millions of tokens: first weights that can copy
(`first_weights.py`), and a second loss, on reading (`reader.py`).
"""

import hashlib
import random
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import islice
from multiprocessing import get_context
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import envs
from retro import tokenizer
from retro.actor import TEMPERATURE
from retro.model import GPT, GPTConfig
from retro.pretrain.corpus import batches, pieces, shard
from retro.pretrain.first_weights import grown, head_start
from retro.pretrain.muon import Muon
from retro.pretrain.reader import Reader
from retro.pretrain.skills import measure_skills
from retro.run.checkpoint import load, save
from retro.run.cli import option, option_of, parse, run_script
from retro.run.device import autocast, pick_device
from retro.run.files import write_atomically
from retro.tokenizer import Tokenizer


@dataclass(frozen=True)
class Config:
    out: str = option("assets", "folder of the checkpoint; a run there goes on", "run")
    start: str = option("", "folder of a base to begin with; none: from nothing", "run")
    seed: int = option(0, "number from which every random draw follows", "run", low=0)
    checkpoint_minutes: float = option(3.0, "minutes between two checkpoints", "run", low=0)

    envs: str = option("household,hotpot,shop", "environments, comma-separated", "data")
    tokens: float = option(47e6, "length of the run, in tokens seen", "data", low=1)
    batch_tokens: int = option(4096, "tokens of one step, padding included", "data", low=1)
    oracle_share: float = option(
        0.3, "share of right ones among the corpus's reflections", "data", low=0, high=1
    )
    drills: float = option(
        0.8, "share of drills in the corpus at first; later a quarter", "data", low=0, high=1
    )

    vocab_size: int = option(2560, "tokens of the vocabulary", "model", low=1)
    width: int = option(192, "width of the residual stream", "model", low=1)
    layers: int = option(5, "transformer blocks", "model", low=1)
    heads: int = option(3, "query heads of a block", "model", low=1)
    kv_heads: int = option(3, "key-value heads of a block", "model", low=1)
    mlp_width: int = option(384, "inner width of the MLP", "model", low=1)
    context: int = option(2560, "tokens; longer documents are left out", "model", low=1)
    # mostly slow rotations: like must find like across a whole trial
    rope_theta: float = option(1e6, "base of the rotary angles", "model", above=0)

    muon_lr: float = option(  # at 0.01 the noise hides the signal
        0.004, "learning rate of the matrices inside the blocks", "optimisation", above=0
    )
    muon_decay: float = option(  # without it they grow until attention saturates
        0.2, "weight decay of the matrices inside the blocks", "optimisation", low=0
    )
    adam_lr: float = option(1e-3, "learning rate of embeddings and norms", "optimisation", above=0)
    warmup: float = option(
        0.01, "share of the run in which the rates rise", "optimisation", low=0, high=1
    )
    decay: float = option(
        0.7, "share of the run, its end, in which they fall to 0", "optimisation", above=0, high=1
    )
    reading_weight: float = option(
        2.0, "weight of the reading loss beside that of the next token", "optimisation", low=0
    )


# settings that may change between a run and its resumption
FREE = ("out", "tokens", "decay", "checkpoint_minutes")
LISTEN = 200  # steps in which a base to start from is left alone, all but its embeddings, until
# probes and new tokens have learnt: wild at first, they wiped out what it could do
TOKENIZER_DOCUMENTS = 3000  # that the tokenizer is trained on


def learning_rate(progress: float, warmup: float, decay: float) -> float:
    """Factor on the peak rate at `progress` in [0, 1] of the run: up, flat, down to zero."""
    if progress < warmup:  # 1. linear warm-up
        return progress / warmup
    if progress < 1 - decay:  # 2. flat
        return 1.0
    return max(0.0, (1 - progress) / decay)  # 3. linear decay


def optimizers(
    model: GPT, muon_lr: float, muon_decay: float, adam_lr: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers" in n]
    rest = [p for n, p in model.named_parameters() if p.dim() != 2 or "layers" not in n]
    return [
        Muon(matrices, lr=muon_lr, weight_decay=muon_decay),
        torch.optim.AdamW(rest, lr=adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def losses_of(
    model: GPT, reader: Reader, ids: Tensor, said: Tensor, bound: Tensor
) -> tuple[Tensor, Tensor]:
    """ids, said (B, T), bound (B, T, 3) -> cross-entropy of what is said (nats per token, weighted
    by `said`), and the reading loss (nats per token to be known).
    """
    with autocast(ids.device):
        where = said[:, 1:] > 0
        states = model.hidden(ids[:, :-1])[where]  # (N, D): what precedes a said token
        losses = F.cross_entropy(model.logits(states), ids[:, 1:][where], reduction="none")
        weights = said[:, 1:][where]  # (N,)
        loss = (losses * weights).sum() / weights.sum()
        return loss, reader.loss(model, ids[:, :-1], said[:, :-1] > 0, bound[:, :-1])


def ours(folder: str | Path) -> Tokenizer:
    """The tokenizer in a folder; ValueError if it is a pretrained model's."""
    coder = tokenizer.load(folder)
    if not isinstance(coder, Tokenizer):
        raise ValueError(f"{folder}: holds a pretrained model's tokenizer, not one of ours")
    return coder


def main(config: Config) -> None:
    out, device, parts = Path(config.out), pick_device(), envs.make(config.envs).parts
    base = ours(config.start) if config.start else None
    torch.manual_seed(config.seed)

    # 1. tokenizer, from the first documents
    if not (out / "tokenizer.tiktoken").exists():
        rng, texts = random.Random(config.seed), []
        for env in parts.values():
            for d in islice(env.demonstrations("train", "tokenizer", 0.5), TOKENIZER_DOCUMENTS):
                texts.append(env.cut_names("".join(text for text, _ in pieces(d, rng))))
        tokenizer.train(texts, config.vocab_size, start=base).save(out)
    coder = ours(out)
    newcomers = base and (config.reading_weight or coder.vocab_size > base.vocab_size)

    # 2. model, optimisers, and where an interrupted run stood
    generator = torch.Generator().manual_seed(config.seed)
    if base:
        model = grown(GPT.from_pretrained(config.start), base, coder)
    else:
        shape = (config.width, config.mlp_width, config.layers, config.heads, config.kv_heads)
        sizes = GPTConfig(coder.vocab_size, *shape, config.context, config.rope_theta)
        model = GPT(sizes, generator)
        head_start(model, generator)
    model = model.to(device)
    reader = Reader(model).to(device)
    opts = optimizers(model, config.muon_lr, config.muon_decay, config.adam_lr)
    opts[1].add_param_group({"params": list(reader.parameters())})
    state: dict[str, Any] = dict(config=asdict(config), shard=0, tokens=0, seconds=0.0, steps=0)
    checkpoint = out / "pretrain.state"
    parameters = dict(model.named_parameters()) | {
        f"reader.{name}": p for name, p in reader.named_parameters()
    }
    if checkpoint.exists():
        state = load(checkpoint, parameters, opts)
        kept = {k: v for k, v in asdict(config).items() if k not in FREE}
        if changed := [k for k, v in kept.items() if state["config"][k] != v]:
            raise ValueError(f"{checkpoint}: was written with other {', '.join(changed)}")
        print(f"resumed at {state['tokens'] / 1e6:.1f}M tokens")

    # 3. the loop
    ended = state["tokens"] >= config.tokens  # and resumed: only the card is left to be written
    jobs = (
        (tuple(parts), str(out), config.seed, number, config.oracle_share, config.drills)
        for number in range(state["shard"], state["shard"] if ended else 10**9)
    )
    bar = tqdm(total=int(config.tokens), initial=state["tokens"], unit="tok", unit_scale=True)
    started, saved = time.time() - state["seconds"], time.time()
    means: list[Tensor] = []  # of the two losses, over the last steps
    workers: Any = nullcontext()  # on a CPU the cores are needed for the training itself
    if device.type != "cpu":
        workers = get_context("spawn").Pool(2)
    with workers as pool:
        for documents in _ahead(pool, shard, jobs) if pool else map(shard, jobs):
            rng = random.Random(f"batches {config.seed} {state['shard']}")
            for batch in batches(documents, config.batch_tokens, config.context, rng):
                factor = learning_rate(state["tokens"] / config.tokens, config.warmup, config.decay)
                listening = newcomers and state["steps"] < LISTEN
                for opt, peak in zip(opts, (0 if listening else config.muon_lr, config.adam_lr)):
                    for group in opt.param_groups:
                        group["lr"] = peak * factor
                loss, reading = losses_of(model, reader, *(x.to(device) for x in batch))
                if listening:  # probes and new tokens learn, the blocks are left alone
                    probes = list(reader.parameters())
                    learnt = torch.autograd.grad(reading, probes, retain_graph=True)
                    loss.backward()
                    for probe, gradient in zip(probes, learnt):
                        probe.grad = gradient
                else:
                    (loss + config.reading_weight * reading).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                for opt in opts:
                    opt.step()
                    opt.zero_grad()
                state["steps"] += 1
                state["tokens"] += batch[0].numel()
                now = (loss.detach(), reading.detach())
                means = [0.98 * m + 0.02 * x for m, x in zip(means or now, now)]
                bar.update(batch[0].numel())
                if state["steps"] % 20 == 0:
                    bar.set_postfix_str("loss {:.3f}, reading {:.3f} nats".format(*means))
            state["shard"] += 1
            state |= {"seconds": time.time() - started, "loss": means[0].item()}
            done = state["tokens"] >= config.tokens
            if done or time.time() - saved > 60 * config.checkpoint_minutes:
                save(checkpoint, parameters, opts, state)
                saved = time.time()
                million, minutes = state["tokens"] / 1e6, state["seconds"] / 60
                bar.write(
                    f"{million:.2f}M tokens, {minutes:.0f} minutes, "
                    "loss {:.4f}, reading {:.4f}".format(*means)
                )
            if done:
                break
    bar.close()

    # 4. the checkpoint that ships, and its card
    model.to(torch.bfloat16).save_pretrained(out)
    write_card(out, config, state)


CARD = """# The base model

{million:.1f}M parameters, bfloat16; {layers} layers of width {width}, {heads} query and {kv_heads}
key-value heads, {vocab} tokens.

- Made by `python -m retro.pretrain {flags}`
- Finished {date}: {steps} steps, {tokens:.1f}M tokens with padding, {hours:.1f} hours
- Loss: {loss:.3f} nats per token of what players, reflectors and answers say (last steps)
- Text: demonstrations in {names}, chains of up to four trials by players of mixed skill, and
  neutral questions about each trial
- Reflections in it: {oracle:.0%} the oracle's, the rest vague or wrong in one of four ways
  (`envs/household_reflections.py`)
- SHA-256 of model.safetensors: `{hash}`

Skills, measured before any reinforcement on {n} tasks a split (`retro/skills.py` says how; actor at
temperature {temperature}):

{table}
"""


def write_card(out: Path, config: Config, state: dict, n: int = 200) -> None:
    """CARD.md: what the checkpoint is, how it was made, what it can do."""
    model, coder = GPT.from_pretrained(out, pick_device()), ours(out)
    rows = {
        f"{name}, {split}": measure_skills(env, model, coder, split, n, 1, TEMPERATURE)
        for name, env in envs.make(config.envs).parts.items()
        for split in ("seen", "unseen")
    }
    columns = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [
        f"| {row} | {' | '.join(f'{skills[c]:.3f}' for c in columns)} |"
        for row, skills in rows.items()
    ]
    default = Config()
    flags = [
        f"{option_of(k)} {v}"
        for k, v in asdict(config).items()
        if k != "out" and v != getattr(default, k)
    ]
    card = CARD.format(
        million=sum(p.numel() for p in model.parameters()) / 1e6,
        vocab=coder.vocab_size,
        flags=" ".join(flags),
        date=time.strftime("%Y-%m-%d"),
        steps=state["steps"],
        tokens=state["tokens"] / 1e6,
        hours=state["seconds"] / 3600,
        loss=state["loss"],
        names=config.envs.replace(",", ", "),
        oracle=config.oracle_share,
        hash=hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        n=n,
        temperature=TEMPERATURE,
        table="\n".join(lines),
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
    )
    write_atomically(out / "CARD.md", card.encode())
    print(card)


def _ahead(pool: Pool, function: Callable, jobs: Iterator[tuple], depth: int = 3) -> Iterator:
    """pool.imap that stays only `depth` jobs ahead of the reader."""
    pending = [pool.apply_async(function, (job,)) for job in islice(jobs, depth)]
    while pending:
        yield pending.pop(0).get()
        pending += [pool.apply_async(function, (job,)) for job in islice(jobs, 1)]


if __name__ == "__main__":
    run_script(main, parse(Config, __doc__))
