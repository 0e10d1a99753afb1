"""eval.py with models that do not answer, and with outputs that can't be written: it says so, and
before the work where it can.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from served import KEY, seen
from test_hotpot import ITEM
from test_servers import LATE, SERVERS

import eval as evaluation
import train
from retro import tokenizer
from retro.evaluate import Evaluation
from retro.interop.endpoint import public_url
from retro.model import GPT, GPTConfig
from retro.report.tables import print_reward
from retro.run.cli import run_script
from retro.run.files import read_json
from tests.small_run import config, evaluated, short_games  # noqa: F401

pytestmark = pytest.mark.usefixtures("key")
ROOT = Path(__file__).parent.parent

@pytest.fixture
def run(small_run):
    return small_run("online", guess=True)

@pytest.fixture
def played(monkeypatch) -> list:
    counts, trials = [], Evaluation.trials
    monkeypatch.setattr(
        Evaluation, "trials",
        lambda self, retry, asked: counts.append(1) or trials(self, retry, asked),
    )  # fmt: skip
    return counts

def behind(url, tmp_path, path, **changes):
    return dict(actor="openai", base_url=url + path, actor_model="m", env="household",
                methods="react", answers=str(tmp_path / "answers")) | changes  # fmt: skip

# ---- An evaluation of nothing.

def test_turns_without_an_answer_are_counted_said_once_and_not_kept(run, url, tmp_path, capsys):
    """Two tasks, a retry, two turns a trial: the server answers six turns of eight."""
    found = evaluated(run, tmp_path, **behind(url, tmp_path, "/odd/6/null/v1"))
    assert found["unanswered"] == {"turns": {"asked": 8, "faults": {"length": 2}}}
    said = capsys.readouterr()
    told = said.out.split("\n\nwrote ")[0].splitlines()  # and before it the budget
    assert told[-2] == "2 of 8 turns unanswered: length"
    assert said.err.count("turns begin to go unanswered: length (its tokens were used up") == 1
    assert len(list((tmp_path / "answers").rglob("*.json"))) == 6
    again = evaluated(run, tmp_path, **behind(url, tmp_path, "/odd/6/null/v1"), tasks=1)
    assert again.get("unanswered") or again["methods"]["react"]["n"] == 1  # asked anew

@pytest.mark.parametrize("name, why", [("null", "length"), ("blank", "empty"), ("413", "context")])
def test_an_evaluation_of_nothing_stops(run, url, tmp_path, name, why):
    with pytest.raises(ValueError, match=f"^most turns go unanswered: .* unanswered: {why}"):
        evaluated(run, tmp_path, **behind(url, tmp_path, f"/odd/0/{name}/v1"), tasks=1)
    assert not list(tmp_path.rglob("*.json"))

def test_a_local_actor_whose_context_holds_no_prompt_stops(run, tiny_base, tmp_path):
    ours = tokenizer.load(tiny_base)
    GPT(GPTConfig(ours.vocab_size, 32, 64, 1, 2, 1, 72)).save_pretrained(tmp_path / "small")
    ours.save(tmp_path / "small")
    with pytest.raises(ValueError, match="8 of 8 turns unanswered: context .the prompt is longer"):
        evaluated(run, tmp_path, actor=str(tmp_path / "small"), env="household", methods="react",
                  tasks=2)  # fmt: skip

def test_a_local_actor_that_says_nothing_stops(run, tmp_path, monkeypatch):
    """Each of its answers begins with an end token."""
    monkeypatch.setattr("retro.language_model.LanguageModel.text", lambda self, ids: "")
    with pytest.raises(ValueError, match="^most turns go unanswered: .* turns unanswered: empty"):
        evaluated(run, tmp_path, env="household", methods="react", tasks=2)

@pytest.mark.parametrize(
    "name, said", [("null", "most reflections go unanswered: 2 of 2 reflections .*: length"),
                   ("cut_thought", "2 of 2 reflections cut off")]
)  # fmt: skip
def test_reflections_are_counted_too(run, url, tmp_path, name, said, capsys):
    """A reflection that is cut off is used, one that is absent is not."""
    given = dict(reflector="openai", base_url=f"{url}/odd/0/{name}/v1", reflector_model="m",
                 answers=str(tmp_path / "answers"), methods="reflexion")  # fmt: skip
    if name == "null":
        with pytest.raises(ValueError, match=said):
            evaluated(run, tmp_path, **given)
    else:
        evaluated(run, tmp_path, **given, transcripts=str(tmp_path / "t"))
        assert said in capsys.readouterr().out
        assert "The user wants me to" in (tmp_path / "t").read_text()
    assert not list((tmp_path / "answers").rglob("*.json"))

def test_the_actors_temperature(run, url, tmp_path, played):
    """None: the run's; with another one the run's own choices do not hold."""
    given = behind(url, tmp_path, "/say/v1")
    for temperature, sent in (("", 1.0), ("0", 0.0), ("0.5", 0.5)):
        evaluated(run, tmp_path, **given, actor_temperature=temperature, tasks=1)
        body = seen(url)[-1][2]
        assert body["temperature"] == sent and ("seed" in body) is (sent > 0)
    played.clear()
    evaluated(run, tmp_path, methods="react,reflexion", tasks=1, actor_temperature="1")
    assert len(played) == 2
    evaluated(run, tmp_path, methods="react,reflexion", tasks=1, actor_temperature="0.9")
    assert len(played) == 6  # the temperature of reflections is chosen anew
    evaluated(run, tmp_path, methods="react", tasks=1, actor_temperature="1e-45")  # greedy
    for wrong in ("-1", "nan", "inf", "hot"):
        with pytest.raises(ValueError, match=f"--actor-temperature '{wrong}': a number from 0"):
            evaluated(run, tmp_path, actor_temperature=wrong)

@pytest.mark.slow
@pytest.mark.parametrize("role", ["actor", "reflector"])
@pytest.mark.parametrize("name", SERVERS)
def test_an_evaluation_against_any_server(run, url, tmp_path, name, role, capsys, monkeypatch):
    """It ends with its files and status 0, or in one line with status 2."""
    monkeypatch.setattr("retro.interop.post.random.uniform", lambda low, high: 0.0)
    given = behind(url, tmp_path, f"/odd/1/{name}/v1", methods="react,reflexion", retries=1)
    given |= {"tasks": 4, "timeout": 1.0 if SERVERS[name] == LATE else 10.0}
    given |= {} if role == "actor" else {"actor": "", "reflector": "openai"}
    outputs = {key: str(tmp_path / key) for key in ("json", "transcripts")}
    start, status = time.monotonic(), 0
    try:
        run_script(evaluation.main, evaluation.Config(run_dir=str(run), **given, **outputs))
    except SystemExit as ended:
        status = ended.code
    assert time.monotonic() - start < 30
    said = capsys.readouterr()
    assert said.err.count("error: ") == (status == 2) and status in (0, 2)
    assert [Path(path).exists() for path in outputs.values()] == [status == 0] * 2
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert KEY.encode() not in b"".join(files) and KEY not in said.out + said.err
    assert SERVERS[name] or status == 0, said.err

# ---- Doors are tried before the work.

@pytest.mark.parametrize("option", ["json", "report", "transcripts", "answers"])
@pytest.mark.parametrize("place", ["folder", "file/below", "x" * 300, "/dev/null"])
def test_what_can_not_be_written_is_said_before_the_work(run, url, tmp_path, option, place, played):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    path = tmp_path / place
    if option == "answers":
        path = {"folder": tmp_path / "file", "/dev/null": Path("/dev/null")}.get(place, path)
    given = behind(url, tmp_path, "/say/v1", **{"json": "", option: str(path)})
    with pytest.raises(ValueError, match=f"^{tmp_path}|^/dev/null"):
        evaluation.main(evaluation.Config(run_dir=str(run), tasks=1, **given))
    assert not played and Path("/dev/null").is_char_device()

def test_one_file_for_two_outputs_and_a_run_without_metrics(run, tmp_path, played):
    both = str(tmp_path / "x")
    with pytest.raises(ValueError, match="two of them name the same file"):
        evaluated(run, tmp_path, report=both, transcripts=f"{tmp_path}/./x")
    (tmp_path / "x_").mkdir()
    (tmp_path / "y").symlink_to(tmp_path / "x_")
    api = behind("http://127.0.0.1:9", tmp_path, "/v1")
    for wrong in (dict(json=f"{both}/j", transcripts=f"{both}/j/t"),
                  dict(json=f"{tmp_path}/x_/out", transcripts=f"{tmp_path}/y/out"),
                  api | {"json": api["answers"]}, api | {"json": f"{tmp_path}/a",
                                                         "answers": f"{tmp_path}/a/b"}):
        with pytest.raises(ValueError, match="or one is a folder of another"):
            evaluated(run, tmp_path, **wrong)
        assert not list(tmp_path.glob("*/*"))  # nothing was made for them
    (tmp_path / "run").mkdir()
    for file in run.iterdir():
        (tmp_path / "run" / file.name).symlink_to(file)
    (tmp_path / "run/metrics.jsonl").unlink()
    (tmp_path / "run/metrics.jsonl").write_text('{"update": 0}\n')
    with pytest.raises(ValueError, match="metrics.jsonl: holds others than the 1 lines"):
        evaluated(tmp_path / "run", tmp_path, report=both)
    assert not played

def test_names_and_texts_that_are_no_utf8_lose_nothing(run, tmp_path, monkeypatch):
    """A file's name of other bytes; half a character in a question, and in its answer."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/question\xff\x1b[2J.json")
    item = ITEM | {"question": f"\ud800 {ITEM['question']}", "answer": "\udfff"}
    Path(path).write_text(json.dumps([item | {"_id": str(i)} for i in range(5)]))
    outputs = {name: os.fsdecode(os.fsencode(tmp_path) + b"/\xfe" + name.encode())
               for name in ("report", "transcripts")}  # fmt: skip
    with open(tmp_path / "out", "w", encoding="utf-8") as out:
        monkeypatch.setattr(sys, "stdout", out)
        given = dict(run_dir=str(run), env="hotpot", data=path, retries=1, choice_tasks=1,
                     methods="react,retroformer", json=str(tmp_path / "json"))  # fmt: skip
        run_script(evaluation.main, evaluation.Config(**given, **outputs))
    assert read_json(tmp_path / "json")["split"].startswith("question")
    assert "\\ud800" in Path(outputs["transcripts"]).read_text()
    assert "U+D800" in Path(outputs["report"]).read_text()
    said = (tmp_path / "out").read_text()
    assert "\x1b" not in said and "question<U+DCFF>␛[2J.json" in said

# ---- What the terminal sees.

def test_no_escape_sequence_reaches_the_terminal(capsys):
    def broken(config):
        raise ValueError("a goal that is not supported: \x1b]0;title\x07\nline \u202e\ud800")

    with pytest.raises(SystemExit):
        run_script(broken, None)
    said = capsys.readouterr().err
    assert said == "error: a goal that is not supported: ␛]0;title␇ line <U+202E><U+D800>\n"
    held = {"ranking": None, "pairs": 0, "ece": 0.0, "n": 1}
    print_reward({"learnt_from": 1, "held_out": {"\x1b[2Jenv": held}})
    assert "␛[2Jenv: ranks" in capsys.readouterr().out

def test_ctrl_c_says_what_is_true(tmp_path, capsys):
    def interrupted(config):
        raise KeyboardInterrupt

    class Train:
        run_dir, resume = str(tmp_path), False

    for given, left in ((Train, ""), (None, "nothing is lost"), (Train, "--resume goes on")):
        if left.startswith("--resume"):
            (tmp_path / "checkpoint").touch()
        with pytest.raises(SystemExit) as ended:
            run_script(interrupted, given, left if given is None else "")
        assert ended.value.code == 130
        said = capsys.readouterr().err
        assert left in said and ("--resume" in said) is left.startswith("--resume")

@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "drip_header", "flood_continue", "429", "500"])
def test_ctrl_c_ends_an_evaluation_at_once(run, url, tmp_path, fault):
    command = [sys.executable, "eval.py", f"--run-dir={run}", "--env=household", "--actor=openai",
               f"--base-url={url}/odd/1/{fault}/ctrl_c/v1", "--actor-model=m", "--methods=react",
               f"--answers={tmp_path}/answers", "--tasks=4"]  # fmt: skip
    script = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True,
                              start_new_session=True)  # fmt: skip
    asked = len(seen(url))
    while len(seen(url)) < asked + 2:
        assert script.poll() is None
        time.sleep(0.05)
    time.sleep(0.3)
    start = time.monotonic()
    script.send_signal(signal.SIGINT)
    said = script.communicate(timeout=20)[1]
    assert time.monotonic() - start < 2 and script.returncode == 130
    assert f"error: interrupted; answers are kept in {tmp_path}/answers" in said
    assert "Traceback" not in said and KEY not in said
    assert len(list((tmp_path / "answers").rglob("*.json"))) == 1

# ---- Secrets in an address.

def test_a_secret_in_the_address_is_nowhere_on_disk(tiny_base, tmp_path, capsys):
    secret = "http://user:hidden1@h/v1?key=hidden2&api-version=3#hidden3"
    small = dict(envs="guess", updates=0, train_tasks=4, sft_epochs=0, base_url=secret)
    folder = tmp_path / "run"
    train.main(config(tiny_base, folder, **small))
    assert read_json(folder / "config.json")["base_url"] == "http://h/v1"
    train.main(config(tiny_base, folder, **small, resume=True))
    written = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    said = "".join(capsys.readouterr()).encode()  # "hidden" alone is a word of the page's style
    assert not re.search(rb"hidden\d", written) and not re.search(rb"hidden\d", said)

def test_training_with_an_actor_that_does_not_answer_stops(tiny_base, url, tmp_path, capsys):
    """The address's secret is in none of what it says and leaves behind."""
    given = behind("", tmp_path, f"{url}/odd/1/key_ends/v1?key=hidden4567")
    small = dict(envs="household", **{k: given[k] for k in ("actor", "actor_model", "answers")})
    with pytest.raises(ValueError, match="most turns go unanswered: .* turns unanswered: empty"):
        train.main(config(tiny_base, tmp_path / "run", base_url=given["base_url"], **small))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    written = b"".join(path.read_bytes() for path in files)
    assert (tmp_path / "run/config.json") in files and len(files) > 3
    assert b"hidden" not in written and KEY.encode() not in written
    assert "hidden" not in (said := "".join(capsys.readouterr())) and KEY not in said

@pytest.mark.parametrize(
    "url, shown", [("http://h/v1", "http://h/v1"), ("https://h:1/a?b=c#d", "https://h:1/a"),
                   ("http://u:p@h/v1", "http://h/v1"), ("http://h?u@x", "http://h"), ("", ""),
                   ("alice:hunter22@h/v1", "h/v1"), ("http:u:p@h/v1", "h/v1"),
                   ("//u:p@h/v1", "//h/v1"), ("http:/u:p@h", "http:/h"), ("hunter@h", "h"),
                   ("http://h/v1/@cf/m", "http://h/v1/@cf/m")]
)  # fmt: skip
def test_what_is_shown_of_an_address(url, shown):
    assert public_url(url) == shown
