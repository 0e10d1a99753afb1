"""What a model said aloud: its text without its thinking and without the tokens that end a turn,
in the forms in which servers leave them.

    <think>...</think>     and thinking, thought, reasoning; with a prefix (<seed:think>); a lone
    [THINK]...[/THINK]     closing tag, since the opening one may stand in the prompt; an opening
    <|START_THINKING|>...  one without an end: all that follows was thought
    <|channel|>analysis<|message|>...<|channel|>final<|message|>   gpt-oss: only `final` is said;
                           or analysis...assistantfinal, where its special tokens are skipped
"""

import re

CHARACTERS = 500_000  # that are read of an answer
_OUTSIDE = r"(?![^\[\]\n]{0,200}\])"  # not within an action's brackets: finish[The <s> tag]
_NAME = (r"(?:ant|\w{1,12}:)?(?:think(?:ing(?:_process)?)?|thoughts?|reason(?:ing)?|analysis|cot|"
         r"scratchpad|(?:inner|internal)_monologue)")  # fmt: skip
_OPEN = re.compile(rf"(?i)(?:<{_NAME}(?:\s[^<>]{{0,99}})?>|◁think▷"
                   rf"|<\|(?:start_|begin_)?(?:of_)?{_NAME}\|>"
                   r"|(?<!\w)\[(?:THINK|THOUGHT)\]|<\|inner_prefix\|>|<\|channel>thought\b|\A\s*"
                   rf"(?:Here.{{1,4}}my thought process:|Thinking\.\.\.\n)){_OUTSIDE}")  # fmt: skip
_CLOSE = re.compile(rf"(?im)(?:</{_NAME}\s{{0,9}}>|<\|(?:/|end_)(?:of_)?{_NAME}\|>|◁/think▷|"
                    r"<channel\|>|\[/(?:THINK|THOUGHT)\]|<\|inner_suffix\|>|\.\.\.done thinking\.|"
                    rf"^Here(?:'s| is) my response:){_OUTSIDE}")  # fmt: skip
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,99}(?:<\|constrain\|>[^<]{0,99})?<\|message\|>")
_BARE_CHANNEL = re.compile(r"\s*analysis(?!\s*[:.,])")  # the same without its special tokens
_REFLECTED = re.compile(r"\A\s*<reflection>.*?</reflection>(?=\s*\S)", re.DOTALL)
_WRAP = r"</?(?:answer|response|output|action|reflection|assistant)>"  # around what is said
_WRAPS = re.compile(rf"^[ \t]*{_WRAP}|{_WRAP}[ \t]*$", re.IGNORECASE | re.MULTILINE)
_SPECIAL = (r"(?:<[|｜][^<>|｜\n]{1,40}[|｜]>|\[\|\w{1,40}\|\]|</?s>|<turn\|>|<\|turn>|"
            r"\[/?INST\]|\[e~\[|</?(?:\w{1,12}:)?(?:bos|eos|eo[ta]|pad|unk|sep|im_start|im_end|"
            r"start_of_turn|end_?of_?(?:turn|text|utterance))>|\[(?:EOS|PAD|SEP|UNUSED_TOKEN_\d+)\]|"
            rf"<[|｜]\w{{0,40}}\Z){_OUTSIDE}")  # fmt: skip
_START = re.compile(rf"\s*(?:{_SPECIAL}\s*(?:(?:assistant|model)\b\s*)?)*", re.IGNORECASE)
_END = re.compile(_SPECIAL, re.IGNORECASE)

def spoken(text: str) -> str:
    """The words that are for others; "" if there are none.

    >>> spoken("It is in the drawer, so</think>\\n\\nAction: open drawer 1<|im_end|>")
    'Action: open drawer 1'
    """
    text = text[:CHARACTERS]
    if channels := _CHANNEL.split(text)[1:]:
        text = "".join(said for name, said in zip(channels[::2], channels[1::2]) if name == "final")
    elif _BARE_CHANNEL.match(text):
        text = text.partition("assistantfinal")[2]
    text = _without_thinking(_REFLECTED.sub("", text, count=1))
    text = text[_START.match(text).end() :]  # type: ignore[union-attr]  # matches "" at least
    return _WRAPS.sub("", _END.split(text, maxsplit=1)[0]).strip()

def _without_thinking(text: str) -> str:
    """What stands outside of all tags; a closing tag without an opening one ends a thought that
    began with the text.
    """
    parts, at = [], 0
    while opened := _OPEN.search(text, at):
        parts.append(text[at : opened.start()])
        at = opened.end()
        if closed := _CLOSE.search(text, at):
            at = closed.end()
            continue
        again = _OPEN.search(text, at)  # in place of a closing one, if something was thought
        at = again.end() if again and text[at : again.start()].strip() else len(text)
        break
    return _CLOSE.split("".join([*parts, text[at:]]))[-1]
