"""Writes the measured numbers of README.md and docs/results.md: nobody types them.

    python docs/build.py FOLDER     docs/figures/ from what docs/measure.py left in FOLDER, then
    python docs/build.py            the blocks of the two pages and the picture from docs/figures/
    python docs/build.py --check    changes nothing; exit code 1 if one is not as it would be

A block stands between `<!-- figures NAME ARGUMENT ... -->` and `<!-- /figures -->`; NAME is one of
the functions in BLOCKS, whose docstrings say what comes out. In a sentence it is
`<!-- figures say KEY -->.93<!-- /figures -->`, not at the start of a line, which would be HTML.

docs/figures/NAME.json: of each table by eval.py, by environment what `eval.py --json` writes, and
"run": command, git, versions, seconds, peak_mib (of the largest process). runs.json: the same "run"
of each training run, what it has chosen, and of s0, s1, s2 its results and its updates. Floats have
six digits. run.txt and eval.txt: a part of what the scripts print.

The picture is docs/success.svg, for telephones docs/success-narrow.svg, and for slides that take no
SVG docs/success.png: Chromium's photograph of the first one, with its hash in it.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

from measure import steps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from retro.report import markdown  # noqa: E402
from retro.report.markdown import at, bounds, p_value, rows, share  # noqa: E402
from retro.report.picture import World, draw  # noqa: E402

FIGURES, PAGES = ROOT / "docs/figures", ("README.md", "docs/results.md")
BLOCK = re.compile(r"(<!-- figures (\w+)((?: [^ >]+)*) -->)(.*?)(<!-- /figures -->)", re.DOTALL)
PICTURES = {"docs/success.svg": 2, "docs/success-narrow.svg": 1}  # columns of panels
PHOTOGRAPH = "docs/success.png"  # of the first one
Figures = dict[str, Any]  # name of a file in docs/figures/, without its ending -> content

# ---- condensing a folder of runs

def parsed(text: str) -> Any:
    """JSON with its floats rounded."""
    return json.loads(text, parse_float=lambda number: round(float(number), 6))

def read(path: Path) -> Any:
    return parsed(path.read_text(encoding="utf-8"))

def write(name: str, value: Any) -> None:
    """As JSON, a list of numbers on one line."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)
    (FIGURES / f"{name}.json").write_text(text + "\n", encoding="utf-8")

def by_env(reports: Any) -> dict[str, dict]:
    reports = reports if isinstance(reports, list) else [reports]
    return {report["env"]: report for report in reports}

def spent(folder: Path, name: str, run: str) -> dict:
    """Command, seconds and memory of a step, and the versions that its run began with."""
    record, versions = folder / f"{name}.time.json", read(folder / run / "versions.json")
    return (read(record) if record.exists() else {}) | {"versions": versions["runs"][0]}

def update(row: dict) -> dict:
    """Of a line of metrics.jsonl what the pages may tell, the shares by environment."""
    shares = {env: {"mean_rating": rating, "mutual_information": row["mutual_information"].get(env)}
              | {k: v for k, v in row["faithfulness"].get(env, {}).items() if k != "kinds"}
              for env, rating in row["mean_rating_by_env"].items()}  # fmt: skip
    return {"mean_rating": row["mean_rating"], "kl": row["kl"]} | shares

def condense(folder: Path) -> None:
    """docs/figures/ from the steps of docs/measure.py that are done."""
    FIGURES.mkdir(exist_ok=True)
    runs = {}
    for path in sorted(folder.glob("*/results.json")):
        name = path.parent.name
        runs[name] = {"run": spent(folder, name, name),
                      "choices": read(path.parent / "choices.json")}  # fmt: skip
        if name in ("s0", "s1", "s2"):
            lines = (path.parent / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            runs[name] |= {"results": by_env(read(path)),
                           "updates": [update(parsed(line)) for line in lines]}  # fmt: skip
    write("runs", runs)
    for path in sorted(folder.glob("*.json")):
        if not path.name.endswith(".time.json"):
            tables = by_env(read(path))
            run = next(iter(tables.values()))["runs"][0]
            write(path.stem, {"run": spent(folder, path.stem, run)} | tables)
    for name, log, env in (("run", "s0", "household"), ("eval", "test", "hotpot")):
        if (folder / f"{log}.log").exists():  # bytes, for the progress bars' returns
            text = excerpt((folder / f"{log}.log").read_bytes().decode(), env)
            (FIGURES / f"{name}.txt").write_text(text, encoding="utf-8")
    print(f"wrote {FIGURES}/")

def excerpt(log: str, env: str) -> str:
    """What a script printed on one environment: no progress bars, no other temperatures."""
    log = re.sub(r"(.*\r.*|^\t.*)\n?", "", log, flags=re.MULTILINE)  # nor what `time -v` adds
    log = re.sub(r"see \S*/(\w+)/", r"see FOLDER/\1/", log)
    kept, mine = [], True
    for part in re.split(r"\n\n|\n(?=the gap in |SFT on )", log):
        if found := re.search(r"^\s*\d+ (?:\w+ )?tasks of (\w+)|^the gap in (\w+)", part):
            mine = env in found.groups()
        elif re.match(r"SFT on |[\d.]+ minutes", part):
            mine = True
        if mine and not part.startswith("at other temperatures"):
            table = re.match(r"\w+ less |reflections, checked", part)
            kept.append("\n" * bool(table) + part.strip("\n"))
    return "\n".join(kept) + "\n"

def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

# ---- blocks

def worlds(figures: Figures) -> list[tuple[str, dict]]:
    """What the pages begin with: the test tasks, and ALFWorld's games."""
    found = [(env, figures["test"][env]) for env in figures["test"] if env != "run"]
    games = [("ALFWorld's games", figures["games"]["household"])] if "games" in figures else []
    return found + games

def headline(figures: Figures, retry: str = "1", *tables: str) -> str:
    """Success at a retry, each method at its own temperature. Tables as `webshop.shop`; none: all
    of the test tasks, and ALFWorld's games.
    """
    own = [(figures[name][env]["split"], figures[name][env])
           for name, env in (table.split(".") for table in tables)]  # fmt: skip
    return markdown.headline(own or worlds(figures), int(retry))

def success(figures: Figures, file: str, env: str) -> str:
    """Success by retry with intervals, each method at its own temperature."""
    return markdown.success(figures[file][env])

def temperatures(figures: Figures, file: str, env: str) -> str:
    """Success at retry 1 and at the last one by temperature; the method's own one in bold."""
    body = []
    for name, own in figures[file][env]["methods"].items():
        if found := own.get("by_temperature"):
            retries, cells = sorted({1, len(own["success_by_retry"]) - 1}), []
            for t in found:
                cell = " ".join(share(found[t]["success_by_retry"][retry]) for retry in retries)
                cells.append(f"**{cell}**" if float(t) == own["temperature"] else cell)
            head = [", ".join(f"retry {i}" for i in retries), *(f"T = {t}" for t in found)]
            body.append([name, *cells])
    return rows(head, body)

def pairs(figures: Figures, file: str, env: str) -> str:
    """PPO less each other method, task by task: difference, tasks won : lost, sign test's p."""
    return markdown.pairs("retroformer less", figures[file][env]["comparisons"]["retroformer"])

def truth(figures: Figures, file: str, env: str) -> str:
    """What the reflections on first trials say: shares (of those that state a cause, of causes that
    are true, ...), nats, the two most frequent causes.
    """
    body = []
    for name, own in figures[file][env]["methods"].items():
        if found := own.get("faithfulness"):
            keys = ("cause", "sound", "place", "invented", "kind_information")
            cells = [share(1 - found["kinds"].get("", 0) / found["n"])]
            cells += [share(found[key]) for key in keys] + [share(own.get("mutual_information"))]
            kinds = sorted(found["kinds"].items(), key=lambda kind: -kind[1])[:2]
            causes = ", ".join(f"{kind or 'none'} {n}" for kind, n in kinds)
            body.append([name + at(own["temperature"]), *cells, f"{causes} of {found['n']}"])
    return rows(["", "stated", "cause true", "plan sound", "place right", "invented", "I(kind)",
                 "I(trial)", "causes"], body)  # fmt: skip

def learning(figures: Figures) -> str:
    """The first and the last update, means of the runs s0, s1, s2."""
    runs = [run["updates"] for run in figures["runs"].values() if "updates" in run]
    columns = {"mean_rating": "mean rating", "cause": "cause true", "sound": "plan sound",
               "mutual_information": "I(trial)"}  # fmt: skip
    body = []
    for env in (name for name, own in runs[0][0].items() if isinstance(own, dict)):
        ends = [[share(mean([run[i].get(env, {}).get(key) for run in runs])) for i in (0, -1)]
                for key in columns]  # fmt: skip
        body.append([env, *(f"{first} to {last}" for first, last in ends)])
    return rows([f"update 1 to {len(runs[0])}", *columns.values()], body)

def choices(figures: Figures) -> str:
    """Success at retry 1 on training tasks by template, on `seen` ones by temperature; means of
    the runs s0, s1, s2, the best in bold.
    """
    runs = [run["choices"] for run in figures["runs"].values() if "updates" in run]

    def line(found: list[dict]) -> list[str]:
        means = {key: mean([own[key] for own in found]) for key in found[0]}
        best = max(means, key=lambda key: means[key] or 0.0, default="")
        cells = {key: f"{key} {share(value)}" for key, value in means.items()}
        return [f"**{cell}**" if key == best else cell for key, cell in cells.items()]

    body = []
    for env, own in runs[0].items():
        body.append([env, "template", ", ".join(line([run[env]["templates"] for run in runs]))])
        for method in own["temperatures"]:
            found = [run[env]["temperatures"][method] for run in runs]
            body.append([env, f"{method}, T", ", ".join(line(found))])
    return rows(["", "choice", "success at retry 1"], body)

def done(figures: Figures) -> dict[str, dict]:
    """The steps of docs/measure.py that there are figures of, in its order."""
    found = figures.get("runs", {}) | figures
    return {name: found[name] for name in steps("", "") if name in found}

def cost(figures: Figures) -> str:
    """Minutes and memory (of the largest process) of each step of docs/measure.py."""
    spent = {name: own["run"] for name, own in done(figures).items() if "seconds" in own["run"]}
    body = [[name, f"{own['seconds'] / 60:.1f}", f"{own['peak_mib'] / 1024:.1f}",
             own.get("git", "-"), f"`{own['command']}`"]
            for name, own in spent.items()]  # fmt: skip
    return rows(["step", "minutes", "GiB", "commit", "command"], body)

def panel(figures: Figures) -> str:
    """The hashes of the tasks (`python -m envs.panel`)."""
    reports = [(name, own[env]) for name, own in done(figures).items() for env in own
               if "panel" in own[env]]  # fmt: skip
    body = [[name, own["env"], own["split"], str(own["seed"]), str(own["methods"]["react"]["n"]),
             f"`{own['panel']}`"] for name, own in reports]  # fmt: skip
    return rows(["table", "environment", "tasks of", "seed", "tasks", "panel"], body)

def printed(name: str) -> Any:
    return lambda figures: f"```\n{figures[name].rstrip()}\n```"

def say(figures: Figures, key: str) -> str:
    """One value in a sentence. KEY leads to it: `test.household.retroformer.success.1`, of a
    comparison `test.household.comparisons.retroformer.sft.p.1`. "methods" and "_by_retry" may be
    left out.
    """
    value: Any = figures
    names = key.split(".")
    while names:
        name, *names = names
        if isinstance(value, list):
            value = value[int(name)]
        elif names and f"{name}.{names[0]}" in value:  # a temperature: 0.3
            value, names = value[f"{name}.{names[0]}"], names[1:]
        else:
            value = next(own[n] for own in (value, value.get("methods", {}))
                         for n in (name, f"{name}_by_retry") if n in own)  # fmt: skip
    if isinstance(value, (list, str)):
        return bounds(value) if isinstance(value, list) else value
    if isinstance(value, int):
        return f"{value:,}"
    last = re.sub(r"\.\d+$", "", key).split(".")[-1]
    if last == "p":
        return f"p {'' if value < 0.001 else '= '}{p_value(value)}"
    plain = {"temperature": "{:g}", "seconds": "{:,.0f}", "peak_mib": "{:,.0f}"}
    return plain[last].format(value) if last in plain else share(value, "+" * ("diff" in last))

BLOCKS = {block.__name__: block for block in (headline, success, temperatures, pairs, truth,
                                              learning, choices, cost, panel, say)}  # fmt: skip
BLOCKS |= {"run": printed("run"), "eval": printed("eval")}

def filled(text: str, figures: Figures) -> str:
    """A page with its blocks written anew; ValueError for a block that can't be."""

    def block(found: re.Match) -> str:
        begin, name, arguments, _, end = found.groups()
        try:
            body = BLOCKS[name](figures, *arguments.split())
        except (LookupError, StopIteration, TypeError, AttributeError) as error:
            raise ValueError(f"{begin}: no such block or figure ({error!r})") from error
        return f"{begin}{body}{end}" if name == "say" else f"{begin}\n{body}\n{end}"

    return BLOCK.sub(block, text)

def stored() -> Figures:
    read_text = lambda path: path.read_text(encoding="utf-8")
    return {path.stem: read(path) if path.suffix == ".json" else read_text(path)
            for path in sorted(FIGURES.glob("*.*"))}  # fmt: skip

# ---- the picture

def pictures(figures: Figures) -> dict[str, str]:
    """The picture of the test tasks and of ALFWorld's games, by the name of its file."""
    panels = []
    for name, report in worlds(figures):
        tasks, runs = report["methods"]["react"]["n"], len(report["runs"])
        what = "real games" if name not in figures["test"] else "generated tasks"
        note = f"{tasks} {what}, {runs} training run{'s' * (runs > 1)}"
        panels.append(World(name, note, report, runs))
    return {name: draw(panels, columns) for name, columns in PICTURES.items()}

def stamp(svg: str) -> bytes:
    """A chunk of a PNG that says of which SVG it is."""
    body = b"tEXtSource\0" + hashlib.sha256(svg.encode()).hexdigest().encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

def photograph(svg: str) -> bytes | None:
    """The SVG as a PNG, light, two pixels for one; None without a browser."""
    path = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        path = None
    if not path:
        return None
    safe = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium has none for root
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=safe)
        tab = browser.new_page(device_scale_factor=2, color_scheme="light")
        tab.set_content(f"<style>body {{ margin: 0 }} svg {{ display: block }}</style>{svg}")
        png = tab.locator("svg").screenshot()
        browser.close()
    return png[:-12] + stamp(svg) + png[-12:]  # before the last chunk, which is empty

def draw_pictures(found: dict[str, str]) -> None:
    for name, svg in found.items():
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != svg:
            (ROOT / name).write_text(svg, encoding="utf-8")
            print(f"wrote {ROOT / name}")
    svg, path = next(iter(found.values())), ROOT / PHOTOGRAPH
    if path.exists() and stamp(svg) in path.read_bytes():
        return
    if png := photograph(svg):
        path.write_bytes(png)
        print(f"wrote {path}")
    else:
        print(f"{PHOTOGRAPH} is not drawn: needs Chromium, and pip install playwright")

def stale_picture(found: dict[str, str]) -> str:
    """The file that is not as it would be drawn, "" if all are."""
    for name, svg in found.items():
        if not (ROOT / name).exists() or (ROOT / name).read_text(encoding="utf-8") != svg:
            return name
    svg, path = next(iter(found.values())), ROOT / PHOTOGRAPH
    return "" if path.exists() and stamp(svg) in path.read_bytes() else PHOTOGRAPH

def main(argv: list[str] | None = None) -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False, formatter_class=raw)
    parser.add_argument("folder", type=Path, nargs="?", help="what docs/measure.py has written")
    parser.add_argument("--check", action="store_true", help="only compare")
    given = parser.parse_args(argv)
    if given.folder and not given.check:
        condense(given.folder)
    figures = stored()
    for page in (ROOT / name for name in PAGES):
        text = page.read_text(encoding="utf-8")
        try:
            anew = filled(text, figures)
        except ValueError as error:
            print(f"{page.name}: {error}")
            return 1
        if given.check:
            for old, new in zip(BLOCK.finditer(text), BLOCK.finditer(anew)):
                if old[0] != new[0]:
                    print(f"{page.name}: {old[1]} is not what docs/figures has")
                    return 1
        elif anew != text:
            page.write_text(anew, encoding="utf-8")
            print(f"wrote {page}")
    drawn = pictures(figures)
    if given.check and (name := stale_picture(drawn)):
        print(f"{name} is not what docs/figures has: python docs/build.py draws it")
        return 1
    if not given.check:
        draw_pictures(drawn)
    return 0

if __name__ == "__main__":
    sys.exit(main())
