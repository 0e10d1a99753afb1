"""What a model said aloud: thinking and end tokens, in all forms that are known."""

import time

import pytest

from retro.interop.api_actor import read_reflection, read_reply
from retro.interop.spoken import spoken

FORMS = [  # around words that are said
    "{}", "<think>no</think>{}", "no\n</think>\n\n{}", "<think>a</think>\n<think>b</think>{}",
    "<think></think>\n\n{}", "<thinking>no</thinking>{}", "<Thought>no</Thought> {}",
    "<reasoning effort='low'>no</reasoning>{}", "<seed:think>no</seed:think>{}",
    "<antthinking>no</antthinking>{}", "[THINK]no[/THINK]{}", "◁think▷no◁/think▷{}",
    "<|START_THINKING|>no<|END_THINKING|><|START_RESPONSE|>{}<|END_RESPONSE|>",
    "<|begin_of_thought|>no<|end_of_thought|>{}", "<|channel>thought\nno<channel|>{}<turn|>",
    "<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>{}",
    "<|channel|>final<|message|>{}<|return|>", "<think>no{}</think>{}",
    "{}<|im_end|>", "{}<|im_end|>\n<|im_start|>user\nno", "{}<|eot_id|>", "{}<|end|>", "{}</s>",
    "{}<|endoftext|>", "{}<end_of_turn>", "{}<｜end▁of▁sentence｜>", "{}[/INST]", "{}<eos>",
    "<|im_start|>assistant\n{}<|im_end|>", "<s> {}</s>",
    "<|start_header_id|>assistant<|end_header_id|>\n\n{}<|eot_id|>",
]  # fmt: skip
SILENT = ["", "<think>no", "no</think>", "<|im_end|>", "<think>no</think>\n<|im_end|>",
          "<|channel|>analysis<|message|>no", "<|channel|>analysis<|message|>no<|end|>",
          "[THINK]no", "<think><think>no</think>", "<|eot_id|>\n\n</s>"]  # fmt: skip

@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_is_read_in_every_form(form):
    """By actors and reflectors alike."""
    reply = form.replace("{}", "Action: go to shelf 1")
    assert spoken(reply) == "Action: go to shelf 1"
    assert read_reply(reply) == ("", "go to shelf 1")
    assert read_reflection(form.replace("{}", "Reflection: I looked.")) == "I looked."

@pytest.mark.parametrize("text", SILENT)
def test_what_is_only_thought_is_not_said(text):
    assert spoken(text) == "" and read_reply(text) == ("", "") and read_reflection(text) == ""

@pytest.mark.parametrize(
    "text", ["think[It is cheap.]", "click[< Prev]", "I think so <3", "a < b > c", "search[x|y]"]
)
def test_other_text_stays(text):
    assert spoken(text) == text

@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<|", "<|channel|>", "<s>", " ", "<|a", "a:", "<a", "[INST]",
              "<think></think>", "<|channel|>x<|message|>"]
)  # fmt: skip
def test_long_answers_take_no_longer_than_their_length(piece):
    start = time.process_time()
    spoken(piece * 400_000)
    assert time.process_time() - start < 2
