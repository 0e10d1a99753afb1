"""Text from models, servers and files, made fit for a terminal: no escape sequence, no control
character and no change of writing direction gets through.
"""

import re
import unicodedata

_ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\r\n]*(\x07|\x1b\\)?|.)?"
                      r"|\x9b[0-?]*[@-~]")  # fmt: skip

def visible(text: str) -> str:
    """`text` with a sign (␛, <U+202E>) for each character that does not print; line ends stay."""
    return "".join(c if c == "\n" or c.isprintable() else _picture(c) for c in text)

def _picture(character: str) -> str:
    code = ord(character)
    if character == "\t" or unicodedata.category(character) == "Zs":
        return " "
    if code < 0x20 or code == 0x7F:
        return chr(0x2421 if code == 0x7F else 0x2400 + code)  # Unicode's control pictures
    return f"<U+{code:04X}>"

def one_printable_line(text: str, limit: int = 300) -> str:
    """One printable line of at most `limit` characters, whatever a server or a model wrote."""
    return " ".join(printable_lines(text[: 20 * limit]).split())[:limit].strip()

def printable_lines(text: str) -> str:
    """`text` without escape sequences and without all else that does not print; line ends stay."""
    text = re.sub(r"[^\S\n]", " ", "\n".join(_ESCAPES.sub("", text).splitlines()))
    return "".join(c for c in text if c == "\n" or c.isprintable())
