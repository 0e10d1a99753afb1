"""The reward model: bounded, on the shared cache, fitted to what it is told, saved and read."""

import math
from contextlib import nullcontext

import pytest
import torch

import envs
import retro.model
import retro.reflect
from retro import tokenizer
from retro.actor import ScriptedActor
from retro.lora import add_lora, lora_parameters
from retro.model import GPT
from retro.reflect import RANGES, ReflectionPolicy, read_prompts, reflect
from retro.reward import RewardModel, fit, pair_loss, quality
from retro.trial import run_trials


@pytest.fixture
def setting(tiny_base, monkeypatch):
    """(base, reward model with weights that matter, three reflections on each of four trials)."""
    monkeypatch.setattr(retro.reflect, "autocast", lambda device: nullcontext())
    monkeypatch.setattr(retro.reflect, "REFLECTION_TOKENS", 6)
    model, coder = GPT.from_pretrained(tiny_base), tokenizer.load(tiny_base)
    env = envs.make("household", max_steps=2)
    trials = run_trials(env, env.tasks("train", 4, 2), ScriptedActor(lambda text: "look"), [[]] * 4)
    reward = RewardModel.new(model, 2, 4.0, "delta", torch.Generator().manual_seed(0))
    for i, p in enumerate(p for p in reward.parameters() if p.requires_grad):
        torch.nn.init.normal_(p, std=0.15, generator=torch.Generator().manual_seed(i))
    reflections = reflect(
        model,
        coder,
        [t for t in trials for _ in range(3)],
        temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    return model, reward, reflections


def test_equal_prompts_are_read_once_and_answered_differently(setting):
    model, _, reflections = setting
    read = list(read_prompts(model, [r.prompt_ids for r in reflections]))
    assert sum(len(part.cache.lengths) for part in read) == 4
    assert sorted(i for part in read for i in part.rows) == list(range(12))
    assert len({r.text for r in reflections[:3]}) > 1


def test_score_is_how_much_likelier_the_adapter_makes_the_response(setting):
    """By hand: prompt under the base, then the response under the adapter, and under the base."""
    model, reward, reflections = setting
    scores = reward.score(reflections)
    for r, score in zip(reflections, scores):
        start, ids = len(r.prompt_ids) - 1, torch.tensor([r.prompt_ids + r.response_ids])
        gain = 0.0
        for judge, sign in ((reward.model, 1), (model, -1)):
            cache = model.new_cache(1, ids.shape[1])
            with torch.no_grad():
                model.hidden(ids[:, :start], cache)
                logits = judge.logits(judge.hidden(ids[:, start:-1], cache))[0]
            for token, row in zip(r.response_ids, logits.log_softmax(-1)):
                gain += sign * row[token].item()
        logit = reward.bias.item() + reward.scale.item() * gain
        assert score == pytest.approx(2 / (1 + math.exp(-logit)) - 1, abs=1e-4)
    assert len({round(s, 4) for s in scores}) > 6, scores
    read = list(read_prompts(model, [r.prompt_ids for r in reflections]))
    assert reward.score(reflections, read) == pytest.approx(scores, abs=1e-5)  # the policy's cache
    assert reward.read is None and len(read) > 0


@pytest.mark.parametrize("rating", RANGES)
def test_scores_stay_in_the_ratings_range(setting, rating):
    model, _, reflections = setting
    reward = RewardModel.new(model, 2, 4.0, rating, torch.Generator())
    low, high = RANGES[rating]
    middle = reward.score(reflections)
    assert middle == [(low + high) / 2] * len(reflections)  # it starts by knowing nothing
    for bias, end in ((-50.0, low), (50.0, high)):
        torch.nn.init.constant_(reward.bias, bias)
        assert reward.score(reflections) == pytest.approx([end] * len(reflections), abs=1e-6)


def test_it_shares_the_frozen_base_and_nothing_else(setting):
    model, reward, reflections = setting
    before = reward.score(reflections)
    twin = dict(reward.model.named_parameters())
    assert all(twin[name].data_ptr() == p.data_ptr() for name, p in model.named_parameters())
    add_lora(model, 3, 6.0, torch.Generator())
    for p in lora_parameters(model):
        torch.nn.init.normal_(p)
    assert reward.score(reflections) == before
    own = {p.data_ptr() for p in lora_parameters(model)}
    assert not own & {p.data_ptr() for p in lora_parameters(reward.model)}
    policy = ReflectionPolicy(model)
    policy.hold(reflections)
    policy.release()
    assert policy.read is None and not policy.reflections
    assert policy.responses.numel() == policy.mask.numel() == 0


def test_saved_and_loaded_it_scores_the_same(setting, tmp_path):
    model, reward, reflections = setting
    reward.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    assert RewardModel.load(model, tmp_path).score(reflections) == reward.score(reflections)
    (tmp_path / "head.safetensors").write_bytes(b"not a head")
    with pytest.raises(ValueError, match="head.safetensors"):
        RewardModel.load(model, tmp_path)


def test_best_of_n_is_the_highest_score_of_each_group(setting):
    _, reward, reflections = setting
    scores = reward.score(reflections)
    best = reward.best(reflections, 3)
    for i, chosen in enumerate(best):
        own = scores[3 * i : 3 * i + 3]
        assert chosen == reflections[3 * i + own.index(max(own))]


def test_fit_learns_the_ratings_it_sees_and_holds_tasks_out(setting):
    """Rated by whether the first id is a high one: learnt by heart, on 80 % of the tasks."""
    model, _, reflections = setting
    reward = RewardModel.new(model, 4, 8.0, "next", torch.Generator().manual_seed(0))
    firsts = [r.response_ids[0] for r in reflections]
    ratings = [float(i > sorted(firsts)[len(firsts) // 2 - 1]) for i in firsts]
    assert 0 < sum(ratings) < len(ratings)
    tasks = [("household", str(i // 2)) for i in range(len(reflections))]  # 6: one is held out
    found = fit(
        reward,
        reflections,
        ratings,
        tasks,
        epochs=40,
        lr=5e-3,
        minibatch_size=4,
        max_grad_norm=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    assert found["learnt_from"] == 10 and found["held_out"]["all"]["n"] == 2
    assert found["held_out"]["household"] == found["held_out"]["all"]
    assert found["loss"][0] > 0.5 and found["loss"][-1] < 0.2, found["loss"]


def test_pair_loss_on_a_hand_worked_example():
    """Prompt 0 has three reflections, two of one rating; prompt 1 one: two pairs. The gradient
    raises the better one and lowers the others."""
    gains = torch.tensor([1.0, 0.5, -1.0, 9.0], requires_grad=True)
    loss = pair_loss(gains, torch.tensor([0.2, 0.8, 0.2, 0.0]), torch.tensor([0, 0, 0, 1]))
    assert loss.item() == pytest.approx((math.log1p(math.e**0.5) + math.log1p(math.e**-1.5)) / 2)
    loss.backward()
    up = [1 / (1 + math.e**-0.5) / 2, 1 / (1 + math.e**1.5) / 2]
    assert gains.grad.tolist() == pytest.approx([up[0], -sum(up), up[1], 0.0])
    assert pair_loss(gains, torch.zeros(4), torch.zeros(4)).item() == 0.0


def test_quality_on_a_hand_worked_example():
    """Prompt a: three reflections, two ratings: two pairs that count; b: one pair, a tie of scores.
    """
    scores, ratings = [0.9, 0.2, 0.95, 0.4, 0.4], [1.0, 1.0, 0.0, 0.0, 1.0]
    found = quality(scores, ratings, ["a", "a", "a", "b", "b"], 0.0, 1.0)
    assert found["pairs"] == 3 and found["ranking"] == pytest.approx(0.5 / 3)
    assert [n for *_, n in found["calibration"]] == [1, 2, 2]  # bins .2, .4 and .9
    assert found["calibration"][2][:2] == pytest.approx([0.925, 0.5])
    assert found["ece"] == pytest.approx((0.8 * 1 + 0.1 * 2 + 0.425 * 2) / 5)
    assert quality([0.3], [0.3], ["a"], 0.0, 1.0)["ranking"] is None
    assert quality([1.0], [1.0], ["a"], -1.0, 1.0)["ece"] == 0  # the range's end has a bin
