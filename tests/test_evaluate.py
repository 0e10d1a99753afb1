"""Methods side by side: a row's trials are its own whatever is played beside it; the controls and
the choices do what they say.
"""

from dataclasses import replace
from types import SimpleNamespace
from zlib import crc32

import pytest
import torch

import retro.evaluate
import retro.language_model
import retro.reflect
from retro.evaluate import (
    TEMPERATURES,
    Evaluation,
    Reflector,
    Variant,
    evaluate,
    last_attempt,
    methods_of,
    rows_of,
    shuffled,
    variants,
)
from retro.lora import load_adapter, save_adapter
from retro.reflect import reflect, reflection_prompt
from retro.report.choices import measure_gap, success, try_temperatures, try_templates
from retro.run.processes import Processes
from retro.trial import Step, Trajectory, run_trials
from tests.guess import Guess
from tests.scripted import ScriptedActor, ScriptedSession
from tests.small_trials import randomise, shorten, trial

class Lucky(Guess):
    """A number wins if 8 divides it: something to retry and something to win."""

    templates = {"first": lambda o, steps: "I lost. Plan: say a.",
                 "again": lambda o, steps: f"I lost. Plan: say {steps[0][0]}."}  # fmt: skip

    def fresh(self) -> "Lucky":
        return Lucky()

    def step(self, action: str) -> tuple:
        reply, _, _, over, _ = super().step(action)
        won, rest = int(action) % 8 == 0, int(action) % 7 / 7
        info = {"success": won, "progress": 1.0 if won else rest}
        self.answer = (reply, int(won), won, over and not won, info)
        return self.answer

class Gambler(ScriptedActor):
    """Its actions are numbers, made of all that it has read and of its trial's own draws."""

    def __init__(self):
        super().__init__(lambda text: str(crc32(text.encode())))

    def start(self, openings, generators=None) -> ScriptedSession:
        play, draws = self.play, dict(enumerate(generators))
        session = super().start([f"{i} {text}" for i, text in enumerate(openings)], generators)

        def gamble(text: str) -> str:
            row, _, rest = text.partition(" ")
            return play(f"{torch.rand(1, generator=draws[int(row)]).item()} {rest}")

        session.play = gamble
        return session

@pytest.fixture
def reflector(tiny_lm, tmp_path, monkeypatch) -> Reflector:
    """Of two runs: four adapters that differ."""
    shorten(monkeypatch, tiny_lm)
    tiny_lm.reflection_tokens = 5
    tiny_lm.add_adapter("reflector", 2, 4.0, torch.Generator())
    for i, run in enumerate("ab"):
        for j, name in enumerate(("sft", "adapter")):
            randomise(tiny_lm, std=0.4, seed=2 * i + j)
            save_adapter(tiny_lm.model, tmp_path / run / name)
    return Reflector(tiny_lm, [tmp_path / "a", tmp_path / "b"], False, best_of=3)

def lucky(n=4, retries=2, repeats=1, template="") -> Evaluation:
    rows = rows_of(Lucky().tasks("unseen", n, 0), repeats)
    return Evaluation(Lucky(), rows, Gambler(), retries, 3, template)

def scripted(n: int, retries: int, play=lambda text: "look", repeats=1) -> Evaluation:
    env = Guess()
    rows = rows_of(env.tasks("seen", n, 0), repeats)
    return Evaluation(env, rows, ScriptedActor(play), retries, 0)

def nobody(lm, writers: dict | None = None) -> Reflector:
    return Reflector(lm, [], False, writers=writers or {})

# ---- what a row draws is its own

def everything(**changes) -> list[Variant]:
    methods = (*methods_of("online"), "best_of")
    return variants(methods, {"retroformer": 1.0}, (0.0, 1.0), runs=2)

@pytest.mark.slow
@pytest.mark.parametrize("adapt_prompt", [False, True])
def test_a_variant_plays_alone_as_it_plays_beside_all_others(
    reflector, monkeypatch, adapt_prompt
):
    """And however many trials are played or prompts are read at a time. Another seed differs."""
    reflector = replace(reflector, adapt_prompt=adapt_prompt)
    evaluation = lucky(n=5, template="first")
    together = evaluate(evaluation, everything(), reflector)
    won = {sum(chain[-1].success for chain in chains) for chains in together.values()}
    assert len(won) > 2, won
    evaluation.actor.rows = 4
    monkeypatch.setattr(retro.language_model, "PREFILL_TOKENS", 200)
    for variant in everything()[:: 9 if adapt_prompt else 4]:
        assert evaluate(evaluation, [variant], reflector) == {variant: together[variant]}, variant
    again = evaluate(evaluation, everything()[::-1], reflector)
    assert again == together
    other = evaluate(replace(evaluation, seed=4), [Variant("react")], reflector)
    assert other[Variant("react")] != together[Variant("react")]

def test_a_row_plays_alone_as_it_plays_beside_all_others(reflector):
    """As if each task had a process of its own. Shuffled has other texts then."""
    whole = lucky(n=3, repeats=2)
    compared = [v for v in everything() if v.method not in ("shuffled", "template")]
    together = evaluate(whole, compared, reflector)
    apart: dict = {variant: [] for variant in compared}
    for rank in range(3):
        own = replace(whole, rows=Processes(rank, 3).split(whole.rows))
        for variant, chains in evaluate(own, compared, reflector).items():
            apart[variant] += chains
    for variant, chains in together.items():  # rank 0 had rows 0 and 3: not the same task
        assert [apart[variant][i] for i in (0, 2, 4, 1, 3, 5)] == chains, variant
    assert [(task["id"][-1], repeat) for task, repeat in whole.rows[::3]] == [("0", 0), ("1", 1)]
    first = [chain[0] for chain in together[Variant("react")]]
    assert first[::2] != first[1::2]  # repeats have draws of their own

def test_a_retry_is_the_reflection_and_the_trial_that_its_row_names(reflector):
    """By hand, one at a time: three reflections, each tried; best_of takes the best trial."""
    evaluation, lm = lucky(6, retries=1), reflector.lm
    best, plain = Variant("best_of", 1.0, 1), Variant("retroformer", 1.0, 1)
    chains = evaluate(evaluation, [best, plain], reflector)
    returns = []
    for row, (first, *rest) in enumerate(chains[best]):
        if first.success:
            assert not rest
            continue
        tried = []
        for n in range(3):
            names = row, 1, "reflection", n
            with lm.using(reflector.adapter(best)):
                (written,) = reflect(
                    lm, [reflection_prompt(first, lm)], temperature=1.0,
                    generator=evaluation.generator(lm.device, *names),
                )  # fmt: skip
            tried += run_trials(
                {"guess": evaluation.env}, [evaluation.rows[row][0]], evaluation.actor,
                [[written.text]], [evaluation.generator(lm.device, row, 1)],
            )  # fmt: skip
        returns.append([t.episode_return for t in tried])
        assert rest == [tried[returns[-1].index(max(returns[-1]))]]
        assert chains[plain][row][1] == tried[0]
    assert len(returns) > 1 and any(max(own) > own[0] for own in returns), returns

def test_of_several_trials_a_success_is_the_best_whatever_the_others_return(tiny_lm, monkeypatch):
    """As in hotpot, where the words of an answer can be right and their order wrong."""
    evaluation, variant = scripted(1, retries=1), Variant("best_of", 1.0)
    texts = {variant: [["right words", "right", "wrong"]]}
    monkeypatch.setattr(retro.evaluate.Scribe, "write", lambda self, failed, retry: texts)

    def ends(self, retry, asked, bar=None):
        said = [own[-1] if own else "" for _, own in asked]
        return [trial("a", text == "right", float("right" in text), (text,)) for text in said]

    monkeypatch.setattr(Evaluation, "trials", ends)
    ((_, best),) = evaluate(evaluation, [variant], nobody(tiny_lm))[variant]
    assert best.success and best.reflections == ("right",)

def test_equal_trials_are_played_once(tiny_lm, monkeypatch):
    """Two methods write the same, a third one something else; the fourth writes nothing."""
    played, run = [], retro.evaluate.run_in_batches

    def counted(environments, tasks, actor, memories, **rest):
        played.extend((task["id"], tuple(memory)) for task, memory in zip(tasks, memories))
        return run(environments, tasks, actor, memories, **rest)

    monkeypatch.setattr(retro.evaluate, "run_in_batches", counted)
    say = lambda text: lambda trials, temperature: [text] * len(trials)
    writers = {"reflexion": say("a"), "oracle": say("a"), "last_attempt": say("b")}
    compared = variants(("react", *writers), {}, (1.0,))
    bar = SimpleNamespace(n=0, total=0)
    bar.update = lambda n: setattr(bar, "n", bar.n + n)
    evaluation = replace(scripted(5, retries=2, repeats=2), bar=bar)
    evaluate(evaluation, compared, nobody(tiny_lm, writers))
    ids = [task["id"] for task, _ in evaluation.rows]
    memories = [[()], [(), ("a",), ("b",)], [(), ("a", "a"), ("b",)]]
    assert sorted(played) == sorted((i, m) for i in ids for own in memories for m in own)
    assert bar.n == bar.total == len(played) == 10 * 7
    played.clear()
    forgetful = replace(evaluation, actor=ScriptedActor(lambda text: "look", memory=0))
    chains = evaluate(forgetful, compared, nobody(tiny_lm, writers))
    assert len(played) == 10 * 3 and len({str(own) for own in chains.values()}) == 1
    assert bar.n == 10 * 7 + 10 * 3 <= bar.total  # the same bar goes on; its total is a bound

# ---- chains

def test_chains_retry_only_what_failed_and_remember_in_order(tiny_lm):
    ids = [task["id"] for task, _ in scripted(3, 0).rows]
    words = scripted(3, 0).rows[0][0]["words"]
    win = scripted(3, 0).rows[0][0]["word"]
    calls = []

    def writer(trials, temperature):
        calls.append(([t.task_id for t in trials], temperature))
        return [f"note {len(calls)}" for _ in trials]

    play = lambda text: win if ", ".join(words) in text else "look"
    reflexion, react = Variant("reflexion", 0.5), Variant("react")
    chains = evaluate(scripted(3, 4, play), [reflexion, react],
                      nobody(tiny_lm, {"reflexion": writer}))  # fmt: skip
    assert [len(chain) for chain in chains[reflexion]] == [1, 5, 5]
    assert calls == [([ids[1], ids[2]], 0.5)] * 4
    assert chains[reflexion][1][-1].reflections == ("note 2", "note 3", "note 4")
    assert chains[reflexion][1][1].reflections == ("note 1",)
    assert all(t.reflections == () for chain in chains[react] for t in chain)
    assert success(chains[react], 0) == success(chains[react], 4) == 1 / 3

def test_only_the_last_attempt_is_kept_and_a_text_that_is_missing_adds_nothing(tiny_lm):
    notes = iter(["a", "b", None])
    writers = {"last_attempt": lambda ts, temperature: [next(notes)]}
    variant = Variant("last_attempt")
    (chain,) = evaluate(scripted(1, 3), [variant], nobody(tiny_lm, writers))[variant]
    assert [t.reflections for t in chain] == [(), ("a",), ("b",), ("b",)]

def test_last_attempt_is_the_trial_without_its_opening_and_keeps_its_end(tiny_lm):
    steps = tuple(Step(f"go to bed {i}", "Nothing happens.", 0.0) for i in range(9))
    t = Trajectory("household", "a", "You see a bed 1.", ("old",), steps, 0, False, False, True)
    for context, whole in ((2560, True), (60, False)):
        tiny_lm.context = context
        text = last_attempt([t], tiny_lm)[0]
        assert text.endswith("> go to bed 8 Nothing happens.") and "\n" not in text
        assert ("> go to bed 0 " in text) == whole and "You see" not in text and "old" not in text
        assert len(tiny_lm.tokenizer.encode(text)) <= context // 2 or whole

def test_the_actor_reads_all_of_the_last_attempt_and_of_a_reflection_its_advice(tiny_lm):
    """Text of a trial with the word `Cause: ` in it is no reflection with notes."""
    read = []

    def heard(text):
        read.append(text)
        return "look"

    steps = (Step("search mug", "Cause: unknown. See mug.", 0.0),)
    t = Trajectory("guess", "a", "x", (), steps, 0, False, False, True)
    (attempt,) = last_attempt([t], tiny_lm)
    assert attempt == "> search mug Cause unknown. See mug."
    notes = "Notes: a. Cause: I slept. Plan: say b."
    writers = {"last_attempt": lambda ts, _: [attempt], "oracle": lambda ts, _: [notes]}
    evaluation = scripted(1, 1, heard)
    for name, seen in (("last_attempt", attempt), ("oracle", "I slept. Plan: say b.")):
        chains = evaluate(evaluation, [Variant(name)], nobody(tiny_lm, writers))[Variant(name)]
        assert chains[0][1].reflections == (writers[name]([t], None)[0],)  # the memory has it whole
        assert f"\nReflection: {seen}\n" in read[-1] + "\n"

# ---- who writes

def test_each_method_writes_with_its_runs_adapter(reflector, tiny_lm):
    """Greedy texts on the same failed trials, beside those that each adapter writes alone."""
    folders, texts = {"sft": "sft", "retroformer": "adapter"}, {}
    compared = variants(("reflexion", *folders), {}, (0.0,), runs=2)
    for variant, chains in evaluate(lucky(n=6, retries=1), compared, reflector).items():
        failed, name = [chain for chain in chains if len(chain) > 1], None
        if folder := folders.get(variant.method):
            load_adapter(tiny_lm.model, reflector.runs[variant.run] / folder, name := "alone")
        with tiny_lm.using(name):
            alone = reflect(tiny_lm, [reflection_prompt(c[0], tiny_lm) for c in failed],
                            temperature=0.0, generator=torch.Generator())  # fmt: skip
        texts[variant] = tuple(c[1].reflections[0] for c in failed)
        assert texts[variant] == tuple(r.text for r in alone) and failed
    assert len(set(texts.values())) == len(compared) == 5

def test_methods_without_adapters_are_played_once_whatever_the_runs():
    found = variants((*methods_of("online"), "best_of"), {"retroformer": 0.3}, runs=2)
    each = {m: [v for v in found if v.method == m] for m in (*methods_of("online"), "best_of")}
    sizes = {m: len(own) for m, own in each.items()}
    assert sizes == dict(react=1, last_attempt=1, template=1, reflexion=3, sft=6, retroformer=6,
                         shuffled=2, oracle=1, best_of=2)  # fmt: skip
    assert {v.temperature for v in each["shuffled"]} == {0.3}
    assert {v.temperature for v in each["best_of"]} == {1.0}
    assert {v.temperature for v in each["sft"]} == set(TEMPERATURES)
    assert {v.run for v in each["sft"]} == {0, 1} and {v.run for v in each["reflexion"]} == {0}
    offline = variants(methods_of("offline"), {"retroformer_offline": 0.0})
    assert Variant("shuffled", 0.0) in offline and len(set(offline)) == len(offline)

def test_methods_name_the_mode():
    online, offline = methods_of("online"), methods_of("offline")
    assert "retroformer" in online and "retroformer_offline" not in online
    assert [m.replace("_offline", "") for m in offline] == list(online)

def test_the_reward_model_picks_among_samples_but_not_among_greedy_ones(reflector):
    best = lambda found, n: [max(found[i : i + n], key=lambda r: r.text)
                             for i in range(0, len(found), n)]  # fmt: skip
    judged = replace(reflector, reward=SimpleNamespace(best=best))
    evaluation = lucky(retries=1)
    hot, cold = Variant("retroformer_offline", 1.0), Variant("retroformer_offline", 0.0)
    assert [judged.samples(v) for v in (hot, cold, Variant("reflexion", 1.0))] == [3, 1, 1]
    chains = evaluate(evaluation, [hot, cold], judged)
    for row, (first, *rest) in enumerate(chains[hot]):
        draws = [evaluation.generator(torch.device("cpu"), row, 1, "reflection", n)
                 for n in range(3)]  # fmt: skip
        written = reflector.write([(hot, first)] * 3, draws)
        assert [t.reflections for t in rest] in ([], [(max(r.text for r in written),)])

# ---- controls

def test_no_task_is_handed_its_own_text():
    """The next other task's, in a circle; of one alone that of a task kept from before."""
    kept: list = []
    assert shuffled(["A", "B", "C"], ["a", "b", "c"], kept) == ["B", "C", "A"]
    assert shuffled(["A1", "A2", "B1"], ["a", "a", "b"], kept) == ["B1", "B1", "A1"]
    assert shuffled(["C2"], ["c"], kept) == ["A"]
    assert shuffled(["A"], ["a"], []) == [None] and shuffled([], [], []) == []
    numbers, kept = torch.Generator().manual_seed(0), []
    for _ in range(50):
        n, tasks = torch.randint(1, 6, (2,), generator=numbers).tolist()
        ids = torch.randint(tasks, (n,), generator=numbers).tolist()
        handed = shuffled([f"about {i}" for i in ids], ids, kept)
        others = {task for task, _ in kept}
        for own, text in zip(ids, handed):
            assert text != f"about {own}" and (text is not None or others == {own}), (ids, handed)

def test_shuffled_reads_the_other_tasks_texts(tiny_lm):
    evaluation = scripted(3, retries=2, repeats=2)
    writers = {"shuffled": lambda trials, t: [f"on {x.task_id}" for x in trials]}
    (chains,) = evaluate(evaluation, [Variant("shuffled", 1.0)], nobody(tiny_lm, writers)).values()
    ids = [task["id"] for task, _ in evaluation.rows[::2]]
    for chain in chains:
        own = ids.index(chain[0].task_id)
        assert chain[2].reflections == (f"on {ids[(own + 1) % 3]}",) * 2

def obedient(text: str) -> str:
    """Says what the last plan tells it."""
    plan = text.split("\n>")[0].rpartition("Plan: say ")[2]
    return plan.rstrip(".") if "Plan: say " in text else "look"

def test_the_oracle_closes_the_gap_and_a_template_does_what_its_rule_says(tiny_lm, monkeypatch):
    assert measure_gap(scripted(3, 1, obedient), nobody(tiny_lm)) == [0.0, 0.0, 1.0]
    evaluation = scripted(3, 1, obedient)
    word = evaluation.rows[0][0]["word"]
    rules = {"none": lambda o, steps: "I lost. Plan: say nothing.",
             "one": lambda o, steps: f"I lost. Plan: say {word}.",
             "all": evaluation.env.oracle_reflection}  # fmt: skip
    monkeypatch.setattr(Guess, "templates", rules)
    shares = try_templates(evaluation, nobody(tiny_lm))
    assert shares == {"none": 0.0, "one": 1 / 3, "all": 1.0}
    for name, share in shares.items():
        variant = Variant("template")
        chosen = replace(evaluation, template=name)
        assert success(evaluate(chosen, [variant], nobody(tiny_lm))[variant], 1) == share
    monkeypatch.undo()
    assert try_templates(evaluation, nobody(tiny_lm)) == {}  # it has none

def test_temperatures_are_tried_with_every_runs_adapter(reflector):
    evaluation = lucky(n=5, retries=1)
    methods = methods_of("online") + ("best_of",)
    found = try_temperatures(evaluation, methods, reflector, (0.0, 1.0))
    assert list(found) == ["reflexion", "sft", "retroformer"]
    assert all(list(shares) == ["0", "1"] for shares in found.values())
    for name, runs in (("reflexion", 1), ("sft", 2)):
        for t in (0.0, 1.0):
            own = [Variant(name, t, run) for run in range(runs)]
            chains = [evaluate(evaluation, [v], reflector)[v] for v in own]
            won = sum(any(t.success for t in chain) for part in chains for chain in part)
            assert found[name][f"{t:g}"] == pytest.approx(won / (5 * runs))
