"""The tokenizer.json of a pretrained model as a tiktoken.Encoding: byte-level BPE only.

    vocabulary + merges     -> ranks: tiktoken joins the pair whose joint token has the lowest id.
                               The list of merges says the same if its ids only rise: checked.
    pre_tokenizer           -> one regular expression
    added tokens            -> special tokens (put by hand) and plain ones (found in any text)
    bytes without a token   -> dropped, or the unknown token, as Hugging Face's `tokenizers` does

Refused: sentencepiece, unigram, several splits, a prefix space. `retro/tokenizer.py` opens it.
"""

from collections.abc import Set
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args
from unicodedata import normalize

import regex  # tiktoken brings it along
import tiktoken

from retro.run.files import read_json

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]  # of Unicode, that text is brought into
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# every digit alone, GPT-2's pattern between them: a digit is an edge there, like the text's end
DIGITS_GPT2 = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
SAMPLE = "It's 12 o'clock;\n\n  go to (drawer 1)!\tÉ漢 "
# GPT-2's alphabet: a printable byte stands for itself, the n-th other is U+0100 + n, none U+FFFF
_OTHERS = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
LETTERS = dict.fromkeys(_OTHERS, "\uffff") | {256 + n: chr(b) for n, b in enumerate(_OTHERS)}

class HFTokenizer:
    """str <-> token ids, as retro.tokenizer.Tokenizer, from a pretrained model's files. `ranks`:
    token bytes -> id. `special_tokens`: name -> id, of all added ones; each ends an answer.
    """

    def __init__(self, folder: str | Path):
        path = Path(folder) / "tokenizer.json"
        settings = read_json(path)
        try:
            self._read(settings, read_json(path.with_name("tokenizer_config.json")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: is not a tokenizer.json ({error!r})") from error

    def _read(self, settings: dict, config: dict) -> None:
        model, added = settings["model"], settings.get("added_tokens") or []
        self.special_tokens = {token["content"]: token["id"] for token in added}
        self.answer_ends = frozenset(self.special_tokens.values())
        self.plain = {t["content"] for t in added if not t["special"]}
        for token in added:
            if not token["special"] and any(token[k] for k in ("lstrip", "rstrip", "single_word")):
                raise ValueError(f"the added token {token['content']!r} takes spaces along")
        self.ranks = read_ranks(model, self.special_tokens)
        self.pattern = read_pattern(settings.get("pre_tokenizer"))
        check_pattern(self.pattern)
        self.form = read_normalizer(settings.get("normalizer"))
        self.vocab_size = 1 + max([*model["vocab"].values(), *self.special_tokens.values()])
        tokens = [*self.ranks.items(), *self.special_tokens.items()]
        for name, i in tokens:
            if not name or not isinstance(name, (str, bytes)):
                raise ValueError(f"{name!r} is no token")
            if type(i) is not int or not 0 <= i < 1 << 24:
                raise ValueError(f"the id of {name!r} is {i!r}, expected 0..{(1 << 24) - 1}")
        if len({i for _, i in tokens}) < len(tokens):
            raise ValueError("two tokens have the same id")
        # tiktoken needs every byte: missing bytes get ids past the end, which never come out
        self.lacking = bytes(b for b in range(256) if bytes([b]) not in self.ranks)
        unknown = model.get("unk_token")
        self.unknown = [] if unknown is None else [model["vocab"][unknown]]
        full = self.ranks | {bytes([b]): self.vocab_size + n for n, b in enumerate(self.lacking)}
        self.encoding = tiktoken.Encoding("pretrained", pat_str=self.pattern, mergeable_ranks=full,
                                          special_tokens=self.special_tokens)  # fmt: skip
        self.words = {i: token for token, i in self.ranks.items()}
        self.words |= {i: name.encode() for name, i in self.special_tokens.items()}
        self.bos, self.eos = self._ends(settings.get("post_processor"), config)

    def _ends(self, post_processor: dict | None, config: dict) -> tuple[int | None, int]:
        ids: dict[str, int | None] = {}
        for key in ("eos_token", "bos_token"):
            token = config.get(key)
            name = token["content"] if isinstance(token, dict) else token
            if name is not None and name not in self.special_tokens:
                raise ValueError(f"{key} {name!r} is not among the added tokens")
            ids[key] = self.special_tokens.get(name)
        if ids["eos_token"] is None:
            raise ValueError("tokenizer_config.json beside it names no eos_token")
        parts = (post_processor or {}).get("processors", [post_processor or {}])
        starts = [(part.get("single") or [{}])[0] for part in parts]
        opens = config.get("add_bos_token") or any("SpecialToken" in start for start in starts)
        return ids["bos_token"] if opens else None, ids["eos_token"]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `bos`; "<|im_end|>" in it is ordinary text, not the token."""
        if self.form:
            text = normalize(self.form, text)
        data = text.encode("utf-8", "replace") if self.lacking else b""
        if data.translate(None, self.lacking) != data:
            return self._encode_lacking(text)
        return encode_ordinary(self.encoding, text, self.plain)

    def _encode_lacking(self, text: str) -> list[int]:
        """The slow way, pre-token by pre-token, for text with bytes that have no token."""
        ids, gap = [], b"([" + regex.escape(self.lacking) + b"])"
        names = "|".join(map(regex.escape, sorted(self.plain, key=len, reverse=True)))
        for number, part in enumerate(regex.split(f"({names})", text) if names else [text]):
            if number % 2:
                ids.append(self.special_tokens[part])
                continue
            for match in regex.finditer(self.pattern, part):
                data = match.group().encode("utf-8", "replace")
                if not self.unknown:  # dropped before the merges: its neighbours may join
                    data = data.translate(None, self.lacking)
                for n, run in enumerate(regex.split(gap, data)):
                    if n % 2:
                        ids += self.unknown
                    elif run:
                        ids += self.encoding._encode_single_piece(run)
        return ids

    def decode(self, ids: list[int]) -> str:
        """Text of `ids`, added tokens by name; "" for ids without tokens, U+FFFD for no UTF-8."""
        return b"".join(self.words.get(i, b"") for i in ids).decode("utf-8", "replace")

def read_ranks(model: dict, added: dict[str, int]) -> dict[bytes, int]:
    """Token bytes -> id, of the tokens that merges make; ValueError if ids can't order merges."""
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ValueError(f"a {kind} model, only byte-level BPE is known here")
    vocab = model["vocab"]
    if model.get("byte_fallback") or "\u2581" in vocab:
        raise ValueError("a sentencepiece vocabulary, only byte-level BPE is known here")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise ValueError(f"{key} is {model[key]!r}, only byte-level BPE without it is known")
    made, last = set(vocab if model.get("ignore_merges") else ()), -1  # such tokens stay whole
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        if vocab[left + right] < last:
            raise ValueError(f"the merge {left!r} {right!r} is not in the order of the ids")
        last = vocab[left + right]
        made.add(left + right)
    ranks = {}
    for token, i in vocab.items():
        if token not in added and (token in made or len(token) == 1):
            try:
                ranks[token.translate(LETTERS).encode("latin-1")] = i
            except UnicodeEncodeError as error:
                raise ValueError(f"token {token!r} is not byte-level, as BPE is here") from error
    return ranks

def read_pattern(pre_tokenizer: dict | None) -> str:
    """One regular expression whose matches are the pre-tokens."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    kinds = [step and step["type"] for step in steps]
    first, last = steps[0], steps[-1]
    if kinds[-1] == "ByteLevel" and not last.get("add_prefix_space"):
        own_pattern = last.get("use_regex", True)
        if kinds == ["ByteLevel"] and own_pattern:
            return GPT2
        if kinds == ["Digits", "ByteLevel"] and own_pattern and first.get("individual_digits"):
            return DIGITS_GPT2
        if kinds == ["Split", "ByteLevel"] and not own_pattern:
            way, pattern = (first["behavior"], bool(first.get("invert"))), first["pattern"]
            if pattern.get("Regex") and way in (("Isolated", False), ("Removed", True)):
                return pattern["Regex"]
    raise ValueError(f"pre_tokenizer {kinds} {steps} is not known here")

def read_normalizer(normalizer: dict | None) -> Form | None:
    if not normalizer:
        return None
    steps = normalizer["normalizers"] if normalizer["type"] == "Sequence" else [normalizer]
    forms = [step["type"] for step in steps]
    if len(forms) > 1 or (forms and forms[0] not in get_args(Form)):
        raise ValueError(f"normalizer {forms} is not known here")
    return forms[0] if forms else None

def as_tokenizer_json(ranks: dict[bytes, int], pattern: str, special: dict[str, int]) -> dict:
    """tokenizer.json of tiktoken ranks. A token's merge is the last step of its own encoding; one
    that no merges reach is still found when it is a whole pre-token.
    """
    letter = {ord(own): chr(code) for code, own in LETTERS.items() if own != "\uffff"}
    words = {token: token.decode("latin-1").translate(letter) for token in ranks}
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        parts = [token[i : i + 1] for i in range(len(token))]
        while len(parts) > 2:
            joint = [ranks.get(a + b, ranks[token]) for a, b in pairwise(parts)]
            n = joint.index(min(joint))
            if joint[n] >= ranks[token]:
                break
            parts[n : n + 2] = [parts[n] + parts[n + 1]]
        if len(parts) == 2:
            merges.append([words[part] for part in parts])
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    split = dict(type="Split", pattern={"Regex": pattern}, behavior="Isolated", invert=False)
    level = dict(type="ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False)
    vocab = {words[token]: i for token, i in ranks.items()}
    added = [{"id": i, "content": name, **flags} for name, i in special.items()]
    steps = {"type": "Sequence", "pretokenizers": [split, level]}
    model = {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": merges}
    return {"version": "1.0", "added_tokens": added, "normalizer": None, "pre_tokenizer": steps,
            "post_processor": None, "decoder": level, "model": model}  # fmt: skip

def check_pattern(pattern: str) -> None:
    """ValueError if it is no regular expression, or cuts an empty pre-token out of common text:
    tiktoken breaks down on one.
    """
    try:
        pieces = [match.group() for match in regex.finditer(pattern, SAMPLE, timeout=1)]
    except (regex.error, TimeoutError) as error:
        raise ValueError(f"pattern {pattern!r} does not compile ({error})") from error
    if "" in pieces:
        raise ValueError(f"pattern {pattern!r} matches an empty text")

def encode_ordinary(
    encoding: tiktoken.Encoding, text: str, names: Set[str] = frozenset()
) -> list[int]:
    """Ids of `text`, where only the special tokens in `names` are more than ordinary text.
    ValueError where the pattern cuts out an empty pre-token after all (Rust's panic).
    """
    try:
        return encoding.encode(text, allowed_special=names, disallowed_special=())
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(f"the tokenizer's pattern fails on {text[:40]!r}") from error
        raise
