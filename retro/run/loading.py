"""Ctrl-C while a script loads PyTorch: one line, no traceback. Import it first. `launch`, or
`run_script`, answers it from then on.
"""

import os
import signal
import sys
from typing import NoReturn

def end(number: int, frame: object) -> NoReturn:
    os.write(2, b"\nerror: interrupted\n")
    os._exit(128 + number)

scripts = ("train.py", "eval.py", "play.py", os.path.join("pretrain", "__main__.py"),
           os.path.join("pretrain", "skills.py"), os.path.join("interop", "export.py"))
started = getattr(sys.modules["__main__"], "__file__", None) or ""
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and started.endswith(scripts):
    signal.signal(signal.SIGINT, end)
