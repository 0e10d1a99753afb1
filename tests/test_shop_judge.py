"""The shop's judge against verdicts made by hand, and its constant plans."""

import json
import os
from pathlib import Path

import pytest

import envs
from envs.observer import Verdict
from retro.prompts import well_formed
from tests.judging import judge_the_oracle_and_templates

DATA = os.environ.get("RETRO_DATA")
ENV = envs.make("shop")
START = (
    "Webshop\nInstruction:\nfind one padded velvet lamp in color red and size small, and price "
    "lower than 20.00 dollars\n[Search]"
)
RESULTS = """[Back to Search]
Page 1 (Total results: 4)
[Next >]
[BAK73]
Norvik velvet lamp
$15.0
[BEL20]
Solsta velvet lamp
$44.0
[BIN31]
Fengim velvet lamp
$12.0"""
SECOND = """[Back to Search]
Page 2 (Total results: 4)
[< Prev]
[BOD55]
Garfix straw lamp
$9.0"""

def page(title: str, color: str, size: str) -> str:
    return (
        f"[Back to Search]\n[< Prev]\ncolor {color}\nsize {size}\n{title}\nPrice: $1\nRating: N.A."
        "\n[Description]\n[Features]\n[Reviews]\n[Buy Now]"
    )

SEARCH = ("search[velvet lamp]", RESULTS)
OPEN = ("click[BAK73]", page("Norvik velvet lamp", "[red][blue]", "[small][wide]"))
BARE = ("click[BAK73]", page("Norvik velvet lamp", "[red][blue]", "[tall][wide]"))
RED, SMALL = [(f"click[{value}]", f"You have clicked {value}.") for value in ("red", "small")]
FEATURES = ("click[Features]", "[Back to Search]\n[< Prev]\nquilted\nscented")

def buy(score: float) -> tuple[str, str]:
    return "click[Buy Now]", f"Your score (min 0.0, max 1.0): {score}"

UNPADDED = [SEARCH, OPEN, RED, SMALL, buy(0.75)]
FORGOT = [SEARCH, OPEN, RED, buy(0.75)]
NO_SMALL = [SEARCH, BARE, RED, buy(0.75)]
LEFT = [SEARCH, OPEN, FEATURES]
HASTE = [SEARCH, OPEN, buy(0.5)]
BLUE = ("click[blue]", "You have clicked blue.")
WRONG = [SEARCH, OPEN, BLUE, SMALL, buy(0.75)]
TOO_DEAR = """[Back to Search]
Page 1 (Total results: 4)
[Next >]
[BEL20]
Solsta velvet lamp
$44.0"""
DEAR = [("search[velvet lamp]", TOO_DEAR),
        ("click[BEL20]", page("Solsta velvet lamp", "[red]", "[small]")), RED, SMALL, buy(0.75)]
BOTH_PAGES = [DEAR[0], ("click[Next >]", SECOND), ("click[< Prev]", TOO_DEAR), *DEAR[1:]]
LAMPS = [("search[lamp]", SECOND.replace("Page 2", "Page 1")),
         ("click[BOD55]", page("Garfix straw lamp", "[red]", "[tall]")), buy(0.25)]  # fmt: skip
SAME = "Plan: open BAK73, choose red, choose small, buy."
NEXT = "Plan: next page, open velvet lamp, choose red, choose small, buy."
ANEW = f"Plan: search velvet lamp, {NEXT[17:]}"
GOOD = "Plan: open BIN31, choose red, choose small, buy."  # the third has no known fault

@pytest.mark.parametrize(
    "steps, reflection, kind, cause, sound, place, invented",
    [
        # the score tells whether what was bought has the attribute
        (UNPADDED, f"BAK73 was not padded. {GOOD}",
         "lacks the attribute", True, True, None, False),
        (UNPADDED, f"BAK73 was not quilted. {GOOD}",
         "lacks the attribute", False, True, None, True),
        (UNPADDED, f"BIN31 was not padded. {GOOD}",
         "lacks the attribute", False, True, None, False),  # not bought, and nobody knows
        (UNPADDED, "BAK73 did not fit. Plan: open BAK73, choose red, choose small, buy.",
         "did not fit", True, False, True, False),
        (UNPADDED, f"BEL20 cost $44.0, too dear. {GOOD}",
         "too dear", False, True, True, False),  # it does, but was not bought
        (UNPADDED, f"BAK73 cost $44.0, too dear. {GOOD}", "too dear", False, True, False, False),
        (UNPADDED, f"BAK73 had no red. {GOOD}", "no such option", False, True, None, False),
        (FORGOT, "I did not choose small. Plan: open BAK73, choose red, choose small, buy.",
         "not chosen", True, True, True, False),
        (FORGOT, f"I did not choose red. {GOOD}",
         "not chosen", False, False, None, False),  # BAK73 is known to fit
        (NO_SMALL, f"BAK73 had no small. {GOOD}", "no such option", True, True, None, False),
        (NO_SMALL, "BAK73 had no small. Plan: open BAK73, choose red, choose small, buy.",
         "no such option", True, False, False, False),
        # plans that leave something out, add something, or buy what is known to be wrong
        (NO_SMALL, "BAK73 had no small. Plan: open BIN31, choose small, buy.",
         "no such option", True, False, None, False),
        (NO_SMALL, "BAK73 had no small. Plan: open BIN31, choose blue, choose small, buy.",
         "no such option", True, False, None, False),
        (NO_SMALL, "BAK73 had no small. Plan: open BIN31, choose red, choose small.",
         "no such option", True, False, None, False),
        (NO_SMALL, "BAK73 had no small. Plan: open BEL20, choose red, choose small, buy.",
         "no such option", True, False, None, False),
        (NO_SMALL, "BAK73 had no small. Plan: open BUM77, choose red, choose small, buy.",
         "no such option", True, False, None, True),
        # not bought
        (LEFT, f"BAK73 was not padded. {GOOD}", "lacks the attribute", True, True, None, False),
        (LEFT, f"I had no step left. {GOOD}", "no step left", True, True, None, False),
        (UNPADDED, f"I had no step left. {GOOD}", "no step left", False, True, None, False),
        ([SEARCH, ("click[Next >]", SECOND), ("click[BOD55]", page("G", "[red]", "[small]"))],
         f"BOD55 was no velvet lamp. {GOOD}", "wrong kind", True, True, None, False),
        ([SEARCH], f"I opened no product. {GOOD}", "opened none", True, True, None, False),
        ([], f"I never searched. {ANEW}", "never searched", True, True, None, False),
        ([], "I never searched. Plan: search velvet lamp.",  # and then?
         "never searched", True, False, None, False),
        # what was chosen
        (WRONG, f"I chose blue, not red. {SAME}", "wrong option", True, True, True, False),
        (WRONG, f"I did not choose red. {SAME}", "not chosen", True, True, True, False),
        (WRONG, f"I chose red, not blue. {SAME}", "wrong option", False, True, True, False),
        (WRONG, f"I chose wide, not small. {SAME}", "wrong option", False, True, True, False),
        (HASTE, f"I bought before choosing. {SAME}", "hasty", True, True, True, False),
        (FORGOT, f"I bought before choosing. {SAME}", "hasty", False, True, True, False),
        # nothing that fits was seen
        (DEAR, f"I did not look at the next page. {NEXT}", "next page", True, True, None, False),
        (DEAR, f"BEL20 cost $44.0, too dear. {NEXT}", "too dear", True, True, True, False),
        (DEAR, f"I did not look at the next page. {ANEW}", "next page", True, False, None, False),
        (UNPADDED, f"I did not look at the next page. {NEXT}", "next page", False, False, None,
         False),
        (BOTH_PAGES, f"I did not look at the next page. {NEXT}", "next page", False, False, None,
         False),
        (LAMPS, f"I searched lamp, not velvet lamp. {ANEW}",
         "wrong words", True, True, None, False),
        (LAMPS, f"I searched oak lamp, not velvet lamp. {ANEW}",
         "wrong words", False, True, None, True),
        (LAMPS, f"BOD55 was no velvet lamp. {ANEW}", "wrong kind", True, True, None, False),
        (LAMPS, f"I searched lamp, not velvet lamp. {NEXT}",
         "wrong words", True, False, None, False),
        (LAMPS, "I searched lamp, not velvet lamp. Plan: search lamp, open velvet lamp, "
         "choose red, choose small, buy.", "wrong words", True, False, None, False),
        (UNPADDED, f"I searched lamp, not velvet lamp. {GOOD}",
         "wrong words", False, True, None, False),
        ([SEARCH], "I never searched. Plan: search velvet lamp.",
         "never searched", False, False, None, False),
        (LEFT, "I lost track of the task. Plan: think about what is asked before each step.",
         "", None, False, None, False),
        (LEFT, "BAK BAK BAK", "", None, False, None, True),
    ],
)  # fmt: skip
def test_verdicts(steps, reflection, kind, cause, sound, place, invented):
    verdict = Verdict(kind, cause, sound, place, invented)
    assert ENV.judge(reflection, START, steps) == verdict
    assert ENV.judge(f"Cause: {reflection}", START, steps) == verdict

WANTED = "velvet lamp, padded, choose red, choose small, limit $20.0"
BAK, BEL, BIN = "BAK73 $15.0 not padded", "BEL20 $44.0 too dear", "BIN31 $12.0 fits"

@pytest.mark.parametrize("steps, facts, right", [
    (UNPADDED, [WANTED, BAK, BEL, BIN], True),
    (UNPADDED, [BIN, BAK, WANTED], True),  # a dear one that nobody opened may be left out
    (UNPADDED, [WANTED, BEL, BIN], False),  # what was bought may not
    (UNPADDED, [WANTED, BAK, BEL], False),  # nor what is to be bought
    (UNPADDED, [BAK, BEL, BIN], False),
    (UNPADDED, [WANTED, BAK, "BEL20 $12.0 fits", BIN], False),
    (UNPADDED, [WANTED.replace("red", "blue"), BAK, BEL, BIN], False),
    (UNPADDED, [WANTED, "BAK73 $15.0 fits", BEL, BIN], False),
    (FORGOT, [WANTED, "BAK73 $15.0 fits, bought without small", BEL, BIN], True),
    (HASTE, [WANTED, "BAK73 $15.0 fits, bought before choosing", BEL, BIN], True),
    (WRONG, [WANTED, "BAK73 $15.0 fits, bought with blue", BEL, BIN], True),
    (WRONG, [WANTED, "BAK73 $15.0 fits, bought without red", BEL, BIN], False),
    (NO_SMALL, [WANTED, "BAK73 $15.0 no small", BEL, BIN], True),
    (LEFT, [WANTED, BAK, BEL, BIN], True),
    ([SEARCH, OPEN], [WANTED, "BAK73 $15.0 fits, not bought", BEL, BIN], True),
    (DEAR, [WANTED, BEL, "next page not seen"], True),
    (DEAR, [WANTED, BEL], False),
    (BOTH_PAGES, [WANTED, BEL], True),
    (LAMPS, [WANTED, "BOD55 $9.0 no velvet lamp", "no velvet lamp by lamp"], True),
    ([], [WANTED], True),
])  # fmt: skip
def test_notes(steps, facts, right):
    reflection = f"Notes: {'; '.join(facts)}. Cause: I never searched. {GOOD}"
    assert ENV.judge(reflection, START, steps).notes is right
    oracle = ENV.oracle_reflection(START, steps)
    assert ENV.judge(oracle, START, steps).notes is True
    if right and len(facts) > 3:
        same = sorted(facts) == sorted(ENV.observer.notes(START, steps))
        assert same and oracle.startswith(f"Notes: {'; '.join(facts)}. Cause: ")

def test_of_a_real_instruction_less_is_told():
    start = "WebShop\nInstruction:\ni want a red lamp, and price lower than 14.00 dollars\n[Search]"
    steps = [("search[lamp]", RESULTS), OPEN, buy(0.5)]
    for reflection, expected in (
        ("BAK73 cost $15.0, too dear. Plan: open BIN31, choose red, buy.",
         Verdict("too dear", True, None, True, False)),
        ("BAK73 was not padded. Plan: open BUM77, buy.",
         Verdict("lacks the attribute", None, None, None, True)),
    ):  # fmt: skip
        assert ENV.judge(reflection, start, steps) == expected

def test_constant_plans():
    def plans(steps):
        texts = {name: write(START, steps) for name, write in ENV.templates.items()}
        assert all(well_formed(text) for text in texts.values())
        return {name: text.partition("Plan: ")[2] for name, text in texts.items()}

    end = ", choose red, choose small, buy."
    anew = f"search velvet lamp, open velvet lamp{end}"
    assert plans(UNPADDED) == {
        "first": f"open BAK73{end}",
        "second": f"open BEL20{end}",
        "third": f"open BIN31{end}",
        "unopened": f"open BEL20{end}",
        "cheapest": f"open BIN31{end}",
        "second cheapest": f"open BAK73{end}",
        "cheapest unopened": f"open BIN31{end}",
        "cheapest other": f"open BIN31{end}",
        "the same": f"open BAK73{end}",
        "search again": anew,
        "search attribute": f"search padded velvet lamp, open velvet lamp{end}",
        "next page": f"next page, open velvet lamp{end}",
    }
    never = plans([])
    assert never.pop("search attribute") and never.pop("next page")
    assert set(never.values()) == {anew}

@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
@pytest.mark.parametrize("n", [50, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_oracle_is_right_and_constant_plans_invent_nothing(split, n):
    judge_the_oracle_and_templates(ENV, split, n)

@pytest.mark.skipif(not DATA, reason="RETRO_DATA does not name the folder of real data")
def test_recorded_trials():
    """Of the oracle's reflections on real episodes nothing is found false or invented."""
    episodes = json.loads((Path(DATA) / "webshop_episodes.json").read_text())
    failed = [episode for episode in episodes if episode["score"] != 1]
    assert len(failed) > 100
    for episode in failed:
        (_, start), *steps = map(tuple, episode["steps"])
        for write in (ENV.oracle_reflection, *ENV.templates.values()):
            said = write(start, steps)
            verdict = ENV.judge(said, start, steps)
            assert well_formed(said) and verdict.cause is not False and not verdict.invented, said
