"""Counting successes: shares, intervals and paired tests by other arithmetic; the report and its
table.
"""

import random
from itertools import product
from statistics import fmean

import numpy as np
import pytest

import retro.report.results
from envs.observer import Verdict
from envs.tasks import seed_range
from retro.evaluate import Evaluation, Reflector, Variant, rows_of
from retro.report.choices import best_of, mean_of
from retro.report.results import (
    compared,
    interval,
    report,
    sign_test,
    solved,
    summary,
    wilson,
)
from retro.report.tables import table
from tests.guess import Guess
from tests.scripted import ScriptedActor
from tests.small_trials import trial

def chain(task: str, retry: int | None, retries: int = 2, said: str = "") -> list:
    """Success at trial `retry`, or at none; before each retry `said` is reflected."""
    last = retries if retry is None else retry
    memories = [[said] * n if said else [] for n in range(last + 1)]
    return [trial(task, n == retry, reflections=own) for n, own in enumerate(memories)]

# ---- intervals and tests

def test_wilson_solves_its_own_equation():
    """The bounds are the p with |p_hat - p| = z sqrt(p (1 - p) / n), found here by bisection."""
    z = 1.959964
    for k, n in ((3, 10), (50, 100), (297, 300), (2.5, 7)):
        for bound, (a, b) in zip(wilson(k, n), ((0.0, k / n), (1.0, k / n))):
            for _ in range(80):  # a is outside the interval, b inside
                p = (a + b) / 2
                inside = abs(k / n - p) <= z * (p * (1 - p) / n) ** 0.5
                a, b = (a, p) if inside else (p, b)
            assert bound == pytest.approx((a + b) / 2, abs=1e-9)
    for n in (1, 20):  # p_hat = 0: p = z^2 / (n + z^2)
        assert wilson(0, n) == [0.0, pytest.approx(z**2 / (n + z**2))]
        assert wilson(n, n) == [pytest.approx(n / (n + z**2)), 1.0]

def test_with_one_adapter_the_interval_is_the_binomials():
    """p +- 1.96 sqrt(p (1 - p) / T). A percentile of 4,000 resamples is off by .001 (one sigma)."""
    for p in (0.3, 0.9):
        values = np.zeros((1, 400, 2))
        values[0, : int(p * 400), 1] = 1
        (nothing, (low, high)) = interval(values)
        spread = 1.96 * (p * (1 - p) / 400) ** 0.5
        assert nothing == [0, 0]
        assert (low, high) == pytest.approx((p - spread, p + spread), abs=0.005)

def test_interval_against_a_loop_over_resamples():
    """Three adapters, 12 tasks: draw three adapters and twelve tasks with replacement, take the
    mean. 1 % of the 97.5 percentile's neighbours lie within .02: a miss once in 10,000.
    """
    rng = random.Random(1)
    values = np.array([[[rng.random() * (a + 1) / 3] for _ in range(12)] for a in range(3)])
    means = []
    for _ in range(4000):
        tasks, adapters = rng.choices(range(12), k=12), rng.choices(range(3), k=3)
        means.append(fmean(values[a, t, 0] for a in adapters for t in tasks))
    means.sort()
    ((low, high),) = interval(values)
    assert (low, high) == pytest.approx((means[100], means[3899]), abs=0.02)
    ((one_low, one_high),) = interval(values.mean(0, keepdims=True))
    assert high - low > 1.5 * (one_high - one_low)  # the adapters differ: that is in it

def test_adapters_that_always_and_never_succeed_leave_all_open():
    values = np.stack([np.zeros((50, 1)), np.ones((50, 1))])
    assert interval(values) == [[0.0, 1.0]]

def test_sign_test_counts_the_outcomes_that_are_as_far_apart():
    for wins, losses in ((0, 0), (1, 0), (3, 3), (5, 2), (0, 8), (9, 4)):
        n, gap = wins + losses, abs(wins - losses)
        outcomes = [abs(sum(signs)) for signs in product((-1, 1), repeat=n)]
        expected = sum(one >= gap for one in outcomes) / len(outcomes)
        assert sign_test(wins, losses) == sign_test(losses, wins) == pytest.approx(expected)

# ---- summaries

def test_summary_on_a_hand_worked_example():
    chains = [
        [trial("a", True)],
        [trial("b", False, 0.5), trial("b", True)],
        [trial("c", False), trial("c", False, 0.25), trial("c", True)],
        [trial("d", False), trial("d", False), trial("d", False, 0.5)],
    ]
    s = summary([chains], 2)
    assert s["n"] == 4 and s["success_by_retry"] == [0.25, 0.5, 0.75]
    assert s["conditional_by_retry"] == [0.25, 1 / 3, 0.5]
    assert s["mean_return_by_retry"] == [1.5 / 4, 2.25 / 4, 3.5 / 4]
    # 3 resamples of 10 have no success: (3/4)^4 = .32; .4 % have only successes
    assert s["ci95"] == [[0.0, 0.75], [0.0, 1.0], [0.25, 1.0]]

def test_where_all_succeed_or_none_does_the_interval_is_wilsons():
    s = summary([[chain(name, 1) for name in "abc"]], 2)
    assert s["success_by_retry"] == [0, 1, 1] and s["conditional_by_retry"] == [0, 1, None]
    z = 1.959964**2
    none, whole = [0.0, pytest.approx(z / (3 + z))], [pytest.approx(3 / (3 + z)), 1.0]
    assert s["ci95"] == [none, whole, whole]

def test_equal_repeats_are_no_new_tasks():
    rng = random.Random(0)
    once = [chain(f"t{i}", rng.choice([0, 1, 2, None])) for i in range(30)]
    one, five = summary([once], 2), summary([once * 5], 2)
    assert one == five and one["n"] == 30
    many = summary([[chain(f"{c[0].task_id} {n}", len(c) - 1 if c[-1].success else None)
                     for n in range(5) for c in once]], 2)  # fmt: skip
    widths = [[high - low for low, high in s["ci95"]] for s in (one, many)]
    assert all(wide > 1.8 * narrow for wide, narrow in zip(*widths)), widths  # sqrt 5, or more

def test_solved_is_a_tasks_share_of_repeats_in_every_adapter():
    first = [chain("a", 0), chain("b", None), chain("a", 2), chain("b", 1)]
    second = [chain("a", None), chain("b", 0), chain("a", None), chain("b", 0)]
    values = solved([first, second], 2)
    assert values.tolist() == [[[0.5, 0.5, 1.0], [0.0, 0.5, 0.5]], [[0, 0, 0], [1, 1, 1]]]
    s = summary([first, second], 2)
    assert s["n"] == 2 and s["success_by_retry"] == [3 / 8, 4 / 8, 5 / 8]
    assert s["conditional_by_retry"] == [3 / 8, 1 / 5, 1 / 4]

def test_two_methods_are_compared_task_by_task():
    """By retry 1 ours wins on a, b, c; loses on d; e and f are ties."""
    ours = [chain(name, retry) for name, retry in zip("abcdef", (1, 1, 1, None, 1, None))]
    theirs = [chain(name, retry) for name, retry in zip("abcdef", (2, None, 2, 1, 1, 2))]
    found = compared([ours], [theirs], 2)
    assert found["difference_by_retry"] == pytest.approx([0, 2 / 6, -1 / 6])
    assert found["wins"] == [0, 3, 1] and found["losses"] == [0, 1, 2]
    assert found["p"] == [1.0, 10 / 16, 1.0]  # 3 : 1 is as far apart as 1:3, 4:0 and 0:4
    assert found["ci95"][0] == [0, 0] and found["ci95"][1][0] < 0 < found["ci95"][1][1]
    back = compared([theirs], [ours], 2)
    assert (back["wins"], back["losses"]) == (found["losses"], found["wins"])
    assert back["difference_by_retry"] == pytest.approx([-x for x in found["difference_by_retry"]])

def test_a_rival_without_adapters_stands_against_each_of_ours():
    """Mean over adapters and repeats, then the sign: task a +.25, b 0, c -.5."""
    ours = [[chain(name, retry) for name, retry in zip("abcabc", retries)]
            for retries in ((0, 0, None, 1, None, None), (0, None, None, 0, 0, None))]  # fmt: skip
    theirs = [chain(name, retry) for name, retry in zip("abcabc", (0, 0, 0, None, 1, None))]
    found = compared(ours, [theirs], 0)
    assert found["difference_by_retry"] == pytest.approx([(0.25 + 0 - 0.5) / 3])
    assert (found["wins"], found["losses"], found["p"]) == ([1], [1], [1.0])

# ---- choices

def test_choices_are_means_and_of_equal_ones_the_first_is_taken():
    one = {"templates": {"x": 0.25, "y": 0.5}, "temperatures": {"sft": {"0": 0.5, "1": 0.75}}}
    two = {"templates": {"x": 0.75, "y": 0.5}, "temperatures": {"sft": {"0": 1.0, "1": 0.75}}}
    mean = mean_of([one, two])
    assert mean["templates"] == {"x": 0.5, "y": 0.5} and mean_of([one]) == one
    assert mean["temperatures"] == {"sft": {"0": 0.75, "1": 0.75}}
    assert best_of(one) == ("y", {"sft": 1.0}) and best_of(two) == ("x", {"sft": 0.0})
    assert best_of(mean) == ("x", {"sft": 0.0})
    assert best_of({"templates": {}, "temperatures": {}}) == ("", {})

def test_a_seed_says_who_uses_its_tasks():
    ends = {"dev": (0, 999_999), "test": (10**6, 2 * 10**6 - 1), "check": (2 * 10**6, 10**9)}
    assert all(seed_range(seed) == who for who, seeds in ends.items() for seed in seeds)

# ---- the report

class Judged(Guess):
    """Its judge finds a true cause in every text with an e in it."""

    def judge(self, reflection: str, observation: str, steps: list) -> Verdict:
        return Verdict(kind=reflection[:3], cause="e" in reflection)

    def oracle_reflection(self, observation: str, steps: list) -> str:
        return "the"

@pytest.fixture
def found(monkeypatch) -> dict:
    """Two adapters of retroformer at two temperatures, beside react and shuffled."""
    env, ids = Judged(), "abcd"
    of = lambda said, *retries: [chain(i, r, said=said) for i, r in zip(ids, retries)]
    chains = {
        Variant("react"): of("", 0, None, None, 2),
        Variant("retroformer", 0.0, 0): of("one", 0, 1, None, 1),
        Variant("retroformer", 0.0, 1): of("two", 0, 1, 1, 1),
        Variant("retroformer", 1.0, 0): of("six", 0, None, None, None),
        Variant("retroformer", 1.0, 1): of("six", 0, None, None, 2),
        Variant("shuffled", 0.0, 0): of("two", 0, 1, None, None),
        Variant("shuffled", 0.0, 1): of("two", 0, 1, None, None),
    }
    rows = rows_of([{"id": i} for i in ids])
    evaluation = Evaluation(env, rows, ScriptedActor(str), 2, 7, "x")
    information = lambda reflector, own, chains: len(own) / 8
    monkeypatch.setattr(retro.report.results, "information_of", information)
    env.source = "games"
    assert report(evaluation, "unseen", chains, {}, Reflector(None, [], False))["split"] == "games"
    env.source = ""
    return report(evaluation, "unseen", chains, {"retroformer": 0.0}, Reflector(None, [], False))

def test_a_report_has_each_method_at_its_best_temperature(found):
    rest = {key: value for key, value in found.items() if key not in ("methods", "comparisons")}
    assert rest == dict(env="guess", split="unseen", seed=7, repeats=1, template="x")
    methods = found["methods"]
    assert list(methods) == ["react", "retroformer", "shuffled"]
    ours = methods["retroformer"]
    assert ours["temperature"] == 0.0 and ours["success_by_retry"] == [0.25, 7 / 8, 7 / 8]
    assert methods["react"]["temperature"] is None and ours["n"] == 4
    assert list(ours["by_temperature"]) == ["0", "1"]
    assert ours["by_temperature"]["1"]["success_by_retry"] == [0.25, 0.25, 3 / 8]
    assert ours.items() >= ours["by_temperature"]["0"].items()
    assert "by_temperature" not in methods["shuffled"] and "faithfulness" not in methods["react"]
    assert ours["mutual_information"] == 2 / 8  # of the two adapters at the best temperature
    assert "mutual_information" not in methods["shuffled"]
    truth = ours["faithfulness"]
    assert truth["n"] == 6 and truth["cause"] == 0.5 and truth["kinds"] == {"one": 3, "two": 3}
    assert list(found["comparisons"]) == ["retroformer"]
    (rival,) = found["comparisons"]["retroformer"].items()
    assert rival[0] == "react" and rival[1]["wins"] == [0, 3, 2] and rival[1]["losses"] == [0] * 3

def test_the_table_says_what_the_report_holds(found):
    text = table(found, other_temperatures=True)
    (ours,) = [line for line in text.splitlines() if line.startswith("retroformer (T=0)  ")][:1]
    low, high = found["methods"]["retroformer"]["ci95"][1]
    assert f"0.88 [{low:.2f}, {high:.2f}]" in ours
    others = text.partition("at other temperatures")[2].partition("\n\n")[0]
    assert "retroformer (T=1)" in others and "T=0" not in others and "0.38 [" in others
    pairs = text.partition("retroformer less")[2].splitlines()
    assert "retry 1" in pairs[0] and "retry 2" in pairs[0] and "retry 0" not in pairs[0]
    assert pairs[1].startswith("react") and "+0.62 [" in pairs[1] and "3:0 p=0.25" in pairs[1]
    truth = text.partition("reflections, checked")[2].splitlines()
    assert [line.split()[0] for line in truth[1:]] == ["retroformer", "shuffled"]
    columns = "cause true plan sound place right invented notes true I(kind)"
    assert truth[0].split()[:10] == columns.split()
    said = ["0.50", "-", "-", "-", "-", "0.00", "0.25", "one,", "3", "of", "6"]
    assert truth[1].split()[2:] == said
    assert "at other temperatures" not in table(found)
