"""The pretraining corpus: the environments' demonstrations as token ids, with what they teach.

A document is one demonstration in prompts.py's prompts (read it before). What players and
reflectors write is to be predicted, what the environment writes is not: most of it can't be. The
mention of a name has a second target (reader.py), the name it is bound to: `mug 1` to `drawer 2`.

    part_documents    documents, a function of the seed, the shard's number and the part's
    steps_of          a shard's documents -> those of each step, `batch_tokens` together
    deal              a step's documents -> those of each process
    pack              a process's documents -> one row, without padding (packed.py)
"""

import random
import re
from bisect import bisect_left
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

import envs
from envs.demonstrations import Demonstration
from retro import prompts
from retro.tokenizer import TokenizerLike, load

PARTS = 4  # of a shard, made one by one: as many processes as share the work
DOCUMENTS = 60  # of a part
ENV_WEIGHTS = {"household": 4}  # of the documents, where it is not 1: the errands are short
ACTION_WEIGHT = 2  # loss weight of an action: it has few tokens, and the trial hangs on them
TURN_WEIGHT = 6  # of one whose verb is another than the last action's: rare, and it decides more
UNBOUND = (-1, -1, 0)

class Document(NamedTuple):
    ids: list[int]
    loss_weights: list[int]  # 0 = not to be predicted, more than 1 for a player's token, else 1
    binding_targets: list[tuple[int, int, int]]  # first and last id of the name that a token is
    # bound to, and 1 at its first mention, 2 at a later one; or UNBOUND

NOTHING = Document([0], [0], [UNBOUND])  # for a process that gets no document: no target is in it

def weighted_texts(d: Demonstration, rng: random.Random) -> list[tuple[str, int]]:
    """Pairs (text, loss weight), as they are read; reflection and questions end it in any order."""
    texts = [(prompts.opening(d.observation, d.reflections), 0)]
    verbs = [re.match(r"\w*", action)[0] for action, _ in d.steps]  # type: ignore[index]  # or ""
    for i, (action, reply) in enumerate(d.steps):
        weight = TURN_WEIGHT if i and verbs[i] != verbs[i - 1] else ACTION_WEIGHT
        weight = 0 if i in d.slips else weight
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

def part_documents(env_names: tuple[str, ...], tokenizer_folder: str, seed: int,
                   oracle_share: float, drills: float,
                   number_and_part: tuple[int, int]) -> list[Document]:  # fmt: skip
    """The documents of a part of a shard; a run can resume anywhere. `drills`: their share at
    first; later it is a quarter.
    """
    number, part = number_and_part
    tokenizer, documents, own = load(tokenizer_folder), [], f"{seed}/{number}/{part}"
    rng = random.Random(f"shard {own}")
    weights = {name: ENV_WEIGHTS.get(name, 1) for name in env_names}
    drill_share = max(0.25, drills - number / 200)
    for name, weight in weights.items():
        env = envs.make(name)
        demonstrations = env.demonstrations("train", own, oracle_share, drill_share)
        for d in islice(demonstrations, DOCUMENTS * weight // sum(weights.values())):
            documents.append(to_document(weighted_texts(d, rng), env, tokenizer))
    return documents

def steps_of(documents: list[Document], batch_tokens: int, context: int) -> list[list[Document]]:
    """The documents of each step, about `batch_tokens` tokens, none longer than `context`."""
    fitting = [d for d in documents if len(d.ids) <= context]
    steps = round(sum(len(d.ids) for d in fitting) / batch_tokens)
    return deal(fitting, min(max(steps, 1), len(fitting)), lambda length: length)

def work(length: int) -> int:
    """What a document costs, in some unit: attention to 1,000 tokens costs what all else does."""
    return length * (length + 1000)

def deal(documents: list[Document], n: int,
         cost: Callable[[int], int] = work) -> list[list[Document]]:  # fmt: skip
    """n piles of about equal cost: the longest document first, each to the pile that has least."""
    piles, costs = [list[Document]() for _ in range(n)], [0] * n
    for d in sorted(documents, key=lambda d: len(d.ids), reverse=True):
        i = costs.index(min(costs))
        piles[i].append(d)
        costs[i] += cost(len(d.ids))
    return piles

class Row(NamedTuple):
    """Documents one behind the other: T tokens."""

    ids: Tensor  # (1, T)
    loss_weights: Tensor  # (1, T); 0 on a document's first token, which nothing predicts
    binding_targets: Tensor  # (1, T, 3)
    lengths: list[int]  # of the documents, T together

def pack(documents: list[Document], device: torch.device | None = None) -> Row:
    ids = [i for d in documents for i in d.ids]
    weights = [weight for d in documents for weight in (0, *d.loss_weights[1:])]
    targets = [target for d in documents for target in d.binding_targets]
    row, loss_weights, binding_targets = (
        torch.tensor([column], device=device) for column in (ids, weights, targets)
    )
    return Row(row, loss_weights, binding_targets, [len(d.ids) for d in documents])
