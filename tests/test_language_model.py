"""A language model as the method sees it: texts and ids of both kinds of model; prompts that fit.
"""

import pytest
import torch

from retro.interop.open import open_model

@pytest.fixture(params=["plain", "chat"])
def lm(request, tiny_lm, tiny_chat):
    plain = request.param == "plain"
    return tiny_lm if plain else open_model(str(tiny_chat), torch.device("cpu"), False)

def test_an_answer_ends_with_a_line_or_as_the_model_ends_its_turns(lm):
    """By hand: every token that holds a line break; a chat model's end token too."""
    vocabulary = range(lm.tokenizer.vocab_size)
    breaks = {i for i in vocabulary if "\n" in lm.tokenizer.decode([i])}
    assert set(lm.line_breaks) == breaks
    assert set(lm.stop_ids) == breaks | lm.tokenizer.answer_ends
    assert len(lm.stop_ids) == len(set(lm.stop_ids))

def test_the_text_of_an_answer_stops_at_its_end_token(lm):
    encode, eos = lm.tokenizer.encode, lm.tokenizer.eos
    assert lm.text(encode("a mug")) == "a mug"
    if lm.frame:
        assert lm.text([*encode("a mug"), eos, *encode(" more")]) == "a mug"
        assert lm.answer_text([*encode("a mug"), eos]) == "a mug\n"
    assert lm.answer_text(encode("a mug\n")) == "a mug\n"
    assert lm.answer_text(encode("a mug")) == "a mug"  # it was cut off

def test_an_answer_comes_back_as_the_same_ids(lm):
    for text in (" I was slow.\n", " I was cut"):
        ids = lm.answer_ids(text)
        assert lm.answer_text(ids) == text
        assert (ids[-1] in lm.stop_ids) == text.endswith("\n")
    assert (lm.answer_ids("x\n")[-1] == lm.tokenizer.eos) == bool(lm.frame)

def test_a_prompt_that_fits_is_its_text_within_the_frame(lm):
    before, after = lm.around
    ids = lm.fit("A mug.", lm.context)
    assert ids == before + lm.tokenizer.encode("A mug.") + after
    assert lm.prompt_text(ids) == "A mug."
    assert bool(before) == bool(after) == bool(lm.frame)

@pytest.mark.parametrize("room", [50, 90])
def test_of_a_long_prompt_the_middle_is_left_out(lm, room):
    """The start stays if half of the room is enough for it; the end always stays."""
    before, after = lm.around
    limit = len(before) + room + len(after)
    start, middle, end = "The task: find a mug.", " go to bed 1" * 60, " Failed.\nReflection:"
    ids = lm.fit(start + middle + end, limit, start)
    text = lm.prompt_text(ids)
    assert limit - 3 <= len(ids) <= limit  # joined, two halves may be fewer tokens
    assert ids[: len(before)] == before and ids[len(ids) - len(after) :] == after
    assert text.startswith(start) and text.endswith(end) and middle not in text
    ids = lm.fit(start + middle + end, limit, start + middle)  # half of the room is the start's
    text = lm.prompt_text(ids)
    assert text.startswith(start) and text.endswith(end) and len(ids) <= limit

def test_prompts_are_read_in_groups_of_similar_length_and_equal_ones_once(tiny_lm, monkeypatch):
    monkeypatch.setattr("retro.language_model.PREFILL_TOKENS", 40)
    encode = tiny_lm.tokenizer.encode
    prompts = [encode("a mug" * n) for n in (9, 1, 5, 1, 9, 2)] + [encode("a")[:1]]
    read = list(tiny_lm.prefill(prompts))
    assert sorted(row for part in read for row in part.rows) == list(range(7)) and len(read) > 2
    for part in read:
        lengths = part.cache.lengths[part.slots].tolist()
        assert lengths == [len(prompts[row]) - 1 for row in part.rows]
        assert len(part.cache.lengths) == len({tuple(prompts[row]) for row in part.rows})
        assert len(part.rows) == 1 or len(part.rows) * max(lengths) <= 40

def test_frozen_is_the_base_and_using_names_an_adapter(tiny_lm):
    ids = torch.tensor([tiny_lm.tokenizer.encode("go to bed 1")])
    base = tiny_lm.model(ids)
    for i, name in enumerate(("reflector", "reward")):
        tiny_lm.add_adapter(name, 2, 4.0, torch.Generator().manual_seed(i))
        for layer in tiny_lm.model.modules():
            if hasattr(layer, "adapters"):
                torch.nn.init.normal_(layer.adapters[name].lora_B)
    first = tiny_lm.model(ids)
    with tiny_lm.using("reward"):
        second = tiny_lm.model(ids)
        with tiny_lm.frozen():
            assert torch.equal(tiny_lm.model(ids), base)
    with tiny_lm.using("reflector"):
        assert torch.equal(tiny_lm.model(ids), first)
    assert not torch.equal(first, base) and not torch.equal(second, base)
    assert not torch.equal(first, second)
