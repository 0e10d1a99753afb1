"""The shop's world is worth a reflection: first trials fail for many reasons, each shown in the
text; what the oracle reads there mends them, no constant plan does.
"""

import random
import re
from collections import Counter
from functools import cache

import pytest

from envs.demonstrations import SLIPS, play
from envs.observer import read_trial
from envs.shop import Shop
from envs.shop.demonstrations import Player
from envs.shop.observer import Notes, right_product, turns_page
from envs.shop.tasks import TOP
from retro import prompts

ENV = Shop()
SIZES = [60, pytest.param(1000, marks=pytest.mark.slow)]

@cache
def failed(split: str, n: int) -> tuple:
    """(task, observation, steps) of the failed ones of n first trials."""
    rng, out = random.Random(f"first {split}"), []
    for task in ENV.tasks(split, n, 3):
        observation, _ = ENV.reset(task)
        steps, _ = play(ENV, Player(observation, [], rng), rng, rng.choice(SLIPS))
        if not ENV.info()["success"]:
            out.append((task, observation, steps))
    return tuple(out)

def retried(trials: tuple, write, slips=SLIPS) -> float:
    """Share of failed trials that a retry makes good; `write` gives the reflection, or none."""
    rng, won = random.Random("retry"), 0
    for task, observation, steps in trials:
        ENV.reset(task)
        known = [write(observation, steps)] if write else []
        play(ENV, Player(observation, known, rng), rng, rng.choice(slips))
        won += ENV.info()["success"]
    return won / len(trials)

def by_form(observation: str, steps: list) -> str:
    """No constant plan, but no reader of products either: it guesses the cause by the form of the
    instruction and the rating, which say what a shopper is apt to do wrong.
    """
    notes = read_trial(Notes(observation), steps)
    odd = re.search(r" pattern |color (dark|light) ", observation)
    again = odd or notes.ratings.get(notes.item) == TOP
    name = "search again" if " of " in notes.instruction else (
        "the same" if again else "cheapest unopened")  # fmt: skip
    return ENV.templates[name](observation, steps)

@pytest.mark.parametrize("split", ["train", "unseen"])
@pytest.mark.parametrize("n", SIZES)
def test_failures_have_many_causes_and_only_the_text_mends_them(split, n):
    trials = failed(split, n)
    first = len(trials) / n
    oracle = [ENV.oracle_reflection(o, s) for _, o, s in trials]
    kinds = Counter(ENV.judge(said, o, s).kind for said, (_, o, s) in zip(oracle, trials))
    shares = {kind: round(count / len(trials), 3) for kind, count in kinds.most_common()}
    plain = retried(trials, None)
    told = retried(trials, ENV.oracle_reflection, slips=(0.0,))
    plans = {name: retried(trials, w, slips=(0.0,)) for name, w in ENV.templates.items()}
    plans["form"] = retried(trials, by_form, slips=(0.0,))
    gaps = {name: round((won - plain) / (told - plain), 3) for name, won in plans.items()}
    form, best = gaps.pop("form"), max(gaps.values())
    figures = f"{split} {n}: {first=:.3f} {shares} {plain=:.3f} {told=:.3f} {form=} {gaps}"
    print(figures)
    # few tasks only show that nothing is broken: three deviations of a share of their failures
    loose = 0.0 if n >= 1000 else 3 * (0.25 / len(trials)) ** 0.5
    assert 0.35 - loose < first < 0.55 + loose, figures
    assert len([share for share in shares.values() if share > 0.03]) >= 6, figures
    assert max(shares.values()) < 0.26 + loose and plain < 0.2 + loose, figures
    assert told >= 0.97 - loose and best < 0.45 + loose, figures
    assert form < 0.5 + loose, figures  # .42 to .47 of 2,500 tasks; of 1,000 the deviation is .03

@pytest.mark.parametrize("n", SIZES)
def test_what_mends_a_trial_stands_in_its_text(n):
    """The product that the oracle names is the right one, and the text shows it; the text of the
    plan is copied from the trial.
    """
    right = named = 0
    for task, observation, steps in failed("unseen", n):
        text = prompts.transcript(observation, [], steps)
        notes = read_trial(Notes(observation), steps)
        best = right_product(notes)
        if best:
            named += 1
            right += best == task["goal"]["asin"]
            assert f"[{best}]\n" in text
        elif turns_page(notes):
            assert task["goal"]["asin"] not in text and "[Next >]" in text
    assert named - right <= 0.05 * named + 1, (right, named)

def test_wanted_options_in_sight_are_chosen_mostly():
    """Of the options on the page of what is bought; the best rating makes a shopper forget them."""
    seen = chosen = 0
    rng = random.Random(0)
    for task in ENV.tasks("train", 400, 5):
        observation, _ = ENV.reset(task)
        player = Player(observation, [], rng)
        play(ENV, player, rng, 0.0)
        notes = player.notes
        shown = [value for value in notes.wanted(notes.item) if value in notes.shown(notes.item)]
        seen += len(shown)
        chosen += sum(value in notes.chosen.values() for value in shown)
    assert chosen / seen > 0.8, (chosen, seen)

def test_reflections_fit_a_reflectors_budget(shipped):
    """128 tokens; the oracle's are mostly 40 to 110."""
    lengths = [len(shipped.tokenizer.encode(f" {ENV.oracle_reflection(o, s)}"))
               for _, o, s in failed("unseen", 60)]  # fmt: skip
    assert max(lengths) < 128, sorted(lengths)[-5:]
