"""python -m bench: a row that takes too long is cut off, whatever it catches."""

import signal
import time

import pytest

from bench.__main__ import Late, limited

@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="no SIGALRM here")
def test_a_row_is_cut_off_at_its_limit_and_those_before_it_stay():
    def rows():
        yield "first"
        yield "second"
        try:
            time.sleep(30)
        except Exception as error:
            raise AssertionError("taken for a fault of its own") from error
        yield "third"

    before, start, found = signal.getsignal(signal.SIGALRM), time.monotonic(), []
    with pytest.raises(Late):
        for row in limited(rows(), 1):
            found.append(row)
    assert found == ["first", "second"] and 0.9 < time.monotonic() - start < 20
    assert signal.getsignal(signal.SIGALRM) == before
    assert list(limited(iter("ab"), 0)) == ["a", "b"] and signal.alarm(0) == 0
