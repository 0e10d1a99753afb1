"""tokenizer.json files, trained here with `tokenizers`, against `tokenizers` itself."""

import json
import random
import time
from unicodedata import ucd_3_2_0 as UNICODE  # letters that all versions of all packages know

import pytest
from tiny import tiny_gpt

from retro import tokenizer
from retro.interop.chat import chat_frame, chat_prompt, template_of
from retro.language_model import LanguageModel
from retro.pretrain import bpe
from retro.run.tokenizer_json import DIGITS_GPT2, GPT2, HFTokenizer, as_tokenizer_json

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")  # fmt: skip
TEXT = """In 1984, it's said, they'd seen 12 mugs; "We'LL open drawer 2!" Naïve café — 漢字 🙂.\n
    >>> for i in range(100):\n\tprint(f"{i}  ...")   # ...\r\n  The end:   it doesn't end...
""" * 4
TURNS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
}

def pre_tokenizer(kind):
    p = tokenizers.pre_tokenizers
    level = p.ByteLevel(add_prefix_space=False, use_regex=kind in ("gpt2", "smollm2"))
    if kind == "gpt2":
        return level
    first = p.Digits(individual_digits=True)
    if kind != "smollm2":
        pattern = LLAMA3 if kind == "llama3" else LLAMA3.replace("{1,3}", "")
        first = p.Split(tokenizers.Regex(pattern), behavior="isolated")
    return p.Sequence([first, level])

def trained(folder, kind, special=("<|end|>",), every_byte=True, bos=None):
    """A tokenizer of 400 tokens by the package's own trainer, saved in `folder`."""
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE())
    theirs.pre_tokenizer = pre_tokenizer(kind)
    theirs.decoder = tokenizers.decoders.ByteLevel()
    if kind == "qwen2":
        theirs.normalizer = tokenizers.normalizers.NFC()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet() if every_byte else []
    theirs.train_from_iterator(
        [TEXT],
        tokenizers.trainers.BpeTrainer(
            vocab_size=400, special_tokens=list(special), initial_alphabet=alphabet,
            show_progress=False,
        ),
    )  # fmt: skip
    if bos:
        theirs.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, theirs.token_to_id(bos))]
        )
    theirs.save(str(folder / "tokenizer.json"))
    names = {"eos_token": {"content": special[-1]}, "bos_token": bos}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    theirs.encode_special_tokens = True
    return theirs

def random_texts(rng, count):
    ranges = [(0, 0x20), (0x20, 0x7F), (0x20, 0x3000), (0x3000, 0xD800), (0xE000, 0x110000)]
    for _ in range(count):
        letters = [chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(60))]
        letters = [c for c in letters if UNICODE.category(c) != "Cn"]
        yield "".join(rng.choice((c, c, " ", "\n", "7", "'Ll", "e\u0301")) for c in letters)
        start = rng.randrange(len(TEXT))
        yield TEXT[start : start + rng.randrange(60)]

@pytest.mark.parametrize("every_byte", [True, False])
@pytest.mark.parametrize("kind", ["gpt2", "smollm2", "llama3", "qwen2"])
def test_ids_and_text_are_those_of_tokenizers(tmp_path, kind, every_byte):
    theirs = trained(tmp_path, kind, every_byte=every_byte)
    ours = tokenizer.load(tmp_path)
    assert isinstance(ours, HFTokenizer) and bool(ours.lacking) != every_byte
    assert ours.vocab_size == theirs.get_vocab_size() and ours.bos is None
    for text in random_texts(random.Random(0), 300):
        ids = ours.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=False), repr(text)

def change(folder, name="tokenizer.json", **changes):
    """Set keys of a file, "model.unk_token" within its model."""
    path = folder / name
    settings = json.loads(path.read_text())
    for key, value in changes.items():
        *parents, last = key.split("__")
        place = settings
        for parent in parents:
            place = place[parent]
        place[last] = value
    path.write_text(json.dumps(settings))

def test_a_byte_without_a_token_may_be_the_unknown_token(tmp_path):
    trained(tmp_path, "gpt2", every_byte=False)
    change(tmp_path, model__unk_token="<|end|>")
    ours = tokenizer.load(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    for text in random_texts(random.Random(1), 100):
        assert ours.encode(text) == theirs.encode(text).ids, repr(text)
    assert ours.encode("a\x00\x00b") == [*ours.encode("a"), 0, 0, *ours.encode("b")]

@pytest.mark.parametrize("every_byte", [True, False])
def test_plain_added_tokens_are_found_in_text_and_special_ones_are_not(tmp_path, every_byte):
    theirs = trained(tmp_path, "qwen2", every_byte=every_byte)
    theirs.add_tokens(["<think>", "<think>!"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer.load(tmp_path)
    for text in ("a<think>b", "<think>! <think>\x00", "the <|end|> of it"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.eos not in ours.encode(text)
    assert ours.decode([ours.special_tokens["<think>"], ours.eos]) == "<think><|end|>"

def added(content, i, normalized=False, special=False):
    edges = dict(single_word=False, lstrip=False, rstrip=False)
    return dict(id=i, content=content, normalized=normalized, special=special, **edges)

def made_up(rng):
    """The settings of a tokenizer.json of a few letters: anything of which two programs may have
    two opinions, some of it contradictory.
    """
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab, merges, parts = {c: i for i, c in enumerate(letters)}, [], ["a", "b", "Ġ", "e", "Ì"]
    for _ in range(rng.randint(0, 8)):
        merge = [rng.choice(parts), rng.choice(parts)]
        if "".join(merge) not in vocab or rng.random() < 0.3:
            vocab.setdefault("".join(merge), len(vocab))
            merges.append(merge)
            parts.append("".join(merge))
    if rng.random() < 0.4:
        merges.sort(key=lambda merge: vocab["".join(merge)])
    for token in rng.sample(["aab", "bab", "<x>", "<y>"], rng.choice([0, 0, 1])):
        vocab.setdefault(token, len(vocab))
    names = ["a", "ab", " ", "  ", "   ", "b a", "<x>", "<x>a", "<y>", " <x>", "e\u0301", "\u00e9"]
    own, free = [], len(vocab)
    for name in rng.sample(names, rng.randint(0, 5)):
        i = vocab.get(name, free) + (rng.random() < 0.05)
        own.append(added(name, i, rng.random() < 0.4, rng.random() < 0.4))
        free = max(free, i + 1)
    own.append(added("<e>", free, special=True))
    pattern = rng.choice([r"\S+|\s+", r"\s?\S+|\s+", r"a+|b+", r"[^\s]+", r" ?\p{L}{1,3}|\s"])
    behavior, invert = rng.choice([("Isolated", False)] * 3 + [("Removed", True)])
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    steps = [split, level | {"use_regex": False}]
    form = rng.choice([None, None, {"type": "NFC"}, {"type": "NFD"}])
    model = {"type": "BPE", "vocab": vocab, "merges": merges, "ignore_merges": rng.random() < 0.3}
    return {"version": "1.0", "added_tokens": own, "normalizer": form, "model": model,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
            "post_processor": None, "decoder": None}  # fmt: skip

@pytest.mark.parametrize("count", [60, pytest.param(5000, marks=pytest.mark.slow)])
def test_made_up_tokenizers_are_refused_or_give_the_ids_of_tokenizers(tmp_path, count):
    rng, accepted = random.Random(count), 0
    write = lambda name, value: (tmp_path / name).write_text(json.dumps(value))
    write("tokenizer_config.json", {"eos_token": "<e>"})
    for _ in range(count):
        settings = made_up(rng)
        write("tokenizer.json", settings)
        try:
            ours = tokenizer.load(tmp_path)
        except ValueError:
            continue
        theirs = tokenizers.Tokenizer.from_str(json.dumps(settings))
        theirs.encode_special_tokens = True
        accepted += 1
        for _ in range(20):
            pieces = ["a", "b", " ", "ab", "<x>", "<y>", "e\u0301", "\u0301", "\u00e9", "7"]
            text = "".join(rng.choices(pieces, k=rng.randint(0, 12)))
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert ours.encode(text) == expected, (text, settings)
    assert accepted > count / 3, accepted

def test_overlapping_added_tokens_are_the_leftmost_longest(tmp_path):
    """Once four blanks came out as two tokens of two blanks."""
    theirs = trained(tmp_path, "smollm2")
    theirs.add_tokens(["  ", "    ", "<a>", "<a><b>", "><"])
    theirs.add_special_tokens(["<a>!"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = tokenizer.load(tmp_path)
    assert ours.encode("x    y")[1:-1] == [theirs.token_to_id("    ")]
    for text in ("x    y", "x   y", "x      y", "<a><b>", "<a><a><b>", "<a>!", "<a>!<a>", "><a>"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids, text

def test_long_gaps_and_long_texts_are_no_trouble(tmp_path):
    """What the pattern does not match is a pre-token too, of any length."""
    theirs = trained(tmp_path, "llama3")
    change(tmp_path, pre_tokenizer__pretokenizers=[
        {"type": "Split", "pattern": {"Regex": "\\p{L}+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ])  # fmt: skip
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ours = tokenizer.load(tmp_path)
    for text in ("12 ab, 34", " " * 30_000, "7" * 30_000 + "a"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids

def test_no_text_and_no_id_panics(tmp_path):
    trained(tmp_path, "smollm2", every_byte=False)
    ours = tokenizer.load(tmp_path)
    for text in ("", "\x00", "\ud800 a", " " * 50000, "\xff\u0378\U000e0000", "<|end|>" * 3):
        assert all(0 <= i < ours.vocab_size for i in ours.encode(text))
    assert ours.decode([10**9, -1, ours.vocab_size, *ours.encode("mug")]) == "mug"

def test_our_own_tokenizer_as_a_tokenizer_json(tmp_path):
    ours = bpe.train([TEXT], 330)
    settings = as_tokenizer_json(ours.ranks, ours.pattern, ours.special_tokens)
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": tokenizer.EOS}))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    back = tokenizer.load(tmp_path)
    assert back.ranks == ours.ranks and back.eos == ours.eos
    for text in random_texts(random.Random(2), 200):
        assert ours.encode(text) == theirs.encode(text).ids == back.encode(text), repr(text)

def test_patterns_are_read_by_name(tmp_path):
    for kind, pattern in {"gpt2": GPT2, "smollm2": DIGITS_GPT2, "llama3": LLAMA3}.items():
        trained(tmp_path, kind)
        assert tokenizer.load(tmp_path).pattern == pattern

@pytest.mark.parametrize("template", TURNS)
def test_chat_prompts_are_the_template_s_text_with_its_tokens(tmp_path, template):
    bos = "<|begin_of_text|>" if template == "llama3" else None
    theirs = trained(tmp_path, "llama3", TURNS[template], bos=bos)
    theirs.encode_special_tokens = False  # here the whole text is read, tokens and all
    coder = tokenizer.load(tmp_path)
    messages = [("system", "Be brief."), ("user", "open drawer 2\n"), ("assistant", "Why?")]
    if template == "chatml":
        text = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in messages)
        text += "<|im_start|>assistant\n"
    else:
        head = "<|start_header_id|>{}<|end_header_id|>\n\n"
        text = "".join(f"{head.format(r)}{t.strip()}<|eot_id|>" for r, t in messages)
        text += head.format("assistant")
    assert template_of(coder) == template
    assert chat_prompt(coder, messages) == theirs.encode(text).ids
    lm = LanguageModel(tiny_gpt(), coder, chat_frame(coder, "Be brief."))
    framed = lm.fit("open drawer 2", 100)
    assert framed == chat_prompt(coder, [("system", "Be brief."), ("user", "open drawer 2")])
    assert lm.prompt_text(framed) == "open drawer 2"
    sly = chat_prompt(coder, [("user", f"a {TURNS[template][-1]} b")])
    assert sly.count(coder.eos) == 1  # what a text spells does not end its turn
    answer = [*coder.encode("in drawer 2"), coder.eos, *coder.encode("x")]
    assert lm.text(answer) == "in drawer 2"

def test_a_base_model_has_no_template(tmp_path):
    trained(tmp_path, "gpt2", ("<|im_start|>", "<|im_end|>", "<|endoftext|>"))
    coder = tokenizer.load(tmp_path)
    assert template_of(coder) is None and template_of(bpe.train([TEXT], 300)) is None
    with pytest.raises(ValueError, match="no chat template"):
        chat_prompt(coder, [("user", "hello")])
    assert chat_frame(coder, "not read") is None
    lm = LanguageModel(tiny_gpt(), coder)
    assert lm.around == ([], [])
    ends = {coder.decode([i]) for i in lm.stop_ids}
    assert ends >= {"\n", "<|endoftext|>"} and all("\n" in e or e[0] == "<" for e in ends)

def test_all_listed_and_all_special_tokens_end_an_answer(tmp_path):
    trained(tmp_path, "gpt2", ("<|im_start|>", "<|endoftext|>", "<|pad|>", "<|im_end|>"))
    write = lambda name, value: (tmp_path / name).write_text(json.dumps(value))
    ends = lambda: LanguageModel(tiny_gpt(), tokenizer.load(tmp_path)).stop_ids
    assert {0, 1, 2, 3} <= {*ends()}
    coder = tokenizer.load(tmp_path)
    (own,) = coder.encode("7")
    plain = {i for i in ends() if i > 3}
    assert own not in plain
    for name, listed in (("generation_config.json", [3, own]), ("config.json", own)):
        write(name, {"eos_token_id": listed})
        assert own in ends()
        lm = LanguageModel(tiny_gpt(), tokenizer.load(tmp_path))
        assert lm.text([*coder.encode("ab"), own, *coder.encode("c")]) == "ab"
        (tmp_path / name).unlink()
    for wrong in ([3, 10**6], -1, "x", [True]):
        write("generation_config.json", {"eos_token_id": wrong})
        with pytest.raises(ValueError, match="eos_token_id"):
            tokenizer.load(tmp_path)

def test_a_plain_added_token_ends_no_answer(tmp_path):
    theirs = trained(tmp_path, "gpt2")
    theirs.add_tokens(["<think>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    lm = LanguageModel(tiny_gpt(), tokenizer.load(tmp_path))
    ids = lm.tokenizer.encode("a<think>b")
    assert not {*ids} & {*lm.stop_ids} and lm.text(ids) == "a<think>b"

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}..."

@pytest.mark.parametrize(
    "template, special, kind, end",
    [
        (CHATML, TURNS["chatml"], "chatml", "<|im_end|>"),
        ([{"name": "default", "template": CHATML}], TURNS["chatml"], "chatml", "<|im_end|>"),
        ("<|start_header_id|>", TURNS["llama3"], "llama3", "<|eot_id|>"),
        ("<|start_header_id|>", TURNS["chatml"] + TURNS["llama3"], "llama3", "<|eot_id|>"),
        (None, TURNS["chatml"], None, "<|endoftext|>"),
    ],
)
@pytest.mark.parametrize("file", ["tokenizer_config.json", "chat_template.jinja",
                                  "chat_template.json"])  # fmt: skip
def test_a_chat_template_makes_a_chat_model(tmp_path, template, special, kind, end, file):
    """Whatever the end token of its documents is."""
    trained(tmp_path, "gpt2", (*special, "<|endoftext|>"))
    if file.endswith("json"):
        (tmp_path / file).touch()
        (tmp_path / file).write_text((tmp_path / file).read_text() or "{}")
        change(tmp_path, file, chat_template=template)
    elif template:
        (tmp_path / file).write_text(str(template))
    coder = tokenizer.load(tmp_path)
    assert template_of(coder) == kind and coder.eos == coder.special_tokens[end]
    assert coder.special_tokens["<|endoftext|>"] in coder.answer_ends

BOTH = (*TURNS["chatml"], *TURNS["llama3"], "<|endoftext|>")  # all marks are there as tokens

@pytest.mark.parametrize("template, eos, end", [
    ("{% for m in messages %}### {{ m.role }}:\n{{ m.content }}{% endfor %}", "<|im_end|>", None),
    ("### Instruction:", "<|endoftext|>", None),
    ("<\uff5cUser\uff5c>{{ m }}<\uff5cAssistant\uff5c>", "<|eot_id|>", None),
    (CHATML + "<|start_header_id|>", "<|eot_id|>", None),  # which of the two?
    (CHATML, "<|eot_id|>", "<|im_end|>"),
    ("<|start_header_id|>..<|eot_id|>", "<|im_end|>", "<|eot_id|>"),
    ("", "<|im_end|>", "<|im_end|>"),
])  # fmt: skip
def test_a_chat_template_is_known_by_the_marks_it_writes(tmp_path, template, eos, end):
    """Not by the tokens that the vocabulary has, nor by the end token of its documents."""
    trained(tmp_path, "gpt2", BOTH)
    change(tmp_path, "tokenizer_config.json", chat_template=template, eos_token=eos)
    if end is None:
        with pytest.raises(ValueError, match="its chat_template is neither ChatML nor Llama 3's"):
            tokenizer.load(tmp_path)
    else:
        assert tokenizer.load(tmp_path).eos == BOTH.index(end)

def test_a_newer_file_s_template_counts_first(tmp_path):
    """As in transformers: the jinja file, tokenizer_config.json, then chat_template.json."""
    trained(tmp_path, "gpt2", BOTH)
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "### Instruction"}))
    change(tmp_path, "tokenizer_config.json", chat_template=CHATML)
    assert tokenizer.load(tmp_path).eos == BOTH.index("<|im_end|>")
    (tmp_path / "chat_template.jinja").write_text("<|start_header_id|>")
    assert tokenizer.load(tmp_path).eos == BOTH.index("<|eot_id|>")

def test_generation_config_counts_before_config(tmp_path):
    """As in transformers. Where it lists no end, config.json's counts."""
    trained(tmp_path, "gpt2")
    ends = lambda: tokenizer.load(tmp_path).answer_ends
    for name, listed in (("generation_config.json", [7]), ("config.json", 8)):
        (tmp_path / name).write_text(json.dumps({"eos_token_id": listed}))
    assert ends() == {0, 7}
    for nothing in ({}, {"eos_token_id": None}, {"eos_token_id": []}):
        (tmp_path / "generation_config.json").write_text(json.dumps(nothing))
        assert ends() == {0, 8}

@pytest.mark.parametrize("pattern", [
    r"(?:\s+)+(?!\s|x)|\s|\S", r"(?:\p{L}+)+(?!\p{L}|7)|\s|\S", r"(?:7+)+(?=!)|\s|\S",
])
@pytest.mark.slow
def test_a_pattern_that_never_ends_is_refused(tmp_path, pattern):
    trained(tmp_path, "gpt2")
    split_by(pattern)(tmp_path)
    started = time.process_time()
    with pytest.raises(ValueError, match="pattern .* is too slow"):
        tokenizer.load(tmp_path)
    assert time.process_time() - started < 6

def swap_merges(folder):
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]
    change(folder, model__merges=merges[::-1])

def split_by(pattern):
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    steps = {"pretokenizers": [split, {"type": "ByteLevel", "use_regex": False}]}
    return lambda folder: change(folder, pre_tokenizer=steps)

def add(*tokens):
    def change_it(folder):
        settings = json.loads((folder / "tokenizer.json").read_text())
        change(folder, added_tokens=[*settings["added_tokens"], *tokens])

    return change_it

def two_parts(folder):
    """tiktoken would join a and bc to abc; the merges don't."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {c: i for i, c in enumerate([*letters, "ab", "bc", "abc", "<|end|>"])}
    merges = [["a", "b"], ["b", "c"], ["a", "bc"]]
    change(folder, model__vocab=vocab, model__merges=merges,
           added_tokens=[added("<|end|>", 259, special=True)])  # fmt: skip

BROKEN = {
    r"the parts of token b'abc' join, but no merge says so": two_parts,
    r"pattern .* has more in it than is read alike": split_by(r"\w+|\W"),
    r"has more in it than is read alike everywhere": split_by(r"\s+$|\S+|\s"),
    r"has more in it than is read alike every": split_by(r"[[:alpha:]]+|."),
    r"has more in it than is read alike eve": split_by(r"(a|b)\1|."),
    r"of 400000 characters is too large": split_by("a|" * 200_000),
    r"of 4004 characters is too large: at most 4096, with 12 groups": split_by(
        "(" * 2000 + "abcd" + ")" * 2000),
    r"of 61 characters is too large: at most 4096": split_by("(" * 20 + "a" + ")+" * 20),
    r"pattern 'a\*' matches an empty text": split_by("a*"),
    r"the added token '<t>' has id 7, by the vocabulary 361": add(added("<t>", 7)),
    r"the added token 'a' is one of ordinary text too": lambda f: add(added("a", json.loads(
        (f / "tokenizer.json").read_text())["model"]["vocab"]["a"]))(f),
    r"the added token '<t>' takes spaces along": add(added("<t>", 361) | {"lstrip": True}),
    r"added token 0 is '<x>' in tokenizer_config.json, here '<\|end\|>'": lambda f: change(
        f, "tokenizer_config.json", added_tokens_decoder={"0": {"content": "<x>"}}),
    r"added token 7 is '<x>' in tokenizer_config.json, here None": lambda f: change(
        f, "tokenizer_config.json", added_tokens_decoder={"7": {"content": "<x>"}}),
    r"32770 added tokens, at most 32768": add(
        *(added(f"<{i}>", 361 + i) for i in range(32769))),
    r"98305 added tokens, at most 98304 are known here": add(
        *(added(f"<{i}>", 361 + i, special=True) for i in range(98304))),
    r"4001 added tokens, at most 32768 of 262144 characters together": add(
        *(added(f"<{i}>" + "x" * 70, 361 + i) for i in range(4000))),
    r"its vocabulary is {}, expected tokens": lambda f: change(f, model__vocab={}),
    r"its vocabulary is \[\['a', -1.5\]\], ex": lambda f: change(f, model__vocab=[["a", -1.5]]),
    r"the id of 'a' is '7', expected": lambda f: change(f, model__vocab__a="7"),
    r"the merge 'a b c' is not of two tokens": lambda f: change(f, model__merges=["a b c"]),
    r"the merge \['a'\] is not of two tokens": lambda f: change(f, model__merges=[["a"]]),
    r"the merge 5 is not of two tokens": lambda f: change(f, model__merges=[5]),
    r"the merge '\^' '~' makes no token of the vocabulary": lambda f: change(
        f, model__merges=[["^", "~"]]),
    r"unk_token '<unk>' is not in the vocabulary": lambda f: change(f, model__unk_token="<unk>"),
    r"pre_tokenizer \[None\] \[None\] is not known": lambda f: change(
        f, pre_tokenizer={"type": "Sequence", "pretokenizers": []}),
    r"eos_token \['</s>'\] is not among": lambda f: change(
        f, "tokenizer_config.json", eos_token=["</s>"]),
    r"eos_token None is not among": lambda f: change(
        f, "tokenizer_config.json", eos_token={"id": 3}),
    r"fuse_unk is True": lambda f: change(f, model__fuse_unk=True, model__unk_token="<|end|>"),
    r"its chat_template is neither ChatML nor Llama 3's": lambda f: change(
        f, "tokenizer_config.json", chat_template="[INST]"),
    r"'<\|im_end\|>' ends a turn, but '<\|im_start\|>' is not an added": lambda f: (
        add(added("<|im_end|>", 361, special=True))(f),
        change(f, "tokenizer_config.json", eos_token="<|im_end|>")),
    r"json: is not JSON": lambda f: (f / "tokenizer.json").write_text("{"),
    r"is not a tokenizer.json \(KeyError": lambda f: (f / "tokenizer.json").write_text("{}"),
    r"a Unigram model, only byte-level BPE": lambda f: change(f, model__type="Unigram"),
    r"a sentencepiece vocabulary": lambda f: change(f, model__byte_fallback=True),
    r"token '漢' is not byte-level": lambda f: change(f, model__vocab__漢=400),
    r"end_of_word_suffix is '</w>'": lambda f: change(f, model__end_of_word_suffix="</w>"),
    r"the merge .* is not in the order of the ids": swap_merges,
    r"pre_tokenizer \['Whitespace'\]": lambda f: change(f, pre_tokenizer={"type": "Whitespace"}),
    r"pre_tokenizer \[None\]": lambda f: change(f, pre_tokenizer=None),
    r"normalizer \['Lowercase'\]": lambda f: change(f, normalizer={"type": "Lowercase"}),
    r"config.json: cannot be read": lambda f: (f / "tokenizer_config.json").unlink(),
    r"names no eos_token": lambda f: (f / "tokenizer_config.json").write_text("{}"),
    r"eos_token '</s>' is not among": lambda f: change(
        f, "tokenizer_config.json", eos_token="</s>"),
    r"tokenizer.model is sentencepiece": lambda f: (f / "tokenizer.json").rename(
        f / "tokenizer.model"),
}  # fmt: skip

@pytest.mark.parametrize("message", BROKEN)
def test_what_is_not_known_is_refused_in_one_line(tmp_path, message):
    trained(tmp_path, "gpt2")
    BROKEN[message](tmp_path)
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        tokenizer.load(tmp_path)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)
    assert len(str(error.value)) < 1000 and time.process_time() - started < 3
