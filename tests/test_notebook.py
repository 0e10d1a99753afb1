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
def test_the_notebook_runs_and_its_update_moves_the_right_way(monkeypatch):
    monkeypatch.chdir(NOTEBOOK.parent)  # where Jupyter would run it
    printed = run(read())
    assert all(printed), "each cell prints something"
    better, worse = (float(line.split()[-2]) for line in printed[-1].splitlines())
    assert better > worse, printed[-1]

def test_the_output_of_each_cell_is_stored():
    assert all(stored(read())), "python -m tests.test_notebook stores it"

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
