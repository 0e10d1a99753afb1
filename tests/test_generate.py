"""Sampling against enumeration and against recomputation without a cache."""

from itertools import product

import pytest
import torch
from tiny import random_ids, tiny_gpt

from retro.language_model import generate, pad, sample, uniforms

def logprobs_by_recomputation(model, context, response, temperature=1.0):
    """log p of each response token, from one uncached pass over the whole sequence."""
    logits = model(torch.tensor([context + response]))[0]
    logprobs = torch.log_softmax(logits / temperature, dim=-1)
    positions = range(len(context) - 1, len(context) + len(response) - 1)
    return [logprobs[position, token].item() for position, token in zip(positions, response)]

def check_logprobs(model, contexts, out, temperature=1.0):
    for i, (context, response) in enumerate(zip(contexts, out.response_ids)):
        n = len(response)
        expected = logprobs_by_recomputation(model, context, response, temperature)
        assert out.logprobs[i, :n].tolist() == pytest.approx(expected, abs=1e-5)
        assert out.response_mask[i].tolist() == [True] * n + [False] * (len(out.logprobs[i]) - n)
        assert (out.logprobs[i, n:] == 0).all()

@pytest.mark.slow
def test_frequencies_are_the_enumerated_probabilities():
    """All responses to [1, 2] of up to 3 tokens from {0, 1, 2}, 0 = stop: 1 + 2 + 4 * 3 = 15.

    Probabilities sum to 1. Of 5,000 samples each response's count lies within 5 sigma: a false
    alarm once in 100,000 seeds (15 * 6e-7).
    """
    model, N = tiny_gpt(vocab_size=3, scale=5.0), 5_000
    probability = {}
    with torch.no_grad():
        for n in (1, 2, 3):
            for response in product(range(3), repeat=n):
                if 0 not in response[:-1] and (n == 3 or response[-1] == 0):
                    logprobs = logprobs_by_recomputation(model, [1, 2], list(response))
                    probability[response] = torch.tensor(logprobs).sum().exp().item()
    assert len(probability) == 15
    assert sum(probability.values()) == pytest.approx(1, abs=1e-6)

    out = generate(model, [[1, 2]] * N, 3, (0,), generator=torch.Generator().manual_seed(0))
    counts = dict.fromkeys(probability, 0)
    for response, logprob in zip(out.response_ids, out.logprobs.sum(dim=1).exp().tolist()):
        counts[tuple(response)] += 1
        assert logprob == pytest.approx(probability[tuple(response)], abs=1e-5)
    for response, p in probability.items():
        sigma = (N * p * (1 - p)) ** 0.5
        count = counts[response]
        assert abs(count - N * p) < 5 * sigma, f"{response}: {count}, expected {N * p}"

@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_three_turns_on_one_cache(temperature):
    """Ragged prompts, ragged observations; a third of the vocabulary stops, so rows leave at once
    and the batch shrinks several times. Each log p equals that of the uncached whole."""
    model, generator = tiny_gpt(scale=6.0), torch.Generator().manual_seed(3)
    contexts = [random_ids(1 + i % 5, seed=i).tolist() for i in range(16)]
    chunks, cache = contexts, None
    for turn in range(3):
        out = generate(model, chunks, 12, range(16), temperature, generator, cache)
        check_logprobs(model, contexts, out, temperature)
        contexts = [c + r for c, r in zip(contexts, out.response_ids)]
        assert len({len(r) for r in out.response_ids}) > 3  # they did leave at different steps
        for row, context in enumerate(contexts):
            assert context[-1] in range(16) or len(out.response_ids[row]) == 12
            assert not set(out.response_ids[row][:-1]) & set(range(16))
            assert out.pending[row] == context[-1:]
        assert out.cache.lengths.tolist() == [len(context) - 1 for context in contexts]
        news = [random_ids((i + turn) % 3, seed=turn).tolist() for i in range(16)]
        chunks, cache = [p + new for p, new in zip(out.pending, news)], out.cache
        contexts = [context + new for context, new in zip(contexts, news)]

def test_groups_share_one_prompt():
    """The prompt is read once, without its last token; each copy of the row samples its own."""
    model, prompts = tiny_gpt(scale=6.0), [[1, 2, 3, 4], [5, 6]]
    with torch.no_grad():
        cache = model.new_cache(2)
        ids, counts = pad([prompt[:-1] for prompt in prompts])
        model.hidden(ids, cache, counts)
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    out = generate(
        model, [[4]] * 3 + [[6]] * 3, 5, generator=torch.Generator().manual_seed(0),
        cache=cache.select(rows),
    )  # fmt: skip
    check_logprobs(model, [prompts[row] for row in rows], out)
    assert cache.lengths.tolist() == [3, 1]
    assert len({tuple(response) for response in out.response_ids}) == 6  # 50^5 to choose from

def test_greedy_takes_the_likeliest_token():
    model = tiny_gpt()
    out = generate(model, [[1, 2, 3], [4]], 8, temperature=0)
    for context, response in zip([[1, 2, 3], [4]], out.response_ids):
        for token in response:
            assert token == model(torch.tensor([context]))[0, -1].argmax()
            context = context + [token]
    assert (out.logprobs == 0).all() and out.logprobs.shape == (2, 8)

def test_a_seed_gives_one_outcome():
    model = tiny_gpt(scale=5.0)
    first, second, other = (
        generate(model, [[1], [2, 3]], 9, (7,), generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert first.response_ids == second.response_ids != other.response_ids
    assert torch.equal(first.logprobs, second.logprobs)

def test_one_token_and_no_token():
    model = tiny_gpt()
    out = generate(model, [[1, 2]], 1, temperature=0)
    assert out.logprobs.shape == (1, 1) and out.cache.lengths.tolist() == [2]
    with pytest.raises(AssertionError, match="needs a token"):
        generate(model, [[1], []], 1)

def generators(*seeds) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]

def test_with_a_generator_a_row_it_does_not_matter_who_stands_beside():
    """Two turns of four rows are those of each row alone, and of the rows in another order."""
    model, prompts = tiny_gpt(scale=5.0), [[1], [2, 3], [4, 5, 6], [2, 3]]

    def play(rows):
        draws = generators(*rows)
        out = generate(model, [prompts[i] for i in rows], 9, (7,), generator=draws)
        first = out.response_ids
        chunks = [last + [i] for i, last in zip(rows, out.pending)]
        out = generate(model, chunks, 5, (7,), generator=draws, cache=out.cache)
        return dict(zip(rows, zip(first, out.response_ids)))

    together = play([0, 1, 2, 3])
    assert play([3, 1]) | play([2]) | play([0]) == together == play([2, 0, 3, 1])
    assert together[1] != together[3]  # the same prompt, another generator

def test_uniforms_are_above_zero_and_a_rows_own():
    """Of 20,000 numbers each tenth of (0, 1] has 2,000, within 5 sigma (212): once in 100,000."""
    for draws in (torch.Generator().manual_seed(0), generators(*range(200))):
        u = uniforms(draws, 200, 100, None)
        assert u.shape == (200, 100) and u.min() > 0 and u.max() <= 1
        counts = torch.histc(u, 10, 0, 1)
        assert (counts - 2000).abs().max() < 212, counts
        assert len({tuple(row) for row in u.tolist()}) == 200
    u = uniforms(generators(3, 4), 2, 5, None)
    assert torch.equal(u[1], 1 - torch.rand(5, generator=torch.Generator().manual_seed(4)))

def test_a_uniform_number_picks_the_token_whose_share_it_falls_in():
    """Shares .5, .3, .2 of the interval, from the left; at temperature 1/2 their squares'."""
    p = torch.tensor([0.5, 0.3, 0.2])
    u = torch.tensor([1e-9, 0.49, 0.51, 0.79, 0.81, 1.0])
    token, logprob = sample(p.log().expand(6, 3), torch.ones(6), u)
    assert token.tolist() == [0, 0, 1, 1, 2, 2]
    assert logprob.exp().tolist() == pytest.approx([0.5, 0.5, 0.3, 0.3, 0.2, 0.2])
    u, half = torch.tensor([24 / 38, 26 / 38]), torch.full((2,), 0.5)
    token, logprob = sample(p.log().expand(2, 3), half, u)
    assert token.tolist() == [0, 1]
    assert logprob.exp().tolist() == pytest.approx([25 / 38, 9 / 38])

def test_log_probabilities_are_float32_whatever_the_logits():
    logits = torch.tensor([[8.0, 0.0, -30.0]], dtype=torch.bfloat16)
    token, logprob = sample(logits, torch.ones(len(logits)), torch.tensor([0.5]))
    assert token.item() == 0 and logprob.dtype == torch.float32
    assert logprob.item() == pytest.approx(-3.3540e-4, rel=1e-3)  # -log(1 + e^-8); bfloat16 says 0

def test_pad():
    ids, counts = pad([[3, 4], [5], []])
    assert ids.tolist() == [[3, 4], [5, 0], [0, 0]] and counts.tolist() == [2, 1, 0]
