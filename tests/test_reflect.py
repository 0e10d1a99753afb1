"""Reflecting: what the reflector is asked, what it answers, and what a reflection was worth."""

from math import log

import pytest
import torch

import retro.reflect
from envs.observer import Verdict
from retro.reflect import (
    RANGES,
    Reflection,
    rate,
    reflect,
    reflection_prompt,
)
from retro.report.truth import faithfulness, information
from retro.trial import Step, Trajectory
from tests.guess import Guess
from tests.small_trials import failed_trials, sample, shorten

@pytest.fixture(scope="module")
def trials():
    return failed_trials(6, steps=4)

@pytest.fixture(autouse=True)
def short_reflections(monkeypatch):
    shorten(monkeypatch)

def test_prompt_that_does_not_fit_keeps_task_and_end(tiny_lm):
    (long,) = failed_trials(1, steps=20)
    tiny_lm.context = 10**6
    whole = reflection_prompt(long, tiny_lm)
    tiny_lm.context = len(whole) - 50 + retro.reflect.REFLECTION_TOKENS
    cut = reflection_prompt(long, tiny_lm)
    text = tiny_lm.tokenizer.decode(cut)
    assert len(whole) - 53 <= len(cut) <= len(whole) - 50  # joined, two halves may be fewer tokens
    assert text.startswith(long.observation)
    assert text.endswith("Failed, score 0.00.\nReflection:")

def test_same_seed_same_reflections_and_order_is_kept(tiny_lm, trials):
    a, b = sample(tiny_lm, trials), sample(tiny_lm, trials)
    assert a == b != sample(tiny_lm, trials, seed=1)
    assert [r.prompt_ids for r in a] == [reflection_prompt(t, tiny_lm) for t in trials]
    assert isinstance(a[0], Reflection) and "\n" not in a[0].text

def test_a_prompt_that_was_read_before_gives_the_same_reflections(tiny_lm, trials):
    asked = [reflection_prompt(t, tiny_lm) for t in trials]
    caches = list(tiny_lm.prefill(asked))
    assert sample(tiny_lm, trials, caches=caches) == sample(tiny_lm, trials)

def test_logprobs_are_those_of_the_frozen_base_in_a_plain_pass(tiny_lm, trials):
    for r in sample(tiny_lm, trials[:2]):
        with torch.no_grad():
            logits = tiny_lm.model(torch.tensor([r.prompt_ids + r.response_ids]))[0]
        rows = logits[len(r.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = [row[token].item() for row, token in zip(rows, r.response_ids)]
        assert r.logprobs == pytest.approx(expected, abs=1e-4)

def test_equal_prompts_get_different_answers_and_greedy_ones_equal(tiny_lm, trials):
    asked = [reflection_prompt(trials[0], tiny_lm)] * 3
    draw = lambda temperature: reflect(
        tiny_lm, asked, temperature=temperature, generator=torch.Generator().manual_seed(0)
    )
    assert len({r.text for r in draw(1.0)}) > 1 and len({r.text for r in draw(0.0)}) == 1

def ended(g: float) -> Trajectory:
    return Trajectory("household", "a", "x", (), (), g, g == 1, g == 1, g < 1)

def test_ratings_telescope():
    """Over a chain of trials the ratings add up to the last return minus the first."""
    chain = [ended(g) for g in (0.5, 0.0, 0.75, 1.0)]
    total = sum(rate(a, b) for a, b in zip(chain, chain[1:]))
    assert total == chain[-1].episode_return - chain[0].episode_return
    assert rate(chain[0], chain[1]) == -0.5

def test_three_ratings_of_one_retry():
    before, after = ended(0.25), ended(0.75)
    assert [rate(before, after, kind) for kind in RANGES] == [0.5, 0.75, 0.0]
    assert rate(after, before) == -0.5 and rate(before, ended(1.0)) == 0.75
    assert rate(before, ended(1.0), "success") == 1.0

def test_each_prompt_may_have_a_generator_of_its_own(tiny_lm, trials):
    """Then its reflection is the one that it gets alone."""
    asked = [reflection_prompt(t, tiny_lm) for t in trials]
    write = lambda rows: reflect(
        tiny_lm, [asked[i] for i in rows], temperature=1.0,
        generator=[torch.Generator().manual_seed(i) for i in rows],
    )  # fmt: skip
    together = write(range(6))
    assert [r.text for r in write([4, 1])] == [together[4].text, together[1].text]
    assert [r.text for r in write([3])] == [together[3].text]

# ---- is it true?

class Judged(Guess):
    """A judge by the book: reflection -> verdict, and the oracle's by the trial's last action."""

    BOOK = {
        "never seen, search a": Verdict("never seen", True, True, True, False),
        "never seen, search b": Verdict("never seen", True, False, None, False),
        "not taken, search c": Verdict("not taken", False, False, None, True),
        "look": Verdict(),
        "right 1": Verdict("never seen", True, True),
        "right 2": Verdict("not taken", True, True),
    }

    def judge(self, reflection: str, observation: str, steps: list) -> Verdict:
        assert observation == "x" and len(steps) == 1
        return self.BOOK[reflection]

    def oracle_reflection(self, observation: str, steps: list) -> str:
        return f"right {steps[0][0]}"

def said(*pairs) -> list:
    """(the trial's action, what is reflected) of each."""
    step = lambda action: (Step(action, "No.", 0.0),)
    return [
        (Trajectory("guess", "a", "x", (), step(action), 0.0, False, False, True), text)
        for action, text in pairs
    ]

def test_faithfulness_on_a_hand_worked_example():
    found = faithfulness(Judged(), said(
        ("1", "never seen, search a"), ("1", "never seen, search b"),
        ("2", "not taken, search c"), ("2", "look"),
    ))  # fmt: skip
    # what each reflection's judge cannot tell is not counted
    shares = dict(n=4, cause=2 / 3, sound=1 / 3, place=1.0, invented=1 / 3)
    assert found.items() >= shares.items()
    assert found.keys() - shares.keys() == {"kinds", "kind_information"}
    assert found["kinds"] == {"never seen": 2, "not taken": 1, "": 1}
    # "never seen" is said of all trials of one kind, the other two of the other kind: the entropy
    assert found["kind_information"] == pytest.approx(log(2))

def test_who_always_says_the_same_is_told_by_its_information():
    found = faithfulness(Judged(), said(*[(a, "never seen, search a") for a in "1212"]))
    assert found["cause"] == found["sound"] == 1 and found["kind_information"] == 0
    silent = faithfulness(Judged(), said(("1", "look")))
    assert [silent[k] for k in ("cause", "sound", "place", "invented")] == [None] * 4
    assert faithfulness(Guess(), said(("1", "mug")))["cause"] is None  # it has no judge

def test_information_of_pairs():
    """Independent: none. A function of the other: its entropy. Else H(a) + H(b) - H(a, b)."""
    assert information([(a, b) for a in "xyz" for b in "12"]) == pytest.approx(0, abs=1e-12)
    copies = [(a, a.upper()) for a in "xxxyyz"]
    entropy = lambda *counts: -sum(c / sum(counts) * log(c / sum(counts)) for c in counts)
    assert information(copies) == pytest.approx(entropy(3, 2, 1))
    assert information([(a, "same") for a in "xyz"]) == information([]) == 0
    mixed = [("x", "1")] * 3 + [("x", "2")] + [("y", "2")] * 4
    assert information(mixed) == pytest.approx(entropy(4, 4) + entropy(3, 5) - entropy(3, 1, 4))
    assert information(mixed) == pytest.approx(information([(b, a) for a, b in mixed]))
