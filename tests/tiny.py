"""A tiny random GPT with weights large enough that attention and order matter."""

import torch

from retro.model import GPT, GPTConfig

CONFIG = dict(
    vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
)  # fmt: skip

def tiny_gpt(seed=0, dtype=torch.float64, scale=15.0, **changes) -> GPT:
    model = GPT(GPTConfig(**{**CONFIG, **changes}), torch.Generator().manual_seed(seed)).to(dtype)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight *= scale
            else:
                weight += 0.1 * torch.arange(len(weight)) / len(weight)
    return model

def random_ids(*shape, seed=0, vocab=50):
    return torch.randint(0, vocab, shape, generator=torch.Generator().manual_seed(seed))

def largest_gap(a, b) -> float:
    return (a - b).abs().max().item()

CALLS = ((9, True), (6, True), (1, True), (1, False), (4, False))  # new tokens a row, ragged or not

def growing_states(model, cache, decoder=None):
    """States of real tokens in a schedule of ragged calls on one cache: a first chunk, an
    observation, tokens of which some rows stand still, tokens and a chunk of all rows.
    """
    rows, numbers = len(cache.lengths), torch.Generator().manual_seed(2)
    ids, states = random_ids(rows, 30), []
    for S, ragged in CALLS:
        counts = torch.randint(0, S + 1, (rows,), generator=numbers) if ragged else None
        hidden = (decoder or model).hidden(ids[:, :S], cache, counts)
        real = torch.arange(S) < (S if counts is None else counts[:, None])
        states.append(hidden[real.expand(rows, S)])
    return states
