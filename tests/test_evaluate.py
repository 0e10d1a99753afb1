"""Counting successes: intervals and summaries by other arithmetic; the controls do what they say.
"""

from types import SimpleNamespace

import pytest
import torch

import envs
from retro import tokenizer
from retro.actor import ScriptedActor
from retro.evaluate import last_attempt, methods_of, no_reflection, retry_chains, shuffled
from retro.report.tables import draw_picture, report, summary, table, wilson
from retro.trial import Step, Trajectory


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


def test_chains_retry_only_what_failed_and_remember_in_order():
    env = envs.make("household", max_steps=2)
    actor = ScriptedActor(lambda text: "look")
    actor.device, actor.generator = torch.device("cpu"), None
    tasks = env.tasks("seen", 3, 0)
    first = [trial(task["id"], i == 0) for i, task in enumerate(tasks)]
    calls = []

    def writer(trajectories):
        calls.append([t.task_id for t in trajectories])
        return [f"note {len(calls)}" for _ in trajectories]

    chains = retry_chains(env, tasks, actor, writer, 4, 0, first)
    assert [len(chain) for chain in chains] == [1, 5, 5]
    assert calls == [[tasks[1]["id"], tasks[2]["id"]]] * 4
    assert chains[1][-1].reflections == ("note 2", "note 3", "note 4")
    assert chains[1][1].reflections == ("note 1",)
    assert all(
        t.reflections == () for t in retry_chains(env, tasks, actor, no_reflection, 1, 0, first)[1]
    )


def test_only_the_last_attempt_is_kept_where_asked():
    env = envs.make("household", max_steps=2)
    actor = ScriptedActor(lambda text: "look")
    actor.device, actor.generator = torch.device("cpu"), None
    tasks = env.tasks("seen", 1, 0)
    notes = iter("abcd")
    chain = retry_chains(env, tasks, actor, lambda ts: [next(notes)], 3, 0, keep=1)[0]
    memories = [t.reflections for t in chain]
    assert memories == [(), ("a",), ("b",), ("c",)]


def test_last_attempt_is_the_trial_without_its_opening_and_keeps_its_end(tiny_base):
    coder = tokenizer.load(tiny_base)
    steps = tuple(Step(f"go to bed {i}", "Nothing happens.", 0.0) for i in range(9))
    t = Trajectory("household", "a", "You see a bed 1.", ("old",), steps, 0, False, False, True)
    for context, whole in ((2560, True), (60, False)):
        config = SimpleNamespace(max_position_embeddings=context)
        reflector = SimpleNamespace(coder=coder, model=SimpleNamespace(config=config))
        text = last_attempt([t], None, reflector)[0]
        assert text.endswith("> go to bed 8 Nothing happens.") and "\n" not in text
        assert ("> go to bed 0 " in text) == whole and "You see" not in text and "old" not in text
        assert len(coder.encode(text)) <= context // 2 or whole


def test_methods_name_the_mode():
    online, offline = methods_of("online"), methods_of("offline")
    assert "retroformer" in online and "retroformer_offline" not in online
    assert [m.replace("_offline", "") for m in offline] == list(online)


def test_picture_has_a_place_for_each_environment(tmp_path):
    pytest.importorskip("matplotlib")
    chains = {"react": [[trial("a", True)], [trial("b", False), trial("b", True)]]}
    reports = [report(name, "unseen", 0, chains, 1) for name in ("household", "guess")]
    assert draw_picture(reports, tmp_path / "r.png") and (tmp_path / "r.png").stat().st_size > 1000
