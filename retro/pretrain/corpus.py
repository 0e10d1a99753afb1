"""The pretraining corpus: the environments' demonstrations as token ids, with what they teach.

A document is one demonstration, written with the prompts that actor and reflector will meet. What
players, reflectors and answers say is to be predicted; what the environment says is not (most of it
can't be). On the mention of a name stands the one that it is bound to (`mug 1` to `drawer 2`): a
target of the reading loss (`reader.py`).
"""

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch

import envs
from envs import Environment
from envs.chains import Demonstration
from retro import prompts, tokenizer
from retro.tokenizer import AnyTokenizer

DOCUMENTS = 112  # in a shard, a function of (seed, number) alone: a run can resume anywhere
WEIGHTS = {"household": 5}  # of the documents, where not 1: the errands are short
ACTION = 2  # of an action's tokens: few beside those of the answers, and what a trial hangs on
UNBOUND = (-1, -1, 0)


class Document(NamedTuple):
    ids: list[int]
    said: list[int]  # weight in the loss: 0 if not to be predicted, ACTION for a player's, else 1
    bound: list[tuple[int, int, int]]  # first and last id of the name that a token is bound to, and
    # 1 at first sight, 2 at a later mention; or UNBOUND


def pieces(demonstration: Demonstration, rng: random.Random) -> list[tuple[str, int]]:
    """One demonstration as (text, weight in the loss) pieces, in reading order.

    The reflection and the questions follow the transcript in random order, so that each of them is
    also met right behind it.
    """
    d = demonstration
    parts = [(prompts.opening(d.observation, d.reflections), 0)]
    for i, (action, reply) in enumerate(d.steps):
        parts += [(f"{prompts.ACT} {action}\n", 0 if i in d.slips else ACTION)]
        parts += [(prompts.turn(reply)[1:], 0)]
    after = [(prompts.question(q), f" {a}") for q, a in d.questions]
    if d.reflection is not None:
        after.append((prompts.reflection_request(d.progress), f" {d.reflection}"))
    rng.shuffle(after)
    if d.reflection is not None and rng.random() < 0.5:
        after.sort(key=lambda part: not part[0].startswith("\nFailed"))
    for i, (request, answer) in enumerate(after):
        parts += [(request[1:] if i else request, 0), (f"{answer}\n", 1)]
    return parts


def encode(parts: list[tuple[str, int]], env: Environment, coder: AnyTokenizer) -> Document:
    """Pieces as a document, ended by the end-of-text id."""
    ids, said = [], []
    for text, weight in parts:
        piece = coder.encode(text)
        ids += piece
        said += [weight] * len(piece)
    bound = [UNBOUND] * (len(ids) + 1)
    text, starts = coder.encoding.decode_with_offsets(ids)
    for _, end, name, later in env.bindings(text):
        last, spelled = bisect_left(starts, end) - 1, coder.encode(f" {name}")
        bound[last] = (spelled[0], spelled[-1], 1 + later)
        bound[last + 1] = bound[last]  # and on what follows a mention
    return Document(ids + [coder.eos], said + [1], bound)


def drill_share(number: int, first: float) -> float:
    """Share of drills among the turns of shard `number`: most at first, a quarter later."""
    return max(0.25, first - number / 400)


def shard(job: tuple) -> list[Document]:
    """Documents of one shard: job = (env names, tokenizer folder, seed, number, oracle_share,
    drills).
    """
    names, folder, seed, number, oracle_share, drills = job
    coder, documents = tokenizer.load(folder), []
    rng = random.Random(f"shard {seed} {number}")
    for name in names:
        env = envs.make(name)
        stream = env.demonstrations(
            "train", f"{seed}/{number}", oracle_share, drill_share(number, drills)
        )
        n = DOCUMENTS * WEIGHTS.get(name, 1) // sum(WEIGHTS.get(name, 1) for name in names)
        documents += [encode(pieces(d, rng), env, coder) for d in islice(stream, n)]
    return documents


def batches(
    documents: list[Document], batch_tokens: int, context: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Cut documents, sorted by length so that padding is small, into (ids (B, T), said (B, T),
    bound (B, T, 3)) tensors.
    """
    documents = sorted((d for d in documents if len(d.ids) <= context), key=lambda d: len(d.ids))
    groups: list[list[Document]] = []
    group: list[Document] = []
    for d in documents:
        if group and _padded(d) * (len(group) + 1) > batch_tokens:
            groups.append(group)
            group = []
        group.append(d)
    groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        longest = _padded(group[-1])
        fill = [longest - len(d.ids) for d in group]
        yield (
            torch.tensor([d.ids + [0] * n for d, n in zip(group, fill)]),
            torch.tensor([d.said + [0] * n for d, n in zip(group, fill)]),
            torch.tensor([d.bound + [UNBOUND] * n for d, n in zip(group, fill)]),
        )


def _padded(document: Document) -> int:
    """Length rounded up: few distinct shapes, so that kernels and memory blocks are used again."""
    return -(-len(document.ids) // 32) * 32
