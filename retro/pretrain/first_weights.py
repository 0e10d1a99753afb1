"""The first weights of the base: a GPT that can already copy.

The circuit for copying has two heads (Olsson et al. 2022, "In-context Learning and Induction
Heads"). One writes beside each token which token came before it. A later one looks for positions
whose token before is the one that is read now. Neither pays without the other: ours was not found
after 15 million tokens (`docs/experiments.md`, section 8). So it is written into the first weights,
as a mimetic initialisation does (Trockman & Kolter 2023), and then trained like all other weights.
The residual stream (D wide; E is the width of a head) starts in three parts, in a random basis:

    1            a constant, for heads that attend by position; it moves all tied logits equally
    E            the token before this one: empty in the embeddings, block 0 fills it
    D - 1 - E    the token itself
"""

import math
from dataclasses import replace
from typing import Any

import torch

from retro.model import GPT
from retro.tokenizer import Tokenizer

TOKEN_STD = 0.1  # of the embeddings: 5 times GPT-2's, to stay visible beside what blocks add
FAST = 0.1  # radians a token: rotary pairs at least as fast find the token before
SLOW = 0.006  # radians a token: in pairs at most as fast, like finds like across a whole trial
PREVIOUS_SHARPNESS = 6.0  # logit of the token before, over that of the token itself
LIKENESS_SHARPNESS = 20.0  # logit of a token that follows what is being read now
PREVIOUS_LENGTH = 2.0  # of what block 0 writes; embeddings have TOKEN_STD sqrt(D)
COPY_GAIN = 0.3  # of what an induction head writes

@torch.no_grad()
def head_start(model: GPT, generator: torch.Generator) -> None:
    """Overwrite the embeddings, head 0 of block 0 (the token before), and head 1 of every second
    block from block 1 on (induction). ValueError on a shape that has no room for them.
    """
    config = model.config
    attentions: list[Any] = [block.self_attn for block in model.model.layers]
    D, E, heads = config.hidden_size, config.head_dim, config.num_attention_heads
    kv_heads = config.num_key_value_heads
    if heads < 3 or kv_heads != heads:
        raise ValueError(f"heads {heads}, kv_heads {kv_heads}: must be equal, and at least 3")
    basis = torch.linalg.qr(torch.randn(D, D, generator=generator)).Q.T  # orthonormal rows
    constant, before, itself = basis[0], basis[1 : 1 + E], basis[1 + E :]
    identity = itself[:E]  # the part of a token by which it is recognised

    # 1. embeddings: half constant, half random
    length = TOKEN_STD * math.sqrt(D)
    embed = model.model.embed_tokens.weight
    random = torch.randn(len(embed), len(itself), generator=generator)
    embed.copy_(length * (constant + random @ itself / math.sqrt(len(itself))))
    share = math.sqrt(E / len(itself))  # of a token's length that lies in `identity`

    # 2. block 0, head 0: position p's query is the constant turned back by one position, so that
    #    q . k = a sum of cos(w (p - 1 - j)) over fast pairs: largest at j = p - 1
    w = config.rope_theta ** (-torch.arange(0, E, 2) / E)  # radians a token, of each pair
    unit = math.sqrt(D / 2)  # length of the constant, and of the token, after the norm
    fast, slow = w >= FAST, (w <= SLOW).repeat(2)[:, None]
    gap = (1 - w[fast].cos()).sum() / math.sqrt(E)
    gain = fast * math.sqrt(PREVIOUS_SHARPNESS / gap) / unit
    first = attentions[0]
    first.q_proj.weight[:E] = torch.cat((gain * w.cos(), -gain * w.sin()))[:, None] * constant
    first.k_proj.weight[:E] = torch.cat((gain, 0 * gain))[:, None] * constant
    first.v_proj.weight[:E] = identity
    first.o_proj.weight[:, :E] = before.T * PREVIOUS_LENGTH / (unit * share)

    # 3. induction: the token read now (query) is the one before that position (key): copy the token
    #    at that position
    norm = math.sqrt(D / (2 * length**2 + PREVIOUS_LENGTH**2))  # by which a later norm multiplies
    likeness = norm**2 * length * share * PREVIOUS_LENGTH * slow.float().mean() / math.sqrt(E)
    gain = (LIKENESS_SHARPNESS / likeness).sqrt()
    head = slice(E, 2 * E)
    for attention in attentions[1::2]:
        attention.q_proj.weight[head] = gain * slow * identity
        attention.k_proj.weight[head] = gain * slow * before
        turn = torch.linalg.qr(torch.randn(len(itself), E, generator=generator)).Q.T
        attention.v_proj.weight[head] = turn @ itself
        attention.o_proj.weight[:, head] = COPY_GAIN * (turn @ itself).T

@torch.no_grad()
def grow_vocabulary(base: GPT, old: Tokenizer, new: Tokenizer) -> GPT:
    """`base` with the vocabulary `new`: a new token starts as the mean of those that spelled it."""
    model = GPT(replace(base.config, vocab_size=new.vocab_size))
    weights = {name: w.float() for name, w in base.state_dict().items()}
    embed = weights.pop("model.embed_tokens.weight")
    weights.pop("lm_head.weight", None)
    model.load_state_dict(weights, strict=False)
    for token, i in new.ranks.items():
        known = token in old.ranks
        assert not known or old.ranks[token] == i, f"{token!r} was {old.ranks[token]}, is {i}"
        before = [i] if known else old.encode(token.decode(errors="replace"))
        model.model.embed_tokens.weight[i] = embed[before].mean(0)
    model.model.embed_tokens.weight[new.eos] = embed[old.eos]
    return model
