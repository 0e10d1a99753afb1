"""Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2): train, save, load.

Text is cut into pre-tokens by a regular expression, then the most frequent adjacent pair of tokens
is merged, over and over; no merge crosses a pre-token's edge. The ranks are kept in tiktoken's file
format and all encoding runs in tiktoken.Encoding.
Changed from GPT-2: "\\n" and ">" are always tokens of their own, so a line's end is one stop id and
the prompt sign before an action one fixed id; a word and the number after it may merge (" mug 1" is
one name), other digits come in runs of up to three.
"""

import base64
import binascii
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import regex  # tiktoken brings it along
import tiktoken

from retro.interop.hf_tokenizer import HFTokenizer, check_pattern, encode_text
from retro.run.files import read_bytes, read_json, write_atomically, write_json

PATTERN = r" ?\p{L}+(?: \p{N}{1,2}(?!\p{N}))?| ?\p{N}{1,3}|\n| ?>| ?[^\s\p{L}\p{N}>]+|[^\S\n]+"
EOS = "<|eos|>"


class Tokenizer:
    """str <-> token ids; ids 0..255 need not be the bytes, but each byte has an id."""

    def __init__(
        self, ranks: dict[bytes, int], special_tokens: dict[str, int], pattern: str = PATTERN
    ):
        self.ranks, self.special_tokens, self.pattern = ranks, special_tokens, pattern
        self.encoding = tiktoken.Encoding(
            "retro", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens
        )
        self.vocab_size = len(ranks) + len(special_tokens)
        self.eos = special_tokens[EOS]  # ends a document
        self.bos: int | None = None  # nothing opens one

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; "<|eos|>" in it is ordinary text: a special id is only put by hand."""
        return encode_text(self.encoding, text)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, special tokens by name; bytes that are not UTF-8 become U+FFFD."""
        return self.encoding.decode(ids)

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.tiktoken (lines "base64 rank") and tokenizer_config.json, atomically."""
        lines = [
            base64.b64encode(token) + b" %d\n" % rank
            for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])
        ]
        write_atomically(Path(folder) / "tokenizer.tiktoken", b"".join(lines))
        settings = {"pattern": self.pattern, "special_tokens": self.special_tokens}
        write_json(Path(folder) / "tokenizer_config.json", settings)


AnyTokenizer = Tokenizer | HFTokenizer


def load(folder: str | Path) -> AnyTokenizer:
    """The tokenizer saved in `folder`, ours or a pretrained model's tokenizer.json; ValueError when
    its files are missing or wrong.
    """
    path = Path(folder) / "tokenizer.tiktoken"
    if not path.exists():
        if path.with_name("tokenizer.json").exists():
            return HFTokenizer(folder)
        if path.with_name("tokenizer.model").exists():
            raise ValueError(f"{folder}: tokenizer.model is sentencepiece, which is not known here")
    ranks = {}
    for number, line in enumerate(read_bytes(path).splitlines(), start=1):
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f'{path}:{number}: {line!r} is not "base64 rank"') from error
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"{path}: {len(missing)} of the 256 single bytes have no rank")

    path = Path(folder) / "tokenizer_config.json"
    settings = read_json(path)
    pattern, special_tokens = settings.get("pattern"), settings.get("special_tokens")
    if not isinstance(pattern, str):
        raise ValueError(f"{path}: pattern is {pattern!r}, expected a regular expression")
    if not isinstance(special_tokens, dict) or EOS not in special_tokens or "" in special_tokens:
        raise ValueError(f'{path}: special_tokens is {special_tokens!r}, expected {{"{EOS}": id}}')
    ids = [*ranks.values(), *special_tokens.values()]
    if any(type(i) is not int for i in ids) or set(ids) != set(range(len(ids))):
        raise ValueError(f"{folder}: the ids are not 0..{len(ids) - 1}, each once")
    try:
        check_pattern(pattern)
        return Tokenizer(ranks, special_tokens, pattern)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def train(
    texts: Iterable[str],
    vocab_size: int,
    special_tokens: tuple[str, ...] = (EOS,),
    start: Tokenizer | None = None,
) -> Tokenizer:
    """Learn `vocab_size` tokens: 256 bytes, merges, and the special ones, which get the last ids.

    Each merge takes the most frequent pair (ties: the smallest ids). Fewer tokens come out when the
    text has no pair left that occurs twice. With `start`, its tokens keep their ids and the merges
    go on from there: it grows.
    """
    if vocab_size < 256 + len(special_tokens):
        raise ValueError(f"vocab_size is {vocab_size}, at least {256 + len(special_tokens)} needed")
    pre_tokens: Counter[str] = Counter()
    for text in texts:
        pre_tokens.update(regex.findall(PATTERN, text))
    # each distinct pre-token once
    words = [start.encode(word) if start else list(word.encode()) for word in pre_tokens]
    counts = list(pre_tokens.values())

    pair_counts: Counter[tuple[int, int]] = Counter()
    holders = defaultdict(set)  # pair -> indices of the words that hold it, or once did
    for index, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += counts[index]
            holders[pair].add(index)
    queue = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(queue)

    tokens = [bytes([byte]) for byte in range(256)]
    if start:
        tokens = sorted(start.ranks, key=start.ranks.__getitem__)
    while len(tokens) < vocab_size - len(special_tokens) and queue:
        count, pair = heapq.heappop(queue)
        if -count != pair_counts[pair]:
            continue  # the count has changed since; its newer entry is in the queue
        if -count < 2:
            break
        new = len(tokens)
        tokens.append(tokens[pair[0]] + tokens[pair[1]])
        changed = set()
        for index in holders.pop(pair):
            merged = merge(words[index], pair, new)
            for old_pair in pairwise(words[index]):
                pair_counts[old_pair] -= counts[index]
                changed.add(old_pair)
            for new_pair in pairwise(merged):
                pair_counts[new_pair] += counts[index]
                holders[new_pair].add(index)
                changed.add(new_pair)
            words[index] = merged
        for changed_pair in changed:
            heapq.heappush(queue, (-pair_counts[changed_pair], changed_pair))

    ranks = {token: rank for rank, token in enumerate(tokens)}
    special = {name: len(ranks) + i for i, name in enumerate(special_tokens)}
    return Tokenizer(ranks, special)


def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Replace each occurrence of `pair`, from the left: merge([1, 2, 1, 2, 2], (1, 2), 9).

    >>> merge([1, 2, 1, 2, 2], (1, 2), 9)
    [9, 9, 2]
    """
    merged, i = [], 0
    while i < len(word):
        if tuple(word[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(word[i])
            i += 1
    return merged
