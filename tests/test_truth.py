"""Whether reflections are true and depend on their trial: by hand-worked examples, a double loop,
the two ends of a scale.
"""

from dataclasses import replace
from math import exp, log

import pytest
import torch

import envs
import retro.report.truth
from envs.observer import Verdict
from retro.evaluate import Reflector, Variant
from retro.learn import FailedTrial, Rollout
from retro.lora import save_adapter
from retro.policy import Policy, ResponseBatch
from retro.reflect import Reflection, reflect
from retro.report.truth import (
    faithfulness,
    information,
    information_of,
    mutual_information,
    rollout_metrics,
    truth,
)
from retro.trial import Step, Trajectory
from tests.guess import Guess
from tests.small_trials import randomise, sample, trial

# ---- is it true?

class Judged(Guess):
    """A judge by the book: reflection -> verdict, and the oracle's by the trial's last action."""

    BOOK = {
        "never seen, search a": Verdict("never seen", True, True, True, False, True),
        "never seen, search b": Verdict("never seen", True, False, None, False),
        "not taken, search c": Verdict("not taken", False, False, None, True, False),
        "look": Verdict(),
        "right 1": Verdict("never seen", True, True),
        "right 2": Verdict("not taken", True, True),
    }

    def judge(self, reflection: str, observation: str, steps: list) -> Verdict:
        assert observation == "x" and len(steps) == 1
        return self.BOOK[reflection]

    def oracle_reflection(self, observation: str, steps: list) -> str:
        return f"right {steps[0][0]}"

def said(*pairs) -> list:
    """(the trial's action, what is reflected) of each."""
    step = lambda action: (Step(action, "No.", 0.0),)
    return [
        (Trajectory("guess", "a", "x", (), step(action), 0.0, False, False, True), text)
        for action, text in pairs
    ]

def test_faithfulness_on_a_hand_worked_example():
    found = faithfulness(Judged(), said(
        ("1", "never seen, search a"), ("1", "never seen, search b"),
        ("2", "not taken, search c"), ("2", "look"),
    ))  # fmt: skip
    # what each reflection's judge cannot tell is not counted
    shares = dict(n=4, cause=2 / 3, sound=1 / 3, place=1.0, invented=1 / 3, notes=0.5)
    assert found.items() >= shares.items()
    assert found.keys() - shares.keys() == {"kinds", "kind_information"}
    assert found["kinds"] == {"never seen": 2, "not taken": 1, "": 1}
    # "never seen" is said of all trials of one kind, the other two of the other kind: the entropy
    assert found["kind_information"] == pytest.approx(log(2))

def test_who_always_says_the_same_is_told_by_its_information():
    found = faithfulness(Judged(), said(*[(a, "never seen, search a") for a in "1212"]))
    assert found["cause"] == found["sound"] == 1 and found["kind_information"] == 0
    silent = faithfulness(Judged(), said(("1", "look")))
    assert [silent[k] for k in ("cause", "sound", "place", "invented", "notes")] == [None] * 5
    assert faithfulness(Guess(), said(("1", "mug")))["cause"] is None  # it has no judge

def test_information_of_pairs():
    """Independent: none. A function of the other: its entropy. Else H(a) + H(b) - H(a, b)."""
    assert information([(a, b) for a in "xyz" for b in "12"]) == pytest.approx(0, abs=1e-12)
    copies = [(a, a.upper()) for a in "xxxyyz"]
    entropy = lambda *counts: -sum(c / sum(counts) * log(c / sum(counts)) for c in counts)
    assert information(copies) == pytest.approx(entropy(3, 2, 1))
    assert information([(a, "same") for a in "xyz"]) == information([]) == 0
    mixed = [("x", "1")] * 3 + [("x", "2")] + [("y", "2")] * 4
    assert information(mixed) == pytest.approx(entropy(4, 4) + entropy(3, 5) - entropy(3, 1, 4))
    assert information(mixed) == pytest.approx(information([(b, a) for a, b in mixed]))

# ---- does it depend on the trial?

@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_mutual_information_against_a_double_loop(lm, trials, adapt_prompt):
    """Each response after each prompt by itself: mean of log p(y | x) / mean_x' p(y | x')."""
    randomise(lm, std=0.4)
    said = sample(lm, trials, adapt_prompt=adapt_prompt)

    def logprob(prompt, response):
        batch = ResponseBatch(lm, [replace(response, prompt_ids=prompt)], adapt_prompt=adapt_prompt)
        with torch.no_grad():
            return batch.logprobs(torch.tensor([0])).double().sum().item()

    expected = 0.0
    for y in said:
        own = logprob(y.prompt_ids, y)
        ratios = [exp(logprob(x.prompt_ids, y) - own) for x in said]
        expected -= log(sum(ratios) / len(said)) / len(said)
    found = mutual_information(lm, said, adapt_prompt)
    assert found == pytest.approx(expected, abs=2e-4) and found <= log(len(said))
    assert abs(found) > 0.02  # of so few samples it may be negative
    with lm.frozen():  # without the adapter that wrote them they are others
        assert abs(mutual_information(lm, said, adapt_prompt) - found) > 1e-3

def test_mutual_information_at_its_ends(lm, trials):
    """One prompt for all: nothing can depend on it. Responses that only their own prompt would
    give: log N."""
    said = sample(lm, trials)
    same = [replace(r, prompt_ids=said[0].prompt_ids) for r in said]
    assert mutual_information(lm, same) == pytest.approx(0, abs=1e-5)
    assert mutual_information(lm, said[:1]) == pytest.approx(0, abs=1e-6)
    apart = lambda self, rows: torch.where(
        torch.eye(6, dtype=bool).flatten()[rows, None], -1.0, -60.0
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResponseBatch, "logprobs", apart)
        assert mutual_information(lm, said) == pytest.approx(log(6))

def test_information_is_that_of_first_reflections_mean_over_the_runs(lm, tmp_path, monkeypatch):
    """Of at most ASKED tasks, each once, in whatever order processes bring them; None of one task.
    """
    save_adapter(lm.model, tmp_path / "sft")
    reflector, seen = Reflector(lm, [tmp_path, tmp_path], False), []

    def counted(lm, written, adapt_prompt):
        seen.append([lm.answer_text(r.response_ids) for r in written])
        return float(len(seen))

    monkeypatch.setattr(retro.report.truth, "mutual_information", counted)
    monkeypatch.setattr(retro.report.truth, "ASKED", 3)
    first = [trial(name, False) for name in "abcda"]
    after = [[trial(name, False, reflections=(f"on {name}.",))] for name in "abcda"]
    chains = [[t, *rest] for t, rest in zip(first, after)] + [[trial("won", True)]]
    both = [Variant("sft", 1.0, run) for run in range(2)]
    assert information_of(reflector, both, [chains, chains[::-1]]) == 1.5
    assert seen == [[" on a.\n", " on b.\n", " on c.\n"]] * 2
    assert information_of(reflector, both, [chains[:1], chains[-1:]]) is None
    monkeypatch.undo()
    value = information_of(reflector, both[:1], [chains])
    assert value is not None and value <= log(4)

def test_an_updates_truth_is_that_of_all_its_reflections_by_environment(lm, trials):
    """Two on each trial; half of the trials are said to be another environment's, from a buffer:
    what nobody has played can't be judged.
    """
    randomise(lm)
    ours = [FailedTrial.of(t, 0, lm) for t in trials]
    failed = [f for i, f in enumerate(ours) if i % 2 for _ in range(2)]
    failed += [replace(f, env="buffer", trajectory=None)
               for i, f in enumerate(ours) if not i % 2 for _ in range(2)]  # fmt: skip
    written = reflect(lm, [f.prompt_ids for f in failed], temperature=1.0,
                      generator=torch.Generator().manual_seed(0))  # fmt: skip
    found = truth({"household": envs.make("household")}, Rollout(failed, written, [], [], 2),
                  Policy(lm))  # fmt: skip
    said = [(f.trajectory, r.text) for f, r in zip(failed[:6], written)]
    assert found["faithfulness"] == {"household": faithfulness(envs.make("household"), said)}
    one_each = {"household": written[1:6:2], "buffer": written[7::2]}
    for name, own in one_each.items():
        expected = mutual_information(lm, own)
        assert found["mutual_information"][name] == pytest.approx(expected, abs=1e-4)
    assert found["mutual_information"].keys() == one_each.keys()

def test_an_updates_information_is_of_trials_of_all_lengths_and_not_of_one(lm, trials, monkeypatch):
    """Of 40 failed trials in the order of their lengths every fifth, of three all."""
    seen = []
    count = lambda lm, asked, _: seen.append([r.text for r in asked]) or 0.5
    monkeypatch.setattr(retro.report.truth, "mutual_information", count)
    for n, expected in ((40, [*range(0, 40, 5)]), (3, [0, 1, 2]), (12, [*range(8)])):
        failed = [replace(FailedTrial.of(trials[0], 0, lm), trajectory=None, prompt_ids=[i])
                  for i in range(n)]  # fmt: skip
        said = [Reflection([i], [1], [], str(i)) for i in range(n)]
        found = truth({}, Rollout(failed, said, [], [], 1), Policy(lm))
        assert seen.pop() == [*map(str, expected)] and found["mutual_information"]
    found = truth({}, Rollout(failed[:1], said[:1], [], [], 1), Policy(lm))
    assert found["mutual_information"] == {} and not seen

def test_an_updates_shares_are_of_all_its_reflections():
    """Who says nothing is not right; where nobody can tell there is no share."""
    f = FailedTrial("a", "1", 0, [1], 1)
    texts = ["I slept. Plan: look.", "I slept. Plan: look.", "Cause: I slept. Plan: go.", "mug"]
    verdicts = [Verdict("x", True, False), Verdict("x", False, True), Verdict("x", True, True),
                Verdict()]  # fmt: skip
    written = [Reflection([1], [2] * (i + 1), [], text) for i, text in enumerate(texts)]
    failed = [f, f, replace(f, env="b"), f]
    played = Rollout(failed, written, [0.5, 0.0, 1.0, -0.5], [], 2, verdicts)
    found = rollout_metrics(played)
    assert found == {
        "mean_rating": 0.25, "mean_rating_by_env": {"a": 0.0, "b": 1.0}, "success": None,
        "well_formed": 0.75, "distinct": 0.75, "tokens": 2.5,
        "cause_true": 0.5, "plan_sound": 0.5, "notes_true": None,
    }  # fmt: skip
    noted = [v._replace(notes=notes) for v, notes in zip(verdicts, (True, False, None, None))]
    assert rollout_metrics(replace(played, verdicts=noted))["notes_true"] == 0.25

def test_a_failed_trials_name_is_its_environments_tasks_numbers_and_texts(lm, trials):
    """Two first trials of a task have two names, the same one read twice has one."""
    step = trials[0].steps[0]
    other = replace(trials[0], steps=(replace(step, action="go to bed 1"), *trials[0].steps[1:]))
    first = FailedTrial.of(trials[0], 0, lm)
    changed = [FailedTrial.of(other, 0, lm), FailedTrial.of(trials[0], 1, lm),
               replace(first, env="b"), replace(first, task_id="b")]  # fmt: skip
    assert FailedTrial.of(trials[0], 0, lm).key == first.key
    assert FailedTrial.from_json(first.to_json(), lm).key == first.key
    assert len({f.key for f in (first, *changed)}) == 5
