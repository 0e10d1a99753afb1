"""Counting successes: intervals and summaries by other arithmetic; the controls do what they say.
"""

import pytest
import torch

import envs
from retro.evaluate import (
    Evaluation,
    Reflector,
    evaluate,
    last_attempt,
    measure_gap,
    methods_of,
    report,
    shuffled,
    summary,
    wilson,
)
from retro.lora import adapter_state, save_adapter
from retro.report.tables import draw_picture, table
from retro.trial import Step, Trajectory
from tests.scripted import ScriptedActor
from tests.small_trials import failed_trials, randomise, shorten

def trial(task, success, g=0.0, reflections=()):
    return Trajectory(
        "household",
        task,
        "x",
        tuple(reflections),
        (),
        1.0 if success else g,
        success,
        success,
        not success,
    )

def test_wilson_solves_its_own_equation():
    """The bounds are the p with |p_hat - p| = z sqrt(p (1 - p) / n), found here by bisection."""
    z = 1.959964
    for k, n in ((3, 10), (50, 100), (297, 300)):
        for bound, (a, b) in zip(wilson(k, n), ((0.0, k / n), (1.0, k / n))):
            for _ in range(80):  # a is outside the interval, b inside
                p = (a + b) / 2
                inside = abs(k / n - p) <= z * (p * (1 - p) / n) ** 0.5
                a, b = (a, p) if inside else (p, b)
            assert bound == pytest.approx((a + b) / 2, abs=1e-9)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1 and wilson(0, 0) == [0, 1]

def test_summary_on_a_hand_worked_example():
    chains = [
        [trial("a", True)],
        [trial("b", False, 0.5), trial("b", True)],
        [trial("c", False), trial("c", False, 0.25), trial("c", True)],
        [trial("d", False), trial("d", False), trial("d", False, 0.5)],
    ]
    s = summary(chains, 2)
    assert s["success_by_retry"] == [0.25, 0.5, 0.75]
    assert s["conditional_by_retry"] == [0.25, 1 / 3, 0.5]
    assert s["mean_return_by_retry"] == [1.5 / 4, 2.25 / 4, 3.5 / 4]
    assert s["ci95"][0] == wilson(1, 4)
    assert "0.75" in table({"react": s})

def test_nobody_left_to_retry_gives_null():
    assert summary([[trial("a", True)]], 1)["conditional_by_retry"] == [1.0, None]

def test_shuffled_hands_each_reflection_to_another_task():
    writer = shuffled(lambda ts: [f"about {t.task_id}" for t in ts])
    got = writer([trial(name, False) for name in "abc"])
    assert sorted(got) == ["about a", "about b", "about c"]
    assert all(text != f"about {name}" for text, name in zip(got, "abc"))
    assert writer([trial("b", False)]) != ["about b"] and writer([trial("b", False)])[0] is not None

def scripted_evaluation(n: int, retries: int, play=lambda text: "look") -> Evaluation:
    env, actor = envs.make("household", max_steps=2), ScriptedActor(play)
    actor.device, actor.generator = torch.device("cpu"), None
    return Evaluation(env, env.tasks("seen", n, 0), actor, retries, seed=0)

def test_chains_retry_only_what_failed_and_remember_in_order():
    evaluation = scripted_evaluation(3, retries=4)
    ids = [task["id"] for task in evaluation.tasks]
    first = [trial(name, i == 0) for i, name in enumerate(ids)]
    calls = []

    def writer(trajectories):
        calls.append([t.task_id for t in trajectories])
        return [f"note {len(calls)}" for _ in trajectories]

    chains = evaluation.play(writer, first)
    assert [len(chain) for chain in chains] == [1, 5, 5]
    assert calls == [[ids[1], ids[2]]] * 4
    assert chains[1][-1].reflections == ("note 2", "note 3", "note 4")
    assert chains[1][1].reflections == ("note 1",)
    plain = scripted_evaluation(3, retries=1).play(lambda trials: [None] * len(trials), first)
    assert all(t.reflections == () for t in plain[1])

def test_only_the_last_attempt_is_kept_where_asked():
    notes = iter("abcd")
    chain = scripted_evaluation(1, 3).play(lambda ts: [next(notes)], keep=1)[0]
    memories = [t.reflections for t in chain]
    assert memories == [(), ("a",), ("b",), ("c",)]

def test_last_attempt_is_the_trial_without_its_opening_and_keeps_its_end(tiny_lm):
    steps = tuple(Step(f"go to bed {i}", "Nothing happens.", 0.0) for i in range(9))
    t = Trajectory("household", "a", "You see a bed 1.", ("old",), steps, 0, False, False, True)
    for context, whole in ((2560, True), (60, False)):
        tiny_lm.context = context
        text = last_attempt([t], tiny_lm)[0]
        assert text.endswith("> go to bed 8 Nothing happens.") and "\n" not in text
        assert ("> go to bed 0 " in text) == whole and "You see" not in text and "old" not in text
        assert len(tiny_lm.tokenizer.encode(text)) <= context // 2 or whole

def test_methods_share_the_first_trials_and_a_writer_can_be_replaced(tiny_lm, tmp_path):
    """The first trials are played once. The oracle's plan is obeyed here: it closes the gap."""
    reflector = Reflector(tiny_lm, tmp_path, 1.0, False)
    seen = []

    def play(text):
        seen.append(text)
        return "look"

    evaluation = scripted_evaluation(2, 1, play)
    writers = {"reflexion": lambda trajectories: ["Mine."] * len(trajectories)}
    chains = evaluate(evaluation, ("react", "reflexion"), reflector, writers)
    assert list(chains) == ["react", "reflexion"]
    assert [c[0] for c in chains["react"]] == [c[0] for c in chains["reflexion"]]
    assert [c[1].reflections for c in chains["reflexion"]] == [("Mine.",)] * 2
    assert len(seen) == 2 * 2 * 3  # tasks, steps; the first trials and each method's retries
    assert measure_gap(evaluation, reflector) == [0.0, 0.0, 0.0]
    assert sum("Plan: " in text for text in seen[12:]) == 2 * 2  # the oracle's, in its retries

def test_each_method_writes_with_its_own_adapter_and_the_gap_needs_none(
    tiny_lm, tmp_path, monkeypatch
):
    shorten(monkeypatch)
    tiny_lm.add_adapter("reflector", 2, 4.0, torch.Generator())
    for name, std in (("sft", 0.0), ("adapter", 0.5)):
        randomise(tiny_lm, std=std)
        save_adapter(tiny_lm.model, tmp_path / name)
    reflector, trials = Reflector(tiny_lm, tmp_path, 0.0, False), failed_trials(2, steps=2)
    evaluation = scripted_evaluation(2, 1)
    texts = {
        method: evaluation.writer_of(method, reflector)(trials)
        for method in ("reflexion", "sft", "retroformer", "shuffled")
    }
    assert texts["reflexion"] == texts["sft"] != texts["retroformer"]  # weights of 0 say nothing
    assert texts["shuffled"] == texts["retroformer"][::-1]
    assert evaluation.writer_of("react", reflector)(trials) == [None, None]
    assert all("Plan: " in text for text in evaluation.writer_of("oracle", reflector)(trials))
    assert any(weight.any() for weight in adapter_state(tiny_lm.model).values())

def test_methods_name_the_mode():
    online, offline = methods_of("online"), methods_of("offline")
    assert "retroformer" in online and "retroformer_offline" not in online
    assert [m.replace("_offline", "") for m in offline] == list(online)

@pytest.mark.slow
def test_picture_has_a_place_for_each_environment(tmp_path):
    pytest.importorskip("matplotlib")
    chains = {"react": [[trial("a", True)], [trial("b", False), trial("b", True)]]}
    reports = [report(name, "unseen", 0, chains, 1) for name in ("household", "guess")]
    assert draw_picture(reports, tmp_path / "r.png") and (tmp_path / "r.png").stat().st_size > 1000
