"""The memories: JSON lines that survive a crash, lines of D_RL, the newest reflections."""

import pytest

from retro.memory import FIELDS, Rated, read_buffer, recall, replay_buffer
from retro.run.files import JsonLines

def row(i):
    return dict(zip(FIELDS, ("household", f"task-{i}", 0, "x\ny", "é", 0.5, 1.0, 0.5)))

def test_append_then_read(tmp_path):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.truncate(0)
    buffer.append([row(0), row(1)])
    buffer.append([row(2)])
    assert list(buffer) == [row(0), row(1), row(2)] and len(buffer) == 3

@pytest.mark.parametrize("tail", [b"", b"\n", b'{"env": "ho', b"\xff\xfe"])
def test_truncate_drops_what_came_after_the_checkpoint(tmp_path, tail):
    buffer = replay_buffer(tmp_path / "replay.jsonl")
    buffer.append([row(0), row(1), row(2)])
    with buffer.path.open("ab") as file:
        file.write(tail)  # a write cut short by a kill
    buffer.truncate(2)
    assert list(buffer) == [row(0), row(1)]
    buffer.append([row(3)])
    assert list(buffer) == [row(0), row(1), row(3)]

def test_missing_file_becomes_empty(tmp_path):
    lines = JsonLines(tmp_path / "metrics.jsonl")
    lines.truncate(0)
    assert list(lines) == [] and len(lines) == 0

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
    assert tuple(line) == tuple(FIELDS) and line["prompt"] == "A mug 1.\nReflection:"
    assert (line["response"], line["return"], line["rating"]) == (response, 0.25, 0.75)
    assert Rated.from_row(line, tiny_lm) == rated

def test_rows_from_anywhere_become_one_line_answers(tiny_lm, tmp_path):
    path = tmp_path / "replay.jsonl"
    replay_buffer(path).append([row(0) | {"response": "two\n lines "}])
    (rated,) = read_buffer(path, (-1.0, 1.0), tiny_lm)
    assert rated.response == " two lines\n" and rated.rating == 0.5
    assert rated.response_ids == tiny_lm.tokenizer.encode(" two lines\n")
