"""Reflecting: what the reflector is asked, what it answers, and what a reflection was worth."""

import pytest
import torch

from retro.interop.open import open_model
from retro.learn import Arena, FailedTrial
from retro.reflect import (
    RANGES,
    RATINGS,
    Reflection,
    rate,
    reflect,
    reflection_prompt,
    worth,
    write_reflections,
)
from retro.trial import Trajectory, run_trials
from tests.guess import Guess
from tests.scripted import ScriptedActor
from tests.small_trials import failed_trials, sample, shorten

@pytest.fixture(autouse=True)
def short_reflections(monkeypatch, tiny_lm):
    shorten(monkeypatch, tiny_lm)

def test_prompt_that_does_not_fit_keeps_task_and_end(tiny_lm):
    (long,) = failed_trials(1, steps=20)
    tiny_lm.context = 10**6
    whole = reflection_prompt(long, tiny_lm)
    tiny_lm.context = len(whole) - 50 + tiny_lm.reflection_tokens
    cut = reflection_prompt(long, tiny_lm)
    text = tiny_lm.tokenizer.decode(cut)
    assert len(whole) - 53 <= len(cut) <= len(whole) - 50  # joined, two halves may be fewer tokens
    assert text.startswith(long.observation)
    assert text.endswith("Failed, score 0.00.\nReflection:")

def test_same_seed_same_reflections_and_order_is_kept(tiny_lm, trials):
    a, b = sample(tiny_lm, trials), sample(tiny_lm, trials)
    assert a == b != sample(tiny_lm, trials, seed=1)
    assert [r.prompt_ids for r in a] == [reflection_prompt(t, tiny_lm) for t in trials]
    assert isinstance(a[0], Reflection) and "\n" not in a[0].text

def test_a_prompt_that_was_read_before_gives_the_same_reflections(tiny_lm, trials):
    asked = [reflection_prompt(t, tiny_lm) for t in trials]
    caches = list(tiny_lm.prefill(asked))
    assert sample(tiny_lm, trials, caches=caches) == sample(tiny_lm, trials)

def test_logprobs_are_those_of_the_frozen_base_in_a_plain_pass(tiny_lm, trials):
    for r in sample(tiny_lm, trials[:2]):
        with torch.no_grad():
            logits = tiny_lm.model(torch.tensor([r.prompt_ids + r.response_ids]))[0]
        rows = logits[len(r.prompt_ids) - 1 : -1].log_softmax(-1)
        expected = [row[token].item() for row, token in zip(rows, r.response_ids)]
        assert r.logprobs == pytest.approx(expected, abs=1e-4)

def test_equal_prompts_get_different_answers_and_greedy_ones_equal(tiny_lm, trials):
    asked = [reflection_prompt(trials[0], tiny_lm)] * 3
    draw = lambda temperature: reflect(
        tiny_lm, asked, temperature=temperature, generator=torch.Generator().manual_seed(0)
    )
    assert len({r.text for r in draw(1.0)}) > 1 and len({r.text for r in draw(0.0)}) == 1

def ended(g: float) -> Trajectory:
    return Trajectory("household", "a", "x", (), (), g, g == 1, g == 1, g < 1)

def test_ratings_telescope():
    """Over a chain of trials the ratings add up to the last return minus the first."""
    chain = [ended(g) for g in (0.5, 0.0, 0.75, 1.0)]
    total = sum(rate(a, b) for a, b in zip(chain, chain[1:]))
    assert total == chain[-1].episode_return - chain[0].episode_return
    assert rate(chain[0], chain[1]) == -0.5

def test_three_ratings_of_one_retry():
    before, after = ended(0.25), ended(0.75)
    assert [rate(before, after, "", kind) for kind in RANGES] == [0.5, 0.75, 0.0]
    assert rate(after, before) == -0.5 and rate(before, ended(1.0)) == 0.75
    assert rate(before, ended(1.0), kind="success") == 1.0 and RANGES.keys() == RATINGS.keys()

def test_a_rating_function_sees_both_trials_and_the_reflection(monkeypatch):
    """Through the arena, where each retry is rated with the text that it began with."""
    longer = lambda before, after, text: len(text) + len(before.steps) - after.episode_return
    monkeypatch.setitem(RATINGS, "longer", longer)
    assert rate(ended(0.25), ended(0.75), "abc", "longer") == 3 + 0 - 0.75
    env = Guess()
    tasks, actor = env.tasks("train", 3, 0), ScriptedActor(lambda text: "nothing")
    arena = Arena({"guess": env}, tasks, actor, "longer")
    trials = run_trials({"guess": env}, tasks, actor, [[]] * 3)
    failed = [FailedTrial("guess", t.task_id, 0, [], 0, t) for t in trials]
    texts = ["a", "bcd", "ef"]
    _, ratings = arena.retry(failed, [Reflection([], [], [], text) for text in texts])
    assert ratings == [1 + 2, 3 + 2, 2 + 2]  # characters, and two steps of each failed trial

def test_reflections_on_trials_are_those_on_their_prompts(tiny_lm, trials):
    generator = lambda: torch.Generator().manual_seed(0)
    written = write_reflections(tiny_lm, trials, temperature=1.0, generator=generator())
    assert written == sample(tiny_lm, trials) and len(written) == 6

def test_each_prompt_may_have_a_generator_of_its_own(tiny_lm, trials):
    """Then its reflection is the one that it gets alone."""
    asked = [reflection_prompt(t, tiny_lm) for t in trials]
    write = lambda rows: reflect(
        tiny_lm, [asked[i] for i in rows], temperature=1.0,
        generator=[torch.Generator().manual_seed(i) for i in rows],
    )  # fmt: skip
    together = write(range(6))
    assert [r.text for r in write([4, 1])] == [together[4].text, together[1].text]
    assert [r.text for r in write([3])] == [together[3].text]

# ---- without notes

def test_without_notes_the_request_says_cause_and_the_text_keeps_it(tiny_base, tiny_lm, trials):
    """The ids after the prompt are what the text has after `Cause:`."""
    lm = open_model(str(tiny_base), torch.device("cpu"), False, notes=False)
    encode, decode = lm.tokenizer.encode, lm.tokenizer.decode
    written = sample(lm, trials)
    for r, t in zip(written, trials):
        asked = decode(r.prompt_ids)
        assert asked == decode(reflection_prompt(t, tiny_lm)) + " Cause:"
        assert r.text == " ".join(f"Cause: {decode(r.response_ids)}".split())
    assert [r.text[:6] for r in sample(tiny_lm, trials)] != ["Cause:"] * 6
    whole = "Notes: a mug 1 in bed 1. Cause: I slept. Plan: look."
    for model, prompt, answer in (
        (tiny_lm, "Reflection:", f" {whole}\n"),
        (lm, "Reflection: Cause:", " I slept. Plan: look.\n"),
    ):
        assert model.as_answer(whole) == answer
        # the space goes with the answer, so what is learnt in one piece is sampled in the same ids
        assert encode(prompt) + encode(answer) == encode(prompt + answer)
    assert lm.as_answer("Cause: I slept. Plan: look.") == " I slept. Plan: look.\n"
    assert lm.as_answer("I slept. Plan: look.") == " I slept. Plan: look.\n"

def test_a_chat_model_keeps_its_request(tiny_chat, trials):
    with_notes, without = (open_model(str(tiny_chat), torch.device("cpu"), False, notes=notes)
                           for notes in (True, False))  # fmt: skip
    assert reflection_prompt(trials[0], with_notes) == reflection_prompt(trials[0], without)
    assert without.notes and without.as_answer("Cause: a.") == "Cause: a.\n"

def test_a_false_cause_costs_its_price_and_so_does_none():
    assert [worth(0.5, cause, 0.2) for cause in (True, False, None)] == [0.5, 0.3, 0.3]
    assert [worth(-1.0, cause, 0.0) for cause in (True, False, None)] == [-1.0] * 3
