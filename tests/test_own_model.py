"""A pretrained reflector beside the actor, and training from a file of rated reflections alone."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from recorded import convert

import envs
import retro.learn
import train
from retro import tokenizer
from retro.evaluate import UNTRAINED, methods_of
from retro.interop.endpoint import Budget
from retro.interop.export import Config as Export
from retro.interop.export import main as export
from retro.interop.guides import HOTPOT, HOUSEHOLD, REFLECTION_RULES
from retro.interop.open import ActorOptions, open_actor, open_model, run_settings
from retro.learn import FailedTrial
from retro.memory import FIELDS, Rated, replay_buffer
from retro.model import GPT
from retro.prompts import CHAT_REFLECT
from retro.run.files import read_json, read_tensors
from tests.small_run import Killed, config, evaluated, outcome, short_games, slow  # noqa: F401

def opened(folder, *settings):
    return open_model(str(folder), torch.device("cpu"), False, *settings)

@pytest.fixture(scope="module")
def own(tiny_base, tiny_chat, tmp_path_factory, short_games) -> Path:  # noqa: F811
    """A finished run of that reflector, offline so that all is used; never well-formed."""
    folder = tmp_path_factory.mktemp("own") / "run"
    changes = dict(reflector=str(tiny_chat), bfloat16=True, recompute=True, min_well_formed=0.5)
    train.main(config(tiny_base, folder, envs="guess", updates=1, mode="offline", **changes))
    return folder

def rows_of(folder) -> list[dict]:
    return list(replay_buffer(folder / "replay.jsonl"))

def test_a_pretrained_reflector_is_trained_and_asked_in_its_frame(own, tiny_chat):
    rows = rows_of(own)
    assert rows and all(row["prompt"].endswith(CHAT_REFLECT) for row in rows)
    assert not any("<|im_" in row["prompt"] + row["response"] for row in rows)
    lm = opened(tiny_chat)
    before, after = lm.around
    assert REFLECTION_RULES in lm.tokenizer.decode(before)
    ids = Rated.from_row(rows[0], lm).prompt_ids
    assert before and ids[: len(before)] == before and ids[-len(after) :] == after
    assert outcome(own)[0][0]["mean_rating"] is not None
    assert read_json(own / "adapter/adapter_config.json")["r"] == 4

def test_as_an_actor_it_is_told_the_rules_and_a_base_of_ours_is_not(tiny_base, tiny_chat):
    opening, generator = "Answer by searching: Who?", torch.Generator()
    for folder, told in ((tiny_chat, True), (tiny_base, False)):
        options = ActorOptions(actor=str(folder))
        actor = open_actor(options, ["household", "hotpot"], str(tiny_base), {}, 0.0, generator, 3,
                           Budget(0, 0))  # fmt: skip
        text = actor.lm.tokenizer.decode(actor.start([opening]).chunks[0])
        assert text.startswith(HOTPOT.rules) is told and HOUSEHOLD.rules not in text
        assert text.endswith(f"{opening}\n>") and ("> Search[Maren Oldevik]" in text) is told
        assert "think" not in text.lower()

@pytest.mark.slow
def test_it_is_evaluated_by_all_methods_another_one_without_adapter(
    own, tiny_base, tiny_chat, tmp_path
):
    without = lambda methods: [name for name in methods if name != "template"]  # guess has none
    assert list(evaluated(own, tmp_path)["methods"]) == without(methods_of("offline"))
    other = evaluated(own, tmp_path, reflector=str(tiny_base), actor=str(tiny_chat))
    assert list(other["methods"]) == without(UNTRAINED)
    with pytest.raises(ValueError, match="--report"):
        evaluated(own, tmp_path, reflector=str(tiny_base), report=str(tmp_path / "p.html"))
    with pytest.raises(ValueError, match="adapter"):
        evaluated(own, tmp_path, reflector=str(tiny_base), methods="sft")
    evaluated(own, tmp_path, report=str(tmp_path / "p.html"), methods="react,sft")
    assert (tmp_path / "p.html").stat().st_size > 1000

@torch.no_grad()
def test_it_is_exported_on_its_own_base(own, tiny_chat, tmp_path):
    export(Export(run_dir=str(own), out=str(tmp_path / "out")))
    model = (tiny_chat / "model.safetensors").read_bytes()
    assert (tmp_path / "out/base/model.safetensors").read_bytes() == model
    assert tokenizer.load(tmp_path / "out/base").eos == tokenizer.load(tiny_chat).eos
    export(Export(run_dir=str(own), out=str(tmp_path / "merged"), merge=True))
    assert GPT.from_pretrained(tmp_path / "merged").config.hidden_size == 48

def test_a_context_can_be_lowered_but_not_below_the_frame(tiny_base, tiny_chat):
    for folder in map(str, (tiny_base, tiny_chat)):
        assert opened(folder, 1000).context == 1000
        assert opened(folder, 10**6).context == 2560
        around = sum(map(len, opened(folder).around))
        least = around + 192 + 64
        assert opened(folder, least, 192).context == least
        for context in (1, least - 1):
            with pytest.raises(ValueError, match=f"its context of {context} tokens is too short"):
                opened(folder, context, 192)
    options = ActorOptions(actor=str(tiny_chat), context=700)
    actor = open_actor(options, ["hotpot"], str(tiny_base), {}, 0.0, torch.Generator(), 3,
                       Budget(0, 0))  # fmt: skip
    assert actor.lm.context == 700

@pytest.mark.parametrize("wrong, message", [
    ({"actor_temperature": float("nan")}, "actor_temperature is nan, no setting of train.py"),
    ({"memory": -1}, "--memory is -1: must be at least 0"),
    ({"memory": 1.5}, "memory is 1.5, no setting of train.py"),
    ({"adapt_prompt": "no"}, "adapt_prompt is 'no', no setting of train.py"),
    ({"actor_temperature": -0.1}, "--actor-temperature is -0.1: must be at least 0"),
    ({"concurrency": 0.5}, "--concurrency is 0.5: must be a whole number"),
    ({"api": "x"}, "--api is 'x': must be one of chat, completions"),
    ({"base": 3}, "base is 3, no setting of train.py"),
    ({"notes": "no"}, "notes is 'no', no setting of train.py"),
    ({"cause_price": True}, "cause_price is True, no setting of train.py"),
])  # fmt: skip
def test_settings_of_a_run_are_checked_when_they_are_read(tmp_path, wrong, message):
    (tmp_path / "config.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        run_settings(str(tmp_path))

def test_rows_are_plain_text_and_come_back_as_the_same_ids(tiny_base, tiny_chat):
    for folder in (tiny_base, tiny_chat):
        lm = opened(folder)
        (before, after), encode, end = lm.around, lm.tokenizer.encode, lm.stop_ids[-1]
        for ids in (encode(" I was slow.") + [end], encode(" I was")):
            asked = before + encode("A mug.") + after
            response = lm.answer_text(ids)
            row = Rated("x", "1", 0, asked, ids, response, 0.0, 1.0, 1.0).to_row(lm)
            assert row["prompt"] == "A mug." and row["response"].startswith(" I was")
            assert row["response"].endswith("\n") == (ids[-1] == end)
            back = Rated.from_row(row, lm)
            assert (back.prompt_ids, back.response_ids) == (asked, ids)

def test_long_rows_are_cut_to_the_context(tiny_lm):
    tiny_lm.context = 500
    row = dict(GOOD, prompt="task " + "mug 1 " * 900 + "Reflection:", response=" b" * 900 + "\n")
    back = Rated.from_row(row, tiny_lm)
    assert len(back.response_ids) == 250 and len(back.prompt_ids) == 250
    text = tiny_lm.tokenizer.decode(back.prompt_ids)
    assert text.startswith("task") and text.endswith("Reflection:")

def buffered(base, folder, path, **changes):
    settings = config(base, folder, min_well_formed=0.5, mode="online")
    return replace(settings, from_buffer=str(path), **changes)

@pytest.fixture
def nothing_is_played(monkeypatch):
    def make(name, **kwargs):
        raise AssertionError("an environment was made")

    monkeypatch.setattr(envs, "make", make)

@pytest.mark.parametrize(
    "reflector, where, module",
    [
        ("base", "ppo_update", retro.learn),
        slow("base", "fit", train),
        slow("chat", "fit", train),
        slow("chat", "ppo_update", retro.learn),
    ],
)
def test_training_from_a_buffer_alone(
    own, tiny_base, tiny_chat, tmp_path, nothing_is_played, monkeypatch, reflector, where, module
):
    """The rows of a chat model teach either kind; killed and resumed, to the same bytes."""
    changes = {"reflector": str(tiny_chat), "adapt_prompt": True} if reflector == "chat" else {}
    path = own / "replay.jsonl"
    train.main(buffered(tiny_base, tmp_path / "a", path, **changes))
    whole = outcome(tmp_path / "a")
    assert len(whole[0]) == 2 and all(m["success"] is None for m in whole[0])
    assert not (tmp_path / "a/results.json").exists() and (tmp_path / "a/adapter").is_dir()
    assert read_json(tmp_path / "a/config.json")["mode"] == "offline"
    assert [row["rating"] for row in rows_of(tmp_path / "a")] == [r["rating"] for r in rows_of(own)]

    function = getattr(module, where)

    def killer(*args, **kwargs):
        function(*args, **kwargs)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, where, killer)
        train.main(buffered(tiny_base, tmp_path / "b", path, **changes))
    train.main(buffered(tiny_base, tmp_path / "b", path, resume=True, **changes))
    assert outcome(tmp_path / "b") == whole

def test_every_distinct_prompt_is_reflected_on(
    own, tiny_base, tiny_chat, tmp_path, nothing_is_played, monkeypatch
):
    """Each once, however many reflections on it were recorded, and within the model's frame."""
    drawn = []

    def learn(training, failed):
        drawn.append((training.lm, failed.by_env["guess"]))
        raise Killed

    monkeypatch.setattr(train, "learn_by_ppo", learn)
    settings = dict(reflector=str(tiny_chat), sft_epochs=0, reward_epochs=1)
    with pytest.raises(Killed):
        train.main(buffered(tiny_base, tmp_path / "run", own / "replay.jsonl", **settings))
    ((lm, trials),) = drawn
    assert all(isinstance(trial, FailedTrial) and trial.trajectory is None for trial in trials)
    asked = list(dict.fromkeys(row["prompt"] for row in rows_of(own)))
    assert [lm.prompt_text(trial.prompt_ids) for trial in trials] == asked
    assert [trial.length for trial in trials] == [len(text) for text in asked]

GOOD = dict(zip(FIELDS, ("x", "1", 0, "A mug.\nReflection:", "Take it.", 0.0, 1.0, 1.0)))

@pytest.mark.parametrize(
    "rows, message",
    [
        ([], "holds no rows"),
        ([GOOD, {**GOOD, "rating": 1.5}], r":2: rating 1.5: must be in \[-1.0, 1.0\]"),
        ([{**GOOD, "rating": float("nan")}], ":1: rating nan"),
        ([{**GOOD, "rating": True}], ":1: rating is True"),
        ([{**GOOD, "return": None}], ":1: return is None"),
        ([{**GOOD, "prompt": 3}], ":1: prompt is 3"),
        ([{**GOOD, "prompt": " \n"}], ":1: prompt is empty"),
        ([{"env": "x"}], ":1: must have the fields"),
    ],
)
def test_wrong_rows_are_named_by_line(tiny_base, tmp_path, rows, message):
    path = tmp_path / "b.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=message):
        train.main(buffered(tiny_base, tmp_path / "run", path))
    assert not (tmp_path / "run").exists()

def test_the_shortest_rows_train(tiny_base, tmp_path, nothing_is_played):
    """A prompt of one token, an answer of none; all of one task, so nothing is held out."""
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({**GOOD, "prompt": "a", "response": ""}) + "\n")
    train.main(buffered(tiny_base, tmp_path / "run", path, updates=1))
    assert len(outcome(tmp_path / "run")[0]) == 1

@pytest.mark.slow
def test_recorded_reflections_train_the_shipped_base(tmp_path, nothing_is_played):
    """127 reflections of a text-davinci-003 agent on HotpotQA: all three steps run on them, and
    imitation makes the ones that helped likelier."""
    if not os.environ.get("RETRO_DATA"):
        pytest.skip("RETRO_DATA is not set: the folder of real data")
    path = tmp_path / "recorded.jsonl"
    source = Path(os.environ["RETRO_DATA"]) / "hotpotqa_reflections.json"
    assert convert(source, path) == 127
    sizes = dict(batch_reflections=8, minibatch=4, updates=1, epochs=1, lr=1e-3, sft_epochs=2)
    train.main(buffered("assets", tmp_path / "run", path, **sizes))
    left = outcome(tmp_path / "run")
    state = json.loads(bytes(read_tensors(tmp_path / "run/checkpoint")["state"].tolist()))
    losses, fitted = state["sft_loss"], state["reward"]
    assert losses[1] < losses[0] and fitted["loss"][1] < fitted["loss"][0]
    assert fitted["held_out"]["all"]["n"] + fitted["learnt_from"] == 127
    assert len(left[0]) == 1 and left[4] != left[5]  # PPO moved the adapter on
