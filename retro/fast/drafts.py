"""Sampling several tokens in one forward pass: the tokens of one at a time, sooner.

What a small model writes next is often what it wrote before in the same place. So a row's next
tokens are guessed, the model reads the row's new tokens and the guess at once, and samples a token
after each of them. While the samples are what was guessed, the next sample is valid too; from the
first one that is not, the guess is forgotten. This is speculative decoding (Leviathan et al. 2023,
arXiv 2211.17192), but the guess comes from a table of what followed earlier, and each token has a
random number of its own (`language_model.uniforms`). So a guess changes nothing but the time.

Shapes: B rows, R tokens at most of a response, S the longest row's new tokens and guess, D width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from retro.fast.decoder import Decoder
from retro.kv_cache import KVCache

SPANS = (8, 4, 2)  # tokens before a token that it is guessed by: the first span that is known
GUESS = 7  # tokens at most

Followed = dict[int, int]  # hash of some tokens -> the one that followed last time
# logits (n, V), rows (n,), steps (n,) -> tokens and log-probabilities, (n,)
Draw = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

def guess(followed: Followed, before: Sequence[int], most: int) -> list[int]:
    """Up to `most` tokens that may come next."""
    ids = [*before[-SPANS[0] :]]
    start = len(ids)
    while len(ids) < start + most:
        keys = (hash(tuple(ids[-span:])) for span in SPANS if span <= len(ids))
        token = next((followed[key] for key in keys if key in followed), None)
        if token is None:
            break
        ids.append(token)
    return ids[start:]

def learn(followed: Followed, before: Sequence[int], written: Sequence[int]) -> None:
    """Note what followed.

    >>> followed = {}
    >>> learn(followed, [1, 2], [3, 4, 5])
    >>> guess(followed, [9, 1, 2], 7), guess(followed, [1, 2], 2), guess(followed, [2, 1], 7)
    ([3, 4, 5], [3, 4], [])
    """
    ids = [*before[-SPANS[0] :], *written]
    for end in range(len(ids) - len(written), len(ids)):
        for span in SPANS:
            if span <= end:
                followed[hash(tuple(ids[end - span : end]))] = ids[end]

def decode(
    model: Decoder, chunks: Sequence[list[int]], cache: KVCache, draw: Draw,
    stop_ids: frozenset[int], R: int,
) -> tuple[list[list[int]], Tensor]:  # fmt: skip
    """`language_model.one_by_one`, with guesses."""
    B, device = len(chunks), model.device
    written: list[list[int]] = [[] for _ in chunks]
    logprobs = torch.zeros(B, R, device=device)
    new, alive = [*chunks], [*range(B)]  # of each row what the cache lacks; the rows that write
    lengths = cache.lengths.tolist()  # the only wait for the device but the one for the samples
    while alive:
        # 1. read what is new, and a guess
        guesses: list[list[int]] = [[] for _ in chunks]
        for row in alive:
            before, room = chunks[row][-SPANS[0] :] + written[row], R - 1 - len(written[row])
            guesses[row] = guess(model.followed, before, min(GUESS, room))
        read = [torch.tensor(own + guessed) for own, guessed in zip(new, guesses)]
        ids = pad_sequence(read, batch_first=True).long().to(device)  # (B, S)
        hidden = model.states(ids, cache, torch.tensor([*map(len, read)]))  # (B, S, D)

        # 2. sample after the last new token, and after each one of the guess
        spots = [
            (row, len(new[row]) - 1 + i, len(written[row]) + i)
            for row in alive
            for i in range(len(guesses[row]) + 1)
        ]
        rows, positions, steps = torch.tensor(spots, device=device).T
        tokens, found = draw(model.logits(hidden[rows, positions]), rows, steps)
        logprobs[rows, steps] = found
        sampled = iter(tokens.tolist())  # waits for the device

        # 3. keep the samples up to the first that ends the response or was not guessed
        kept = [0] * B  # of what was read
        for row in alive:
            own = [next(sampled) for _ in range(len(guesses[row]) + 1)]
            n = next(
                (i for i, (token, guessed) in enumerate(zip(own, guesses[row]))
                 if token != guessed or token in stop_ids), len(guesses[row]),
            )  # fmt: skip
            kept[row] = len(new[row]) + n
            written[row] += own[: n + 1]
            is_done = own[n] in stop_ids or len(written[row]) == R
            new[row] = [] if is_done else [own[n]]
        alive = [row for row in alive if new[row]]
        lengths = [*map(sum, zip(lengths, kept))]
        cache.lengths, cache.longest = torch.tensor(lengths, device=device), max(lengths)
    for chunk, response in zip(chunks, written):
        learn(model.followed, chunk, response)
    return written, logprobs
