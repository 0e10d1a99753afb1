"""All that can go wrong between here and an endpoint, and what asking it costs."""

import json
import signal
import threading
import time

import pytest
from served import KEY, actor_of, ask, client, seen

from retro.interop.endpoint import Budget, endpoint_url
from retro.interop.post import MAX_WAIT, Refused, post_json, retry_after
from retro.interop.problem import problem_in
from retro.run.cli import run_script
from retro.run.printable import printable_lines

pytestmark = pytest.mark.usefixtures("key")

# ---- What goes wrong.

@pytest.mark.parametrize(
    "fault",
    ["429now", "500", "503", "half", "chunk", "drop", "notjson", "deep", "list", "empty",
     "error200", "number", *(pytest.param(f, marks=pytest.mark.slow) for f in ("hang", "drip"))],
)  # fmt: skip
def test_faults_that_pass_are_tried_again_and_in_the_end_refused(url, tmp_path, fault):
    def post(times):
        return post_json(
            f"{url}/{fault}/{times}/v1/completions", {"prompt": "x"}, client(url, tmp_path)._read,
            timeout=0.4, tries=2, sleep=lambda seconds: None,
        )  # fmt: skip

    assert post(1) == ("fine", "", 2)
    with pytest.raises(Refused, match="given up after 2 tries") as error:
        post(9)
    assert len(str(error.value).splitlines()) == 1 and len(str(error.value)) < 500
    assert str(error.value).isprintable() and f"/{fault}/9/v1/completions: " in str(error.value)

def test_waiting_is_exponential_or_what_the_server_asks_for(url):
    waits = []
    body, read = {"prompt": "x"}, lambda answer: answer
    for fault in ("500", "429"):
        post_json(f"{url}/{fault}/4/v1/wait", body, read, tries=5, sleep=waits.append)
    for i, seconds in enumerate(waits[:4]):
        assert 0.5 * 2**i <= seconds <= 2**i, waits
    assert waits[4:] == [7.0] * 4
    with pytest.raises(Refused, match=f"asks to wait 7200 seconds, at most {MAX_WAIT:.0f}"):
        post_json(f"{url}/429hours/9/v1/wait", body, read, sleep=waits.append)
    assert len(waits) == 8
    assert [retry_after(t) for t in ("-3", "1e9", "inf", "", "9" * 99)] == [None] * 5
    with pytest.raises(Refused, match="no connection .* given up after 2 tries"):
        post_json("http://127.0.0.1:9/v1", body, read, tries=2, sleep=lambda seconds: None)

@pytest.mark.parametrize(
    "path, words",
    [("/404/9/v1", "HTTP 404: the model `base` does not exist"), ("/quota/9/v1", "no credit"),
     ("/302/9/v1", "redirects to /say/v1/completions, which is not followed"),
     ("/huge/9/v1", "longer than"), ("/key/9/v1", "HTTP 401: wrong key: Bearer [key]")],
)  # fmt: skip
def test_what_does_not_pass_is_refused_at_once(url, tmp_path, path, words):
    c = client(url, tmp_path, path)
    with pytest.raises(ValueError) as error:
        ask(c, "x")
    assert words in str(error.value) and KEY not in str(error.value)
    assert c.budget.requests == 1 and not list(tmp_path.rglob("*.json"))

def test_wrong_model_and_wrong_options_are_one_line(url, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_status:
        run_script(lambda c: ask(c, "x"), client(url, tmp_path, model="gpt-9"))
    assert exit_status.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "HTTP 404: model 'gpt-9' does not exist" in said
    for wrong in ("", "localhost:8000", "ftp://x/v1", "http://", "http://a b/v1", "http://x:y/v1",
                  "http://u:secret@h/v1", "http://h/\n", "http://[1/v1", "http://a..b/v1",
                  "http://.a/v1", f"http://{'a' * 64}.b/v1", "u:secret@h/v1",
                  "secret@h/v1"):  # fmt: skip
        with pytest.raises(ValueError, match="^--base-url") as error:
            endpoint_url(wrong, "/completions")
        assert "secret" not in str(error.value)
    for settings, words in (({"api": "talk"}, "--api 'talk'"), ({"model": ""}, "--actor-model")):
        with pytest.raises(ValueError, match=words):
            client(url, tmp_path, **settings)
    with pytest.raises(ValueError, match="--no-examples"):
        actor_of(client(url, tmp_path, api="chat"), examples=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-\nsecret")
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as error:
        client(url, tmp_path)
    assert "secret" not in str(error.value)

@pytest.mark.parametrize("fault", ["hang", "drip", "429", "drip_header"])
def test_ctrl_c_ends_asking_at_once(url, tmp_path, fault):
    """What is under way is not waited for; what was answered is kept."""
    c = client(url, tmp_path, f"/odd/2/{fault}/ctrl_c/v1", "chat", concurrency=2)
    here = threading.main_thread().ident
    threading.Timer(0.3, lambda: signal.pthread_kill(here, signal.SIGINT)).start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        ask(c, *"abcdef")
    assert time.monotonic() - start < 1.5 and len(list(tmp_path.rglob("*.json"))) == 2

def test_settings_and_roles_are_left_out_with_a_note(url, tmp_path, capsys):
    """The system's words are the user's then. Other requests of the client go without at once."""
    for name, lacks in (("temperature", {"temperature"}), ("stop", {"stop"}), ("tokens_2", {
            "max_tokens", "max_completion_tokens"})):  # fmt: skip
        c = client(url, tmp_path, f"/odd/0/{name}/v1", "chat")
        for prompt in ("first", "second"):
            c.ask([[{"role": "user", "content": prompt}]], 8, 0.5, [1], "x")
        full = {"model", "messages", "max_tokens", "temperature", "seed", "stop"}
        assert set(seen(url)[-1][2]) == full - lacks and c.budget.requests == 2 + len(lacks)
        notes = capsys.readouterr().err.splitlines()
        assert len(notes) == len(lacks) and all("; sent without '" in note for note in notes)
    c = client(url, tmp_path, "/odd/0/system/v1", "chat")
    words = [dict(role=role, content=role) for role in ("system", "user", "assistant", "user")]
    c.ask([words], 8, 0.0, [None])
    user = {"role": "user", "content": "system\n\nuser"}
    assert seen(url)[-1][2]["messages"] == [user, *words[2:]]
    assert "sent without 'system'" in capsys.readouterr().err

def test_a_word_in_passing_is_no_setting(url, tmp_path):
    c = client(url, tmp_path, "/odd/0/unrelated/v1", "chat")
    with pytest.raises(Refused, match="Please stop sending images"):
        c.ask([[{"role": "user", "content": "x"}]], 8, 0.0, [None], "stop")
    assert c.budget.requests == 1

def test_a_setting_stays_if_nothing_is_answered_without_it(url, tmp_path, monkeypatch, capsys):
    """A refusal that meant something else changes no later request."""
    sent = []

    def post(address, body, read, **settings):
        sent.append(set(body))
        if len(sent) < 3:
            raise Refused("no", problem_in({"error": "invalid 'stop'"}, 400))
        return "Action: look", "", 1

    monkeypatch.setattr("retro.interop.endpoint.post_json", post)
    c = client(url, tmp_path)
    with pytest.raises(Refused):
        c.ask(["x"], 8, 0.0, [None], "stop")
    c.ask(["x"], 8, 0.0, [None], "stop")
    assert ["stop" in body for body in sent] == [True, False, True]
    assert capsys.readouterr().err == ""

def test_a_secret_in_the_query_is_sent_and_not_told(url, tmp_path, capsys):
    secret = "s%2Fhidden-1"
    c = client(url + "/say/v1?api-version=2024-02-01&key=" + secret, tmp_path, "")
    assert ask(c, "2024-02-01 s/hidden-1 s%2Fhidden-1") == ["2024-02-01 [key] [key]"]
    assert seen(url)[-1][0].endswith(f"?api-version=2024-02-01&key={secret}")
    gone = client(f"{url}/404/9/hidden-1?hidden-1", tmp_path, "")
    with pytest.raises(Refused) as error:
        ask(gone, "x")
    written = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "hidden" not in str(error.value) + "".join(capsys.readouterr())
    assert '"url"' in written and "hidden" not in json.loads(written)["url"]

def test_fields_that_an_endpoint_does_not_know_are_left_out(url, tmp_path, capsys):
    c = client(url, tmp_path, "/fields/99/v1")
    fields = [json.loads(text) for text in ask(c, "a", "b", seed=1)]
    assert fields == [["max_completion_tokens", "model", "prompt", "temperature"]] * 2
    assert capsys.readouterr().err.count("note:") == 2

# ---- Costs.

def test_the_budget_ends_a_run_and_keeps_what_was_answered(url, tmp_path):
    prompts = [f"number {i}" for i in range(6)]
    for left in (4, 2, 0):
        c = client(url, tmp_path, "/say/v1", budget=Budget(max_requests=2))
        if left:
            with pytest.raises(ValueError, match="^budget spent: --max-requests 2 .2 requests"):
                ask(c, *prompts)
        else:
            assert ask(c, *prompts) == prompts
        assert len(list(tmp_path.rglob("*.json"))) == 6 - left and c.budget.requests == 2
    shared = Budget(max_tokens=3)  # the server counts 2 a request
    c = client(url, tmp_path, "/say/v1", budget=shared, concurrency=1)
    with pytest.raises(ValueError, match="^budget spent: --max-tokens 3 .2 requests, 4 tokens"):
        ask(c, "x", "y", "z")

def test_requests_run_side_by_side_but_not_more_than_allowed(url, tmp_path, monkeypatch):
    c, now, most = client(url, tmp_path, "/say/v1", concurrency=3), [], []
    lock = threading.Lock()

    def slow(*args, **kwargs):
        with lock:
            now.append(1)
            most.append(len(now))
        time.sleep(0.03)
        with lock:
            now.pop()
        return "said", "", 1

    monkeypatch.setattr("retro.interop.endpoint.post_json", slow)
    assert ask(c, *"abcdefghia") == ["said"] * 10
    assert max(most) == 3 and len(most) == 9  # a prompt that comes twice is asked once

def test_one_refusal_stops_the_others_and_their_waiting(url, tmp_path, monkeypatch):
    """Whoever waits to try again is woken; answers under way are kept."""

    def post(address, sent, read, *, before, sleep, **settings):
        before()
        if sent["prompt"] == "bad":
            time.sleep(0.05)
            raise Refused("no")
        if sent["prompt"] == "waits":
            assert sleep(60)
            raise Refused("woken")
        return "kept", "", 1

    monkeypatch.setattr("retro.interop.endpoint.post_json", post)
    c, start = client(url, tmp_path, concurrency=2), time.monotonic()
    with pytest.raises(Refused, match="no"):
        ask(c, "good", "waits", "bad", "later", "last")
    assert time.monotonic() - start < 5 and c.budget.requests == 3
    assert "kept" in [json.loads(p.read_text())["answer"] for p in tmp_path.rglob("*.json")]

def test_a_damaged_answer_on_disk_is_asked_anew(url, tmp_path, capsys):
    assert ask(client(url, tmp_path, "/say/v1"), "x") == ["x"]
    (file,) = tmp_path.rglob("*.json")
    good = json.loads(file.read_text())
    others = [good | {"request": good["request"] | {"prompt": "y"}}, good | {"url": "http://h/v1"},
              good | {"answer": 7}, good | {"answer": ""}]  # fmt: skip
    for damage in ("", "{", "[]", '{"answer": 7}', *map(json.dumps, others)):
        file.write_text(damage)
        c = client(url, tmp_path, "/say/v1")
        assert ask(c, "x") == ["x"] and c.budget.requests == 1, damage
        assert json.loads(file.read_text()) == good
    assert capsys.readouterr().err.count("asked anew") == 6  # an answer that is none is no news
    place = tmp_path / "\x1b[2J"
    ask(client(url, place, "/say/v1"), "x")
    (file,) = place.rglob("*.json")
    file.write_text("{")
    ask(client(url, place, "/say/v1"), "x")
    assert "\x1b" not in (said := capsys.readouterr().err) and "␛[2J" in said

def test_an_escape_sequence_without_an_end_takes_its_line():
    assert printable_lines("\x1b]Thought: x\nAction: look") == "\nAction: look"
    assert printable_lines("\x1b]0;title\x07Action: look") == "Action: look"

@pytest.mark.parametrize("api", ["chat", "completions"])
def test_the_key_reaches_the_server_and_nothing_else(url, tmp_path, api, capsys):
    c = client(url, tmp_path, "/say/v1", api)
    assert ask(c, "your KEY is") == ["your Bearer [key] is"]
    assert seen(url)[-1][1] == f"Bearer {KEY}"
    files = [p.read_text() for p in tmp_path.rglob("*") if p.is_file()]
    assert files and KEY not in "".join(files) + repr(vars(c.budget)) + repr(c)
    assert KEY not in "".join(capsys.readouterr())

def test_a_dummy_key_does_not_spoil_the_text(url, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert ask(client(url, tmp_path, "/say/v1"), "examine box 1") == ["examine box 1"]

def test_no_key_no_header(url, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask(client(url, tmp_path, "/say/v1"), "x") == ["x"] and seen(url)[-1][1] == ""
