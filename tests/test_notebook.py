"""docs/notebook.ipynb runs from top to bottom, without jupyter.

`python -m tests.test_notebook` runs it and stores what its cells print.
"""

import ast
import contextlib
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import retro
import retro.policy
import retro.reflect

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
def test_the_notebook_runs_anywhere_and_its_update_moves_the_right_way(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    printed = run(read())
    assert all(printed), "each cell prints something"
    better, worse = (float(line.split()[-2]) for line in printed[-1].splitlines())
    assert better > worse, printed[-1]

def test_it_needs_nothing_but_torch_and_what_retro_exports():
    """All of that, and the package's docstring tells each; each is the thing itself."""
    cells = ["".join(cell["source"]) for cell in read()["cells"] if cell["cell_type"] == "code"]
    tree = ast.parse("\n".join(cells))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    modules = {getattr(node, "module", None) or node.names[0].name for node in found}
    (names,) = [[a.name for a in node.names] for node in found if isinstance(node, ast.ImportFrom)]
    assert modules == {"torch", "retro"}
    assert len(names) == 12 and {*names} == {*retro.__all__}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert not {*names} - used
    told = re.findall(r"^    (\w+)(?:, (\w+))?  ", retro.__doc__.split("As a library")[1], re.M)
    assert [name for pair in told for name in pair if name] == retro.__all__
    homes = {name: getattr(retro, name).__module__ for name in names}
    assert all(home.startswith(("retro.", "envs")) for home in homes.values())
    assert retro.rate is retro.reflect.rate and retro.Policy is retro.policy.Policy

def test_the_package_imports_no_pytorch_before_a_name_is_asked_for():
    """Or Ctrl-C while it loads would be a traceback: scripts import `retro.run.loading` first."""
    program = """if 1:
        import sys, retro.run.loading
        assert "torch" not in sys.modules
        try:
            retro.nothing
        except AttributeError as error:
            print(error)
        from retro import reflect, LMActor
        assert "torch" in sys.modules and reflect.reflect and LMActor"""
    said = subprocess.run([sys.executable, "-c", program], cwd=NOTEBOOK.parent.parent,
                          capture_output=True, text=True)  # fmt: skip
    assert said.stdout == "module 'retro' has no attribute 'nothing'\n" and not said.stderr

def test_the_output_of_each_cell_is_stored():
    assert all(stored(read())), "python -m tests.test_notebook stores it"

def save() -> None:
    """Run the notebook and store its output in it."""
    notebook = read()
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, text) in enumerate(zip(cells, run(notebook), strict=True), 1):
        cell["execution_count"] = number
        lines = text.splitlines(keepends=True)
        cell["outputs"] = [{"name": "stdout", "output_type": "stream", "text": lines}]
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")

if __name__ == "__main__":
    save()
