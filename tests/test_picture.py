"""The picture of success: where its marks stand by other arithmetic, nothing clipped, no markup in
names, no package needed.
"""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from retro.report.picture import CONTROLS, MARGIN, PANEL, World, draw, world, write_picture

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"

def method(*success: float, temperature: float | None = None) -> dict:
    ci95 = [[max(0.0, share - 0.1), min(1.0, share + 0.05)] for share in success]
    return {"n": 20, "success_by_retry": [*success], "ci95": ci95, "temperature": temperature}

REPORT = {
    "env": "household", "split": "unseen", "template": "first seen",
    "methods": {"react": method(0.5, 0.55, 0.6), "template": method(0.5, 0.9, 0.9),
                "retroformer": method(0.5, 0.95, 1.0, temperature=0.3),
                "oracle": method(0.5, 1.0, 1.0)},
}  # fmt: skip

def panels(svg: str) -> list[ElementTree.Element]:
    return [g for g in ElementTree.fromstring(svg).findall(f"{SVG}g") if g.get("transform")]

def texts(part: ElementTree.Element) -> list[str]:
    return [t.text for t in part.iter(f"{SVG}text")]

def place(panel: ElementTree.Element) -> tuple[float, float]:
    return tuple(map(float, re.findall(r"[\d.]+", panel.get("transform"))))

def test_a_row_has_its_name_its_marks_and_its_shares():
    (panel,) = panels(draw([world(REPORT)]))
    assert texts(panel)[:2] == ["household", "20 tasks (unseen)"]
    grid = {t.text: float(t.get("x")) for t in panel.findall(f"{SVG}text") if "%" in t.text}
    assert [*grid] == ["25 %", "50 %", "75 %", "100 %"]  # nothing lies below .4
    rows = panel.findall(f"{SVG}g")
    named = [texts(row) for row in rows]
    assert named == [["plain retries", ".55", ".60"], ["template: first seen", ".90", ".90"],
                     ["PPO", ".95", "1.00"], ["oracle", "1.00", "1.00"]]  # fmt: skip
    at = lambda share: grid["25 %"] + (share - 0.25) / 0.75 * (grid["100 %"] - grid["25 %"])
    for row, own in zip(rows, REPORT["methods"].values()):
        ring, dot = row.findall(f"{SVG}circle")
        assert ring.get("class") == "ring" and dot.get("class") is None
        for retry, mark, bar in zip((1, 2), (ring, dot), row.findall(f"{SVG}line")):
            assert float(mark.get("cx")) == pytest.approx(at(own["success_by_retry"][retry]), abs=1)
            ends = [float(bar.get("x1")), float(bar.get("x2"))]
            assert ends == pytest.approx([at(end) for end in own["ci95"][retry]], abs=0.1)
            assert bar.get("y1") == bar.get("y2") == mark.get("cy")
    kinds = [row.get("class").split()[1:] for row in rows]
    assert kinds == [[], ["control"], ["main"], ["control"]] and "oracle" in CONTROLS
    first = next(line for line in panel.iter(f"{SVG}line") if line.get("class") == "first")
    assert float(first.get("x1")) == pytest.approx(at(0.5), abs=0.1) and "first .50" in texts(panel)

@pytest.mark.parametrize("columns, width", [(1, 428), (2, 860)])
def test_nothing_is_clipped_and_panels_lie_apart(columns, width):
    """Rows, marks with their radius, and text by a generous width of its characters."""
    worlds = [World(name, "300 generated tasks, 3 runs", REPORT) for name in "abc"]
    svg = draw(worlds, columns)
    root = ElementTree.fromstring(svg)
    left, top, right, bottom = map(float, root.get("viewBox").split())
    assert (left, top, right) == (0, 0, width) and width == 2 * MARGIN + columns * PANEL + (
        columns - 1
    ) * 32
    found = panels(svg)
    corners = [place(panel) for panel in found]
    assert len({*corners}) == 3
    assert (corners[0][1] == corners[1][1]) == (columns == 2)
    ends = []
    for panel, (_, y) in zip(found, corners):
        for circle in panel.iter(f"{SVG}circle"):
            assert float(circle.get("cx")) + 5 < PANEL
            ends.append(y + float(circle.get("cy")) + 5)
        for text in panel.iter(f"{SVG}text"):
            room = 7.2 * len(text.text) / (2 if text.get("text-anchor") == "middle" else 1)
            assert float(text.get("x")) + room <= PANEL + MARGIN, text.text
            ends.append(y + float(text.get("y")))
        ends.append(0)
    told = root.findall(f"{SVG}text")
    assert all(float(t.get("x")) + 6.4 * len(t.text) < right for t in told), "the legend is cut off"
    assert max(ends) < min(float(t.get("y")) - 12 for t in told) < bottom

def test_a_name_never_runs_into_the_plot_and_is_no_markup():
    hostile = '</text><script>alert("x")</script>\x1b[2J\u202e&amp;'
    report = REPORT | {"env": hostile, "split": hostile, "template": hostile}
    svg = draw([world(report)])
    (panel,) = panels(svg)
    assert "<script" not in svg and "\x1b" not in svg and "\u202e" not in svg
    assert texts(panel)[0].startswith('</text><script>alert("x")</script>␛')
    names = [texts(row)[0] for row in panel.findall(f"{SVG}g")]
    assert names[1].endswith("…") and max(map(len, names)) == 20

@pytest.mark.parametrize("retries, shown", [(0, ["0"]), (1, ["retry 1"]), (3, ["retry 1", "3"])])
def test_as_many_marks_as_there_are_retries(retries, shown):
    shares = [0.4 + 0.1 * retry for retry in range(retries + 1)]
    svg = draw([world(REPORT | {"methods": {"react": method(*shares)}})])
    (panel,) = panels(svg)
    (row,) = panel.findall(f"{SVG}g")
    assert len(row.findall(f"{SVG}circle")) == len(shown) == len(texts(row)) - 1
    heads = [t for t in texts(panel) if t.startswith("retry") or t.isdigit()]
    assert heads == [f"retry {retries}" if len(shown) == 1 else name for name in shown][-2:]
    assert ("ring: " in svg) == (len(shown) == 2) and f"dot: after retry {retries}" in svg

def test_one_file_has_both_faces(tmp_path):
    write_picture(tmp_path / "p.svg", [world(REPORT, runs=3)])
    svg = (tmp_path / "p.svg").read_text()
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in svg.split("@media")[:2])
    assert {*light} == {*dark} == {*re.findall(r"var\(--(\w+)\)", svg)}
    assert "prefers-color-scheme: dark" in svg and "20 tasks (unseen), 3 runs" in svg
    assert "intervals, over tasks and runs<" in svg and "over tasks<" in draw([world(REPORT)])
    brightness = lambda colour: sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) / 3
    for face, sign in ((light, 1), (dark, -1)):
        apart = sign * (brightness(face["paper"]) - brightness(face["soft"]))
        assert apart > 100, "text that cannot be read"

def test_no_package_is_needed():
    """Nothing of the product draws with one."""
    for path in (*ROOT.glob("*.py"), *ROOT.glob("retro/**/*.py"), ROOT / "docs/build.py"):
        assert "matplotlib" not in path.read_text(encoding="utf-8"), path
