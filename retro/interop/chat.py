"""Chat templates: how an instruction-tuned model was shown who speaks.

    ChatML (SmolLM2, Qwen2.5)    <|im_start|>user\\nTEXT<|im_end|>\\n ... <|im_start|>assistant\\n
    Llama 3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nTEXT<|eot_id|> ...

A chat model's end token is the one that ends a turn; a base model of the same vocabulary has
another. Special tokens are put by hand, so a text that spells one cannot end its turn. Left out:
tools, and the system message that some files add. Read before: language_model.py.
"""

from collections.abc import Sequence

from retro.language_model import ChatFrame
from retro.tokenizer import TokenizerLike

def template_of(tokenizer: TokenizerLike) -> str | None:
    """chatml, llama3, or None for a model that continues plain text."""
    special = tokenizer.special_tokens
    ends = {special.get("<|im_end|>"): "chatml", special.get("<|eot_id|>"): "llama3"}
    return ends.get(tokenizer.eos)

def chat_prompt(tokenizer: TokenizerLike, messages: Sequence[tuple[str, str]]) -> list[int]:
    """Ids of (role, text) messages and of the answer's head; ValueError if it is no chat model."""
    if template_of(tokenizer) is None:
        raise ValueError(f"the tokenizer has no chat template: its end token is {tokenizer.eos}")
    ids = [] if tokenizer.bos is None else [tokenizer.bos]
    for role, text in messages:
        ids += _opened(tokenizer, role, text) + _end(tokenizer)
    return ids + _opened(tokenizer, "assistant")

def chat_frame(tokenizer: TokenizerLike, system: str) -> ChatFrame | None:
    """What stands around a user's text: before + encode(text) + after is the chat_prompt of both
    messages, for a text without white space at its ends. None for a model of plain text.
    """
    if template_of(tokenizer) is None:
        return None
    answer_head = _opened(tokenizer, "assistant")
    before = chat_prompt(tokenizer, [("system", system)])[: -len(answer_head)]
    return ChatFrame((*before, *_opened(tokenizer, "user")), (*_end(tokenizer), *answer_head))

def _opened(tokenizer: TokenizerLike, role: str, text: str = "") -> list[int]:
    """A turn without its end; without a text its head."""
    special, encode = tokenizer.special_tokens, tokenizer.encode
    if template_of(tokenizer) == "chatml":  # role and text as one, as the models were trained
        return [special["<|im_start|>"], *encode(f"{role}\n{text}")]
    head = [special["<|start_header_id|>"], *encode(role), special["<|end_header_id|>"]]
    return head + encode(f"\n\n{text.strip()}")

def _end(tokenizer: TokenizerLike) -> list[int]:
    return [tokenizer.eos, *(tokenizer.encode("\n") if template_of(tokenizer) == "chatml" else ())]
