"""Learn the merges of a byte-pair encoding. Read before: `retro/tokenizer.py`, which uses them."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise

import regex  # tiktoken brings it along

from retro.tokenizer import EOS, PATTERN, Tokenizer

def train(texts: Iterable[str], vocab_size: int, start: Tokenizer | None = None) -> Tokenizer:
    """Learn `vocab_size` tokens: 256 bytes, merges, and the end of a text, which gets the last id.
    Each merge takes the most frequent pair that occurs twice (ties: the smallest ids). The tokens
    of `start` keep their ids: it grows.
    """
    if vocab_size < 257:
        raise ValueError(f"vocab_size is {vocab_size}, at least 257 needed")
    pre_tokens = Counter(word for text in texts for word in regex.findall(PATTERN, text))
    words = [start.encode(word) if start else list(word.encode()) for word in pre_tokens]
    counts = list(pre_tokens.values())
    ranks = start.ranks if start else {bytes([byte]): byte for byte in range(256)}
    tokens = sorted(ranks, key=ranks.__getitem__)

    pair_counts: Counter[tuple[int, int]] = Counter()
    holders = defaultdict(set)  # pair -> indices of the words that hold it, or once did
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += counts[index]
            holders[pair].add(index)
    queue = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(queue)
    while len(tokens) < vocab_size - 1 and queue:
        count, pair = heapq.heappop(queue)
        if -count != pair_counts[pair]:
            continue  # the count has changed since; its newer entry is in the queue
        if -count < 2:
            break
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        changed: set[tuple[int, int]] = set()
        for index in holders.pop(pair):
            old, words[index] = words[index], merge(words[index], pair, len(tokens) - 1)
            for old_pair in pairwise(old):
                pair_counts[old_pair] -= counts[index]
            for new_pair in pairwise(words[index]):
                pair_counts[new_pair] += counts[index]
                holders[new_pair].add(index)
            changed.update(pairwise(old), pairwise(words[index]))
        for changed_pair in changed:
            heapq.heappush(queue, (-pair_counts[changed_pair], changed_pair))

    return Tokenizer({token: rank for rank, token in enumerate(tokens)}, {EOS: len(tokens)})

def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Replace each occurrence of `pair`, from the left: [1, 2, 1, 2, 2] -> [9, 9, 2] with 9."""
    merged, i = [], 0
    while i < len(word):
        found = tuple(word[i : i + 2]) == pair
        merged.append(new if found else word[i])
        i += 2 if found else 1
    return merged
