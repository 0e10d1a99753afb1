"""The tokenizer against a naive byte-pair encoding that recounts everything at every step."""

import json
import random
from collections import Counter

import pytest
import regex
from tiktoken.load import load_tiktoken_bpe

import envs.hotpot.tasks as hotpot_tasks
import envs.household.tasks as household_tasks
import envs.shop.tasks as shop_tasks
from envs.names import JOINED
from retro import tokenizer
from retro.pretrain.bpe import train

TEXT = """You are in the middle of a room. You see a drawer 2, a drawer 12, and a cabinet 1.
> go to drawer 2
The drawer 2 is closed.
> open drawer 2
You open the drawer 2. In it, you see a mug 1, and a mug 2; nothing else: a "mug"!
""" * 3

def random_text(rng, length):
    pools = ["abc ", " \n\t>", "0123456789", ".,:;'\"<|>", "éüß漢字🙂\u0301\u200d", "\0\x85\u2028"]
    return "".join(rng.choice(rng.choice(pools)) for _ in range(length))

def apply_merge(word, pair):
    """Join each occurrence of two adjacent byte strings, from the left."""
    out = []
    for token in word:
        if out and (out[-1], token) == pair:
            out[-1] = None if out[-1] is None else out[-1] + token
            out.append(None)  # a joint token does not join again in this pass
        else:
            out.append(token)
    return [token for token in out if token is not None]

def naive_ranks(text, merges):
    words = [[bytes([b]) for b in word.encode()] for word in regex.findall(tokenizer.PATTERN, text)]
    ranks = {bytes([b]): b for b in range(256)}
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in zip(word, word[1:]))
        best = min(pairs, key=lambda pair: (-pairs[pair], ranks[pair[0]], ranks[pair[1]]))
        ranks[best[0] + best[1]] = len(ranks)
        words = [apply_merge(word, best) for word in words]
    return ranks

def naive_encode(text, ranks):
    ids = []
    for word in regex.findall(tokenizer.PATTERN, text):
        word = [bytes([b]) for b in word.encode()]
        while True:
            pairs = [p for p in zip(word, word[1:]) if p[0] + p[1] in ranks]
            if not pairs:
                break
            word = apply_merge(word, min(pairs, key=lambda p: ranks[p[0] + p[1]]))
        ids += [ranks[token] for token in word]
    return ids

@pytest.fixture(scope="module")
def coder():
    return train([TEXT], 300)

def test_training_and_encoding_agree_with_the_naive_algorithm(coder):
    assert coder.ranks == naive_ranks(TEXT, merges=300 - 256 - 1)
    rng = random.Random(0)
    for text in [TEXT] + [random_text(rng, 60) for _ in range(50)]:
        assert coder.encode(text) == naive_encode(text, coder.ranks)

def test_training_with_ties_and_repeats():
    """Runs of one letter overlap themselves, equal counts abound: 30 corpora of two letters."""
    rng = random.Random(1)
    for _ in range(30):
        text = " ".join("".join(rng.choices("ab", k=rng.randint(1, 12))) for _ in range(30))
        coder = train([text], 256 + 12 + 1)
        assert coder.ranks == naive_ranks(text, merges=len(coder.ranks) - 256)

def test_the_game_s_units_are_single_tokens():
    coder = train([TEXT], 350)
    assert [coder.decode([i]) for i in coder.encode("\n> go to drawer 2\n\n>> x")] == [
        "\n", ">", " go", " to", " drawer 2", "\n", "\n", ">", ">", " ", "x"
    ]  # fmt: skip
    assert len(coder.encode("\n")) == len(coder.encode(">")) == 1

@pytest.mark.parametrize("heads, tails, after", [
    (household_tasks.OBJECT_HEADS, household_tasks.OBJECT_TAILS, " 1"),
    (household_tasks.PLACE_HEADS, household_tasks.PLACE_TAILS, " 1"),
    (shop_tasks.ASIN_HEADS, shop_tasks.ASIN_TAILS, ""),
    *((*parts, ",") for parts in hotpot_tasks.NAMES.values()),
])  # fmt: skip
def test_no_token_of_a_made_up_name_spans_its_two_parts(shipped, heads, tails, after):
    """Not asked of brands: no plan names one."""
    coder = shipped.tokenizer
    drawn = [(h, t) for h in heads for t in tails if h[-1] + t[0] not in JOINED]
    assert len(drawn) > 0.85 * len(heads) * len(tails)  # most names are left
    for before in (" ", "\n", "[", "("):
        for head, tail in drawn:
            part = coder.encode(before + head)
            assert coder.encode(before + head + tail + after)[: len(part)] == part, head + tail

def test_any_text_and_any_bytes_come_back(coder):
    rng = random.Random(2)
    texts = [random_text(rng, rng.randint(0, 80)) for _ in range(200)]
    texts += ["".join(chr(rng.choice((rng.randrange(0xD800), rng.randrange(0xE000, 0x110000))))
                      for _ in range(40)) for _ in range(50)]  # fmt: skip
    for text in texts:
        assert coder.decode(coder.encode(text)) == text
    data = bytes(range(256))
    assert coder.encoding.decode_bytes([coder.ranks[data[i : i + 1]] for i in range(256)]) == data

def test_special_tokens_in_text_are_ordinary_text(coder):
    ids = coder.encode("a<|eos|>b")
    assert coder.eos not in ids and coder.decode(ids) == "a<|eos|>b"
    assert coder.eos == coder.vocab_size - 1 == 299 and coder.decode([coder.eos]) == "<|eos|>"

def test_save_and_load(coder, tmp_path):
    coder.save(tmp_path)
    loaded = tokenizer.load(tmp_path)
    assert (loaded.ranks, loaded.special_tokens) == (coder.ranks, coder.special_tokens)
    assert loaded.encode(TEXT) == coder.encode(TEXT) and loaded.eos == coder.eos
    assert load_tiktoken_bpe(str(tmp_path / "tokenizer.tiktoken")) == coder.ranks

def test_vocabulary_sizes():
    assert train(["ab"], 400).vocab_size == 257  # no pair occurs twice
    trained = train([TEXT], 280)
    assert trained.special_tokens == {"<|eos|>": 279} and trained.vocab_size == 280
    with pytest.raises(ValueError, match="vocab_size is 200, at least 257"):
        train([TEXT], 200)

def rewrite(folder, **changes):
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

def append(folder, line):
    with open(folder / "tokenizer.tiktoken", "ab") as file:
        file.write(line)

BROKEN = {
    r"tiktoken: cannot be read": lambda f: (f / "tokenizer.tiktoken").unlink(),
    r"tiktoken: 256 of the 256": lambda f: (f / "tokenizer.tiktoken").write_bytes(b""),
    r"tiktoken:300: b'no rank here' is not": lambda f: append(f, b"no rank here\n"),
    r"tiktoken:300: .*AA== one": lambda f: append(f, b"AA== one\n"),
    r"ids are not 0..300": lambda f: append(f, b"enp6eg== 5\n"),
    r"config.json: cannot be read": lambda f: (f / "tokenizer_config.json").unlink(),
    r"special_tokens is \{\}": lambda f: rewrite(f, special_tokens={}),
    r"ids are not 0..299": lambda f: rewrite(f, special_tokens={"<|eos|>": "last"}),
    r"pattern is None": lambda f: rewrite(f, pattern=None),
    r"pattern '\(' does not compile": lambda f: rewrite(f, pattern="("),
}  # fmt: skip

@pytest.mark.parametrize("message", BROKEN)
def test_wrong_files_are_refused_in_one_line(coder, tmp_path, message):
    coder.save(tmp_path)
    BROKEN[message](tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
