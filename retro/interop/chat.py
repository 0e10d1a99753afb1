"""Chat templates: how an instruction-tuned model was shown who speaks.

Read before: hf_tokenizer.py.

    ChatML (SmolLM2, Qwen2.5)    <|im_start|>user\\nTEXT<|im_end|>\\n ... <|im_start|>assistant\\n
    Llama 3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nTEXT<|eot_id|> ...

The special tokens tell which template a model has. A model is a chat model if its end token is the
token that ends a turn; a base model of the same vocabulary has another end token. Special tokens
are put by hand, so a text that spells one cannot end its turn. Left out: tools, and the system
message that some files add by themselves; give one.
"""

from collections.abc import Sequence

from retro.language_model import ChatFrame, TokenizerLike

TURN_ENDS = {"<|im_end|>": "chatml", "<|eot_id|>": "llama3"}


def template_of(tokenizer: TokenizerLike) -> str | None:
    """chatml, llama3, or None for a model that continues plain text."""
    for name, template in TURN_ENDS.items():
        if tokenizer.special_tokens.get(name) == tokenizer.eos:
            return template
    return None


def chat_prompt(tokenizer: TokenizerLike, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Ids of (role, text) messages and of the head of the assistant's answer. Roles are system,
    user and assistant. ValueError if the model is not a chat model.
    """
    special, encode, template = tokenizer.special_tokens, tokenizer.encode, template_of(tokenizer)
    if template is None:
        raise ValueError(f"the tokenizer has no chat template: its end token is {tokenizer.eos}")
    ids = [] if tokenizer.bos is None else [tokenizer.bos]
    for role, text in messages:
        if template == "chatml":  # role and text as one, as the models were trained
            ids += [special["<|im_start|>"], *encode(f"{role}\n{text}")]
        else:
            ids += _name(tokenizer, role) + encode(f"\n\n{text.strip()}")
        ids += _tail(tokenizer)
    return ids + _head(tokenizer, "assistant")


def chat_frame(tokenizer: TokenizerLike, system: str) -> ChatFrame | None:
    """What stands before and after a user's text, so that a long text can be cut to fit between.

    before + encode(text) + after is the chat_prompt of both messages, for a text without white
    space at its ends. None for a model that continues plain text.
    """
    if template_of(tokenizer) is None:
        return None
    answer_head = _head(tokenizer, "assistant")
    before = chat_prompt(tokenizer, [("system", system)])[: -len(answer_head)]
    return ChatFrame(
        (*before, *_head(tokenizer, "user")), (*_tail(tokenizer), *answer_head)
    )


def _head(tokenizer: TokenizerLike, role: str) -> list[int]:
    if template_of(tokenizer) == "chatml":
        return [tokenizer.special_tokens["<|im_start|>"], *tokenizer.encode(f"{role}\n")]
    return _name(tokenizer, role) + tokenizer.encode("\n\n")


def _name(tokenizer: TokenizerLike, role: str) -> list[int]:
    special = tokenizer.special_tokens
    return [special["<|start_header_id|>"], *tokenizer.encode(role), special["<|end_header_id|>"]]


def _tail(tokenizer: TokenizerLike) -> list[int]:
    return [tokenizer.eos, *(tokenizer.encode("\n") if template_of(tokenizer) == "chatml" else ())]
