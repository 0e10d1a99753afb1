"""Runs pooled and settings compared: numbers by other arithmetic, refusals, what the commands say.
"""

import json
import random
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest

from envs.panel import content_hash
from retro.evaluate import Variant
from retro.report import compare, outcomes, pool
from retro.report.results import interval, sign_test
from retro.run.files import write_json
from tests.small_trials import trial

def outcome(tasks: str, split: str = "unseen", template: str = "first", retries: int = 2,
            temperature: float = 0.3, **solved_at: list) -> dict:  # fmt: skip
    methods = {name: {"temperature": temperature if name == "retroformer" else None,
                      "solved_at": trials} for name, trials in solved_at.items()}  # fmt: skip
    return {"split": split, "template": template, "retries": retries, "tasks": [*tasks],
            "methods": methods}  # fmt: skip

def run(folder: Path, name: str, seed: int, outcomes: dict, **settings) -> str:
    write_json(folder / name / "config.json", {"seed": seed, "lr": 0.1, "retries": 2} | settings)
    write_json(folder / name / "outcomes.json", outcomes)
    return str(folder / name)

# ---- what a run leaves

def test_outcomes_are_those_of_the_temperature_in_the_table(tmp_path):
    tasks = [{"env": "guess", "id": "a", "word": "x"}, {"env": "guess", "id": "b", "word": "y"}]
    lost, won = trial("a", False), trial("a", True)
    chains = {
        Variant("react"): [[lost, lost, won], [won]],
        Variant("sft", 0.0): [[lost, won], [lost, lost, lost]],
        Variant("sft", 1.0): [[won], [won]],
    }
    own = {"success_by_retry": [0, 0, 0]}
    report = {"split": "unseen", "template": "",
              "methods": {"react": own | {"temperature": None}, "sft": own | {"temperature": 0.0}}}
    found = outcomes.outcomes(report, tasks, chains)
    assert found["tasks"] == [content_hash(task) for task in tasks]
    assert found["methods"] == {"react": {"temperature": None, "solved_at": [2, 0]},
                                "sft": {"temperature": 0.0, "solved_at": [1, None]}}  # fmt: skip
    write_json(tmp_path / "outcomes.json", {"guess": found})
    read = outcomes.read_outcomes(tmp_path)["guess"]
    assert read == found and read["retries"] == 2
    values = outcomes.solved(read, "react", [*read["tasks"], "other"])
    assert values[:2].tolist() == [[0, 0, 1], [1, 1, 1]] and np.isnan(values[2]).all()

def test_repeats_of_a_task_are_one_task():
    own = outcome("aba", react=[0, None, None])
    assert outcomes.solved(own, "react", ["a", "b"]).tolist() == [[0.5] * 3, [0] * 3]

@pytest.mark.parametrize("wrong", [
    {}, {"tasks": []}, {"tasks": [1, 2]}, {"retries": "2"}, {"split": None}, {"methods": {}},
    {"methods": {"react": {"temperature": None, "solved_at": [0]}}},
    {"methods": {"react": {"temperature": None, "solved_at": [0, 3]}}},
    {"methods": {"react": {"temperature": "x", "solved_at": [0, 1]}}},
])  # fmt: skip
def test_a_file_that_is_not_as_written_is_refused(tmp_path, wrong):
    whole = outcome("ab", react=[0, 2])
    write_json(tmp_path / "outcomes.json", {"guess": whole | wrong if wrong else 3})
    with pytest.raises(ValueError, match="guess has no outcomes as train.py writes them"):
        outcomes.read_outcomes(tmp_path)

# ---- numbers

def test_pooled_on_a_hand_worked_example(tmp_path):
    """Two runs on other tasks, of two and of four: each run counts the same for what it has
    trained, each task the same for what it has not.
    """
    one = outcome("ab", react=[0, None], retroformer=[0, 1])
    two = outcome("cdef", react=[None] * 3 + [2], retroformer=[1, 2, None, None])
    runs = pool.read_runs([run(tmp_path, "x", 0, {"guess": one}),
                           run(tmp_path, "y", 1, {"guess": two})])  # fmt: skip
    (report,) = pool.pooled(runs)
    react, ours = report["methods"]["react"], report["methods"]["retroformer"]
    assert react["n"] == ours["n"] == 6 and report["runs"] == ["x", "y"]
    assert react["success_by_retry"] == pytest.approx([1 / 6, 1 / 6, 2 / 6])
    assert ours["success_by_retry"] == pytest.approx([fmean([1 / 2, 0]), fmean([1, 1 / 4]),
                                                      fmean([1, 1 / 2])])  # fmt: skip
    assert ours["temperature"] == 0.3 and report["template"] == "first"
    less = report["comparisons"]["retroformer"]["react"]
    # retry 1: b and c are won; retry 2: f, that react solves there, is lost
    assert less["wins"] == [0, 2, 3] and less["losses"] == [0, 0, 1]
    assert less["p"] == [1.0, sign_test(2, 0), sign_test(3, 1)]
    assert less["difference_by_retry"] == pytest.approx(
        [0, fmean([1 / 2, 1 / 4]), fmean([1 / 2, (2 - 1) / 4])]
    )

def test_tasks_that_all_runs_share_are_resampled_across_them():
    values = np.random.default_rng(0).random((3, 20, 2)).round()
    assert pool.intervals(values) == interval(values)

def test_intervals_of_other_tasks_against_a_loop_over_resamples():
    """Three runs with 12, 6 and 12 tasks of their own: draw runs, in each of them tasks. 1 % of
    the percentile's neighbours lie within .02: a miss once in 10,000.
    """
    rng = random.Random(1)
    sizes, starts = (12, 6, 12), (0, 12, 18)
    values = np.full((3, 30, 1), np.nan)
    for a, (size, start) in enumerate(zip(sizes, starts)):
        values[a, start : start + size, 0] = [rng.random() * (a + 1) / 3 for _ in range(size)]
    own = [row[~np.isnan(row)].tolist() for row in values[:, :, 0]]
    draws = []
    for _ in range(4000):
        chosen = rng.choices(range(3), k=3)
        tasks = {a: fmean(rng.choices(own[a], k=sizes[a])) for a in {*chosen}}
        draws.append(fmean(tasks[a] for a in chosen))
    draws.sort()
    ((low, high),) = pool.intervals(values)
    assert (low, high) == pytest.approx((draws[100], draws[3899]), abs=0.02)
    assert pool.means(values) == [pytest.approx(fmean(map(fmean, own)))]

def test_runs_that_differ_more_than_by_chance_widen_the_interval():
    values = np.full((2, 100, 1), np.nan)
    values[0, :50], values[1, 50:] = 0, 1
    assert pool.intervals(values) == [[0.0, 1.0]]

def test_where_all_succeed_the_interval_is_wilsons(tmp_path):
    runs = [run(tmp_path, name, seed, {"guess": outcome(tasks, react=[0, 0], retroformer=[0, 0])})
            for name, seed, tasks in (("x", 0, "ab"), ("y", 1, "cd"))]  # fmt: skip
    (report,) = pool.pooled(pool.read_runs(runs))
    z = 1.959964**2
    assert report["methods"]["retroformer"]["ci95"] == [[pytest.approx(4 / (4 + z)), 1.0]] * 3

# ---- the commands

def ended(main, argv, capsys) -> tuple[int, str]:
    """(status, what was said on either stream)."""
    try:
        status = main([*map(str, argv)])
    except SystemExit as end:
        status = end.code
    said = capsys.readouterr()
    return status, said.out + said.err

def two_seeds(folder: Path, letter: str, gain: int, **settings) -> list[str]:
    """Two runs of a setting, whose reflector solves `gain` tasks of four at retry 1."""
    solved = [1] * gain + [None] * (4 - gain)
    return [run(folder, f"{letter}{seed}", seed, {
        "guess": outcome(tasks, template=f"t{seed}" if letter == "a" else "t0", react=[None] * 4,
                         template_=[1] * 4, retroformer=solved) | {"split": "unseen"},
    }, **settings) for seed, tasks in ((0, "abcd"), (1, "efgh"))]  # fmt: skip

def test_pool_prints_the_tables_and_draws_the_picture(tmp_path, capsys):
    status, said = ended(pool.main, [*two_seeds(tmp_path, "a", 3), "--picture",
                                     tmp_path / "deep/p.svg"], capsys)  # fmt: skip
    assert status == 0, said
    assert "| guess | .00 | - | - | - | - | .75 (T=0.3) | - |" in said
    assert "## guess\n\n8 tasks (unseen), 2 runs. Each run at its own choice: template t0, t1." in (
        said
    )
    assert "| **retroformer (T=0.3)** | **.00 [.00, .32]** | **.75 [" in said
    assert "| retroformer less | retry 1 | won : lost | p | retry 2 | won : lost | p |" in said
    assert "| react | +.75 [" in said and ", +1.00] | 6 : 0 | .031 |" in said
    assert said.endswith(f"\nwrote {tmp_path / 'deep/p.svg'}\n")
    assert ">PPO<" in (tmp_path / "deep/p.svg").read_text()

def test_compare_pairs_runs_and_tasks(tmp_path, capsys):
    left, right = two_seeds(tmp_path, "a", 1), two_seeds(tmp_path, "b", 3, lr=0.2)
    status, said = ended(compare.main, [",".join(left), ",".join(right[::-1]), "--picture",
                                        tmp_path / "p.svg"], capsys)  # fmt: skip
    assert status == 0, said
    assert said.startswith("Settings that differ: lr 0.1 and 0.2.\n\n## guess\n")
    assert "| a0 a1 | .00 |" in said and "| b0 b1 | .00 |" in said
    assert "| b0 b1 less a0 a1 | retry 1 |" in said
    # half of the tasks are won. One run is drawn twice in half of the resamples, and then none of
    # its four draws is won in 1/16: 3.1 % of all are 0, and as many are 1
    assert "| retroformer | +.50 [+.00, +1.00] | 4 : 0 | .12 |" in said
    assert "| react | +.00 [+.00, +.00] | 0 : 0 | 1.00 |" in said
    assert "One run a side" not in said and f"wrote {tmp_path / 'p.svg'}" in said
    svg = (tmp_path / "p.svg").read_text()
    assert ">guess: a0 a1<" in svg and ">guess: b0 b1<" in svg
    status, said = ended(compare.main, [left[0], right[0]], capsys)
    assert status == 0 and "One run a side: the intervals are over tasks, not over seeds." in said

def refusals(folder: Path) -> dict[str, tuple]:
    """message -> (command, arguments)."""
    a0, a1 = two_seeds(folder, "a", 1)
    b0, b1 = two_seeds(folder, "b", 3, lr=0.2, kl_coef=1)
    same = run(folder, "same", 0, {"guess": outcome("abcd", react=[0] * 4)})
    shop = run(folder, "shop", 0, {"shop": outcome("abcd", react=[0] * 4)})
    other = run(folder, "other", 0, {"guess": outcome("abce", react=[0] * 4)})
    old = folder / "old"
    write_json(old / "config.json", {"seed": 5})
    return {
        "b1 has another lr, kl_coef than ": (pool, [a0, b1]),
        "a0 and {}/same have the same seed, 0: they are one run": (pool, [a0, same]),
        "outcomes.json: no such file; python train.py --run-dir {}/old --resume plays": (
            pool, [old]),
        "holds no run (no config.json is there)": (pool, [folder / "none"]),
        "--columns: invalid choice": (pool, [a0, "--columns", "9"]),
        "the following arguments are required: RUN": (pool, []),
        "p.svg: is no plain file": (pool, [a0, "--picture", folder / "p.svg"]),
        "a0 has seeds [0], {}/b0,{}/b1 [0, 1]: each run is paired with that of its seed": (
            compare, [a0, f"{b0},{b1}"]),
        "same and {}/shop have no environment in common": (compare, [same, shop]),
        "other have played different tasks of guess: give both the same --eval-tasks": (
            compare, [same, other]),
    }  # fmt: skip

def test_every_refusal_is_one_line(tmp_path, capsys):
    (tmp_path / "p.svg").mkdir()
    for message, (command, argv) in refusals(tmp_path).items():
        status, said = ended(command.main, argv, capsys)
        assert status == 2 and message.replace("{}", str(tmp_path)) in said, (message, said)
        assert said.startswith("error: ") and said.count("\n") == 1, said

def test_a_name_cannot_write_to_the_terminal(tmp_path, capsys):
    hostile = {"guess": outcome("ab", split="\x1b[2J", react=[0, 1])}
    path = run(tmp_path, "x", 0, hostile)
    status, said = ended(pool.main, [path, "--picture", tmp_path / "p.svg"], capsys)
    assert status == 0 and "\x1b" not in said and "␛[2J" in said

def test_the_file_is_json_and_small(tmp_path):
    """A task is 64 characters, a trial one."""
    tasks = [f"{i:064d}" for i in range(64)]
    own = outcome("", react=[None] * 64, retroformer=[1] * 64) | {"tasks": tasks}
    assert len(json.dumps({"guess": own})) < 6000
