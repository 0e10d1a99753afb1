"""Byte-pair encoding (Sennrich et al. 2016, on bytes as in GPT-2): encode, decode, save, load.

Text is cut into pre-tokens by a regular expression. In each of them the adjacent pair of tokens
that was learnt first is merged, over and over; no merge crosses a pre-token's edge. The order of
merges, the ranks, was learnt in `pretrain/bpe.py`. They are kept in tiktoken's file format, and all
encoding runs in tiktoken.Encoding.
Changed from GPT-2: "\\n" and ">" are always tokens of their own, so a line's end is one stop id and
the prompt sign before an action one fixed id; a word and the number after it may merge (" mug 1" is
one name), other digits come in runs of up to three.
"""

import base64
import binascii
from pathlib import Path

import tiktoken

from retro.run.files import model_folder, read_bytes, read_json, write_atomically, write_json
from retro.run.tokenizer_json import HFTokenizer, check_pattern, encode_ordinary

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
        self.answer_ends: frozenset[int] = frozenset()  # none: a line's end ends it

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; "<|eos|>" in it is ordinary text: a special id is only put by hand."""
        return encode_ordinary(self.encoding, text)

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

TokenizerLike = Tokenizer | HFTokenizer  # ours or a pretrained model's, alike to those who ask

def load(folder: str | Path) -> TokenizerLike:
    """The tokenizer saved in `folder`, ours or a pretrained model's tokenizer.json; ValueError when
    its files are missing or wrong.
    """
    folder = model_folder(folder)
    path = folder / "tokenizer.tiktoken"
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

    path = folder / "tokenizer_config.json"
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
