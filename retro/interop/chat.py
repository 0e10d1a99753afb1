"""Chat templates: how an instruction-tuned model was shown who speaks.

    ChatML (SmolLM2, Qwen2.5)    <|im_start|>user\\nTEXT<|im_end|>\\n ... <|im_start|>assistant\\n
    Llama 3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nTEXT<|eot_id|> ...

The special tokens tell which: a model is taken for a chat model when the token that ends a turn is
also its end token, which a base model of the same vocabulary has not. Special tokens are put by
hand, so a text that spells one cannot end its turn. Left out: tools, and the system message that
some files add of themselves; give one.
"""

from collections.abc import Sequence

from retro.language_model import ChatFrame, TokenizerLike

TURN_ENDS = {"<|im_end|>": "chatml", "<|eot_id|>": "llama3"}


def template_of(coder: TokenizerLike) -> str | None:
    """chatml, llama3, or None: not a chat model, it continues plain text."""
    for name, template in TURN_ENDS.items():
        if coder.special_tokens.get(name) == coder.eos:
            return template
    return None


def chat_prompt(coder: TokenizerLike, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Ids of (role, text) messages and of the head of the assistant's answer; roles are system,
    user and assistant. ValueError if the model is not a chat model.
    """
    special, encode, template = coder.special_tokens, coder.encode, template_of(coder)
    if template is None:
        raise ValueError(f"the tokenizer has no chat template: its end token is {coder.eos}")
    ids = [] if coder.bos is None else [coder.bos]
    for role, text in messages:
        if template == "chatml":  # role and text as one, as the models were trained
            ids += [special["<|im_start|>"], *encode(f"{role}\n{text}")]
        else:
            ids += _name(coder, role) + encode(f"\n\n{text.strip()}")
        ids += _tail(coder)
    return ids + _head(coder, "assistant")


def chat_frame(coder: TokenizerLike, system: str) -> ChatFrame | None:
    """What stands before and after a user's text, so that a long text can be cut to fit between.

    before + encode(text) + after is the chat_prompt of both messages, for a text without white
    space at its ends. None for a model that continues plain text.
    """
    if template_of(coder) is None:
        return None
    answer_head = _head(coder, "assistant")
    before = chat_prompt(coder, [("system", system)])[: -len(answer_head)]
    return ChatFrame(
        (*before, *_head(coder, "user")), (*_tail(coder), *answer_head)
    )


def _head(coder: TokenizerLike, role: str) -> list[int]:
    if template_of(coder) == "chatml":
        return [coder.special_tokens["<|im_start|>"], *coder.encode(f"{role}\n")]
    return _name(coder, role) + coder.encode("\n\n")


def _name(coder: TokenizerLike, role: str) -> list[int]:
    special = coder.special_tokens
    return [special["<|start_header_id|>"], *coder.encode(role), special["<|end_header_id|>"]]


def _tail(coder: TokenizerLike) -> list[int]:
    return [coder.eos, *(coder.encode("\n") if template_of(coder) == "chatml" else ())]
