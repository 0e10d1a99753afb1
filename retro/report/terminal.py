"""A trial on a terminal: what environments and models write, shown to people."""

import os
import shutil
import sys
import textwrap
import time

from retro.run.printable import visible

STYLES = dict(dim="2", bold="1", task="36", act="1;33", mind="35", good="1;32", bad="1;31")

class Screen:
    """A trial as it happens. Prints to stdout, all text through `visible`. On a terminal only: a
    `delay` in seconds between two steps, colours (https://no-color.org) and wrapping.
    """

    def __init__(self, delay: float):
        self.live = sys.stdout.isatty()
        self.delay = delay if self.live else 0.0
        dumb = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        self.coloured = self.live and not dumb

    def paint(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.coloured and style else text

    def say(self, text: str, style: str = "", sign: str = "") -> None:
        """Lines of text in a style, `sign` before the first one."""
        width = max(min(shutil.get_terminal_size().columns, 100), 20)
        for line in (sign + visible(text)).split("\n"):
            indent = " " * len(sign)
            parts = textwrap.wrap(line, width, subsequent_indent=indent) if self.live else []
            for part in parts or [line]:
                print(self.paint(part, style), flush=True)

    def heading(self, text: str) -> None:
        rule = "─" * max(min(shutil.get_terminal_size().columns, 100) - len(text) - 4, 3)
        print(f"\n{self.paint('── ' + visible(text) + ' ' + rule, 'bold')}\n", flush=True)

    def wait(self, steps: float = 1.0) -> None:
        if self.delay:
            time.sleep(steps * self.delay)

    def ask(self, sign: str, style: str = "act") -> str:
        """A line that the user types; KeyboardInterrupt and EOFError are the caller's."""
        line = input(sign)  # uncoloured: line editing counts the prompt's characters
        if not sys.stdin.isatty():
            print(self.paint(visible(line), style), flush=True)  # piped input is not echoed
        return line
