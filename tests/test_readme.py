"""README.md, the pages of docs/ and the card of the base say what is so.

`python -m tests.test_readme` puts the line counts right. `docs/experiments.md` is history: of it
only the links are checked.
"""

import ast
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

import train
from retro.run.cli import parse
from tests.small_run import config, shorten

ROOT = Path(__file__).parent.parent
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (ROOT / "README.md", ROOT / "assets/CARD.md", *sorted(ROOT.glob("docs/*.md")))
}
HISTORY = "docs/experiments.md"
LIVING = {name: text for name, text in PAGES.items() if name != HISTORY}
README = PAGES["README.md"]
SCRIPTS = ("train", "eval", "play", "retro.pretrain.__main__", "retro.interop.export")
# of argparse, pip, torchrun, pytest, tensorboard, bench and vLLM
FOREIGN = {"--help", "--no-deps", "--nproc-per-node", "--all", "--logdir", "--device", "--limit",
           "--enable-lora"}  # fmt: skip
FOLDERS = (".ci/", "assets/", "bench/", "docs/", "envs/", "retro/", "tests/")
# a folder that a reader makes -> the one that it is copied from
MADE = re.compile(r"^envs/(doors|NAME)(?=/|$)")
COUNT = re.compile(r"`([\w/]+\.py)` \((\d+)\)")
LINK = re.compile(r"(?:\]\(|src=\"|srcset=\")([^)\s\"]+)[)\"]")  # of Markdown, and of <picture>

each_page = pytest.mark.parametrize("page", LIVING)

def lines_of(path: str) -> int:
    return len((ROOT / path).read_text().splitlines())

def shown(text: str) -> str:
    """Without comments, which mark what docs/build.py writes."""
    return re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)

def split(text: str) -> tuple[list[str], list[str]]:
    """(prose, fences): the text outside and inside ``` fences."""
    parts = re.split(r"^```.*$", text, flags=re.MULTILINE)
    return parts[::2], parts[1::2]

def coded(text: str) -> list[str]:
    """What stands in `backticks`, line breaks as spaces."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]

def commands() -> Iterator[tuple[str, str, str]]:
    """(page, module, arguments) of each command of ours, in fences and in the text."""
    for page, text in LIVING.items():
        prose, fences = split(text)
        spans = [line for fence in fences for line in fence.splitlines()]
        for span in spans + [span for part in prose for span in coded(part)]:
            found = re.search(r"(?:^|\bpython |\s)(\w+)\.py(?= |$)|-m (retro\.[\w.]+)", span)
            name = found and (found[1] or found[2])
            if found and name in ("retro.pretrain", "retro.interop.export", *SCRIPTS[:3]):
                module = "retro.pretrain.__main__" if name == "retro.pretrain" else name
                yield page, module, span[found.end() :]

def tables(text: str, *columns: str) -> list[list[dict[str, str]]]:
    """Each table that has these columns: its rows, cells by column."""
    found = re.findall(r"((?:^\|.*\|\n)+)", text, re.MULTILINE)
    rows = [[[c.strip() for c in row[1:-1].split("|")] for row in t.splitlines()] for t in found]
    return [[dict(zip(t[0], row)) for row in t[2:]] for t in rows if not {*columns} - {*t[0]}]

def headings(text: str) -> set[str]:
    """The anchors that GitHub gives to the headings."""
    found = re.findall(r"^#+ (.+)$", "\n".join(split(text)[0]), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}

def test_readme_is_short():
    assert len(README.splitlines()) <= 200
    assert len(shown(README).split()) <= 2500

@each_page
def test_no_line_of_prose_is_over_120_characters(page):
    lines = shown("\n".join(split(LIVING[page])[0])).splitlines()
    spared = ("|", "`")  # rows of tables, and commands, which are not broken
    long = [line for line in lines if len(line) > 120 and not line.lstrip().startswith(spared)]
    assert not long

@each_page
def test_files_are_there_and_as_long_as_it_says(page):
    words = {w.rstrip(".") for w in re.findall(r"[\w.-]+(?:/[\w.-]+)*/?", LIVING[page])}
    paths = {w for w in words if Path(w).suffix == ".py" or w.startswith(FOLDERS)}
    there = {path: ROOT / MADE.sub("tests/doors", path) for path in paths}
    assert not [path for path in sorted(there) if not there[path].exists()]
    counts = COUNT.findall(LIVING[page])
    wrong = {p: f"{n}, is {lines_of(p)}" for p, n in counts if int(n) != lines_of(p)}
    assert not wrong, f"{wrong}: python -m tests.test_readme puts them right"

@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall("\n".join(split(PAGES[page])[0])):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in headings(target.read_text()), f"{page}: {link}"

def test_readme_names_every_page_and_every_room():
    linked = set(LINK.findall(README))
    pages = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/*") if p.is_file()}
    assert not pages - linked, "README does not link them"
    packages = (*ROOT.glob("retro/*/__init__.py"), *ROOT.glob("envs/*/__init__.py"))
    rooms = [p.parent.relative_to(ROOT).as_posix() for p in packages]
    assert not [room for room in rooms if f"{room}/" not in README], "not in README's tree"

def test_the_reading_order_has_every_file_of_the_method():
    told = {path for path, _ in COUNT.findall(README)}
    files = {p.relative_to(ROOT).as_posix() for p in ROOT.glob("retro/*.py")}
    assert not files - told - {"retro/__init__.py"}

@pytest.mark.parametrize("page, module, arguments", list(commands()))
def test_a_command_is_accepted(page, module, arguments):
    arguments = re.sub(r"\b(S|n)\b(\+\d+)?", "1", arguments)  # numbers that it leaves open
    if "--help" not in arguments:
        parse(import_module(module).Config, "", argv=shlex.split(arguments, comments=True))

def test_there_are_commands_of_every_script():
    assert {module for _, module, _ in commands()} == {*SCRIPTS}

@each_page
def test_a_flag_is_some_scripts(page):
    known = [field for script in SCRIPTS for field in fields(import_module(script).Config)]
    names = {field.name for field in known} | {f"no_{f.name}" for f in known if f.type is bool}
    options = {f"--{name.replace('_', '-')}" for name in names} | FOREIGN
    flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", LIVING[page]))
    assert not flags - options, flags - options

def test_a_name_of_the_tables_is_defined_in_its_file():
    rows = [row for page in LIVING.values() for t in tables(page, "code", "file") for row in t]
    assert len(rows) > 15
    for row in rows:
        code = "\n".join((ROOT / path).read_text() for path in coded(row["file"]))
        for name in coded(row["code"]):
            assert re.search(rf"(def|class) {name}\b|\b{name}(:| =) ", code), (name, row["file"])

def test_defaults_are_those_of_train():
    (rows,) = tables(LIVING["docs/results.md"], "question", "flag")
    for row in rows:
        value = getattr(train.Config(), coded(row["flag"])[0][2:].replace("-", "_"))
        said = re.match(r"`?([\w.,]+)", row["values; first the default"])[1]
        if isinstance(value, bool):
            value = "on" if value else "off"
        assert said == value or float(said) == value, row

def test_figures_of_the_default_run_and_of_the_base():
    default, pages = train.Config(), "\n".join(LIVING.values())
    reflections = default.updates * default.batch_reflections
    assert re.findall(r"([\d,]+) rated\s+reflections", pages) == [f"{reflections:,}"]
    weights = load_file(ROOT / "assets/model.safetensors")
    million = f"{sum(weight.numel() for weight in weights.values()) / 1e6:.1f}M"
    sizes = set(re.findall(r"([\d.]+M)(?= parameters)", pages)) - {"135M"}  # SmolLM2's
    assert sizes == {million}

def test_four_lines_send_the_metrics_elsewhere(small_run, tmp_path, monkeypatch):
    """README's lines as they stand, with a stand-in for wandb that takes a dict."""
    block = re.search(r"Four lines send them elsewhere:\n\n((?:    .+\n)+)", README)[1]
    lines, logged = [line[4:] for line in block.splitlines()], []
    assert len(lines) == 4
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **_: None,
                                                              log=logged.append))  # fmt: skip
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/joint").symlink_to(small_run("online", guess=True))
    monkeypatch.chdir(tmp_path)
    exec("\n".join(lines), {})
    assert [row["update"] for row in logged] == [0] and "kl" in logged[0]

def test_the_commands_of_report_are_accepted_as_they_stand(capsys):
    """All but the folders is right: what is refused is that they are not there."""
    spans = [span for part in split(README)[0] for span in coded(part)]
    named = [span for span in spans if "-m retro.report." in span]
    assert len(named) == 2
    for span in named:
        module, *arguments = span.split("-m ")[1].split()
        with pytest.raises(SystemExit):
            import_module(module).main(arguments)
        assert "runs/a: holds no run" in capsys.readouterr().err

def test_readme_and_the_page_of_results_have_one_table():
    columns = "untrained", "template"
    (own,), (other, *_) = (tables(p, *columns) for p in (README, LIVING["docs/results.md"]))
    assert own == other

def test_a_message_that_is_quoted_is_in_the_code():
    paths = (*ROOT.glob("*.py"), *ROOT.glob("retro/**/*.py"), *ROOT.glob("envs/**/*.py"))
    nodes = [node for p in paths for node in ast.walk(ast.parse(p.read_text()))]
    texts = "\0".join(
        node.value for node in nodes if isinstance(node, ast.Constant) and type(node.value) is str
    )
    pages = LIVING["docs/glossary.md"] + LIVING["docs/troubleshooting.md"]
    quoted = [" ".join(q.split()) for q in re.findall(r'"([^"]+)"', pages)]
    assert len(quoted) > 12
    assert not [q for q in quoted if not all(piece in texts for piece in q.split(".."))]

def test_the_glossary_has_what_a_run_writes_and_nothing_else(tiny_base, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        shorten(patch)
        train.main(config(tiny_base, tmp_path, envs="guess", mode="offline", updates=1))
    (files,) = tables(LIVING["docs/glossary.md"], "file of the run's folder")
    named = {name for row in files for name in coded(row["file of the run's folder"])}
    assert not {f"{p.name}/" if p.is_dir() else p.name for p in tmp_path.iterdir()} - named
    metrics = json.loads((tmp_path / "metrics.jsonl").read_text())
    (report,) = json.loads((tmp_path / "results.json").read_text())
    results = {*report, *report["methods"]["react"]} - {"reward"}
    results |= {f"reward.{key}" for key in report["reward"]}
    told = tables(LIVING["docs/glossary.md"], "key")
    glossaries = [[k for row in table for k in coded(row["key"])] for table in told]
    for keys, written in zip(glossaries, (set(metrics), results), strict=True):
        assert not {*keys} ^ written, f"said: {keys}, written: {written}"
        assert len(keys) == len(written), f"one is told twice: {keys}"

def update_counts() -> None:
    """Write the true line counts into the pages."""
    for name, text in LIVING.items():
        counted = COUNT.sub(lambda m: f"`{m[1]}` ({lines_of(m[1])})", text)
        (ROOT / name).write_text(counted)

if __name__ == "__main__":
    update_counts()
