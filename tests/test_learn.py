"""What an update learns from: baselines by hand-worked sums, contexts by lists kept beside them.
"""

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

from retro.learn import Baselines, Contexts, FailedTrial, Rollout
from retro.memory import Rated
from retro.reflect import Reflection
from retro.trial import RETRIES
from tests.small_trials import trial

def failed(name: str, number: int = 0) -> FailedTrial:
    return FailedTrial("guess", name, number, [ord(name), number], 1)

def rollout(names: str, worth, group: int) -> Rollout:
    """One reflection for each letter; groups are neighbours. Its rating has no say."""
    return Rollout([failed(name) for name in names], [Reflection([], [], [], "")] * len(names),
                   [9.0] * len(names), [], group, worth=list(worth))  # fmt: skip

def rated(name: str, rating: float, cause: bool | None = True) -> Rated:
    return Rated("guess", name, 0, [ord(name), 0], [], "", 0.0, rating, rating, cause)

# ---- baselines

def test_baselines_start_from_what_was_collected_shrunk_by_its_number():
    """n / (n + 1) of the mean; with a price that of what the reflections were worth."""
    collected = [rated("a", 0.8), rated("b", 1.0), rated("b", 0.0, False), rated("b", 0.5, None)]
    start = Baselines.start(collected, 0.0)
    assert start == pytest.approx({failed("a").key: 0.4, failed("b").key: 3 / 4 * 0.5})
    priced = Baselines.start(collected, 0.3)
    assert priced == pytest.approx({failed("a").key: 0.4, failed("b").key: 3 / 4 * 0.3})
    assert Baselines(0.5, start).of(rollout("abc", [9, 9, 9], 1)) == pytest.approx([0.4, 0.375, 0])

def test_a_collected_trial_and_its_line_in_the_buffer_have_one_name(tiny_lm):
    """Also when the line is read again, in a run that is resumed."""
    one = FailedTrial.of(trial("a", False), 1, tiny_lm)
    line = Rated(one.env, one.task_id, 1, one.prompt_ids, [5], " a", 0.0, 1.0, 1.0)
    again = Rated.from_row(line.to_row(tiny_lm), tiny_lm)
    assert {*Baselines.start([line], 0.0)} == {*Baselines.start([again], 0.0)} == {one.key}

@pytest.mark.parametrize("step", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("group", [1, 2, 4])
def test_siblings_count_as_much_as_steps_to_their_mean(step, group):
    """In fractions: from b as many steps to the mean of the others as there are others."""
    ratings, step = [Fraction(n * n, 7) for n in range(2 * group)], Fraction(step)
    start = {failed("a").key: Fraction(1, 3)}
    played = rollout("a" * group + "b" * group, ratings, group)
    found = Baselines(step, start).of(played)
    for i, name in enumerate(f.task_id for f in played.failed):
        b = Fraction(1, 3) if name == "a" else Fraction(0)
        others = [ratings[j] for j in range(2 * group) if j // group == i // group and j != i]
        for _ in others:
            b += step * (sum(others) / len(others) - b)
        assert abs(found[i] - b) < 1e-12, (i, found[i], b)

def test_a_reflections_own_worth_is_never_in_its_own_baseline():
    """Whatever it is, the others' baselines move and its own stays."""
    ratings, means = [0.1, 0.5, 0.9, 0.2, 0.4, 0.6], {failed("a").key: 0.25}
    before = Baselines(0.3, means).of(rollout("aaabbb", ratings, 3))
    for i in range(6):
        changed = [*ratings[:i], 100.0, *ratings[i + 1 :]]
        after = Baselines(0.3, means).of(rollout("aaabbb", changed, 3))
        moved = [a != b for a, b in zip(before, after)]
        assert moved == [j // 3 == i // 3 and j != i for j in range(6)]

def test_the_running_mean_takes_up_an_update_after_it():
    baselines = Baselines(0.5, {failed("a").key: 0.2})
    baselines.update([(failed("a").key, 1.0), (failed("b").key, 0.4), (failed("a").key, 0.0)])
    assert baselines.means == pytest.approx({failed("a").key: 0.3, failed("b").key: 0.2})

def test_without_a_step_there_is_no_baseline():
    baselines = Baselines(0.0, {failed("a").key: 0.5})
    for _ in range(2):
        assert baselines.of(rollout("aabb", [1.0, 0.0, 1.0, 1.0], 2)) == [0.0] * 4
        baselines.update([(failed("a").key, 1.0)])

# ---- contexts

def collected(numbers: dict[str, int]) -> Contexts:
    """Of each task its first trial, then some retries, as collecting goes: round after round."""
    contexts = Contexts()
    for number in range(max(numbers.values())):
        for name, n in numbers.items():
            if number < n:
                contexts.add(failed(name, number))
    return contexts

def test_what_enters_takes_the_place_of_its_tasks_oldest_context():
    """Against a list of entries for each task: those that are there are its newest."""
    sizes, rng = {"a": 1, "b": 2, "c": 3}, random.Random(0)
    contexts = collected(sizes)
    entered = {name: [(name, number) for number in range(n)] for name, n in sizes.items()}
    for i in range(60):
        name = rng.choice("abc")
        contexts.replace(failed(name, 10 + i))
        entered[name].append((name, 10 + i))
        there = Counter((f.task_id, f.number) for f in contexts.by_env["guess"])
        assert there == Counter(one for name, own in entered.items() for one in own[-sizes[name] :])

def retries(contexts: Contexts, lm, *outcomes: bool, share=1.0, group=1, seed=0) -> list:
    """What enters after these retries of the contexts in their order."""
    own = contexts.by_env["guess"]
    played = Rollout([own[i // group % len(own)] for i in range(len(outcomes))], [], [],
                     [trial("a", won, reflections=("z.",)) for won in outcomes], group)  # fmt: skip
    return contexts.successors(played, share, random.Random(seed), lm)

def test_a_failed_retry_goes_on_and_a_chain_that_has_ended_begins_again(tiny_lm):
    """Up to the last retry, on which nobody reflects."""
    first = FailedTrial.of(trial("a", False), 0, tiny_lm)
    for number in range(RETRIES + 2):
        contexts = Contexts()
        contexts.add(first)
        if number:
            contexts.replace(replace(first, number=number))
        (after,) = retries(contexts, tiny_lm, False)
        assert after.number == (number + 1 if number + 1 < RETRIES else 0)
        assert (after.trajectory.reflections == ("z.",)) == (0 < after.number)
        (won,) = retries(contexts, tiny_lm, True)
        assert won == first

def test_a_share_of_the_groups_enters_each_with_its_first_retry(tiny_lm):
    contexts = Contexts()
    contexts.add(FailedTrial.of(trial("a", False), 0, tiny_lm))
    assert retries(contexts, tiny_lm, *[False] * 8, share=0.0) == []
    entering = retries(contexts, tiny_lm, *[False, True] * 50, group=2)
    assert [f.number for f in entering] == [1] * 50
    entering = retries(contexts, tiny_lm, *[True, False] * 50, group=2)
    assert [f.number for f in entering] == [0] * 50
    half = [len(retries(contexts, tiny_lm, *[False] * 400, share=0.5, seed=s)) for s in range(3)]
    assert all(150 < n < 250 for n in half) and len({*half}) > 1, half  # 5 standard deviations
    assert retries(contexts, tiny_lm) == []  # nothing was played: offline

def test_chains_are_as_long_as_their_failures_make_them(tiny_lm):
    """In the long run contexts are spread as the trials that a chain reflects on: where each retry
    fails with chance q, number k has a share ~ q^k.
    """
    contexts, rng, seen, q = Contexts(), random.Random(1), Counter(), 0.6
    for name in "abcdefgh":
        contexts.add(FailedTrial.of(trial(name, False), 0, tiny_lm))
    for _ in range(3000):
        f = rng.choice(contexts.by_env["guess"])
        seen[f.number] += 1
        after = trial(f.task_id, rng.random() > q)
        played = Rollout([f], [], [], [after], 1)
        for new in contexts.successors(played, 0.5, rng, tiny_lm):
            contexts.replace(new)
    whole = sum(q**k for k in range(RETRIES))
    for k in range(RETRIES):  # the worst of 20 seeds was .04 off
        assert seen[k] / 3000 == pytest.approx(q**k / whole, abs=0.06), seen
