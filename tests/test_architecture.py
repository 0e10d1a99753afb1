"""The house: who may import whom, and how large things may grow. All is read from the source, so an
import inside a function counts too.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = {f"retro.{path.stem}".removesuffix(".__init__") for path in ROOT.glob("retro/*.py")}
SCRIPTS = {"train", "eval", "play"}

# floor: what its files may import of the project beside one another. "core" is retro/*.py.
FLOORS = {
    "envs": set(),
    "retro.run": set(),
    "retro.fast": {"retro.kv_cache", "retro.lora", "retro.model"},
    "core": {"envs", "retro.run", "retro.fast"},
    "retro.interop": {"core", "retro.run"},
    "retro.pretrain": {"core", "retro.run", "retro.fast", "envs"},
    "retro.report": {"core", "retro.run", "envs"},
    "scripts": {"core", "retro.run", "retro.interop", "retro.report", "envs"},
}

@cache
def sources() -> dict[str, Path]:
    """Every module of the product, by its dotted name."""
    found = [*ROOT.glob("*.py"), *ROOT.glob("retro/**/*.py"), *ROOT.glob("envs/**/*.py")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in found]
    return {name.removesuffix(".__init__"): path for name, path in zip(names, found)}

@cache
def tree(name: str) -> ast.Module:
    return ast.parse(sources()[name].read_text(encoding="utf-8"))

@cache
def imports(name: str) -> set[str]:
    """The modules of the project that this one imports, or looks up by a name that is written out.
    """
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: a relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in sources() else node.module)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            found |= {text.value for text in node.args if isinstance(text, ast.Constant)}
    return {other for other in found if other in sources()}

def floor_of(name: str) -> str:
    if name in CORE or name in SCRIPTS:
        return "core" if name in CORE else "scripts"
    return max((f for f in FLOORS if f"{name}.".startswith(f"{f}.")), key=len)

def test_the_reader_of_imports_sees_what_there_is():
    """Or the tests below would hold of nothing."""
    assert {"retro.memory", "retro.prompts", "envs"} <= imports("retro.trial")
    assert {"retro.learn", "retro.interop.open"} <= imports("train")
    assert sources().keys() > CORE | SCRIPTS | {"envs.household.engine", "retro.run.files"}
    assert {floor_of(name) for name in sources()} == set(FLOORS)

@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor):
    for name in filter(lambda name: floor_of(name) == floor, sources()):
        for other in imports(name):
            allowed = {floor_of(other), other} & (FLOORS[floor] | {floor})
            assert allowed, f"{name} imports {other}"

def test_the_core_knows_no_command_line_and_ppo_knows_nothing():
    assert imports("retro.ppo") == set()
    assert not [name for name in CORE if "retro.run.cli" in imports(name)]

def test_no_imports_go_in_a_circle():
    done = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in imports(name):
                visit(other, (*path, name))
            done.add(name)

    for name in sources():
        visit(name, ())

def lines(names) -> int:
    return sum(len(sources()[name].read_text(encoding="utf-8").splitlines()) for name in names)

def test_the_core_stays_small():
    assert len(CORE) <= 17, sorted(CORE)
    assert lines(CORE) <= 3000

def test_the_product_stays_small():
    assert lines(sources()) < 14460

def test_no_function_takes_more_than_eight_parameters():
    for name in sources():
        for node in ast.walk(tree(name)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                a = node.args
                given = [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]
                own = [one.arg for one in given if one and one.arg not in ("self", "cls")]
                assert len(own) <= 8, f"{name}: {getattr(node, 'name', 'lambda')} takes {own}"

def test_every_file_says_what_it_is():
    for name in sources():
        text = ast.get_docstring(tree(name)) or ""
        assert len(text.split()) >= 4 and "." in text, f"{name}: {text!r}"
