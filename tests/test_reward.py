"""The reward model: bounded, on the shared cache, fitted to what it is told, saved and read."""

import gc
import math
import weakref

import pytest
import torch

import retro.policy
import retro.reflect
import retro.reward
from retro.lora import lora_parameters
from retro.policy import ResponseBatch
from retro.reflect import RANGES
from retro.report.ranking import held_out_quality, quality
from retro.reward import ADAPTER, FitConfig, RewardModel, fit, pair_loss
from tests.small_trials import failed_trials, randomise, sample, shorten

@pytest.fixture(scope="module")
def trials():
    """Each of four trials three times."""
    return [trial for trial in failed_trials(4, steps=2) for _ in range(3)]

@pytest.fixture
def setting(tiny_lm, trials, monkeypatch):
    """(language model, reward model that knows nothing, three reflections on each trial)."""
    shorten(monkeypatch, tiny_lm)
    tiny_lm.reflection_tokens = 6
    return tiny_lm, reward_model(tiny_lm, "delta"), sample(tiny_lm, trials)

def reward_model(lm, rating, rank=2, seed=0) -> RewardModel:
    lm.add_adapter(ADAPTER, rank, 2.0 * rank, torch.Generator().manual_seed(seed))
    return RewardModel(lm, *RANGES[rating])

@pytest.fixture
def trained(setting):
    """The same with weights that matter."""
    lm, reward, reflections = setting
    randomise(lm, ADAPTER, std=0.15)
    for i, weight in enumerate((reward.bias, reward.scale)):
        torch.nn.init.normal_(weight, std=0.15, generator=torch.Generator().manual_seed(90 + i))
    return lm, reward, reflections

def test_equal_prompts_are_read_once_and_answered_differently(setting):
    lm, _, reflections = setting
    read = list(lm.prefill([r.prompt_ids for r in reflections]))
    assert sum(len(part.cache.lengths) for part in read) == 4
    assert sorted(i for part in read for i in part.rows) == list(range(12))
    assert len({r.text for r in reflections[:3]}) > 1

def test_score_is_how_much_likelier_the_adapter_makes_the_response(trained, monkeypatch):
    """By hand: prompt under the base, then the response under the adapter, and under the base."""
    lm, reward, reflections = trained
    model = lm.model
    scores = reward.score(reflections)
    for r, score in zip(reflections, scores):
        start, ids = len(r.prompt_ids) - 1, torch.tensor([r.prompt_ids + r.response_ids])
        log_ratio = 0.0
        for adapter, sign in ((ADAPTER, 1), (None, -1)):
            cache = model.new_cache(1, ids.shape[1])
            with torch.no_grad():
                with lm.frozen():
                    model.hidden(ids[:, :start], cache)
                with lm.using(adapter):
                    logits = model.logits(model.hidden(ids[:, start:-1], cache))[0]
            for token, row in zip(r.response_ids, logits.log_softmax(-1)):
                log_ratio += sign * row[token].item()
        logit = reward.bias.item() + reward.scale.item() * log_ratio
        assert score == pytest.approx(2 / (1 + math.exp(-logit)) - 1, abs=1e-4)
    assert len({round(s, 4) for s in scores}) > 6, scores
    read = list(lm.prefill([r.prompt_ids for r in reflections]))
    assert reward.score(reflections, read) == pytest.approx(scores, abs=1e-5)  # the policy's cache
    monkeypatch.setattr(retro.reward, "READ_TOGETHER", 5)  # more than are in memory at a time
    assert reward.score(reflections) == pytest.approx(scores, abs=1e-5)

@pytest.mark.parametrize("rating", RANGES)
def test_scores_stay_in_the_ratings_range(setting, rating):
    lm, _, reflections = setting
    low, high = RANGES[rating]
    reward, reflections = RewardModel(lm, low, high), reflections[:4]
    middle = reward.score(reflections)
    assert middle == [(low + high) / 2] * 4  # it starts by knowing nothing
    for bias, end in ((-50.0, low), (50.0, high)):
        torch.nn.init.constant_(reward.bias, bias)
        assert reward.score(reflections) == pytest.approx([end] * 4, abs=1e-6)

def test_reflector_and_reward_model_do_not_disturb_one_another(trained):
    """Two adapters on one model: what one learns, the other and the base never notice."""
    lm, reward, reflections = trained
    before = reward.score(reflections)
    batch = ResponseBatch(lm, reflections)
    base = batch.reference_logprobs()
    lm.add_adapter("reflector", 3, 6.0, torch.Generator())
    assert reward.score(reflections) == before
    randomise(lm, "reflector", std=1.0)
    assert reward.score(reflections) == before
    with lm.using("reflector"), torch.no_grad():
        written = batch.logprobs(torch.arange(12))
    assert not torch.equal(written, base) and torch.equal(batch.reference_logprobs(), base)
    fit_by_heart(reward, reflections, epochs=1)
    assert reward.score(reflections) != before  # it has learnt
    with lm.using("reflector"), torch.no_grad():
        assert torch.equal(batch.logprobs(torch.arange(12)), written)
    assert torch.equal(batch.reference_logprobs(), base)
    assert all(p.grad is None for p in lora_parameters(lm.model, "reflector"))

def test_scoring_keeps_no_prompt_in_memory(setting):
    lm, reward, reflections = setting
    read = list(lm.prefill([r.prompt_ids for r in reflections]))
    gone = [weakref.ref(part.cache) for part in read]
    reward.score(reflections, read)
    batch = ResponseBatch(lm, reflections, read)
    assert batch.caches is read
    del read, batch
    gc.collect()
    assert not any(cache() for cache in gone)

def test_saved_and_loaded_it_scores_the_same(trained, tmp_path, tiny_base):
    lm, reward, reflections = trained
    before = reward.score(reflections)
    reward.save(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors", "head.safetensors"}
    randomise(lm, ADAPTER, std=0.5)
    again = RewardModel(lm, 0.0, 1.0)  # the range is in the file
    assert again.score(reflections) != before
    assert again.load(tmp_path).score(reflections) == before
    (tmp_path / "head.safetensors").write_bytes(b"not a head")
    with pytest.raises(ValueError, match="head.safetensors"):
        again.load(tmp_path)

def test_best_of_n_is_the_highest_score_of_each_group(trained):
    _, reward, reflections = trained
    scores = reward.score(reflections)
    best = reward.best(reflections, 3)
    for i, chosen in enumerate(best):
        own = scores[3 * i : 3 * i + 3]
        assert chosen == reflections[3 * i + own.index(max(own))]

def fit_by_heart(reward, reflections, epochs) -> tuple[list[float], list[int]]:
    """Rated by whether the first id is a high one; two reflections a task."""
    firsts = [r.response_ids[0] for r in reflections]
    ratings = [float(i > sorted(firsts)[len(firsts) // 2 - 1]) for i in firsts]
    assert 0 < sum(ratings) < len(ratings)
    tasks = [("household", str(i // 2)) for i in range(len(reflections))]  # 6: one is held out
    config = FitConfig(epochs, lr=2e-2, minibatch_size=4, max_grad_norm=1.0)
    return fit(reward, reflections, ratings, tasks, config, torch.Generator().manual_seed(0))

def test_fit_learns_the_ratings_it_sees_and_holds_tasks_out(setting):
    """Learnt by heart, on 80 % of the tasks."""
    lm, _, reflections = setting
    reward = RewardModel(lm, *RANGES["next"])
    losses, kept = fit_by_heart(reward, reflections, epochs=14)
    assert len(kept) == 2 and kept[0] % 2 == 0 and kept[1] == kept[0] + 1  # those of one task
    assert losses[0] > 0.5 and losses[-1] < 0.2, losses
    rows, scores = [reflections[i] for i in kept], reward.score(reflections)
    found = held_out_quality(reward, rows, [0.0, 1.0], ["a", "b"])
    assert list(found) == ["all", "a", "b"] and [found[name]["n"] for name in found] == [2, 1, 1]
    assert found["a"]["ece"] == pytest.approx(scores[kept[0]], abs=1e-5)  # far from its rating, 0
    assert held_out_quality(reward, [], [], []) == {}

def test_a_gradient_that_is_nan_moves_nothing(setting):
    lm, _, reflections = setting
    weights = lora_parameters(lm.model, ADAPTER)
    before = [weight.clone() for weight in weights]
    weights[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match="gradient is"):
        fit_by_heart(RewardModel(lm, *RANGES["next"]), reflections, epochs=1)
    assert all(torch.equal(*pair) for pair in zip(before, weights))

def test_pair_loss_on_a_hand_worked_example():
    """Prompt 0 has three reflections, two of one rating; prompt 1 one: two pairs. The gradient
    raises the better one and lowers the others."""
    log_ratios = torch.tensor([1.0, 0.5, -1.0, 9.0], requires_grad=True)
    loss = pair_loss(log_ratios, torch.tensor([0.2, 0.8, 0.2, 0.0]), torch.tensor([0, 0, 0, 1]))
    assert loss.item() == pytest.approx((math.log1p(math.e**0.5) + math.log1p(math.e**-1.5)) / 2)
    loss.backward()
    up = [1 / (1 + math.e**-0.5) / 2, 1 / (1 + math.e**1.5) / 2]
    assert log_ratios.grad.tolist() == pytest.approx([up[0], -sum(up), up[1], 0.0])
    assert pair_loss(log_ratios, torch.zeros(4), torch.zeros(4)).item() == 0.0

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
