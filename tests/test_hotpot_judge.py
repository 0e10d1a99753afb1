"""HotPotQA's judge against verdicts made by hand, and its constant plans."""


import pytest

import envs
from envs.observer import Verdict
from retro.prompts import well_formed
from tests.judging import judge_the_oracle_and_templates

ENV = envs.make("hotpot")
QUESTION = "Answer by searching: What is the home of the author of the novel Quietverse?"
DETOUR = (
    "Search[ Quietverse ]",
    "Could not find Quietverse. Similar: Quietverse (film), Quietverse (novel), Elmbay, Oakton.",
)
NOVEL = (
    "Search[ Quietverse (novel) ]",
    "The novel Quietverse has drawings by Mosswin. It was written by Fernkin.",
)
ARTIST = ("Search[ Fernkin ]", "The artist Fernkin was born in Elmbay and lives in Oakton.")
WRONG = ("Finish[ Elmbay ]", "Answer is INCORRECT.")
ASTRAY = [DETOUR, NOVEL, WRONG]
NO_TIME = [DETOUR, NOVEL, ARTIST]  # all was read; then the steps were used up

@pytest.mark.parametrize(
    "steps, reflection, kind, cause, sound, place, invented",
    [
        # all is read: the answer, or the paragraph that states it
        (NO_TIME, "I had no step left, but the home of Fernkin is Oakton. Plan: finish Oakton.",
         "no step left", True, True, True, False),
        (NO_TIME, "I had no step left, but the birthplace of Fernkin is Elmbay. "
         "Plan: finish Elmbay.", "no step left", True, False, True, False),
        (NO_TIME, "I had no step left, but the home of Fernkin is Elmbay. Plan: search Fernkin.",
         "no step left", False, True, False, False),
        (NO_TIME, "I answered Oakton, which is wrong. Plan: search Oakton.",
         "wrong answer", False, False, None, False),
        (NO_TIME, "I did not read Fernkin. Plan: search Fernkin.",
         "not read", False, True, None, False),
        (NO_TIME, "I did not read Quietverse (novel). Plan: search Quietverse (novel).",
         "not read", False, True, None, False),  # without the detour three steps suffice
        (NO_TIME[1:], "I did not read Quietverse (novel). Plan: search Quietverse (novel).",
         "not read", False, False, None, False),  # two steps do not
        (NO_TIME, "I did not read the film Quietverse. Plan: search Quietverse (film).",
         "not read", False, False, None, False),  # unread, but off the way
        (NO_TIME, "I did not read Ravenyard. Plan: search Ravenyard.",
         "not read", False, False, None, True),
        # of the plans' clauses the first answer decides, else the last search
        (NO_TIME, "I had no step left. Plan: search Fernkin, finish Oakton.",
         "no step left", True, True, None, False),
        (NO_TIME, "I had no step left. Plan: finish Elmbay, finish Oakton.",
         "no step left", True, False, None, False),
        (NO_TIME, "I had no step left. Plan: search Fernkin. Plan: search Fernkin.",
         "no step left", True, True, None, False),
        (NO_TIME, "I was not careful enough. Plan: read each paragraph with more care.",
         "", None, False, None, False),
        (NO_TIME, "gibberish", "", None, False, None, False),
        # the next paragraph is still unread; its title may have a sense
        (ASTRAY, "I answered Elmbay, but the author of Quietverse is Fernkin. "
         "Plan: search Fernkin (artist).", "wrong answer", True, True, True, False),
        (ASTRAY, "I answered Elmbay, but did not read Fernkin. Plan: search Fernkin.",
         "not read", True, True, None, False),
        (ASTRAY, "I answered Elmbay, but the author of Quietverse is Fernkin. "
         "Plan: finish Fernkin.", "wrong answer", True, False, True, False),
        ([NOVEL, ("Finish[ Fernkin ]", WRONG[1])],
         "I answered Fernkin, but it is only the author of Quietverse. Plan: search Fernkin.",
         "only a step", True, True, None, False),
        ([NOVEL, ("Finish[ Mosswin ]", WRONG[1])],
         "I answered Mosswin, but it is only the author of Quietverse. Plan: search Mosswin.",
         "only a step", False, False, None, False),
        ([DETOUR], "I did not read the novel Quietverse. Plan: search Quietverse (novel).",
         "not read", True, True, None, False),
        ([DETOUR], "I did not read the novel Quietverse. Plan: search Quietverse.",
         "not read", True, False, None, False),  # there is no such title, as the trial showed
    ],
)  # fmt: skip
def test_a_chain(steps, reflection, kind, cause, sound, place, invented):
    verdict = Verdict(kind, cause, sound, place, invented)
    assert ENV.judge(reflection, QUESTION, steps) == verdict

TOWNS = "Answer by searching: Which town is older, Elmbay or Oakton?"
ELMBAY = ("Search[ Elmbay ]", "The town Elmbay is in the land Foxdale, on the river Redmere. "
          "It was founded in the 9th century.")  # fmt: skip
OAKTON = ("Search[ Oakton ]", ELMBAY[1].replace("Elmbay", "Oakton").replace("9th", "4th"))

@pytest.mark.parametrize(
    "steps, reflection, kind, cause, sound",
    [
        ([ELMBAY, WRONG], "I answered Elmbay, which is wrong. Plan: finish Oakton.",
         "wrong answer", True, True),
        ([ELMBAY, WRONG], "I answered Elmbay, which is wrong. Plan: finish Elmbay.",
         "wrong answer", True, False),
        ([ELMBAY, OAKTON], "I had no step left, but read Elmbay and Oakton. Plan: finish Oakton.",
         "no step left", True, True),
        ([ELMBAY], "I had no step left, but read Elmbay and Oakton. Plan: finish Oakton.",
         "no step left", False, False),  # a guess
        ([ELMBAY], "I did not read Oakton. Plan: search Elmbay, search Oakton.",
         "not read", True, True),
        ([ELMBAY], "I did not read Elmbay. Plan: search Elmbay.", "not read", False, False),
    ],
)  # fmt: skip
def test_a_comparison(steps, reflection, kind, cause, sound):
    verdict = ENV.judge(reflection, TOWNS, steps)
    assert verdict == Verdict(kind, cause, sound, None, False)

def test_of_a_real_question_little_is_told():
    steps = [("Search[Lara]", "Could not find Lara. Similar: Lara Croft, Alice David.")]
    told = ENV.judge("I did not read Lara Croft. Plan: search Lara Croft.", "Answer: who?", steps)
    assert told[1:] == (None, None, None, False)
    told = ENV.judge("I failed. Plan: search Lara Croft, finish Eidos.", "Answer: who?", steps)
    assert told == Verdict(invented=True)
    for write in ENV.templates.values():
        assert well_formed(write("Answer: who?", steps)) and well_formed(write("Answer: who?", []))
    assert "search Lara Croft." in ENV.templates["unread"]("Answer: who?", steps)

def test_constant_plans():
    plans = {name: write(QUESTION, NO_TIME).partition("Plan: ")[2]
             for name, write in ENV.templates.items()}  # fmt: skip
    assert plans == {
        "last": "search Fernkin.",
        "last two": "search Quietverse (novel), search Fernkin.",
        "first": "search Quietverse (novel).",
        "unread": "search Quietverse (film).",
        "last name": "finish Oakton.",
    }

@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
@pytest.mark.parametrize("n", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_oracle_is_right_and_constant_plans_invent_nothing(split, n):
    judge_the_oracle_and_templates(ENV, split, n)
