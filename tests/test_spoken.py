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
    "analysisWe need to act.assistantfinal{}", "analysis We. Action: no assistantfinal{}",
    *(f"<{tag}>{{}}</{tag}>" for tag in ("answer", "response", "output", "Answer", "assistant")),
    "<think>no</think>\n<response>\n{}\n</response>", "<answer>{}</answer><|im_end|>",
    *("{}" + end for end in (
        "[|endofturn|]", "<seed:eos>", "[UNUSED_TOKEN_145]", "[e~[", "<eoa>", "[PAD]", "[SEP]",
        " <unk>", "</S>", "<EOS>", "<EOT>", "<end_of_text>", "<endoftext>", "<im_end>", "<|im_end",
        "<|", "<pad><pad>", "</s>no", "\n<sep>")), "<seed:bos>{}",
    "<|inner_prefix|>no<|inner_suffix|>{}", "<|think|>no<|/think|>{}", "[THOUGHT]no[/THOUGHT]{}",
    *(f"<{tag}>no</{tag}>{{}}" for tag in (
        "internal_monologue", "thinking_process", "reason", "cot", "reflection")),
    "<think>no</think >{}", "<think >no</think>{}", "<think>no<think>{}",
    "<|start_of_thinking|>no<|end_of_thinking|>{}",
    "Here is my thought process:\nno\n\nHere is my response:\n{}",
    "Thinking...\nno\n...done thinking.\n\n{}",
]  # fmt: skip
SILENT = ["", "<think>no", "no</think>", "<|im_end|>", "<think>no</think>\n<|im_end|>",
          "<|channel|>analysis<|message|>no", "<|channel|>analysis<|message|>no<|end|>",
          "analysisWe need to look. The", "analysisWe\nAction: no", "Thinking...\nno",
          "Here is my thought process:\nno", "<think>\n<think>no", "<answer></answer>",
          "[THINK]no", "<think><think>no</think>", "<|eot_id|>\n\n</s>"]  # fmt: skip

@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_is_read_in_every_form(form):
    """By actors and reflectors alike."""
    reply = form.replace("{}", "Action: go to shelf 1")
    assert spoken(reply) == "Action: go to shelf 1"
    assert read_reply(reply) == ("", "go to shelf 1")
    assert read_reflection(form.replace("{}", "Reflection: I looked.")) == "I looked."

def test_tags_around_an_action_and_a_reflection_are_not_the_words():
    assert read_reply("<action>go to shelf 1</action>") == ("", "go to shelf 1")
    assert read_reflection("<reflection>\nI looked.\n</reflection>") == "I looked."

@pytest.mark.parametrize("text", SILENT)
def test_what_is_only_thought_is_not_said(text):
    assert spoken(text) == "" and read_reply(text) == ("", "") and read_reflection(text) == ""

@pytest.mark.parametrize(
    "text", ["think[It is cheap.]", "click[< Prev]", "I think so <3", "a < b > c", "search[x|y]",
             "Action: finish[The <s> tag]", "Action: search[<think> tag]", "Action: finish[[INST]]",
             "search[the </think> tag]", "finish[<|im_end|>]", "finish[the <answer> tag]",
             "Analysis: it is there.\nAction: look", "Reflection: I looked.", "think[x]"]
)  # fmt: skip
def test_other_text_stays(text):
    assert spoken(text) == text

@pytest.mark.slow
@pytest.mark.parametrize(
    "piece", ["<think>", "</think>", "<|", "<|channel|>", "<s>", " ", "<|a", "a:", "<a", "[INST]",
              "<think></think>", "<|channel|>x<|message|>", "<think>a", "<reflection>", "analysis",
              "<answer>", "[THOUGHT]", "...done", "Here is my response:\n", "[|", "<a:", "\n "]
)  # fmt: skip
def test_long_answers_take_no_longer_than_their_length(piece):
    start = time.process_time()
    spoken(piece * 400_000)
    assert time.process_time() - start < 2
