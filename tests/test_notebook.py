"""docs/notebook.ipynb runs from top to bottom, without jupyter.

`python -m tests.test_notebook` runs it and stores what its cells print.
"""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parent.parent / "docs" / "notebook.ipynb"


def read() -> dict:
    return json.loads(NOTEBOOK.read_text())


def run(notebook: dict) -> list[str]:
    """What each code cell prints, all of them run in order in one namespace."""
    names, printed = {"__name__": "notebook"}, []
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
            printed.append(out.getvalue())
    return printed


def stored(notebook: dict) -> list[str]:
    """What each code cell printed when the notebook was saved."""
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(text for out in cell["outputs"] for text in out["text"]) for cell in cells]


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_its_cells_print(monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)  # where Jupyter would run it
    notebook = read()
    for printed, saved in zip(run(notebook), stored(notebook), strict=True):
        assert printed and saved, "each cell prints, and its output is stored"
        assert printed.count("\n") == saved.count("\n"), f"now:\n{printed}\nstored:\n{saved}"


def test_the_last_cell_shows_that_the_update_moved_the_right_way():
    better, worse = stored(read())[-1].splitlines()
    assert float(better.split()[-2]) > float(worse.split()[-2])


def save() -> None:
    """Run the notebook and store its output in it."""
    notebook = read()
    os.chdir(NOTEBOOK.parent)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(cells, run(notebook), strict=True), 1):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}]
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    save()
