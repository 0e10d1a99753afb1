"""HotPotQA: the engine to the letter, the official scores, tasks from files and made-up ones."""

import html
import json
import os
import random
from pathlib import Path

import pytest

from envs.hotpot import Hotpot, exact_match, f1_score, load_items
from retro.prompts import well_formed

# 50 questions of HotpotQA, and 254 recorded answers with their official scores
DATA = os.environ.get("RETRO_DATA")
real = pytest.mark.skipif(not DATA, reason="RETRO_DATA does not name the folder of real data")
ITEM = {
    "_id": "x",
    "question": "In which town was the director of the film Quietverse born?",
    "answer": "the Oak Cross",
    "type": "bridge",
    "level": "hard",
    "supporting_facts": [["Quietverse (film)", 0], ["Ravenmund", 0]],
    "context": [
        ["Quietverse (film)", ["The film Quietverse has music by Y.", " It is by Ravenmund."]],
        ["Quietverse (novel)", ["The novel Quietverse was written by Z."]],
        ["Ravenmund", [f"Sentence {i} on Oak." for i in range(7)]],
    ],
}
TASK = {"env": "hotpot", "id": "x", "max_steps": 7, "item": ITEM}

# ---- The engine.

def test_a_transcript_to_the_letter():
    env = Hotpot()
    observation, info = env.reset(TASK)
    assert observation == f"Answer by searching: {ITEM['question']}"
    assert info == {"success": False, "progress": 0.0}
    ravenmund = "Sentence 0 on Oak. Sentence 1 on Oak. Sentence 2 on Oak. Sentence 3 on Oak."
    for action, reply, reward, progress in (
        (
            "Search[Quietverse]",
            "Could not find Quietverse. Similar: Quietverse (film), Quietverse (novel), Ravenmund.",
            0,
            0,
        ),
        ("Lookup[oak]", "No more results.", 0, 0),
        (
            "search[ quietverse (FILM) ]",
            "The film Quietverse has music by Y. It is by Ravenmund.",
            0,
            0.25,
        ),
        ("Lookup[ravenmund]", "(Result 1 / 1) It is by Ravenmund.", 0, 0.25),
        ("Search[Ravenmund]", f"{ravenmund} Sentence 4 on Oak.", 0, 0.5),
        ("think[where?]", "OK.", 0, 0.5),
        ("Finish[Oak  Bend]", "Answer is INCORRECT.", 0.5, 0.5),
    ):
        got = env.step(action)
        assert got[:2] == (reply, reward), action
        assert got[4] == {"success": False, "progress": progress}, action
    assert got[2:4] == (True, False)  # ended by Finish, although it was the last step
    assert env.step("Finish[Oak Cross]") == got, "after the end the last answer is repeated"

def test_lookup_walks_the_paragraph_found_last():
    env = Hotpot(max_steps=20)
    env.reset(TASK)
    env.step("Search[Ravenmund]")
    for i in range(7):  # past the five sentences that the search shows
        assert env.step("Lookup[oak]")[0] == f"(Result {i + 1} / 7) Sentence {i} on Oak."
    assert env.step("Lookup[oak]")[0] == "No more results."
    assert env.step("Lookup[Sentence 3]")[0] == "(Result 1 / 1) Sentence 3 on Oak."
    assert env.step("Lookup[oak]")[0] == "(Result 1 / 7) Sentence 0 on Oak.", "a new word"
    env.step("Search[Quietverse (novel)]")
    assert env.step("Lookup[oak]")[0] == "No more results."

def test_the_end():
    env = Hotpot()
    env.reset(TASK)
    assert env.step("Finish[oak cross.]")[1:] == (
        1.0,
        True,
        False,
        {"success": True, "progress": 1.0},
    )
    env = Hotpot(max_steps=2)
    env.reset(TASK)
    assert env.step("Search[Ravenmund]")[2:4] == (False, False)
    last = env.step("Search[Ravenmund]")
    assert last[1:] == (0.0, False, True, {"success": False, "progress": 0.25})
    assert env.step("Finish[Oak Cross]") == last
    assert env.fresh().max_steps == 2 and env.fresh() is not env

def test_any_string_is_an_action():
    env, rng = Hotpot(max_steps=10**6), random.Random(0)
    env.reset(TASK)
    for action in ("", "Search", "Search[]", "Lookup[]", "Search[a]b]", "go [x]", "Search [Oak]\n"):
        assert isinstance(env.step(action)[0], str), action
    for _ in range(500):
        action = "".join(rng.choices("Search[]Lokup think\n\t\\ü(", k=rng.randint(0, 20)))
        reply, _, terminated, truncated, _ = env.step(action)
        assert isinstance(reply, str) and not terminated and not truncated, action
    assert env.step("sing[x]")[0] == "Invalid action."

def test_admissible_actions():
    env = Hotpot()
    env.reset(TASK)
    actions = env.admissible_actions()
    assert actions == sorted(actions) and len(actions) == 3 + 5
    for action in actions:
        env.reset(TASK)
        assert not env.step(action)[0].startswith(("Could not", "Invalid")), action

# ---- Titles as HotpotQA really has them.

def opened(context: list, *searches: str, gold=("none",)) -> list:
    """What each search says, and the last progress, in a question with these paragraphs."""
    env = Hotpot(max_steps=100)
    item = ITEM | {"context": context, "supporting_facts": [[title, 0] for title in gold]}
    env.reset(TASK | {"item": item})
    said = [env.step(f"Search[{words}]")[0] for words in searches]
    return [*said, env.info()["progress"]]

def test_a_title_is_searched_as_the_text_writes_it():
    context = [["Simon &amp; Garfunkel", ["Two."]], ["Say &quot;Ah&#39;&quot;", ["Ah."]]]
    names = "SIMON & Garfunkel", "simon &amp; garfunkel", 'say "Ah\'"', "Say &quot;Ah'&quot;"
    assert opened(context, *names)[:-1] == ["Two.", "Two.", "Ah.", "Ah."]
    none = 'Could not find Simo. Similar: Simon & Garfunkel, Say "Ah\'".'
    assert opened(context, "Simo")[0] == none
    for title in ("Simon & Garfunkel", "Simon &amp; Garfunkel"):  # in supporting_facts
        assert opened(context, "Simon & Garfunkel", gold=[title])[-1] == 0.25
    env = Hotpot()
    env.reset(TASK | {"item": ITEM | {"context": context}})
    assert "Search[Simon & Garfunkel]" in env.admissible_actions()
    assert env.glance(random.Random(0))[0] == ("Search[ Simon & Garfunkel ]", "Two.")

@pytest.mark.parametrize("title", ["AT&T", "Q&A; B", "a &copycat", "x & y", "&", "&nosuch;"])
def test_an_ampersand_that_is_no_escape_stays(title):
    assert opened([[title, ["It."]], ["y", ["No."]]], title) == ["It.", 0]

def test_no_paragraph_hides_another():
    first, second = ([f"{x}{i}." for i in range(7)] for x in "ab")
    said, progress = opened([["R", first], ["R", second]], "R", gold=["R"])
    assert said == "a0. a1. a2. a3. a4. b0. b1. b2. b3. b4." and progress == 0.25
    context = [["IT", ["Films."]], ["It", ["Words."]], ["Other", ["No."]]]
    assert opened(context, "It", "IT", "it")[:-1] == ["Words.", "Films.", "Films. Words."]
    assert opened(context, "it", gold=["It"])[-1] == 0.25
    assert opened(context, "IT", gold=["It"])[-1] == 0
    env = Hotpot()
    env.reset(TASK | {"item": ITEM | {"context": [["R", first], ["R", second]]}})
    env.step("Search[R]")
    assert [env.step("Lookup[6]")[0] for _ in "12"] == ["(Result 1 / 2) a6.", "(Result 2 / 2) b6."]

@pytest.mark.parametrize(
    "title, searches",
    [
        ("  Oak\n Cross ", ["Oak Cross", " oak  cross"]),
        ("Caf\u00e9", ["Cafe\u0301", "CAF\u00c9", "Caf\u00e9"]),  # composed or not
        ("Cafe\u0301", ["Caf\u00e9", "cafe\u0301"]),
        ("Oak\xa0&nbsp;Cross", ["Oak Cross"]),
        ("List [a]", ["List [a]", "list [A]"]),
        ("a]b", ["a]b"]),
        ("]", ["]"]),
        ("\uff21\ufb01", ["Afi"]),  # wide letters, ligatures
        ("", ["", " "]),
    ],
)
def test_spellings_of_a_title(title, searches):
    said = opened([["x", ["No."]], [title, ["It."]]], *searches, gold=[title])
    assert said == ["It."] * len(searches) + [0.25]

def test_a_paragraph_without_text():
    assert opened([["a", []], ["b", ["", " "]], ["c", ["", "It.", " ", "So."]]], *"abc") == [
        "No text.", "No text.", "It. So.", 0]  # fmt: skip

@pytest.mark.parametrize("answer", ["The", "!!!", "a", "An, the"])
def test_an_answer_of_articles_and_marks_only(answer):
    for words in ("", " ", "x", "the one", answer.lower()):
        env = Hotpot()
        env.reset(TASK | {"item": ITEM | {"answer": answer}})
        _, reward, _, _, info = env.step(f"Finish[{words}]")
        right = words == answer.lower()
        assert (reward, info) == (right, {"success": right, "progress": right}), words

# ---- The official scores.

@pytest.mark.parametrize(
    "prediction, answer, f1, em",
    [
        ("yes", "yes", 1, True),
        ("Yes.", "yes", 1, True),
        ("yes", "no", 0, False),
        ("yes it is", "yes", 0, False),  # no partial credit for yes and no
        ("yes", "yes it is", 0, False),
        ("no", "no answer", 0, False),
        ("noanswer", "no answer at all", 0, False),
        ("The Beatles", "beatles", 1, True),
        ("an apple a day", "apple day", 1, True),
        ("theatre", "the atre", 0, False),  # an article is a whole word
        ("U.S.A.", "usa", 1, True),
        ("well-known", "well known", 0, False),  # punctuation goes, and no blank comes
        ("a-ha", "aha", 1, True),  # punctuation goes first, so this "a" is no article
        ("", "x", 0, False),
        ("the", "x", 0, False),
        # the official script leaves nothing of these answers: it calls "" a match, with F1 0
        (" the ", "The", 1, True),
        ("!!!", "!!!", 1, True),
        ("A", "a", 1, True),
        ("!!", "!!!", 0, False),
        ("", "The", 0, False),
        ("an", "a", 0, False),
        ("", "", 0, False),
        (" ", "", 0, False),
        ("x x x", "x", 0.5, False),  # repeated tokens count as often as they occur in both
        ("x x y", "x x z", 2 / 3, False),
        ("new york city", "new york", 0.8, False),
        ("21 November 1761", "November 21, 1761", 1, False),
        ("ÉCOLE", "école", 1, True),
        ("  two\n words ", "two words", 1, True),
    ],
)
def test_scores(prediction, answer, f1, em):
    assert f1_score(prediction, answer) == pytest.approx(f1)
    assert exact_match(prediction, answer) is em

@real
def test_scores_of_recorded_answers():
    rows = json.loads((Path(DATA) / "hotpotqa_reflections.json").read_text())
    assert len(rows) == 127
    for row in rows:
        for i in "01":
            prediction, answer = row[f"pred{i}"], row["gold"]
            assert f1_score(prediction, answer) == pytest.approx(row[f"f1_{i}"]), row["id"]
            assert exact_match(prediction, answer) == row[f"em_{i}"], row["id"]

# ---- HotpotQA's files.

def gold_trial(env, task) -> tuple:
    """Search the gold titles, finish with the gold answer: the last answer of the environment."""
    env.reset(task)
    item = task["item"]
    for title in dict.fromkeys(title for title, _ in item["supporting_facts"]):
        name = html.unescape(title)
        start = " ".join(" ".join(dict(item["context"])[title][:1]).split())
        assert env.step(f"Search[{name}]")[0].startswith(start), (task["id"], name)
    return env.step(f"Finish[{task['item']['answer']}]")

@real
@pytest.mark.parametrize("name, n", [("distractor_50", 50), ("train_100", 100)])
def test_real_questions(name, n):
    env = Hotpot(Path(DATA) / f"hotpotqa_{name}.json")
    tasks = env.tasks("any", 1000, 0)
    assert len(tasks) == n and tasks == env.tasks("other", n, 0) != env.tasks("any", n, 1)
    assert env.tasks("any", 7, 0) == tasks[:7]
    rng = random.Random(0)
    for task in tasks:
        _, reward, terminated, _, info = gold_trial(env, task)
        assert (reward, terminated, info) == (1.0, True, {"success": True, "progress": 1.0})
        for raw, text in task["item"]["context"]:  # the distractors too, however they are written
            for title in (raw, html.unescape(raw)):
                env.reset(task)
                reply = env.step(f"Search[{title}]")[0]
                assert reply and " ".join(" ".join(text).split()).startswith(reply), title
        observation, _ = env.reset(task)
        actions = rng.sample(env.admissible_actions(), 3) + ["Search[x y]"]
        steps = [(action, env.step(action)[0]) for action in actions]
        assert well_formed(env.oracle_reflection(observation, steps))
        assert all("\n" not in reply for _, reply in steps)
        env.questions(observation, steps, rng)

@pytest.mark.parametrize(
    "text, wrong",
    [
        (None, "cannot be read"),
        ("", "not JSON"),
        ("[{", "not JSON"),
        ("{}", "a list of questions"),
        ("[]", "a list of questions"),
        ("[1]", "question 0: is not an object"),
        (json.dumps([ITEM, ITEM | {"answer": 3}]), "question 1: 'answer' must be a string"),
        (json.dumps([ITEM, ITEM]), "several tasks have one id, such as x"),
        (json.dumps([ITEM | {"answer": " "}]), "question 0: 'answer' is empty"),
        (json.dumps([ITEM | {"context": []}]), "'context' must be a list that is not empty"),
        (json.dumps([ITEM | {"context": [["t"]]}]), "'context' must hold [title, sentences]"),
        (json.dumps([ITEM | {"context": [["t", "s"]]}]), "'context' must hold [title, sentences]"),
        (json.dumps([ITEM | {"context": [["t", [1]]]}]), "a sentence of 'context'"),
        (json.dumps([ITEM | {"supporting_facts": None}]), "'supporting_facts' must be a list"),
        (json.dumps([ITEM | {"supporting_facts": [["t", "0"]]}]), "must hold [title, number]"),
    ],
)
def test_broken_files(tmp_path, text, wrong):
    path = tmp_path / "hotpot.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError) as error:
        Hotpot(path).tasks("train", 1, 0)
    said = str(error.value)
    assert str(path) in said and wrong in said and "\n" not in said, said

def test_a_file_in_another_encoding(tmp_path):
    path = tmp_path / "hotpot.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(ValueError, match="not JSON"):
        load_items(path)

# ---- Made-up worlds.

@pytest.mark.parametrize("split", ["train", "seen", "unseen"])
def test_generated_tasks(tmp_path, split):
    env = Hotpot(max_steps=20)  # many have no time for the whole way
    tasks = env.tasks(split, 60, 0)
    assert tasks == env.tasks(split, 60, 0) == json.loads(json.dumps(tasks))
    assert tasks != env.tasks(split, 60, 1)
    path = tmp_path / "items.json"
    path.write_text(json.dumps([task["item"] for task in tasks]))
    assert load_items(path) == [task["item"] for task in tasks], "HotpotQA's schema"
    for task in tasks:
        item = task["item"]
        assert gold_trial(env, task)[1:] == (1, True, False, {"success": True, "progress": 1})
        titles = [title for title, _ in item["context"]]
        assert len(set(titles)) == len(titles) and 7 <= len(titles) <= 12
        sentences = dict(item["context"])
        assert all(i < len(sentences[title]) for title, i in item["supporting_facts"])
        text = " ".join(s for title, _ in item["supporting_facts"] for s in sentences[title])
        assert item["answer"] in ("yes", "no") or item["answer"] in text
    with pytest.raises(ValueError, match="must be train, seen or unseen"):
        env.tasks("test", 1, 0)
