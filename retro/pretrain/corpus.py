"""The pretraining corpus: the environments' demonstrations as token ids, with what they teach.

A document is one demonstration in prompts.py's prompts (read it before). What players and
reflectors write is to be predicted, what the environment writes is not: most of it can't be. The
mention of a name has a second target (reader.py), the name it is bound to: `mug 1` to `drawer 2`.
"""

import random
from bisect import bisect_left
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import torch

import envs
from envs.demonstrations import Demonstration
from retro import prompts
from retro.tokenizer import TokenizerLike, load

DOCUMENTS = 112  # in a shard, a function of (seed, number) alone: a run can resume anywhere
ENV_WEIGHTS = {"household": 5}  # of the documents, where it is not 1: the errands are short
ACTION_WEIGHT = 2  # loss weight of an action: it has few tokens, and the trial hangs on them
UNBOUND = (-1, -1, 0)

class Document(NamedTuple):
    ids: list[int]
    loss_weights: list[int]  # 0 = not to be predicted, ACTION_WEIGHT for a player's token, else 1
    binding_targets: list[tuple[int, int, int]]  # first and last id of the name that a token is
    # bound to, and 1 at its first mention, 2 at a later one; or UNBOUND

def weighted_texts(d: Demonstration, rng: random.Random) -> list[tuple[str, int]]:
    """Pairs (text, loss weight), as they are read; reflection and questions end it in any order."""
    texts = [(prompts.opening(d.observation, d.reflections), 0)]
    for i, (action, reply) in enumerate(d.steps):
        weight = 0 if i in d.slips else ACTION_WEIGHT
        texts += [(f"{prompts.ACT} {action}\n", weight), (prompts.turn(reply)[1:], 0)]
    requests = [(prompts.question(q), f" {a}") for q, a in d.questions]
    if d.reflection is not None:
        requests.append((prompts.reflection_request(d.progress), f" {d.reflection}"))
    rng.shuffle(requests)
    if d.reflection is not None and rng.random() < 0.5:
        requests.sort(key=lambda pair: not pair[0].startswith("\nFailed"))  # the reflection first
    for i, (request, answer) in enumerate(requests):
        texts += [(request[1:] if i else request, 0), (f"{answer}\n", 1)]
    return texts

def to_document(texts: list[tuple[str, int]], env: envs.Environment,
                tokenizer: TokenizerLike) -> Document:  # fmt: skip
    """Weighted texts as a document, ended by the end-of-text id."""
    encoded = [(tokenizer.encode(text), weight) for text, weight in texts]
    ids = [i for text_ids, _ in encoded for i in text_ids]
    loss_weights = [weight for text_ids, weight in encoded for _ in text_ids]
    targets = [UNBOUND] * (len(ids) + 1)
    whole, starts = tokenizer.encoding.decode_with_offsets(ids)
    for _, end, name, later in env.bindings(whole):
        last, name_ids = bisect_left(starts, end) - 1, tokenizer.encode(f" {name}")
        target = (name_ids[0], name_ids[-1], 1 + later)
        targets[last : last + 2] = [target, target]  # on a mention's last token and the one after
    return Document(ids + [tokenizer.eos], loss_weights + [1], targets)

def shard_documents(env_names: tuple[str, ...], tokenizer_folder: str, seed: int,
                    oracle_share: float, drills: float, number: int) -> list[Document]:  # fmt: skip
    """The documents of shard `number`. `drills`: their share at first; later it is a quarter."""
    tokenizer, documents = load(tokenizer_folder), []
    rng = random.Random(f"shard {seed} {number}")
    weights = {name: ENV_WEIGHTS.get(name, 1) for name in env_names}
    drill_share = max(0.25, drills - number / 400)
    for name, weight in weights.items():
        env = envs.make(name)
        demonstrations = env.demonstrations("train", f"{seed}/{number}", oracle_share, drill_share)
        for d in islice(demonstrations, DOCUMENTS * weight // sum(weights.values())):
            documents.append(to_document(weighted_texts(d, rng), env, tokenizer))
    return documents

def batches(documents: list[Document], batch_tokens: int, context: int,
            rng: random.Random) -> Iterator[tuple[torch.Tensor, ...]]:  # fmt: skip
    """ids, loss_weights (B, T), binding_targets (B, T, 3); no document longer than `context`."""
    groups: list[list[Document]] = [[]]
    for d in sorted(documents, key=lambda d: len(d.ids)):
        if len(d.ids) > context:
            break
        if groups[-1] and _padded_length(d) * (len(groups[-1]) + 1) > batch_tokens:
            groups.append([])
        groups[-1].append(d)
    rng.shuffle(groups)
    for group in groups:
        padding = [_padded_length(group[-1]) - len(d.ids) for d in group]
        rows = [(d.ids + [0] * n, d.loss_weights + [0] * n, d.binding_targets + [UNBOUND] * n)
                for d, n in zip(group, padding)]  # fmt: skip
        yield tuple(map(torch.tensor, zip(*rows)))

def _padded_length(document: Document) -> int:
    """Length rounded up: few distinct shapes, so that kernels and memory blocks are used again."""
    return -(-len(document.ids) // 32) * 32
