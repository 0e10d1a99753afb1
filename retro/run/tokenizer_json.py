"""The tokenizer.json of a pretrained model as a tiktoken.Encoding: byte-level BPE only.

    vocabulary + merges     -> ranks: tiktoken joins the pair whose joint token has the lowest id.
                               The list of merges must say the same: checked.
    pre_tokenizer           -> one regular expression, of what all programs read alike: checked
    added tokens            -> special ones (put by hand) and plain ones: the leftmost longest in a
                               text is cut out, first of the raw text, then of the normalized one
    bytes without a token   -> dropped, or the unknown token, as Hugging Face's `tokenizers` does
    ends of an answer       -> all special tokens, and what generation_config.json and config.json
                               list; with a chat template `eos` is the token that ends a turn

Refused: sentencepiece, unigram, several splits, a prefix space. `retro/tokenizer.py` opens it.
"""

import re
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args
from unicodedata import normalize

import regex  # tiktoken brings it along
import tiktoken

from retro.run.files import read_json

Form = Literal["NFC", "NFD", "NFKC", "NFKD"]  # of Unicode, that text is brought into
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# every digit alone, GPT-2's pattern between them: a digit is an edge there, like the text's end
DIGITS_GPT2 = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
SAMPLE = "It's 12 o'clock;\n\n  go to (drawer 1)!\tÉ漢 "
# characters and groups of a regular expression: nested ones compile in exponential time
MAX_PATTERN, MAX_GROUPS = 4096, 12
MAX_ADDED = 1 << 15  # added tokens where some are looked for in text; in all 3 times as many
MAX_LOOKED_FOR = 1 << 18  # their characters
MAX_WORK = 1 << 25  # sum of the squares of the tokens' lengths in bytes
# what Oniguruma (tokenizers), fancy-regex (tiktoken) and `regex` read alike; not so \w, ^, $, (?m:
_ESCAPE = r"\\(?:[pP]\{\^?(?:[LMNPSZC][a-z]?|Han)\}|[sSdDrnt]|[^\w])"
_ATOM = (rf"{_ESCAPE}|\(\?(?:[:=!]|<[=!])|[()|*+?.]|\{{\d+(?:,\d*)?\}}(?!\+)|[^\\\[\](){{}}^$|*+?.]"
         rf"|\[\^?(?:(?!&&|--|~~)(?:[^\\\[\]]|{_ESCAPE}))+\]"
         r"|\(\?i:(?:'|\||[sdmt]|re|ve|ll|\[[sdmt]+\])+\)")  # fmt: skip
PORTABLE = re.compile(rf"(?:{_ATOM})*")
# GPT-2's alphabet: a printable byte stands for itself, the n-th other is U+0100 + n, none U+FFFF
_OTHERS = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
LETTERS = dict.fromkeys(_OTHERS, "\uffff") | {256 + n: chr(b) for n, b in enumerate(_OTHERS)}
# the token that ends a turn of a chat template that is known here -> the template's other marks
TURNS = {"<|im_end|>": ("<|im_start|>",),
         "<|eot_id|>": ("<|start_header_id|>", "<|end_header_id|>")}  # fmt: skip

class HFTokenizer:
    """str <-> token ids, as retro.tokenizer.Tokenizer, from a pretrained model's files. `ranks`:
    token bytes -> id. `special_tokens`: name -> id, of all added ones. `answer_ends`: the ids that
    end an answer.
    """

    def __init__(self, folder: str | Path):
        path = Path(folder) / "tokenizer.json"
        settings, config = read_json(path), read_json(path.with_name("tokenizer_config.json"))
        older, newer = (path.with_name(f"chat_template.{kind}") for kind in ("json", "jinja"))
        if older.is_file() and not config.get("chat_template"):
            config["chat_template"] = read_json(older).get("chat_template")
        if newer.is_file():
            config["chat_template"] = newer.read_text("utf-8", "replace")
        try:
            self._read(settings, config)
            self._read_ends(settings, config, listed_ends(Path(folder)))
        except ValueError as error:  # Rust's errors have several lines
            raise ValueError(f"{path}: {' '.join(str(error).split())}") from error
        except (LookupError, TypeError, AttributeError, TimeoutError) as error:
            raise ValueError(f"{path}: is not a tokenizer.json ({error!r})") from error

    def _read(self, settings: dict, config: dict) -> None:
        model, added = settings["model"], settings.get("added_tokens") or []
        if len(added) > 3 * MAX_ADDED:
            raise ValueError(f"{len(added)} added tokens, at most {3 * MAX_ADDED} are known here")
        self.special_tokens = {token["content"]: token["id"] for token in added}
        check_kind(model, self.special_tokens)
        check_added(model["vocab"], added, config.get("added_tokens_decoder") or {})
        self.pattern, covers = read_pattern(settings.get("pre_tokenizer"))
        check_pattern(self.pattern)
        if not PORTABLE.fullmatch(self.pattern):
            raise ValueError(f"pattern {self.pattern!r:.200} has more in it than is read alike "
                             "everywhere: no \\w, \\b, ^, $, (?m")  # fmt: skip
        # what no pre-token covers is one too, up to the next
        self.cut = self.pattern if covers else rf"{self.pattern}|(?:(?!{self.pattern})[\s\S])+"
        self.ranks = read_ranks(model, self.special_tokens, self.cut)
        self.form = read_normalizer(settings.get("normalizer"))
        # the names found in a raw text and in a normalized one -> id, of special ones None
        self.names: tuple[dict, dict] = {}, {}
        for token in added:
            name, again = token["content"], bool(token.get("normalized"))
            name = normalize(self.form, name) if again and self.form else name
            self.names[again][name] = None if token["special"] else token["id"]
        self.finders = [finder(names) for names in self.names]
        self.vocab_size = 1 + max([*model["vocab"].values(), *self.special_tokens.values()])
        tokens = [*self.ranks.items(), *self.special_tokens.items()]
        if len({i for _, i in tokens}) < len(tokens):
            raise ValueError("two tokens have the same id")
        # tiktoken needs every byte: missing bytes get ids past the end, which never come out
        self.lacking = bytes(b for b in range(256) if bytes([b]) not in self.ranks)
        if (unknown := model.get("unk_token")) not in (None, *model["vocab"]):
            raise ValueError(f"unk_token {unknown!r} is not in the vocabulary")
        self.unknown = [] if unknown is None else [model["vocab"][unknown]]
        full = self.ranks | {bytes([b]): self.vocab_size + n for n, b in enumerate(self.lacking)}
        self.encoding = tiktoken.Encoding("pretrained", pat_str=self.cut, mergeable_ranks=full,
                                          special_tokens=self.special_tokens)  # fmt: skip
        self.words = {i: token for token, i in self.ranks.items()}
        self.words |= {i: name.encode() for name, i in self.special_tokens.items()}

    def _read_ends(self, settings: dict, config: dict, listed: list[int]) -> None:
        names: dict[str, str | None] = {}
        for key in ("eos_token", "bos_token"):
            token = config.get(key)
            name = names[key] = token.get("content") if isinstance(token, dict) else token
            if token is not None and name not in [*self.special_tokens]:
                raise ValueError(f"{key} {name!r} is not among the added tokens")
        bos, end = names["bos_token"], turn_end(config.get("chat_template"), self.special_tokens)
        eos = end or names["eos_token"]
        if eos is None:
            raise ValueError("tokenizer_config.json beside it names no eos_token")
        if lacking := [mark for mark in TURNS.get(eos, ()) if mark not in self.special_tokens]:
            raise ValueError(f"{eos!r} ends a turn, but {lacking[0]!r} is not an added token")
        known = {*settings["model"]["vocab"].values(), *self.special_tokens.values()}
        if foreign := [i for i in listed if i not in known]:
            raise ValueError(f"eos_token_id {foreign[0]!r} beside it is no token's id")
        special = [token["id"] for token in settings.get("added_tokens") or [] if token["special"]]
        self.eos = self.special_tokens[eos]
        self.answer_ends = frozenset({self.eos, *listed, *special})
        post_processor = settings.get("post_processor") or {}
        parts = post_processor.get("processors", [post_processor])
        starts = [(part.get("single") or [{}])[0] for part in parts]
        opens = config.get("add_bos_token") or any("SpecialToken" in start for start in starts)
        self.bos = self.special_tokens[bos] if opens and bos is not None else None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without `bos`; "<|im_end|>" in it is ordinary text, not the token."""
        ids: list[int] = []
        for part, i in cut(text, self.finders[0], self.names[0]):
            if i is not None:
                ids.append(i)
                continue
            part = normalize(self.form, part) if self.form else part
            for piece, j in cut(part, self.finders[1], self.names[1]):
                ids += self._encode_text(piece) if j is None else [j]
        return ids

    def _encode_text(self, text: str) -> list[int]:
        data = text.encode("utf-8", "replace") if self.lacking else b""
        if data.translate(None, self.lacking) == data:
            return encode_ordinary(self.encoding, text)
        # the slow way, pre-token by pre-token, for text with bytes that have no token
        ids, gap = [], b"([" + regex.escape(self.lacking) + b"])"
        for match in regex.finditer(self.cut, text):
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

def listed_ends(folder: Path) -> list[int]:
    """The end tokens that generation_config.json lists, or if it lists none config.json."""
    for path in (folder / "generation_config.json", folder / "config.json"):
        found = read_json(path).get("eos_token_id") if path.exists() else None
        ends: list = found if isinstance(found, list) else [found] * (found is not None)
        if not all(type(i) is int for i in ends):
            raise ValueError(f"{path}: eos_token_id is {found!r:.100}, expected ids")
        if ends:
            return ends
    return []

def turn_end(template: Any, special: dict[str, int]) -> str | None:
    """The token that ends a turn by a chat template: a text, or a list of named ones."""
    if not template:
        return None
    named = [end for end, marks in TURNS.items() if marks[0] in str(template)]
    if len(named) != 1 or not {named[0], *TURNS[named[0]]} <= special.keys():
        raise ValueError("its chat_template is neither ChatML nor Llama 3's; without the template "
                         "it is a model that continues plain text")  # fmt: skip
    return named[0]

def finder(names: dict[str, int | None]) -> re.Pattern | None:
    """What finds the names in a text; None if they are all special."""
    if all(i is None for i in names.values()):
        return None
    if len(names) > MAX_ADDED or sum(map(len, names)) > MAX_LOOKED_FOR:
        most = f"{MAX_ADDED} of {MAX_LOOKED_FOR} characters together"
        raise ValueError(f"{len(names)} added tokens, at most {most} are looked for in a text")
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))

def cut(
    text: str, names: re.Pattern | None, ids: dict[str, int | None]
) -> Iterator[tuple[str, int | None]]:  # fmt: skip
    """(name, id) of the leftmost longest names in a text, (text, None) of what is between them. A
    special name is text, and covers the names in it.
    """
    start = 0
    for match in names.finditer(text) if names else ():
        if ids[match.group()] is not None:
            yield text[start : match.start()], None
            yield match.group(), ids[match.group()]
            start = match.end()
    yield text[start:], None

def check_kind(model: dict, added: dict[str, int]) -> None:
    """ValueError on a model of another kind, and on a token that is none."""
    kind = model.get("type", "BPE" if "merges" in model else None)
    if kind != "BPE":
        raise ValueError(f"a {kind} model, only byte-level BPE is known here")
    if not isinstance(model["vocab"], dict) or not model["vocab"]:
        raise ValueError(f"its vocabulary is {model['vocab']!r:.60}, expected tokens and their ids")
    for name, i in [*model["vocab"].items(), *added.items()]:
        if not name or not isinstance(name, str):
            raise ValueError(f"{name!r} is no token")
        if type(i) is not int or not 0 <= i < 1 << 24:
            raise ValueError(f"the id of {name!r} is {i!r}, expected 0..{(1 << 24) - 1}")

def check_added(vocab: dict[str, int], added: list[dict], also: dict[str, dict]) -> None:
    """ValueError on an added token of another id than `tokenizers` gives it, on one that differs
    from `also`, the added_tokens_decoder of tokenizer_config.json, and on what is not known here.
    """
    free, edges = len(vocab), ("lstrip", "rstrip", "single_word")
    holes = free < 1 + max(vocab.values())  # where `tokenizers` counts on, it meets ids in use
    for token in added:
        name, i, special = token["content"], token["id"], token["special"]
        place = vocab.get(name, free)
        if (holes and name not in vocab) or (i != place and (name in vocab or not special)):
            raise ValueError(f"the added token {name!r} has id {i!r}, by the vocabulary {place}")
        free = max(free, place + 1)
        if not special and any(token[key] for key in edges):
            raise ValueError(f"the added token {name!r} takes spaces along")
    here = {str(token["id"]): token for token in added}
    for i, token in also.items():
        own = here.get(i, {})
        keys = ("content", "special", *(() if own.get("special") else ("normalized", *edges)))
        if any(token.get(key, own.get(key)) != own.get(key) for key in keys):
            raise ValueError(f"the added token {i} is {token.get('content')!r} in "
                             f"tokenizer_config.json, here {own.get('content')!r}")  # fmt: skip

def read_ranks(model: dict, added: dict[str, int], pattern: str) -> dict[bytes, int]:
    """Token bytes -> id, of the tokens that merges make; ValueError if ids can't order merges."""
    vocab, whole = model["vocab"], model.get("ignore_merges")  # whole: pre-tokens that are tokens
    if model.get("byte_fallback") or "\u2581" in vocab:
        raise ValueError("a sentencepiece vocabulary, only byte-level BPE is known here")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk"):
        if model.get(key) and (key != "fuse_unk" or model.get("unk_token")):
            raise ValueError(f"{key} is {model[key]!r}, only byte-level BPE without it is known")
    joined: dict[str, list[int]] = {}  # token -> lengths of the left parts that it is joined of
    last = -1
    for merge in model["merges"]:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(parts, list) or [*map(type, parts)] != [str, str]:
            raise ValueError(f"the merge {merge!r:.100} is not of two tokens")
        left, right = parts
        if not vocab.keys() >= {left, right, left + right} or vocab[left + right] < last:
            raise ValueError(f"the merge {left!r} {right!r} makes no token of the vocabulary, or "
                             "is not in the order of the ids")  # fmt: skip
        last = vocab[left + right]
        joined.setdefault(left + right, []).append(len(left))
    ranks, lefts = {}, {}
    for token, i in vocab.items():
        made = token in joined or len(token) == 1
        if token in added and (made or (whole and regex.fullmatch(pattern, token, timeout=1))):
            raise ValueError(f"the added token {token!r} is one of ordinary text too")
        if token not in added and (made or whole):
            try:
                data = token.translate(LETTERS).encode("latin-1")
            except UnicodeEncodeError as error:
                raise ValueError(f"token {token!r} is not byte-level, as BPE is here") from error
            ranks[data], lefts[data] = i, joined.get(token, [])
    check_merges(ranks, lefts, whole)
    return ranks

def check_merges(ranks: dict[bytes, int], lefts: dict[bytes, list[int]], whole: Any) -> None:
    """ValueError where tiktoken, which joins any two parts of a token, joins two that no merge
    does. Of a token's parts the only ones that can meet are those of `last_parts`.
    """
    if whole and len(ranks.keys() & {bytes([b]) for b in range(256)}) < 256:
        raise ValueError("ignore_merges is true, but some bytes have no token")
    if sum(len(token) ** 2 for token in ranks) > MAX_WORK:
        raise ValueError("its tokens are too long")
    for token, known in lefts.items():
        splits = [n for n in range(1, len(token)) if token[:n] in ranks and token[n:] in ranks]
        if len(splits) > len(known) or (len(token) > 2 and not whole):
            parts = last_parts(token, ranks)
            if len(parts) != 2 or len(parts[0]) not in known:
                raise ValueError(f"the parts of token {token!r} join, but no merge says so")

def last_parts(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """What a token's own encoding comes to with the tokens before it: two parts that make it, or
    more.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joint = [ranks.get(a + b, ranks[token]) for a, b in pairwise(parts)]
        n = joint.index(min(joint))
        if joint[n] >= ranks[token]:
            break
        parts[n : n + 2] = [parts[n] + parts[n + 1]]
    return parts

def read_pattern(pre_tokenizer: dict | None) -> tuple[str, bool]:
    """One regular expression whose matches are the pre-tokens, and whether there are no others."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer]) or [None]
    kinds = [step and step["type"] for step in steps]
    first, last = steps[0], steps[-1]
    if kinds[-1] == "ByteLevel" and not last.get("add_prefix_space"):
        own_pattern = last.get("use_regex", True)
        if kinds == ["ByteLevel"] and own_pattern:
            return GPT2, True
        if kinds == ["Digits", "ByteLevel"] and own_pattern and first.get("individual_digits"):
            return DIGITS_GPT2, True
        if kinds == ["Split", "ByteLevel"] and not own_pattern:
            way, pattern = (first["behavior"], bool(first.get("invert"))), first["pattern"]
            if (found := pattern.get("Regex")) and way in (("Isolated", False), ("Removed", True)):
                return found, way[0] == "Removed"
    raise ValueError(f"pre_tokenizer {kinds} {steps!r:.500} is not known here")

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
        if len(parts := last_parts(token, ranks)) == 2:
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

@cache
def check_pattern(pattern: str) -> None:
    """ValueError if it is no regular expression, too large or too slow a one (its time grows as
    the square of a text), or one that cuts an empty pre-token out of common text: tiktoken breaks
    down on one.
    """
    if len(pattern) > MAX_PATTERN or pattern.count("(") > MAX_GROUPS:
        raise ValueError(f"pattern {pattern!r:.60} of {len(pattern)} characters is too large: at "
                         f"most {MAX_PATTERN}, with {MAX_GROUPS} groups")  # fmt: skip
    others = sorted({*" \nxa7.!", *filter(str.isalnum, pattern)})[:24]
    runs = "".join(2000 * c + other for c in " \na7" for other in others)
    texts = (SAMPLE, runs, "")
    try:
        found = (match for text in texts for match in regex.finditer(pattern, text, timeout=2))
        empty = any(not match.group() for match in found)
    except (regex.error, TimeoutError, RecursionError) as error:
        wrong = "is too slow" if isinstance(error, TimeoutError) else "does not compile"
        raise ValueError(f"pattern {pattern!r:.200} {wrong} ({error})") from error
    if empty:
        raise ValueError(f"pattern {pattern!r:.200} matches an empty text")

def encode_ordinary(encoding: tiktoken.Encoding, text: str) -> list[int]:
    """Ids of `text`, all of which is ordinary text. ValueError where the pattern cuts out an empty
    pre-token after all (Rust's panic).
    """
    try:
        return encoding.encode_ordinary(text)
    except BaseException as error:
        if type(error).__name__ == "PanicException":
            raise ValueError(f"the tokenizer's pattern fails on {text[:40]!r}") from error
        raise
