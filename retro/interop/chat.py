"""Chat templates: how an instruction-tuned model was shown who speaks.

    ChatML (SmolLM2, Qwen2.5)    <|im_start|>user\\nTEXT<|im_end|>\\n ... <|im_start|>assistant\\n
    Llama 3     <|begin_of_text|><|start_header_id|>user<|end_header_id|>\\n\\nTEXT<|eot_id|> ...

The special tokens tell which: a model is taken for a chat model when the token that ends a turn is
also its end token, which a base model of the same vocabulary has not. Special tokens are put by
hand, so a text that spells one cannot end its turn. Left out: tools, and the system message that
some files add of themselves; give one.
"""

from collections.abc import Sequence
from functools import lru_cache

from retro.interop.hf_tokenizer import HFTokenizer, split_at
from retro.tokenizer import AnyTokenizer

TURN_ENDS = {"<|im_end|>": "chatml", "<|eot_id|>": "llama3"}


def template_of(coder: AnyTokenizer) -> str | None:
    """chatml, llama3, or None: not a chat model, it continues plain text."""
    for name, template in TURN_ENDS.items():
        if coder.special_tokens.get(name) == coder.eos:
            return template
    return None


def chat_prompt(coder: AnyTokenizer, messages: Sequence[tuple[str, str]]) -> list[int]:
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


def frame(coder: AnyTokenizer, system: str) -> tuple[list[int], list[int]]:
    """What stands before and after a user's text, so that a long one can be cut to fit between:
    before + encode(text) + after is the chat_prompt of both messages, for a text without white
    space at its ends. A model that continues plain text has only its `bos` before it.
    """
    if template_of(coder) is None:
        return [] if coder.bos is None else [coder.bos], []
    answer_head = _head(coder, "assistant")
    before = chat_prompt(coder, [("system", system)])[: -len(answer_head)]
    return before + _head(coder, "user"), _tail(coder) + answer_head


def _head(coder: AnyTokenizer, role: str) -> list[int]:
    if template_of(coder) == "chatml":
        return [coder.special_tokens["<|im_start|>"], *coder.encode(f"{role}\n")]
    return _name(coder, role) + coder.encode("\n\n")


def _name(coder: AnyTokenizer, role: str) -> list[int]:
    special = coder.special_tokens
    return [special["<|start_header_id|>"], *coder.encode(role), special["<|end_header_id|>"]]


def _tail(coder: AnyTokenizer) -> list[int]:
    return [coder.eos, *(coder.encode("\n") if template_of(coder) == "chatml" else ())]


def encode_decoded(coder: AnyTokenizer, text: str) -> list[int]:
    """Ids of a prompt that `decode` wrote: special tokens, there by name, are tokens again. Not for
    a text from elsewhere, which could spell one.
    """
    parts = split_at(text, set(coder.special_tokens))
    ids = [[coder.special_tokens[p]] if n % 2 else coder.encode(p) for n, p in enumerate(parts)]
    return [i for part in ids for i in part]


def answer(coder: AnyTokenizer, ids: Sequence[int]) -> str:
    """The text of sampled ids, up to the first special token: the turn's end. A base of ours has no
    turns: there the end of a document is spelled.
    """
    special: set[int] = set(coder.special_tokens.values() if isinstance(coder, HFTokenizer) else ())
    end = next((n for n, i in enumerate(ids) if i in special), len(ids))
    return coder.decode(list(ids[:end]))


@lru_cache(maxsize=4)
def line_breaks(coder: AnyTokenizer) -> tuple[int, ...]:
    """Every token with a line break in it: a pretrained vocabulary has many ("\\n\\n", ".\\n")."""
    return tuple(i for token, i in coder.ranks.items() if b"\n" in token)


def line_ends(coder: AnyTokenizer) -> tuple[int, ...]:
    """The ids to stop at for an answer of one line: line breaks, and a pretrained model's end
    token; ours ends documents, not lines.
    """
    return line_breaks(coder) + ((coder.eos,) if isinstance(coder, HFTokenizer) else ())
