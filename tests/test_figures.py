"""The numbers of README.md and docs/results.md come from docs/figures/, and from nowhere else."""

import json
import os
import re
import sys
import tarfile
from importlib import import_module
from pathlib import Path

import pytest

from retro.run.cli import parse

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import build  # noqa: E402
import measure  # noqa: E402

COMMANDS = measure.steps("FOLDER", "DIR")
PAGES = {name: (ROOT / name).read_text(encoding="utf-8") for name in build.PAGES}
MEASURED = re.compile(
    r"(?<![\w.])0?\.\d+"  # .93
    r"|\d+ ?%|\bp [=<]|\d+ of \d+|[\d.]+ (?:seconds|minutes|hours|GB|MB|nats)\b"
)
ALLOWED = {"95 %"}  # the intervals' level

def method(*success: float, temperature: float | None = None, **others) -> dict:
    ci95 = [[share - 0.1, share + 0.05] for share in success]
    return {"n": 20, "success_by_retry": [*success], "ci95": ci95, "temperature": temperature,
            **others}  # fmt: skip

def checked(cause: float | None, **kinds: int) -> dict:
    return {"n": sum(kinds.values()), "cause": cause, "sound": 0.5, "place": None, "invented": 0.0,
            "kinds": kinds, "kind_information": 0.69}  # fmt: skip

REPORT = {
    "env": "household", "split": "unseen", "seed": 7, "template": "first seen", "panel": "c0ffee",
    "methods": {
        "react": method(0.5, 0.55, 0.6),
        "template": method(0.5, 0.9, 0.9),
        "reflexion": method(
            0.5, 0.7, 0.75, temperature=0.0, mutual_information=1.5,
            faithfulness=checked(1.0, lost=1, late=8, cold=2),
            by_temperature={"0": method(0.5, 0.7, 0.75), "0.3": method(0.5, 0.625, 0.8)},
        ),
        "retroformer": method(
            0.5, 0.95, 1.0, temperature=0.3, faithfulness=checked(None, late=3),
            by_temperature={"0": method(0.5, 0.9, 0.95), "0.3": method(0.5, 0.95, 1.0)},
        ),
        "oracle": method(0.5, 1.0, 1.0),
    },
    "comparisons": {"retroformer": {"react": {
        "difference_by_retry": [0.0, 0.4, -0.001], "ci95": [[0.0, 0.0], [0.25, 0.5], [-0.1, 0.05]],
        "wins": [0, 8, 1200], "losses": [0, 0, 1], "p": [1.0, 0.0078, 0.0002],
    }}},
}  # fmt: skip

def run_of(first: float, last: float, best: float) -> dict:
    end = lambda rating, cause: {
        "mean_rating": rating, "kl": 0.5,
        "household": {"mean_rating": rating, "cause": cause, "sound": 0.25,
                      "mutual_information": 2.0},
    }  # fmt: skip
    chosen = {"templates": {"first seen": 0.5, "last seen": best},
              "temperatures": {"sft": {"0": best, "0.3": 0.5}}}  # fmt: skip
    return {"run": {"command": "train.py --seed 0", "seconds": 90.0, "peak_mib": 1536.0},
            "choices": {"household": chosen},
            "updates": [end(first, None), end(0.9, 0.9), end(last, 0.5)]}  # fmt: skip

FIGURES = {
    "test": {"household": REPORT,
             "run": {"command": "eval.py", "git": "abc", "seconds": 30.0, "peak_mib": 512.0}},
    "games": {"run": {}, "household": REPORT | {"panel": "feed"}},
    "runs": {"s0": run_of(0.1, 0.3, 0.8), "s1": run_of(0.2, 0.5, 0.6),
             "w0": {"run": {}, "choices": {}}},
    "run": "it has run\n",
}  # fmt: skip

def block(text: str) -> str:
    page = build.filled(f"<!-- figures {text} -->\nold\n<!-- /figures -->", FIGURES)
    opened, *lines, closed = page.splitlines()
    assert opened == f"<!-- figures {text} -->" and closed == "<!-- /figures -->"
    return "\n".join(line for line in lines if not line.startswith("| ---"))

EXPECTED = {
    "headline": """
|  | plain retries | last attempt | template | untrained | SFT | PPO | oracle |
| household | .55 | - | .90 | .70 (T=0) | - | .95 (T=0.3) | 1.00 |
| ALFWorld's games | .55 | - | .90 | .70 (T=0) | - | .95 (T=0.3) | 1.00 |""",
    "headline 2 games.household": """
|  | plain retries | last attempt | template | untrained | SFT | PPO | oracle |
| unseen | .60 | - | .90 | .75 (T=0) | - | 1.00 (T=0.3) | 1.00 |""",
    "success test household": """
| after retry | 0 | 1 | 2 |
| react | .50 [.40, .55] | .55 [.45, .60] | .60 [.50, .65] |
| template: first seen | .50 [.40, .55] | .90 [.80, .95] | .90 [.80, .95] |
| reflexion (T=0) | .50 [.40, .55] | .70 [.60, .75] | .75 [.65, .80] |
| **retroformer (T=0.3)** | **.50 [.40, .55]** | **.95 [.85, 1.00]** | **1.00 [.90, 1.05]** |
| oracle | .50 [.40, .55] | 1.00 [.90, 1.05] | 1.00 [.90, 1.05] |""",
    "temperatures test household": """
| retry 1, retry 2 | T = 0 | T = 0.3 |
| reflexion | **.70 .75** | .62 .80 |
| retroformer | .90 .95 | **.95 1.00** |""",
    "pairs test household": """
| retroformer less | retry 1 | won : lost | p | retry 2 | won : lost | p |
| react | +.40 [+.25, +.50] | 8 : 0 | .008 | +.00 [-.10, +.05] | 1200 : 1 | < .001 |""",
    "truth test household": """
|  | stated | cause true | plan sound | place right | invented | I(kind) | I(trial) | causes |
| reflexion (T=0) | 1.00 | 1.00 | .50 | - | .00 | .69 | 1.50 | late 8, cold 2 of 11 |
| retroformer (T=0.3) | 1.00 | - | .50 | - | .00 | .69 | - | late 3 of 3 |""",
    "learning": """
| update 1 to 3 | mean rating | cause true | plan sound | I(trial) |
| household | .15 to .40 | - to .50 | .25 to .25 | 2.00 to 2.00 |""",
    "choices": """
|  | choice | success at retry 1 |
| household | template | first seen .50, **last seen .70** |
| household | sft, T | **0 .70**, 0.3 .50 |""",
    "cost": """
| step | minutes | GiB | commit | command |
| s0 | 1.5 | 1.5 | - | `train.py --seed 0` |
| s1 | 1.5 | 1.5 | - | `train.py --seed 0` |
| test | 0.5 | 0.5 | abc | `eval.py` |""",
    "panel": """
| table | environment | tasks of | seed | tasks | panel |
| test | household | unseen | 7 | 20 | `c0ffee` |
| games | household | unseen | 7 | 20 | `feed` |""",
    "run": "\n```\nit has run\n```",
}

@pytest.mark.parametrize("name", EXPECTED)
def test_a_block_says_what_the_figures_hold(name):
    assert block(name) == EXPECTED[name].lstrip("\n")

@pytest.mark.parametrize(
    "key, expected",
    {
        "household.retroformer.success.1": ".95",
        "household.methods.retroformer.success_by_retry.2": "1.00",
        "household.retroformer.ci95.0": "[.40, .55]",
        "household.reflexion.by_temperature.0.3.success.2": ".80",
        "household.reflexion.by_temperature.0.success.2": ".75",
        "household.retroformer.temperature": "0.3",
        "household.reflexion.faithfulness.kinds.late": "8",
        "household.comparisons.retroformer.react.difference.1": "+.40",
        "household.comparisons.retroformer.react.p.1": "p = .008",
        "household.comparisons.retroformer.react.p.2": "p < .001",
        "household.comparisons.retroformer.react.wins.2": "1,200",
        "household.template": "first seen",
        "run.seconds": "30",
    }.items(),
)
def test_a_number_in_a_sentence(key, expected):
    mark = f"<!-- figures say test.{key} -->"
    page = build.filled(f"It is {mark}?<!-- /figures -->, or so.", FIGURES)
    assert page == f"It is {mark}{expected}<!-- /figures -->, or so."

@pytest.mark.parametrize(
    "wrong", ["nothing", "say test.shop.n", "say test.run.seconds.n", "success test", "pairs x y"]
)
def test_a_block_that_cannot_be_filled_is_named(wrong):
    with pytest.raises(ValueError, match=f"<!-- figures {wrong} -->"):
        build.filled(f"<!-- figures {wrong} --><!-- /figures -->", FIGURES)

def folder_of_runs(folder: Path) -> None:
    """What measure.py leaves: s0 and its table, in two environments."""
    report = REPORT | {"runs": ["s0"]}
    row = {"mean_rating": 1 / 3, "mean_rating_by_env": {"household": 0.25}, "kl": 2.0,
           "mutual_information": {"household": 2.0}, "clip_fraction": 0.1,
           "faithfulness": {"household": {"n": 4, "cause": 2 / 3, "kinds": {"late": 4}}},
    }  # fmt: skip
    files = {
        "s0/results.json": [REPORT], "s0/choices.json": {}, "s0/metrics.jsonl": row,
        "s0/versions.json": {"runs": [{"torch": "2"}, {"torch": "3"}]},
        "test.json": [report, report | {"env": "hotpot"}],
        "test.time.json": {"command": "eval.py --runs FOLDER/s0", "seconds": 12.34567},
    }  # fmt: skip
    (folder / "s0").mkdir(parents=True)
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    heading = lambda env: f"\n20 tasks of {env} (unseen)\nreact 0.5\n\nat other temperatures\nx\n"
    log = "\revaluate: 0%|\revaluate: 100%|\n" + heading("household") + heading("hotpot")
    (folder / "test.log").write_bytes((log + "\nreflections, checked\n").encode())
    log = ("the gap in household: 1\n    2\nthe gap in shop: 3\n\rPPO: 1%\nSFT on 5\n\n64 unseen "
           "tasks of household\nabc\n\n64 unseen tasks of shop\nx\n\n4.2 minutes; see "
           f"{folder}/s0/\n\tElapsed: 4:12\n\tExit status: 0\n")  # fmt: skip
    (folder / "s0.log").write_bytes(log.encode())

def test_a_folder_of_runs_becomes_figures_and_pages(tmp_path, monkeypatch, capsys):
    folder_of_runs(tmp_path / "runs")
    (tmp_path / "docs").mkdir()
    said = "<!-- figures say test.hotpot.retroformer.success.1 -->{}<!-- /figures -->"
    for name in build.PAGES:
        (tmp_path / name).write_text(f"PPO has {said.format('.12')}.\n")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "FIGURES", tmp_path / "docs/figures")
    photographed: list = []  # no browser is started
    monkeypatch.setattr(build, "photograph", lambda svg: photographed.append(svg) or b"")
    assert build.main([str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "docs/success.png is not drawn: needs Chromium, and pip install playwright" in printed
    wrote = [line.partition(" ")[2] for line in printed.splitlines() if line.startswith("wrote ")]
    names = ("docs/figures/", *build.PAGES, *build.PICTURES)
    assert wrote == [f"{tmp_path}/{name}" for name in names]
    (svg,) = photographed
    assert (tmp_path / "docs/success.svg").read_text() == svg
    assert ">household<" in svg and ">hotpot<" in svg and ">20 generated tasks, 1 training r" in svg
    for name in build.PAGES:
        assert (tmp_path / name).read_text() == f"PPO has {said.format('.95')}.\n"
    assert build.main(["--check"]) == 1
    assert "docs/success.png is not what docs/figures has" in capsys.readouterr().out
    (tmp_path / "docs/success.png").write_bytes(b"PNG" + build.stamp(svg))
    assert build.main(["--check"]) == 0 and build.main([]) == 0
    assert len(photographed) == 1  # it was of this picture already
    narrow = tmp_path / "docs/success-narrow.svg"
    narrow.write_text(narrow.read_text().replace(".95", ".96"))
    assert build.main(["--check"]) == 1
    assert "docs/success-narrow.svg is not what docs/figures" in capsys.readouterr().out
    figures = build.stored()
    assert figures["test"]["run"] == {"command": "eval.py --runs FOLDER/s0", "seconds": 12.34567,
                                      "versions": {"torch": "2"}}  # fmt: skip
    assert figures["runs"]["s0"]["updates"] == [{
        "mean_rating": 0.333333, "kl": 2.0,
        "household": {"mean_rating": 0.25, "mutual_information": 2.0, "n": 4, "cause": 0.666667},
    }]  # fmt: skip
    assert figures["eval"] == "20 tasks of hotpot (unseen)\nreact 0.5\n\nreflections, checked\n"
    assert figures["run"] == ("the gap in household: 1\n    2\nSFT on 5\n64 unseen tasks of "
                              "household\nabc\n4.2 minutes; see FOLDER/s0/\n")  # fmt: skip
    page = tmp_path / "docs/results.md"
    page.write_text(f"PPO has {said.format('.96')}.\n")
    assert build.main(["--check"]) == 1
    assert "results.md: <!-- figures say test.hotpot" in capsys.readouterr().out
    assert ".96" in page.read_text()

def test_the_pages_say_what_the_figures_hold(capsys):
    assert build.main(["--check"]) == 0, capsys.readouterr().out

@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_closed_and_none_begins_a_line_of_prose(page):
    text = PAGES[page]
    blocks = [*build.BLOCK.finditer(text)]
    assert text.count("<!-- figures ") == text.count("<!-- /figures -->") == len(blocks)
    inline = [found for found in blocks if found[2] == "say"]
    assert not [found[0] for found in inline if text[: found.start()].endswith(("\n", "\n- "))]

def prose(text: str) -> str:
    """A page without blocks, the paper's figures, fences, indented code and `code`."""
    for gone in (build.BLOCK, re.compile(r"<!-- paper -->.*?<!-- /paper -->", re.DOTALL),
                 re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE),
                 re.compile(r"^    .*$", re.MULTILINE), re.compile(r"`[^`]*`")):  # fmt: skip
        text = gone.sub("", text)
    return text

def loose(text: str) -> list[str]:
    """The lines of a page with numbers that look measured."""
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return [line for line in prose(text).splitlines() if MEASURED.search(line)]

def test_what_looks_measured():
    stray = [".93", "0.93", "12 %", "p = .003", "[.71, .85]", "7 of 156", "-.05", "4.2 minutes"]
    assert loose("\n".join(stray)) == stray
    hidden = ["`0.3`", "    beta .02", "```\n.93\n```", "<!-- paper -->.98<!-- /paper -->", "95 %",
              "<!-- figures say test.x -->.93<!-- /figures -->", "torch 2.13.0, section 4.1",
    ]  # fmt: skip
    assert not loose("\n".join(hidden))

@pytest.mark.parametrize("page", PAGES)
def test_no_number_stands_outside_a_block(page):
    assert not loose(PAGES[page])

@pytest.mark.parametrize("name", COMMANDS)
def test_a_step_is_a_command_of_its_script(name):
    script, *arguments = COMMANDS[name]
    config = parse(import_module(Path(script).stem).Config, "", argv=arguments)
    where = config.run_dir if script == "train.py" else config.json.removesuffix(".json")
    assert where == f"FOLDER/{name}", "another file is the step's outcome"
    assert not {*measure.needed(COMMANDS[name])} - {*COMMANDS}

def test_the_files_of_the_steps_are_there(tmp_path):
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("RETRO_DATA names no folder of real data")
    data = Path(os.environ["RETRO_DATA"])
    with tarfile.open(data / "alfworld_games.tgz") as archive:
        games = {"/".join(name.split("/")[:2]) for name in archive.getnames()}
    for path in {word for command in COMMANDS.values() for word in command}:
        if path.startswith("DIR/"):
            assert (data / path.removeprefix("DIR/")).exists()
        elif path.startswith("FOLDER/games/"):
            assert path.removeprefix("FOLDER/games/") in games

def test_only_the_table_of_the_test_tasks_has_a_test_seed():
    seeds = {name: command[command.index("--seed") + 1] for name, command in COMMANDS.items()
             if "--seed" in command}  # fmt: skip
    assert {name for name, seed in seeds.items() if int(seed) >= 10**6} == {"test"}

SCRIPT = """
import sys, json, pathlib
name, folder, *others = sys.argv[1:]
print(*sys.argv[1:])
path = pathlib.Path(folder)
path.mkdir(exist_ok=True)
if name == "bad" or (name == "stopped" and "--resume" not in others):
    (path / "config.json").write_text("{}")
    sys.exit(3)
(path / "results.json").write_text("{}")
"""

def test_a_failure_stops_only_the_steps_that_need_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").write_text(SCRIPT)
    out = tmp_path / "out"
    (out / "games").mkdir(parents=True)
    names = {"good": "", "bad": "", "stopped": "", "reads": "--runs x/good",
             "waits": "--runs x/good,x/bad"}  # fmt: skip
    steps = {name: f"train.py {name} {out}/{name} {rest}".split() for name, rest in names.items()}
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setattr(measure, "steps", lambda folder, data: steps)

    def left(*only: str) -> dict[str, str]:
        argv = ["measure.py", str(out), "--data", str(tmp_path), *only]
        monkeypatch.setattr(sys, "argv", argv)
        measure.main()
        said = capsys.readouterr().out
        assert ("good: " in said) == (not only), "done already, or not"
        if "{" in said:
            return json.loads(said[said.index("{") :])
        assert said.endswith(f"all steps are done; wrote {out}/\n")
        return {}

    status = "exit status 3, see {}.log".format
    assert left() == {"bad": status("bad"), "stopped": status("stopped"), "waits": "needs bad"}
    assert (out / "reads.log").read_text().split() == steps["reads"][1:]
    first = json.loads((out / "stopped.time.json").read_text())
    # Linux counts what the process that started it had, too: here all that pytest holds
    resource = pytest.importorskip("resource")  # not on Windows
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    assert 0 < first["seconds"] < 60 and 1 < first["peak_mib"] < 1000 + own
    assert left("--only", "good,stopped") == {}
    assert "--resume" in (out / "stopped.log").read_text().splitlines()[1]
    both = json.loads((out / "stopped.time.json").read_text())
    assert both["seconds"] > first["seconds"] and both["command"] == first["command"]

def test_figures_name_no_place_on_a_machine():
    for path in build.FIGURES.glob("*.*"):
        found = re.findall(r"(?<![\w:/.)])/\w+/\S*", path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[:3]}"
