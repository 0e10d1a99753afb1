"""What a model said aloud: its text without its thinking and without the tokens that end a turn,
in the forms in which servers leave them.

    <think>...</think>     and thinking, thought, reasoning; with a prefix (<seed:think>); a lone
    [THINK]...[/THINK]     closing tag, since the opening one may stand in the prompt; an opening
    <|START_THINKING|>...  one without an end: all that follows was thought
    <|channel|>analysis<|message|>...<|channel|>final<|message|>   gpt-oss: only `final` is said
"""

import re

CHARACTERS = 500_000  # that are read of an answer
_NAME = (r"(?:ant|\w{1,12}:)?(?:thinking|think|thoughts?|reasoning|analysis|scratchpad|"
         r"inner_monologue)")  # fmt: skip
_OPEN = re.compile(rf"<{_NAME}(?:\s[^<>]{{0,99}})?>|<\|(?:start_|begin_of_){_NAME}\|>|\[THINK\]"
                   r"|◁think▷|<\|channel>thought\b", re.IGNORECASE)  # fmt: skip
_CLOSE = re.compile(rf"</{_NAME}>|<\|end_(?:of_)?{_NAME}\|>|\[/THINK\]|◁/think▷|<channel\|>",
                    re.IGNORECASE)  # fmt: skip
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>")
_SPECIAL = (r"(?:<[|｜][^<>|｜\n]{1,40}[|｜]>|</?s>|</?(?:bos|eos|pad|start_of_turn|end_of_turn|"
            r"end_of_utterance)>|<turn\|>|<\|turn>|\[/?INST\]|\[EOS\])")  # fmt: skip
_START = re.compile(rf"\s*(?:{_SPECIAL}\s*(?:(?:assistant|model)\b\s*)?)*")
_END = re.compile(_SPECIAL)

def spoken(text: str) -> str:
    """The words that are for others; "" if there are none.

    >>> spoken("It is in the drawer, so</think>\\n\\nAction: open drawer 1<|im_end|>")
    'Action: open drawer 1'
    """
    text = text[:CHARACTERS]
    if channels := _CHANNEL.split(text)[1:]:
        text = "".join(said for name, said in zip(channels[::2], channels[1::2]) if name == "final")
    text = _without_thinking(text)
    text = text[_START.match(text).end() :]  # type: ignore[union-attr]  # matches "" at least
    return _END.split(text, maxsplit=1)[0].strip()

def _without_thinking(text: str) -> str:
    """What stands outside of all tags; a closing tag without an opening one ends a thought that
    began with the text.
    """
    parts, at = [], 0
    while opened := _OPEN.search(text, at):
        parts.append(text[at : opened.start()])
        closed = _CLOSE.search(text, opened.end())
        at = closed.end() if closed else len(text)
    return _CLOSE.split("".join([*parts, text[at:]]))[-1]
