"""Progress bars: 80 columns at most, with the figures that matter in full."""

import shutil
from os import terminal_size

import pytest

from retro.run.progress import WIDTH, progress

def drawn(bar, capsys) -> str:
    bar.refresh()
    said = capsys.readouterr().err.split("\r")[-1]
    bar.close()
    return said

@pytest.mark.parametrize("columns", [40, 80, 200])
def test_it_fits_the_terminal_and_80_columns(columns, capsys, monkeypatch):
    size = lambda *_: terminal_size((columns, 24))
    monkeypatch.setattr(shutil, "get_terminal_size", size)
    bar = progress(1920, "PPO", "reflections", initial=96)
    bar.update(1728)
    said = drawn(bar, capsys)
    assert len(said) <= min(columns, WIDTH) and said.startswith("PPO 1824/1920 reflections |")

@pytest.mark.parametrize("hours", [0, 12])
def test_the_figures_of_ppo_are_not_cut_off(hours, capsys, monkeypatch):
    """Counts of six digits and hours to go leave them in full, in eighty columns."""
    monkeypatch.setattr(shutil, "get_terminal_size", lambda *_: terminal_size((80, 24)))
    bar = progress(1920, "PPO", "reflections")
    bar.start_t -= 3600 * hours
    bar.update(960)
    bar.set_postfix_str("rating +0.12, KL 11.9, solved 0.82")
    said = drawn(bar, capsys)
    assert said.endswith(" left, rating +0.12, KL 11.9, solved 0.82") and len(said) <= 80, said

def test_a_total_may_come_later_and_work_that_is_done_shows_no_bar(capsys):
    with progress(None, "evaluate shop", "trials") as bar:
        bar.total = 7
        bar.update(7)
    assert capsys.readouterr().err == ""  # it took no half second
    bar = progress(None, "evaluate shop", "trials")
    bar.update(5)
    assert "evaluate shop 5/? trials" in drawn(bar, capsys)
    progress(3, "x", "y", shown=False).update(3)
    assert capsys.readouterr().err == ""
