"""Trials: what the actor reads, what is recorded, that the cache changes nothing, that the actor
never changes.
"""

from contextlib import nullcontext

import pytest
import torch

import envs
import retro.language_model
from envs.household.observer import parse_plan
from retro import prompts
from retro.actor import ACTION_TOKENS, LMActor
from retro.language_model import generate
from retro.lora import lora_parameters
from retro.memory import MEMORY
from retro.trial import Trajectory, run_in_batches
from retro.trial import run_trials as run_trials_in
from tests.guess import Guess
from tests.scripted import ScriptedActor

@pytest.fixture(scope="module")
def env():
    return envs.make("household")

def run_trials(env, *rest) -> list[Trajectory]:
    """In one environment."""
    return run_trials_in({env.name: env}, *rest)

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
    actor = LMActor(shipped, 0.0, torch.Generator())
    tasks = env.tasks("unseen", 6, 5)
    trials = run_trials(envs.make("household", max_steps=4), tasks, actor, [[]] * 6)
    failed = [(task, t) for task, t in zip(tasks, trials) if not t.success]
    oracle = [env.oracle_reflection(t.observation, t.exchanges) for _, t in failed]
    one_step = envs.make("household", max_steps=1)
    told = run_trials(one_step, [task for task, _ in failed], actor, [[text] for text in oracle])
    changed = sum(a.steps[0].action != b.steps[0].action for (_, a), b in zip(failed, told))
    planned = sum(
        t.steps[0].action == f"go to {parse_plan(text)[0][-1]}" for t, text in zip(told, oracle)
    )
    numbers = (changed, planned, len(failed))
    assert len(failed) > 2 and changed >= len(failed) / 2 and planned >= len(failed) / 2, numbers

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

    task = env.tasks("seen", 1, 1)[0]
    t = run_trials(env, [task], ScriptedActor(play), [["a. Plan: b."]])[0]
    assert t.text() == f"{texts[-1]}\n> inventory\nYou are not carrying anything."
    assert Trajectory.from_json(t.to_json()) == t
    assert t.truncated and not t.terminated and len(t.steps) == task["max_steps"]
    assert t.episode_return == env.reset(task)[1]["progress"]  # a task may start half done

def test_lock_step_equals_one_by_one(env):
    """Trials that end at different times do not disturb each other."""
    tasks = env.tasks("train", 12, 4)
    actor = ScriptedActor(lambda text: "look" if len(text) % 3 else "inventory")
    together = run_trials(env, tasks, actor, [[]] * 12)
    assert together == [run_trials(env, [task], actor, [[]])[0] for task in tasks]
    actor.rows = 5
    assert together == run_in_batches({"household": env}, tasks, actor, [[]] * 12)

def test_cached_session_equals_reading_everything_anew(env, tiny_lm, monkeypatch):
    """Greedy actions from the growing cache are those of a fresh forward over the whole transcript.
    """
    # float32: no near-ties
    monkeypatch.setattr(retro.language_model, "autocast", lambda device: nullcontext())
    encode, decode = tiny_lm.tokenizer.encode, tiny_lm.tokenizer.decode
    tasks, short = env.tasks("train", 5, 7), envs.make("household", max_steps=5)
    trials = run_trials(short, tasks, LMActor(tiny_lm, 0.0, torch.Generator()), [[]] * 5)
    for t in trials:
        for n in (0, 1, len(t.steps) - 1):
            ids = encode(prompts.transcript(t.observation, [], t.exchanges[:n]) + prompts.ACT)
            out = generate(tiny_lm.model, [ids], ACTION_TOKENS, tuple(encode("\n")), temperature=0)
            action = decode(out.response_ids[0]).strip()
            if "�" not in action:  # a cut-off action may end inside a character
                assert action == t.steps[n].action, n

def test_with_its_own_generator_a_trial_does_not_depend_on_those_beside_it(
    env, tiny_lm, monkeypatch
):
    """At temperature 1: all at once, in twos, in another order; the actor's own draws nothing."""
    monkeypatch.setattr(retro.language_model, "autocast", lambda device: nullcontext())
    short, shared = envs.make("household", max_steps=4), torch.Generator().manual_seed(9)
    before, tasks = shared.get_state(), short.tasks("train", 5, 7)
    memories = [[], ["a. Plan: b."], [], ["c. Plan: d."] * 9, []]

    def play(order, rows):
        actor = LMActor(tiny_lm, 1.0, shared)
        actor.rows = rows
        trials = run_in_batches(
            {"household": short}, [tasks[i] for i in order], actor,
            [memories[i] for i in order], [torch.Generator().manual_seed(i) for i in order],
        )  # fmt: skip
        return dict(zip(order, trials))

    together = play([0, 1, 2, 3, 4], 64)
    assert play([4, 2, 0, 1, 3], 2) == together == play([3], 1) | play([0, 1, 2, 4], 3)
    assert torch.equal(shared.get_state(), before)
    other = run_trials(short, tasks[:1], LMActor(tiny_lm, 1.0, shared), [[]])
    assert other != [together[0]] and not torch.equal(shared.get_state(), before)

def test_full_context_ends_in_silence_not_in_a_crash(env, tiny_lm):
    tiny_lm.context = 300
    actor = LMActor(tiny_lm, 1.0, torch.Generator().manual_seed(0))
    t = run_trials(env, env.tasks("train", 1, 7), actor, [[]])
    assert t[0].truncated and t[0].steps[-1].action == ""

def test_the_actor_is_the_base_whatever_the_adapter_says(env, tiny_lm):
    short, tasks = envs.make("household", max_steps=4), env.tasks("train", 3, 9)
    play = lambda: run_trials(short, tasks, LMActor(tiny_lm, 0.0, torch.Generator()), [[]] * 3)
    before = play()
    tiny_lm.add_adapter("reflector", 4, 8.0, torch.Generator().manual_seed(0))
    for p in lora_parameters(tiny_lm.model):
        torch.nn.init.normal_(p)
    assert play() == before

def test_tasks_of_several_environments_keep_their_own_names(monkeypatch):
    monkeypatch.setitem(envs.CLASSES, "guess", Guess)
    both = envs.make_all("household,guess")
    apart = [env.tasks("train", 3, 0) for env in both.values()]
    tasks = [task for turn in zip(*apart) for task in turn]
    trials = run_in_batches(both, tasks, ScriptedActor(lambda text: "look"), [[]] * 6)
    assert [t.env for t in trials] == ["household", "guess"] * 3
    assert all(both[t.env].oracle_reflection(t.observation, t.exchanges) for t in trials)
