"""Chat templates: how an instruction-tuned model was shown who speaks.

    ChatML (SmolLM2, Qwen2.5)    <|im_start|>user\\nTEXT<|im_end|>\\n ... <|im_start|>assistant\\n
    Llama 3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nTEXT<|eot_id|> ...

The special tokens tell which: a model is taken for a chat model when the token that ends a turn is
also its end token, which a base model of the same vocabulary has not. Special tokens are put by
hand, so a text that spells one cannot end its turn. Left out: tools, and the system message that
some files add of themselves; give one.
"""

from collections.abc import Sequence

TURN_ENDS = {"<|im_end|>": "chatml", "<|eot_id|>": "llama3"}


def template_of(coder) -> str | None:
    """chatml, llama3, or None: not a chat model, it continues plain text."""
    for name, template in TURN_ENDS.items():
        if coder.special_tokens.get(name) == coder.eos:
            return template
    return None


def chat_prompt(coder, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Ids of (role, text) messages and of the head of the assistant's answer; roles are system,
    user and assistant. ValueError if the model is not a chat model.
    """
    special, encode, template = coder.special_tokens, coder.encode, template_of(coder)
    if template is None:
        raise ValueError(f"the tokenizer has no chat template: its end token is {coder.eos}")
    ids = [] if coder.bos is None else [coder.bos]
    if template == "chatml":
        for role, text in messages:
            ids += [special["<|im_start|>"], *encode(f"{role}\n{text}"), special["<|im_end|>"]]
            ids += encode("\n")
        return ids + [special["<|im_start|>"], *encode("assistant\n")]
    head, end_of_head = special["<|start_header_id|>"], special["<|end_header_id|>"]
    for role, text in messages:
        ids += [head, *encode(role), end_of_head, *encode(f"\n\n{text.strip()}"), coder.eos]
    return ids + [head, *encode("assistant"), end_of_head, *encode("\n\n")]


def answer(coder, ids: Sequence[int]) -> str:
    """The text of sampled ids, up to the first special token: the turn's end."""
    special = set(coder.special_tokens.values())
    end = next((n for n, i in enumerate(ids) if i in special), len(ids))
    return coder.decode(list(ids[:end]))


def line_ends(coder) -> tuple[int, ...]:
    """The ids to stop at for an answer of one line: every token with a line break in it, since a
    pretrained vocabulary has many ("\\n\\n", ".\\n"), and the end token.
    """
    return (*(i for token, i in coder.ranks.items() if b"\n" in token), coder.eos)
