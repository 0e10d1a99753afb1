"""The memories: JSON lines that survive a crash, lines of D_RL, the newest reflections."""

import json
import math
from dataclasses import replace

import pytest
import torch

from retro.interop.open import open_model
from retro.memory import FIELDS, Rated, read_buffer, recall, replay_buffer
from retro.run.files import JsonLines

def row(i):
    return dict(zip(FIELDS, ("household", f"task-{i}", 0, "x\ny", "é", 0.5, 1.0, 0.5)))

def test_append_then_read(tmp_path):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.restore(buffer.mark)
    buffer.append([row(0), row(1)])
    buffer.append([row(2)])
    assert list(buffer) == [row(0), row(1), row(2)] and buffer.mark["lines"] == 3

@pytest.mark.parametrize("tail", [b"", b"\n", b'{"env": "ho', b"\xff\xfe"])
def test_restore_drops_what_came_after_the_mark(tmp_path, tail):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.append([row(0), row(1)])
    mark = buffer.mark
    buffer.append([row(2)])
    with buffer.path.open("ab") as file:
        file.write(tail)  # a write cut short by a kill
    again = replay_buffer(buffer.path)  # in another process
    again.restore(mark)
    assert list(again) == [row(0), row(1)] and again.mark == mark
    again.append([row(3)])
    assert list(again) == [row(0), row(1), row(3)]
    third = replay_buffer(buffer.path)
    third.restore(again.mark)
    assert third.mark == again.mark and third.mark["bytes"] == buffer.path.stat().st_size

@pytest.mark.parametrize(
    "harm, message",
    [
        (lambda data: data[:-1], "only 1 of the 2 lines"),  # or the next row would be glued to it
        (lambda data: b"", "only 0 of the 2 lines"),
        (lambda data: data.replace(b"task-0", b"task-7"), "others than the 2 lines"),
        (lambda data: data.split(b"\n")[1] * 2 + b"\n" * 2, "others than the 2 lines"),
        (lambda data: data.splitlines(True)[1], "only 1 of the 2 lines"),
    ],
)
def test_lines_that_are_gone_are_named_and_nothing_is_written(tmp_path, harm, message):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.append([row(0), row(1)])
    left = harm(buffer.path.read_bytes())
    buffer.path.write_bytes(left)
    with pytest.raises(ValueError, match=f"replay.jsonl: holds {message} that the checkpoint"):
        replay_buffer(buffer.path).restore(buffer.mark)
    assert buffer.path.read_bytes() == left
    buffer.path.unlink()
    with pytest.raises(ValueError, match="holds only 0 of the 2 lines"):
        replay_buffer(buffer.path).restore(buffer.mark)

def test_missing_file_becomes_empty(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.restore(lines.mark)
    assert list(lines) == [] and lines.mark["bytes"] == 0

@pytest.mark.parametrize(
    "line, message", [('{"env"', "not JSON"), ('{"env": 1}', "fields"), ("[]", "fields")]
)
def test_foreign_lines_are_named(tmp_path, line, message):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.append([row(0)])
    with buffer.path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=rf"replay.jsonl:2: .*{message}"):
        list(buffer)

@pytest.mark.parametrize("n, newest", [(0, ()), (1, ("c",)), (2, ("b", "c")), (3, ("a", "b", "c")),
                                       (9, ("a", "b", "c"))])  # fmt: skip
def test_recall_gives_the_newest_reflections_oldest_first(n, newest):
    assert recall(["a", "b", "c"], n) == recall(("a", "b", "c"), n) == newest

@pytest.mark.parametrize("response", [" I was slow. Plan: look.\n", " I was cut o"])
def test_a_rated_reflection_comes_back_from_its_line(tiny_lm, response):
    encode = tiny_lm.tokenizer.encode
    rated = Rated("guess", "t", 1, encode("A mug 1.\nReflection:"), encode(response), response,
                  0.25, 1.0, 0.75)  # fmt: skip
    line = rated.to_row(tiny_lm)
    assert tuple(line) == (*FIELDS, "cause") and line["prompt"] == "A mug 1.\nReflection:"
    assert (line["response"], line["return"], line["rating"]) == (response, 0.25, 0.75)
    assert Rated.from_row(line, tiny_lm) == rated
    judged = replace(rated, cause=False)
    assert Rated.from_row(json.loads(json.dumps(judged.to_row(tiny_lm))), tiny_lm) == judged
    del line["cause"]  # as in files of before
    assert Rated.from_row(line, tiny_lm) == rated

def test_rows_from_anywhere_become_one_line_answers(tiny_lm, tmp_path):
    path = tmp_path / "replay.jsonl"
    replay_buffer(path).append([row(0) | {"response": "two\n lines "}])
    (rated,) = read_buffer(path, (-1.0, 1.0), tiny_lm)
    assert rated.response == " two lines\n" and rated.rating == 0.5
    assert rated.response_ids == tiny_lm.tokenizer.encode(" two lines\n")

def read(tmp_path, lm, rating_range=(-1.0, 1.0), kind="delta", **changes):
    path = tmp_path / "replay.jsonl"
    path.unlink(missing_ok=True)
    replay_buffer(path).append([row(0), row(1) | changes])
    return read_buffer(path, rating_range, lm, kind)

@pytest.mark.parametrize("changes, message", [
    ({"return": -3, "next_return": 17}, r"return -3: must be in \[0, 1\]"),
    ({"next_return": 17}, r"next_return 17: must be in \[0, 1\]"),
    ({"return": math.nan}, r"return nan: must be"),
    ({"next_return": math.inf}, r"next_return inf: must be"),
    ({"rating": math.nan}, r"rating nan: must be in \[-1.0, 1.0\]"),
    ({"rating": 10**400}, r"rating 1000"),
    ({"rating": 0.25}, r"rating 0.25, but by its returns 0.5"),
    ({"rating": -0.5}, r"rating -0.5, but by its returns 0.5"),
    ({"trial": -1}, r"trial -1: must be in"),
    ({"trial": 10**7}, r"trial 10000000: must be in"),
    ({"trial": 1.5}, r"trial is 1.5"),
    ({"trial": True}, r"trial is True"),
    ({"cause": 1}, r"cause is 1"),
    ({"cause": "yes"}, r"cause is 'yes'"),
    ({"env": "a\x1b[2J"}, r"env 'a\\x1b\[2J' is not printable"),
    ({"task_id": "a\n"}, r"task_id 'a\\n' is not printable"),
    ({"response": ["x" * 10**6]}, r"response is \['xxx"),
    ({"prompt": "\n"}, "prompt is empty"),
    ({"env": ""}, "env is empty"),
    ({"task_id": " "}, "task_id is empty"),
])  # fmt: skip
def test_a_line_that_is_not_as_documented_is_refused_with_its_number(
    tiny_lm, tmp_path, changes, message
):
    with pytest.raises(ValueError, match=rf"replay.jsonl:2: {message}") as error:
        read(tmp_path, tiny_lm, **changes)
    assert len(str(error.value)) < 400 and str(error.value).isprintable()

@pytest.mark.parametrize("kind, rating_range, right, wrong", [
    ("delta", (-1.0, 1.0), (0.5, 0.501, 0.499), (0.49, 0.0)),  # the returns are .5 and 1
    ("next", (0.0, 1.0), (1.0,), (0.5,)),
    ("success", (0.0, 1.0), (1.0, 0.0), (1.1, -0.1, 0.37)),
])  # fmt: skip
def test_a_rating_is_what_the_returns_give(
    tiny_lm, tmp_path, kind, rating_range, right, wrong
):
    def rated(rating):
        path = tmp_path / "b.jsonl"
        path.write_text(json.dumps(row(0) | {"rating": rating}) + "\n")
        return read_buffer(path, rating_range, tiny_lm, kind)[0].rating

    assert [rated(rating) for rating in right] == list(right)
    for rating in wrong:
        with pytest.raises(ValueError, match="b.jsonl:1: rating"):
            rated(rating)

def test_a_success_has_all_of_the_return(tiny_lm, tmp_path):
    path = tmp_path / "b.jsonl"
    for rating, next_return in ((1, 0.9), (1.0, 0.0), (0.9, 0.9), (0.5, 1.0)):
        changes = {"rating": rating, "next_return": next_return}
        path.write_text(json.dumps(row(0) | changes) + "\n")
        with pytest.raises(ValueError, match=r"b.jsonl:1: rating .*\(--rating success\)"):
            read_buffer(path, (0.0, 1.0), tiny_lm, "success")

@pytest.mark.parametrize("response", ["", " \n\n"])
def test_a_blank_response_is_a_row(tiny_lm, tmp_path, response):
    """A run's own replay.jsonl has such rows: what a reflector wrote is rated, also nothing."""
    assert read(tmp_path, tiny_lm, response=response)[1].response == " \n"

def test_blank_lines_at_the_end_of_a_buffer_are_no_rows(tiny_lm, tmp_path):
    path, line = tmp_path / "b.jsonl", json.dumps(row(0))
    for end in ("", "\n", "\n\n", "\r\n \n\n"):
        path.write_text(line + end)
        assert len(read_buffer(path, (-1.0, 1.0), tiny_lm)) == 1
    path.write_text(f"{line}\n\n{line}\n")  # elsewhere, something may be gone
    with pytest.raises(ValueError, match="b.jsonl:2: not JSON"):
        read_buffer(path, (-1.0, 1.0), tiny_lm)

def test_a_response_and_its_prompt_fit_into_any_context_that_holds_the_frame(tiny_chat):
    lm = open_model(str(tiny_chat), torch.device("cpu"), False)
    around = sum(map(len, lm.around))
    for lm.context in (around + 4, around + 50, 2 * around + 1):
        long = row(0) | {"prompt": "mug " * 900, "response": "b " * 900}
        rated = Rated.from_row(long, lm)
        assert len(rated.prompt_ids) + len(rated.response_ids) <= lm.context
        assert len(rated.prompt_ids) > around and rated.response_ids

@pytest.mark.parametrize("cause", [True, False, None])
def test_the_price_of_a_false_cause_is_not_in_the_buffer(tiny_lm, tmp_path, cause):
    """The rating is what the returns give, whatever was said: such a file loads as any other."""
    (_, rated) = read(tmp_path, tiny_lm, cause=cause)
    assert (rated.rating, rated.cause) == (0.5, cause)

def test_rows_are_of_the_form_that_the_run_asks_for(tiny_base, tiny_lm, tmp_path):
    """Else the reflector would learn after one request, and be asked by another."""
    bare = open_model(str(tiny_base), torch.device("cpu"), False, notes=False)
    with_notes, without = {"prompt": "x\nReflection:"}, {"prompt": "x\nReflection: Cause:"}
    assert read(tmp_path, tiny_lm, **with_notes) and read(tmp_path, bare, **without)
    with pytest.raises(ValueError, match=":2: prompt ends in 'Reflection: Cause:': only for a run "
                                         "with --no-notes"):  # fmt: skip
        read(tmp_path, tiny_lm, **without)
    with pytest.raises(ValueError, match="2: prompt ends in 'Reflection:': only for a run with "
                                         "--notes"):  # fmt: skip
        read(tmp_path, bare, **with_notes)
