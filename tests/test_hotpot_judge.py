"""HotPotQA's judge and its oracle against verdicts and reflections made by hand; constant plans."""

import os
import re
from pathlib import Path

import pytest

import envs
from envs.hotpot.goals import Goal, parse_goal
from envs.observer import Verdict
from retro.prompts import well_formed
from tests.judging import judge_the_oracle_and_templates

DATA = os.environ.get("RETRO_DATA")
ENV = envs.make("hotpot")

def search(title: str, reply: str) -> tuple[str, str]:
    return f"Search[ {title} ]", reply

def finish(words: str) -> tuple[str, str]:
    return f"Finish[ {words} ]", "Answer is INCORRECT."

CHAIN = ("Answer by searching: In which land is the town where the director of the film "
         "Quietverse lives?")  # fmt: skip
FILM = search("Quietverse", "The film Quietverse has music by Fernkin and was produced by Mosswin. "
              "The film was directed by Sorrelmund.")  # fmt: skip
COMPOSER = search("Fernkin", "The artist Fernkin lives in Elmbay. The artist was born in Oakton "
                  "and works in Redham.")  # fmt: skip
ELMBAY = search("Elmbay", "The town Elmbay is in the land Coldmoor and is on the river Elmford.")
DIRECTOR = search("Sorrelmund", "The artist Sorrelmund was born in Greyford and works in Eastlake "
                  "and lives in Westgate.")  # fmt: skip
GREYFORD = search("Greyford", "The town Greyford is on the river Foxmere. The town is in the land "
                  "Highdale.")  # fmt: skip
HOME = search("Westgate", "The town Westgate is on the river Ironmere and is in the land Wolfholm.")
FORK = search("Quietverse", "Could not find Quietverse. Similar: Quietverse (song), "
              "Quietverse (film), Fernkin, Elmbay.")  # fmt: skip
SONG = search("Quietverse (song)", "The song Quietverse was sung by Willowward and has words by "
              "Ravenhild and was arranged by Flintgard.")  # fmt: skip
SINGER = search("Willowward", "The artist Willowward works in Redham and was born in Oakton and "
                "lives in Coldbay.")  # fmt: skip
NO_TITLE = search("director of Quietverse", "Could not find director of Quietverse. "
                  "Similar: Quietverse, Fernkin, Elmbay, Oakton.")  # fmt: skip
WANTED = "land of home of director of film Quietverse"
FIRST, SECOND = "director of Quietverse is Sorrelmund", "home of Sorrelmund is Westgate"
THIRD = "land of Westgate is Wolfholm"

HOP = [FILM, COMPOSER, ELMBAY]
EARLY = [FILM, DIRECTOR, finish("Westgate")]
OTHER = [FILM, DIRECTOR, HOME, finish("Ironmere")]
ALL = [FILM, DIRECTOR, HOME]
SENSE = [FORK, SONG, SINGER]
STRAY = [FILM, DIRECTOR, GREYFORD, finish("Highdale")]  # followed a wrong fact of the right artist

ORDERED = "Answer by searching: Which town was founded first, the town Elmbay or the town Oakton?"
OLD = search("Elmbay", "The town Elmbay got walls in the 5th century. The town was founded in the "
             "9th century.")  # fmt: skip
OLDER = search("Oakton", "The town Oakton was founded in the 4th century and got walls in the 7th "
               "century.")  # fmt: skip
THREE = ORDERED.replace(" or the", ", the").replace("?", " or the town Redford?")
OF_TOWNS = "first century of town Elmbay and town Oakton"
SAME = "Answer by searching: Do the artist Mosswin and the artist Fernkin live in the same town?"
MOSSWIN = search("Mosswin", "The artist Mosswin lives in Elmbay and works in Oakton and was born "
                 "in Greyford.")  # fmt: skip

@pytest.mark.parametrize("question, steps, kind, reflection", [
    (CHAIN, HOP, "wrong relation",
     f"Notes: {WANTED}; {FIRST}; home of Sorrelmund not read. Cause: I followed the composer of "
     f"Quietverse, but the {FIRST}. Plan: search Sorrelmund."),
    (CHAIN, [FILM, COMPOSER, finish("Fernkin")], "wrong fact",
     f"Notes: {WANTED}; {FIRST}; home of Sorrelmund not read. Cause: I answered the composer of "
     f"Quietverse, but the {FIRST}. Plan: search Sorrelmund."),
    (CHAIN, EARLY, "only a step",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; land of Westgate not read. Cause: I answered Westgate, "
     "but it is only the home of Sorrelmund. Plan: search Westgate."),
    (CHAIN, OTHER, "wrong fact",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; {THIRD}. Cause: I answered the river of Westgate, but "
     f"the {THIRD}. Plan: finish Wolfholm."),
    (CHAIN, ALL, "no step left",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; {THIRD}. Cause: I had no step left, but the {THIRD}. "
     "Plan: finish Wolfholm."),
    (CHAIN, STRAY, "wrong relation",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; land of Westgate not read. Cause: I followed the "
     f"birthplace of Sorrelmund, but the {SECOND}. Plan: search Westgate."),
    (CHAIN, SENSE, "wrong sense",
     f"Notes: {WANTED}; director of Quietverse not read. Cause: I read the song Quietverse, but "
     "the film Quietverse was asked. Plan: search Quietverse (film)."),
    (CHAIN, [FILM, NO_TITLE], "no title",
     f"Notes: {WANTED}; {FIRST}; home of Sorrelmund not read. Cause: I did not read Sorrelmund, "
     "but searched director of Quietverse, which is no title. Plan: search Sorrelmund."),
    (CHAIN, [FILM, DIRECTOR], "not read",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; land of Westgate not read. Cause: I had no step left, "
     "but did not read Westgate. Plan: search Westgate."),
    (CHAIN, [FILM, DIRECTOR, search("Oakton", "The town Oakton is in the land Foxdale."),
             finish("Foxdale")], "wrong paragraph",
     f"Notes: {WANTED}; {FIRST}; {SECOND}; land of Westgate not read. Cause: I went on from "
     f"Oakton, but the {SECOND}. Plan: search Westgate."),
    # an earlier plan made the trial begin at the artist; if that way led to a wrong answer, it
    # is not taken for the question's
    (CHAIN, [DIRECTOR, HOME], "no step left",
     f"Notes: {WANTED}; {SECOND}; {THIRD}. Cause: I had no step left, but the {THIRD}. "
     "Plan: finish Wolfholm."),
    (CHAIN, [DIRECTOR, HOME, finish("Wolfholm")], "not read",
     f"Notes: {WANTED}; director of Quietverse not read. Cause: I answered Wolfholm, but did not "
     "read Quietverse. Plan: search Quietverse."),
    # comparisons: of two towns one is left, of three two, or none is
    (ORDERED, [OLD, OLDER, finish("Elmbay")], "wrong comparison",
     f"Notes: {OF_TOWNS}; century of Elmbay is the 9th; century of Oakton is the 4th. Cause: I "
     "compared the walls, but the answer is Oakton. Plan: finish Oakton."),
    (ORDERED, [OLD, finish("Elmbay")], "guess",
     f"Notes: {OF_TOWNS}; century of Elmbay is the 9th; century of Oakton not read. Cause: I "
     "guessed Elmbay without having read Oakton. Plan: finish Oakton."),
    (ORDERED, [OLD], "not read",
     f"Notes: {OF_TOWNS}; century of Elmbay is the 9th; century of Oakton not read. Cause: I had "
     "no step left, but did not read Oakton. Plan: search Elmbay, search Oakton."),
    (THREE, [OLD, OLDER], "not read",
     f"Notes: {OF_TOWNS} and town Redford; century of Elmbay is the 9th; century of Oakton is the "
     "4th; century of Redford not read. Cause: I had no step left, but did not read Redford. "
     "Plan: search Oakton, search Redford."),
    (THREE, [OLD, OLDER, finish("Oakton")], "guess",
     f"Notes: {OF_TOWNS} and town Redford; century of Elmbay is the 9th; century of Oakton is the "
     "4th; century of Redford not read. Cause: I guessed Oakton without having read Redford. "
     "Plan: finish Redford."),
    (SAME, [MOSSWIN, COMPOSER, finish("no")], "wrong answer",
     "Notes: same home of artist Mosswin and artist Fernkin; home of Mosswin is Elmbay; home of "
     "Fernkin is Elmbay. Cause: I answered no, but the answer is yes. Plan: finish yes."),
    (SAME, [MOSSWIN, finish("yes")], "guess",
     "Notes: same home of artist Mosswin and artist Fernkin; home of Mosswin is Elmbay; home of "
     "Fernkin not read. Cause: I guessed yes without having read Fernkin. Plan: finish no."),
])  # fmt: skip
def test_the_oracle_on_each_kind_of_failure(question, steps, kind, reflection):
    assert ENV.oracle_reflection(question, steps) == reflection
    facts = reflection.removeprefix("Notes: ").partition(". Cause: ")[0].split("; ")
    assert ENV.observer.notes(question, steps) == facts
    verdict = ENV.judge(reflection, question, steps)
    bare = reflection.partition("Cause: ")[2]
    place = True if re.search(r"the \w+ of \w+ is \w+\.", bare) else None  # it states a fact
    assert verdict == Verdict(kind, True, True, place, False, True)
    bare = ENV.judge(f"Cause: {bare}", question, steps)
    assert bare == verdict._replace(notes=None)

@pytest.mark.parametrize("steps, cause, kind, true, place", [
    (HOP, f"I followed the producer of Quietverse, but the {FIRST}.",
     "wrong relation", False, True),
    (HOP, "I followed the composer of Quietverse, but the director of Quietverse is Mosswin.",
     "wrong relation", False, False),
    (HOP, "I followed the composer of Quietverse, but the composer of Quietverse is Fernkin.",
     "wrong relation", False, True),  # true of the film, but nobody asked for it
    (HOP, f"I went on from Elmbay, but the {FIRST}.", "wrong paragraph", True, True),
    (HOP, f"I went on from Quietverse, but the {FIRST}.", "wrong paragraph", False, True),
    (HOP, f"I had no step left, but the {FIRST}.", "no step left", True, True),
    (HOP, "I did not read Sorrelmund.", "not read", True, None),
    (HOP, "I did not read Mosswin.", "not read", False, None),  # nor did it have to
    (HOP, "I did not read Sorrelmund, but searched Fernkin, which is no title.",
     "no title", False, None),
    ([FILM, DIRECTOR, finish("Sorrelmund")], "I followed the director of Quietverse, but the "
     f"{SECOND}.", "wrong relation", False, True),  # it was right to
    (EARLY, "I answered Westgate, but it is only the birthplace of Sorrelmund.",
     "only a step", False, None),
    (EARLY, f"I answered the home of Sorrelmund, but the {SECOND}.", "wrong fact", False, True),
    (EARLY, "I answered Greyford, but did not read Westgate.", "not read", False, None),
    (EARLY, "I had no step left, but did not read Westgate.", "not read", False, None),
    (OTHER, f"I answered the land of Westgate, but the {THIRD}.", "wrong fact", False, True),
    (OTHER, f"I answered Ironmere, but the {THIRD}.", "wrong answer", True, True),
    (OTHER, "I did not read Westgate.", "not read", False, None),
    # a fact of a paragraph on the way, although not the one that leads on
    ([*ALL, finish("Fernkin")], "I answered Fernkin, but it is only the composer of Quietverse.",
     "only a step", True, None),
    (SENSE, "I read the film Quietverse, but the song Quietverse was asked.",
     "wrong sense", False, None),
    (SENSE, "I did not read Quietverse (film), but searched Quietverse, which is no title.",
     "no title", True, None),
    (SENSE, "I did not read Quietverse (film), but searched Quietverse (song), which is no title.",
     "no title", False, None),
    (ALL, "I was not careful enough.", "", None, None),
    (ALL, f"I had no step left, but {THIRD}.", "", None, True),  # not in the words of a cause
])  # fmt: skip
def test_causes_that_the_trial_does_not_show(steps, cause, kind, true, place):
    """And some that it does, though its oracle names another one."""
    verdict = ENV.judge(f"Cause: {cause} Plan: search Quietverse.", CHAIN, steps)
    assert (verdict.kind, verdict.cause, verdict.place) == (kind, true, place)

@pytest.mark.parametrize("cause, true", [
    ("I compared the walls, but the answer is Oakton.", True),
    ("I compared the century, but the answer is Oakton.", False),
    ("I compared the river, but the answer is Oakton.", False),
    ("I compared the walls, but the answer is Elmbay.", False),
    ("I guessed Elmbay without having read Oakton.", False),
    ("I answered Elmbay, but the answer is Oakton.", True),
])  # fmt: skip
def test_causes_of_a_comparison(cause, true):
    trial = [OLD, OLDER, finish("Elmbay")]
    assert ENV.judge(f"Cause: {cause} Plan: finish Oakton.", ORDERED, trial).cause is true
    trial = [OLD, OLDER, finish("Oakton")]
    last = ORDERED.replace("first", "last")
    told = ENV.judge("Cause: I compared the walls. Plan: finish Elmbay.", last, trial)
    assert (told.kind, told.cause, told.sound) == ("wrong comparison", True, True)
    trial = [OLD, search("Oakton", OLDER[1].replace("7th", "4th")), finish("Elmbay")]
    told = ENV.judge("Cause: I compared the walls. Plan: finish Oakton.", ORDERED, trial)
    assert told.cause is False  # by its walls Oakton is the first as well
    trial = [OLD, search("Oakton", OLDER[1].replace("7th", "5th")), finish("Elmbay")]
    told = ENV.judge("Cause: I compared the walls. Plan: finish Oakton.", ORDERED, trial)
    assert told.cause is False  # their walls are equally old
    assert "I answered Elmbay, but the answer is Oakton." in ENV.oracle_reflection(ORDERED, trial)

@pytest.mark.parametrize("question, steps, plan, sound, invented", [
    # three steps: from the director on they suffice, from the film on four are needed
    (CHAIN, HOP, "search Sorrelmund", True, False),
    (CHAIN, HOP, "search Quietverse", False, False),
    (CHAIN, [*HOP, NO_TITLE], "search Quietverse", True, False),
    (CHAIN, HOP, "search Elmbay, search Sorrelmund", False, False),  # one step too many
    (CHAIN, HOP, "search Sorrelmund, search Elmbay", False, False),  # goes on from Elmbay
    (CHAIN, HOP, "search Fernkin", False, False),
    (CHAIN, HOP, "search Poppyvin", False, True),
    (CHAIN, HOP, "finish Wolfholm", False, True),  # right, but nobody can know it
    (CHAIN, EARLY, "finish Westgate", False, False),
    # all is known
    (CHAIN, ALL, "finish Wolfholm", True, False),
    (CHAIN, ALL, "finish Ironmere", False, False),
    (CHAIN, ALL, "search Westgate, finish Wolfholm", True, False),
    (CHAIN, ALL, "finish Ironmere, finish Wolfholm", False, False),  # the first one ends the trial
    (CHAIN, ALL, "search Westgate", True, False),
    (CHAIN, ALL, "search Quietverse", False, False),
    (CHAIN, [*ALL, finish("Ironmere")], "search Quietverse", True, False),
    (CHAIN, ALL, "read each paragraph with more care", False, False),
    # the sense counts
    (CHAIN, SENSE, "search Quietverse (film)", True, False),
    (CHAIN, SENSE, "search Quietverse", False, False),
    (CHAIN, SENSE, "search Quietverse (song)", False, False),
    (CHAIN, [FILM], "search Sorrelmund (artist)", True, False),  # a sense that nobody showed
    # comparisons need each end, and the towns that are out need no step
    (ORDERED, [OLD], "search Elmbay, search Oakton", True, False),
    (ORDERED, [OLD], "search Oakton", False, False),
    (ORDERED, [OLD, finish("Elmbay")], "finish Elmbay", False, False),
    (THREE, [OLD, OLDER], "search Oakton, search Redford", True, False),
    (THREE, [OLD, OLDER], "search Elmbay, search Redford", False, False),
    (SAME, [MOSSWIN, finish("yes")], "finish no", True, False),
    (SAME, [MOSSWIN, finish("yes")], "finish yes", False, False),
])  # fmt: skip
def test_plans(question, steps, plan, sound, invented):
    told = ENV.judge(f"Cause: I was not careful enough. Plan: {plan}.", question, steps)
    assert told == Verdict("", None, sound, None, invented)

@pytest.mark.parametrize("facts, right", [
    ([WANTED, FIRST, "home of Sorrelmund not read"], True),
    (["home of Sorrelmund not read", FIRST, WANTED], True),
    ([WANTED, FIRST, "composer of Quietverse is Fernkin", "home of Sorrelmund not read"], True),
    ([WANTED, FIRST], False),
    ([WANTED, "home of Sorrelmund not read"], False),
    ([FIRST, "home of Sorrelmund not read"], False),
    ([WANTED.replace("home", "workplace"), FIRST, "home of Sorrelmund not read"], False),
    ([WANTED, FIRST.replace("Sorrelmund", "Mosswin"), "home of Sorrelmund not read"], False),
    ([WANTED, FIRST, SECOND], False),  # true, but the trial did not show it
    ([WANTED, FIRST, "home of Sorrelmund not read", "home of Fernkin not read"], False),
])  # fmt: skip
def test_notes(facts, right):
    said = f"Notes: {'; '.join(facts)}. Cause: I had no step left. Plan: search Sorrelmund."
    assert ENV.judge(said, CHAIN, HOP).notes is right

# ---- Real questions.

def test_of_a_real_question_little_is_told():
    steps = [("Search[Lara]", "Could not find Lara. Similar: Lara Croft, Alice David.")]
    told = ENV.judge("I did not read Lara Croft. Plan: search Lara Croft.", "Answer: who?", steps)
    assert told == Verdict("not read", None, None, None, False)
    told = ENV.judge("I failed. Plan: search Lara Croft, finish Eidos.", "Answer: who?", steps)
    assert told == Verdict(invented=True)
    said = ENV.oracle_reflection("Answer: who?", steps)
    assert said == "Cause: I did not find the answer. Plan: search Lara Croft."
    for write in ENV.templates.values():
        assert well_formed(write("Answer: who?", steps)) and well_formed(write("Answer: who?", []))
    assert "search Lara Croft." in ENV.templates["unread"]("Answer: who?", steps)

@pytest.mark.parametrize("question", [
    "Who is the director of the film Kiss and Tell?",
    "Which town was founded first, Elmbay or Oakton?",  # of what kind?
    "In which town was the director of the film Big Stone Gap born?",
    "What is the director of the artist Sorrelmund?",  # an artist has none
    "On which river is the town where the town Westgate lives?",
    "Were the artist Mosswin and Frank Zappa born in the same town?",
    "In which land is the town Westgate? And the town Oakton?",
    "Who wrote it?",
    "",
])  # fmt: skip
def test_no_other_question_is_taken_for_a_made_up_one(question):
    assert parse_goal(f"Answer by searching: {question}") == Goal()

@pytest.mark.skipif(not DATA, reason="RETRO_DATA does not name the folder of real data")
@pytest.mark.parametrize("name", ["distractor_50", "train_100"])
def test_no_question_of_hotpotqa_is_taken_for_a_made_up_one(name):
    env = envs.make("hotpot", data=Path(DATA) / f"hotpotqa_{name}.json")
    for task in env.tasks("any", 1000, 0):
        observation, _ = env.reset(task)
        assert parse_goal(observation) == Goal(), observation
        actions = ["Search[nothing of this name]", env.admissible_actions()[-1], "Finish[x]"]
        steps = [(action, env.step(action)[0]) for action in actions]
        said = env.oracle_reflection(observation, steps)
        assert env.observer.notes(observation, steps) == [] and said.startswith("Cause: ")
        told = env.judge(said, observation, steps)
        assert (told.cause, told.sound, told.notes, told.invented) == (None, None, None, False)

# ---- Constant plans.

def test_constant_plans():
    def plans(steps):
        texts = {name: write(CHAIN, steps) for name, write in ENV.templates.items()}
        assert all(well_formed(text) for text in texts.values())
        return {name: text.partition("Plan: ")[2] for name, text in texts.items()}

    assert plans(ALL) == {
        "last": "search Westgate.",
        "last two": "search Sorrelmund, search Westgate.",
        "first": "search Quietverse.",
        "second": "search Sorrelmund.",
        "all": "search Quietverse, search Sorrelmund, search Westgate.",
        "first offered": "search Quietverse.",  # none is offered: the first title
        "unread": "search Quietverse.",
        "second name": "search Mosswin.",
        "third name": "search Sorrelmund.",
        "unread name": "search Fernkin.",
        "given": "search Westgate.",
        "last name": "finish Wolfholm.",
    }
    forked = plans([FORK, SONG, finish("Ravenhild")])
    assert forked["first offered"] == forked["first"] == "search Quietverse (song)."
    assert forked["unread"] == "search Quietverse (film)."
    assert forked["unread name"] == "search Willowward."
    assert forked["given"] == "search Ravenhild."
    assert {*plans([]).values()} == {"search the topic.", "finish the topic."}

@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
@pytest.mark.parametrize("n", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_oracle_is_right_and_constant_plans_invent_nothing(split, n):
    judge_the_oracle_and_templates(ENV, split, n)
