"""README.md says what is so. `python -m tests.test_readme` puts its line counts right."""

import ast
import json
import re
import shlex
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import pytest

import train
from retro.run.cli import parse
from tests.small_run import config, shorten

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = ("train", "eval", "play", "retro.pretrain.__main__", "retro.interop.export")
FOREIGN = {"--help", "--no-deps", "--nproc-per-node"}  # every script's, pip's, torchrun's
FOLDERS = (".ci/", "assets/", "bench/", "docs/", "envs/", "retro/", "tests/")
COUNT = re.compile(r"`([\w/]+\.py)` \((\d+)\)")


def lines_of(path: str) -> int:
    return len((ROOT / path).read_text().splitlines())


def commands() -> list[tuple[str, str]]:
    """(module, arguments) of each command of ours, in fences and in the text."""
    parts = README.split("```")
    spans = [line for fence in parts[1::2] for line in fence.splitlines()]
    spans += [span for text in parts[::2] for span in re.findall(r"`([^`]+)`", text)]
    found = [(re.search(r"(?<!/)\b(\w+)\.py|-m (retro\.\w+)", span), span) for span in spans]
    found = [(m[1] or m[2], span[m.end() :]) for m, span in found if m]
    return [(module, arguments) for module, arguments in found if module in SCRIPTS]


def tables(*columns: str) -> list[list[dict[str, str]]]:
    """Each table that has these columns: its rows, cells by column."""
    found = re.findall(r"((?:^\|.*\|\n)+)", README, re.MULTILINE)
    rows = [[[c.strip() for c in row[1:-1].split("|")] for row in t.splitlines()] for t in found]
    return [[dict(zip(t[0], row)) for row in t[2:]] for t in rows if not {*columns} - {*t[0]}]


def coded(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_files_are_there_and_as_long_as_it_says():
    words = {word.rstrip(".") for word in re.findall(r"[\w.-]+(?:/[\w.-]+)*", README)}
    paths = {w for w in words if Path(w).suffix == ".py" or w.startswith(FOLDERS)}
    assert len(paths) > 30
    assert not [path for path in sorted(paths) if not (ROOT / path).exists()]
    wrong = {p: f"{n}, is {lines_of(p)}" for p, n in COUNT.findall(README) if int(n) != lines_of(p)}
    assert not wrong, f"{wrong}: python -m tests.test_readme puts them right"


@pytest.mark.parametrize("module, arguments", commands())
def test_a_command_is_accepted(module, arguments):
    arguments = re.sub(r"\b(S|n)\b(\+\d+)?", "1", arguments)  # numbers that it leaves open
    parse(import_module(module).Config, "", argv=shlex.split(arguments, comments=True))


def test_a_flag_is_some_scripts():
    known = [field for script in SCRIPTS for field in fields(import_module(script).Config)]
    names = {field.name for field in known} | {f"no_{f.name}" for f in known if f.type is bool}
    known = {f"--{name.replace('_', '-')}" for name in names} | FOREIGN
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", README))
    assert not flags - known, flags - known


def test_a_name_of_the_tables_is_defined_in_its_file():
    rows = [row for table in tables("code", "file") for row in table]
    assert len(rows) > 20
    for row in rows:
        code = "\n".join((ROOT / path).read_text() for path in coded(row["file"]))
        for name in coded(row["code"]):
            assert re.search(rf"(def|class) {name}\b|\b{name}(:| =) ", code), (name, row["file"])


def test_defaults_are_those_of_train():
    (rows,) = tables("question", "flag")
    for row in rows:
        value = getattr(train.Config(), coded(row["flag"])[0][2:].replace("-", "_"))
        said = re.match(r"`?([\w.,]+)", row["values; first the default"])[1]
        if isinstance(value, bool):
            value = "on" if value else "off"
        assert said == value or float(said) == value, row


def test_a_message_that_it_quotes_is_in_the_code():
    trees = [ast.parse(p.read_text()) for p in (*ROOT.glob("*.py"), *ROOT.glob("retro/*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    texts = "\0".join(node.value for node in nodes if isinstance(node.value, str))
    part = README[README.index("## Glossary") : README.index("## On one GPU")]
    quoted = re.findall(r'"([^"]+)"', part)
    assert len(quoted) > 12
    assert not [q for q in quoted if not all(piece in texts for piece in q.split(".."))]


def test_the_glossary_has_what_a_run_writes_and_nothing_else(tiny_base, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        train.main(config(tiny_base, tmp_path, envs="guess", mode="offline", updates=1))
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text())
    (report,) = json.loads((tmp_path / "results.json").read_text())
    results = {*report, *report["methods"]["react"]} - {"reward"}
    results |= {f"reward.{key}" for key in report["reward"]}
    glossaries = [[k for row in table for k in coded(row["key"])] for table in tables("key")]
    for told, written in zip(glossaries, (set(metrics), results), strict=True):
        assert not {*told} ^ written, f"said: {told}, written: {written}"
        assert len(told) == len(written), f"one is told twice: {told}"


if __name__ == "__main__":
    text = COUNT.sub(lambda m: f"`{m[1]}` ({lines_of(m[1])})", README)
    (ROOT / "README.md").write_text(text)
