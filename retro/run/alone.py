"""A command in a process of its own, which ends with this one, and its exit status."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from ctypes import CDLL
from functools import partial

from retro.run.processes import ENDS, PR_SET_PDEATHSIG

def run_alone(command: Sequence[str]) -> int:
    """Its exit status, as a shell has it: 128 and the signal's number where one has ended it. A
    signal that would end this process goes to the command, whose last words it waits for.
    """
    tie = None
    if sys.platform == "linux":  # it ends with this process, however this one ends
        tie = partial(CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGTERM)
    child = subprocess.Popen(command, preexec_fn=tie)
    heard = [n for n in ENDS if signal.getsignal(n) != signal.SIG_IGN]  # as nohup has it
    before = {n: signal.signal(n, lambda n, _: child.send_signal(n)) for n in heard}
    try:
        status = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status < 0:  # it could say nothing
        print(f"error: {signal.Signals(-status).name} has ended it; --resume goes on",
              file=sys.stderr)  # fmt: skip
    return 128 - status if status < 0 else status
