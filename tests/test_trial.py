"""Trials: what the actor reads, what is recorded, that the cache changes nothing, that the actor
never changes.
"""

from contextlib import nullcontext

import pytest
import torch

import envs
import retro.actor
from envs.household.observer import parse_plan
from retro import prompts, tokenizer
from retro.actor import ACTION_TOKENS, MEMORY, GPTActor, ScriptedActor
from retro.language_model import generate
from retro.lora import add_lora, lora_parameters
from retro.model import GPT
from retro.reflect import RANGES, rate
from retro.trial import Trajectory, run_in_batches, run_trials
from tests.guess import Guess


@pytest.fixture(scope="module")
def env():
    return envs.make("household")


def obedient(text: str) -> str:
    """A scripted actor that walks to the first place its last reflection names, else looks around.
    """
    plan = (
        parse_plan(text.split("Reflection:")[-1].split("\n>")[0]) if "Reflection:" in text else []
    )
    return f"go to {plan[0][-1]}" if plan and "\n>" not in text else "look"


def test_reflection_is_in_the_actors_prompt_and_changes_its_action(env):
    task = env.tasks("seen", 1, 0)[0]
    place = next(iter(task["receptacles"]))
    read = []

    def play(text):
        read.append(text)
        return obedient(text)

    without, told = (
        run_trials(env, [task], ScriptedActor(play), [memory])[0]
        for memory in ([], [f"I lost. Plan: search {place}."])
    )
    assert f"Plan: search {place}." in read[len(without.steps)] and "Plan" not in read[0]
    assert without.steps[0].action == "look" and told.steps[0].action == f"go to {place}"


def test_oracle_reflection_changes_the_shipped_actors_first_action(env, shipped):
    """A trap of others' code: a memory that never reaches the prompt. Greedy, so nothing is random.
    """
    model, coder = shipped
    actor = GPTActor(model, coder, 0.0, torch.Generator())
    tasks = env.tasks("unseen", 16, 5)
    trials = run_trials(env, tasks, actor, [[]] * 16)
    failed = [(task, t) for task, t in zip(tasks, trials) if not t.success]
    oracle = [env.oracle_reflection(t.observation, t.exchanges) for _, t in failed]
    one_step = envs.make("household", max_steps=1)
    told = run_trials(one_step, [task for task, _ in failed], actor, [[text] for text in oracle])
    changed = sum(a.steps[0].action != b.steps[0].action for (_, a), b in zip(failed, told))
    planned = sum(
        t.steps[0].action == f"go to {parse_plan(text)[0][-1]}" for t, text in zip(told, oracle)
    )
    numbers = (changed, planned, len(failed))
    assert changed >= len(failed) / 2 and planned >= len(failed) / 2, numbers


def test_only_the_last_reflections_are_kept(env):
    task = env.tasks("seen", 1, 0)[0]
    memory = [f"number {i}. Plan: wait." for i in range(5)]
    t = run_trials(env, [task], ScriptedActor(lambda text: "look"), [memory])[0]
    assert t.reflections == tuple(memory[-MEMORY:]) and memory[1] not in t.text()


@pytest.mark.parametrize("size", [0, 1, 3, 9])
def test_the_actor_reads_as_many_reflections_as_its_memory_holds(env, size):
    task, memory = env.tasks("seen", 1, 0)[0], [f"number {i}. Plan: wait." for i in range(5)]
    read = []
    actor = ScriptedActor(lambda text: read.append(text) or "look", memory=size)
    run_trials(env, [task], actor, [memory])
    seen = [text for text in memory if text in read[0]]
    assert seen == memory[5 - min(size, 5) :] and len(seen) == min(size, 5)


def test_trajectory_prints_what_the_actor_read_and_survives_json(env):
    texts = []

    def play(text):
        texts.append(text)
        return "inventory"

    t = run_trials(env, env.tasks("seen", 1, 1), ScriptedActor(play), [["a. Plan: b."]])[0]
    assert t.text() == f"{texts[-1]}\n> inventory\nYou are not carrying anything."
    assert Trajectory.from_json(t.to_json()) == t
    assert t.truncated and not t.terminated and t.episode_return == 0
    assert len(t.steps) == env.tasks("seen", 1, 1)[0]["max_steps"]


def test_lock_step_equals_one_by_one(env):
    """Trials that end at different times do not disturb each other."""
    tasks = env.tasks("train", 12, 4)
    actor = ScriptedActor(lambda text: "look" if len(text) % 3 else "inventory")
    together = run_trials(env, tasks, actor, [[]] * 12)
    assert together == [run_trials(env, [task], actor, [[]])[0] for task in tasks]
    assert together == run_in_batches(env, tasks, actor, [[]] * 12, rows=5)


def test_cached_session_equals_reading_everything_anew(env, tiny_base, monkeypatch):
    """Greedy actions from the growing cache are those of a fresh forward over the whole transcript.
    """
    monkeypatch.setattr(
        retro.actor, "autocast", lambda device: nullcontext()
    )  # float32: no near-ties
    model, coder = GPT.from_pretrained(tiny_base), tokenizer.load(tiny_base)
    tasks = env.tasks("train", 5, 7)
    short = envs.make("household", max_steps=5)
    trials = run_trials(short, tasks, GPTActor(model, coder, 0.0, torch.Generator()), [[]] * 5)
    for t in trials:
        for n in (0, 1, len(t.steps) - 1):
            ids = coder.encode(prompts.transcript(t.observation, [], t.exchanges[:n]) + prompts.ACT)
            out = generate(model, [ids], ACTION_TOKENS, tuple(coder.encode("\n")), temperature=0)
            action = coder.decode(out.response_ids[0]).strip()
            if "�" not in action:  # a cut-off action may end inside a character
                assert action == t.steps[n].action, n


def test_full_context_ends_in_silence_not_in_a_crash(env, tiny_base):
    model, coder = GPT.from_pretrained(tiny_base), tokenizer.load(tiny_base)
    object.__setattr__(model.config, "max_position_embeddings", 300)
    t = run_trials(
        env,
        env.tasks("train", 1, 7),
        GPTActor(model, coder, 1.0, torch.Generator().manual_seed(0)),
        [[]],
    )
    assert t[0].truncated and t[0].steps[-1].action == ""


def test_the_actor_is_the_base_whatever_the_adapter_says(env, tiny_base):
    model, coder = GPT.from_pretrained(tiny_base), tokenizer.load(tiny_base)
    short = envs.make("household", max_steps=4)
    play = lambda: run_trials(
        short, tasks, GPTActor(model, coder, 0.0, torch.Generator()), [[]] * 3
    )
    tasks = env.tasks("train", 3, 9)
    before = play()
    add_lora(model, 4, 8.0, torch.Generator().manual_seed(0))
    for p in lora_parameters(model):
        torch.nn.init.normal_(p)
    assert play() == before


def test_ratings_telescope(env):
    """Over a chain of trials the ratings add up to the last return minus the first."""
    task, answers = env.tasks("train", 1, 3)[0], iter(range(10**6))
    actor = ScriptedActor(
        lambda text: f"go to {list(task['receptacles'])[next(answers) % len(task['receptacles'])]}"
    )
    chain = [run_trials(env, [task], actor, [[]])[0] for _ in range(4)]
    chain = [
        Trajectory(**{**vars(t), "episode_return": g}) for t, g in zip(chain, (0.5, 0.0, 0.75, 1.0))
    ]
    assert (
        sum(rate(a, b) for a, b in zip(chain, chain[1:]))
        == chain[-1].episode_return - chain[0].episode_return
    )
    assert rate(chain[0], chain[1]) == -0.5


def test_three_ratings_of_one_retry():
    before, after = (
        Trajectory("household", "a", "x", (), (), g, g == 1, g == 1, g < 1) for g in (0.25, 0.75)
    )
    assert [rate(before, after, kind) for kind in RANGES] == [0.5, 0.75, 0.0]
    assert rate(after, before) == -0.5 and rate(before, chain_end()) == 0.75
    assert rate(before, chain_end(), "success") == 1.0


def chain_end() -> Trajectory:
    return Trajectory("household", "a", "x", (), (), 1.0, True, True, False)


def test_tasks_of_several_environments_keep_their_own_names(monkeypatch):
    monkeypatch.setitem(envs.CLASSES, "guess", Guess)
    both = envs.make("household,guess")
    tasks = both.tasks("train", 3, 0)
    trials = run_in_batches(both, tasks, ScriptedActor(lambda text: "look"), [[]] * 6)
    assert [t.env for t in trials] == ["household", "guess"] * 3
    assert all(both.parts[t.env].oracle_reflection(t.observation, t.exchanges) for t in trials)
