"""A language model as the method sees it: texts in, texts, ids and log-probabilities out.

    LanguageModel   a model, its tokenizer, its chat frame if it has one, its named adapters
    lm.prefill      prompts -> keys and values, computed once for all that follows
    lm.sample       chunks of ids -> one response each, by `generate`
    lm.fit          text -> the ids of a prompt that leaves room for the answer

The two roles of the method share one LanguageModel: the actor is the frozen base, the reflector is
the base with the adapter "reflector", the reward model is the base with the adapter "reward". The
method's files (`actor.py`, `reflect.py`, `policy.py`, `reward.py`) never ask which family a model
or a tokenizer is of; `tokenizer.load` and `retro/interop/open.py` find it out from the folder.

Nothing is read twice. `generate` takes the ids that are not yet in the cache, samples one response
a row, and hands back the grown cache. A row's last sampled token is never in it: the token is
`pending`, and opens the next chunk:

    out = generate(model, prompts, ...)
    chunks = [last + new for last, new in zip(out.pending, observations)]
    out = generate(model, chunks, ..., cache=out.cache)

Read before: `prompts.py`. Under it: `model.py`, `kv_cache.py`, `lora.py`, `tokenizer.py`.
Shapes: B rows, S the longest chunk, R the longest response, V vocabulary, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from envs.observer import advice
from retro.fast import drafts
from retro.fast.decoder import Decoder, accelerate, decoder_of
from retro.fast.drafts import Draw
from retro.kv_cache import KVCache
from retro.lora import add_lora, using
from retro.model import GPT
from retro.run.device import autocast, batch_size
from retro.tokenizer import TokenizerLike, load

Draws = torch.Generator | Sequence[torch.Generator]  # one for all rows, or one for each row
REFLECTION_TOKENS = 128  # a longer reflection is cut off; its prompt leaves room for so many
PREFILL_TOKENS = 8192  # padding included, of prompts read at once on a CPU (a PromptCache)

# ---- sampling

@dataclass(frozen=True)
class Generation:
    response_ids: list[list[int]]  # at least one token a row; ends with the stop id when one came
    logprobs: torch.Tensor  # (B, R) float32 nats, of the distribution sampled from; 0 on padding
    response_mask: torch.Tensor  # (B, R) bool
    cache: KVCache  # holds everything but each row's last sampled token

    @property
    def pending(self) -> list[list[int]]:
        return [ids[-1:] for ids in self.response_ids]

@torch.no_grad()
def generate(
    model: GPT | Decoder, chunks: list[list[int]], max_new_tokens: int,
    stop_ids: tuple[int, ...] = (), temperature: float | Sequence[float] = 1.0,
    generator: Draws | None = None, cache: KVCache | None = None,
) -> Generation:  # fmt: skip
    """Sample a response after each row's chunk, until a stop id or max_new_tokens.

    p(token) = softmax(logits / temperature); logprobs are log p: the model's own at temperature 1.
    Temperature 0 takes the likeliest token, and log p = 0. Each row may have a temperature of its
    own. `cache`, when given, has one row a chunk and grows in place; no chunk may be empty.
    """
    assert max_new_tokens >= 1 and all(chunks), "each row needs a token to continue from"
    model = decoder_of(model)
    device, B = model.device, len(chunks)
    if cache is None:
        cache = model.new_cache(B, max(map(len, chunks)) + max_new_tokens)
    u = uniforms(generator, B, max_new_tokens, device)  # (B, R)
    heat = torch.as_tensor(temperature, dtype=torch.float, device=device).expand(B)  # (B,)
    draw = lambda logits, rows, steps: sample(logits, heat[rows], u[rows, steps])
    asked = chunks, cache, draw, frozenset(stop_ids), max_new_tokens
    if isinstance(model, Decoder):  # the same, several tokens at a time
        response_ids, logprobs = drafts.decode(model, *asked)
    else:
        response_ids, logprobs = one_by_one(model, *asked)
    lengths = [len(ids) for ids in response_ids]
    R = max(lengths)
    response_mask = torch.arange(R, device=device) < torch.tensor(lengths, device=device)[:, None]
    return Generation(response_ids, logprobs[:, :R].where(response_mask, 0.0), response_mask, cache)

def one_by_one(
    model: GPT, chunks: list[list[int]], cache: KVCache, draw: Draw, stops: frozenset[int], R: int
) -> tuple[list[list[int]], Tensor]:  # fmt: skip
    """Reads the chunks, writes at most R tokens after each: responses and their log p (B, R)."""
    device, B = model.device, len(chunks)
    # 1. read the chunks; the last real state of each row predicts its first token
    ids, counts = pad(chunks, device)  # (B, S), (B,)
    cache.reserve(cache.longest + ids.shape[1] + R)
    hidden = model.hidden(ids, cache, counts)  # (B, S, D)
    hidden = hidden[torch.arange(B, device=device), counts - 1]  # (B, D)

    # 2. one token a row and step
    ends = torch.zeros(model.config.vocab_size, dtype=torch.bool, device=device)  # (V,)
    ends[[*stops]] = True
    tokens = torch.zeros(B, R, dtype=torch.long, device=device)
    logprobs = torch.zeros(B, R, device=device)
    rows, part = torch.arange(B, device=device), cache  # what is decoded: `part` holds these rows
    lengths = torch.zeros(B, dtype=torch.long, device=device)
    alive = torch.ones(B, dtype=torch.bool, device=device)  # of `rows`: no stop id yet
    for step in range(R):
        token, logprob = draw(model.logits(hidden), rows, torch.full_like(rows, step))  # (rows,)
        tokens[rows, step] = token
        logprobs[rows, step] = logprob
        lengths[rows] += alive
        alive = alive & ~ends[token]
        n_alive = int(alive.sum())  # the one host sync of a step
        if n_alive == 0 or step + 1 == R:
            break
        if 4 * n_alive <= len(rows):  # most are done: go on with copies of the others
            if part is not cache:
                cache.restore(rows, part)
            rows, token = rows[alive], token[alive]
            part, alive = cache.select(rows, R - step), alive[alive]
        hidden = model.hidden(token[:, None], part, alive.long())[:, 0]  # a done row stands still
    if part is not cache:
        cache.restore(rows, part)
    return [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)], logprobs

def uniforms(generator: Draws | None, B: int, R: int, device: torch.device | None) -> Tensor:
    """(B, R) random numbers in (0, 1]. With a generator a row, a row's numbers do not depend on the
    rows beside it.
    """
    if isinstance(generator, Sequence):
        own = [torch.rand(R, generator=g, device=g.device) for g in generator]
        return 1 - torch.stack(own).to(device)
    where = generator.device if generator else device
    return 1 - torch.rand(B, R, generator=generator, device=where)

def sample(logits: Tensor, temperature: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """logits (B, V), temperature (B,), u (B,) uniform in (0, 1] -> one token a row (B,) and its
    log-probability (B,), in float32.
    """
    greedy = temperature < 1e-6  # (B,); logits / temperature would overflow
    p = torch.softmax(logits.float() / temperature.masked_fill(greedy, 1.0)[:, None], dim=-1)
    # the first token with u <= p_1 + ... + p_token: 4 times as fast as torch.multinomial
    up_to = p.cumsum(dim=-1)  # (B, V)
    token = torch.searchsorted(up_to, u[:, None] * up_to[:, -1:])  # (B, 1)
    logprob = p.gather(1, token)[:, 0].log()
    return torch.where(greedy, logits.argmax(dim=-1), token[:, 0]), logprob.masked_fill(greedy, 0.0)

def pad(rows: list[list[int]], device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Ragged ids -> right-padded (B, S) with zeros, and counts (B,)."""
    counts = torch.tensor([len(row) for row in rows])
    ids = pad_sequence([torch.tensor(row, dtype=torch.long) for row in rows], batch_first=True)
    return ids.to(device), counts.to(device)

# ---- the seam

@dataclass(frozen=True)
class ChatFrame:
    """The ids around a user's text that make an instruction-tuned model answer it."""

    before: tuple[int, ...]  # the instruction, then the head of the user's turn
    after: tuple[int, ...]  # the end of the user's turn, then the head of the answer

@dataclass(frozen=True)
class PromptCache:
    """Keys and values of some prompts, all their tokens but the last. Equal prompts share them."""

    rows: list[int]  # which prompts
    slots: Tensor  # (b,) the cache's row of each
    cache: KVCache

class LanguageModel:
    """`frame` is None for a model that continues plain text; without `notes` such a model is asked
    for reflections that begin at their cause. Adapters are added by name; without one, or inside
    `frozen()`, it is the base.
    """

    def __init__(self, model: GPT, tokenizer: TokenizerLike, frame: ChatFrame | None = None,
                 notes: bool = True):  # fmt: skip
        self.model, self.tokenizer, self.frame = model, tokenizer, frame
        self.reflection_tokens, self.notes = REFLECTION_TOKENS, True
        accelerate(model)
        self.device = model.device
        self.context: int = model.config.max_position_embeddings  # tokens, prompt and response

    @staticmethod
    def open(
        folder: str | Path = "assets", device: torch.device | None = None,
        dtype: torch.dtype | None = None, context: int = 0,
    ) -> "LanguageModel":  # fmt: skip
        """Model and tokenizer of a folder (`assets`: the shipped base), as `GPT.from_pretrained`
        takes them, without a frame. ValueError if the two do not fit together.
        """
        tokenizer, model = load(folder), GPT.from_pretrained(folder, device, dtype, context)
        size, most = tokenizer.vocab_size, model.config.vocab_size
        if size > most:
            raise ValueError(f"{folder}: the tokenizer has {size} tokens, the model {most}")
        return LanguageModel(model, tokenizer)

    # ---- adapters

    def add_adapter(
        self, name: str, rank: int, alpha: float, generator: torch.Generator
    ) -> None:
        """A LoRA adapter beside those there are; the first one added is active from then on."""
        add_lora(self.model, rank, alpha, generator, name=name)

    def using(self, adapter: str | None) -> AbstractContextManager[None]:
        """Inside, this adapter is the active one; None: no adapter is."""
        return using(self.model, adapter)

    def frozen(self) -> AbstractContextManager[None]:
        """Inside, the model is the frozen base: the actor, and the reference policy."""
        return using(self.model, None)

    # ---- text and ids

    @cached_property
    def line_breaks(self) -> frozenset[int]:
        """Every token with a line break in it. A pretrained vocabulary has many of them."""
        return frozenset(i for token, i in self.tokenizer.ranks.items() if b"\n" in token)

    @cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """The ids that end an answer of one line."""
        return (*sorted(self.line_breaks), *sorted(self.tokenizer.answer_ends))

    @cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The ids before and after a prompt's text."""
        if self.frame:
            return list(self.frame.before), list(self.frame.after)
        return [] if self.tokenizer.bos is None else [self.tokenizer.bos], []

    def text(self, ids: Sequence[int]) -> str:
        """The text of an answer, up to the first token that ends it."""
        ends = self.tokenizer.answer_ends
        end = next((n for n, i in enumerate(ids) if i in ends), len(ids))
        return self.tokenizer.decode(list(ids[:end]))

    def prompt_text(self, prompt_ids: Sequence[int]) -> str:
        """The text of a prompt that `fit` made, without what stands around it."""
        before, after = self.around
        return self.tokenizer.decode(list(prompt_ids[len(before) : len(prompt_ids) - len(after)]))

    def answer_text(self, ids: Sequence[int]) -> str:
        """The text of an answer, closed by one line end unless the answer was cut off."""
        text = self.text(ids)
        return text.rstrip("\n") + "\n" if ids[-1] in self.stop_ids else text

    def answer_ids(self, text: str) -> list[int]:
        """The ids of such a text. A line end at its end becomes what ends this model's answers."""
        encode, line = self.tokenizer.encode, text.removesuffix("\n")
        if line == text:
            return encode(text)
        return encode(line) + ([self.tokenizer.eos] if self.frame else encode("\n"))

    def as_answer(self, line: str) -> str:
        """A line from elsewhere as this model would write it. After a prompt's `Reflection:` comes
        a space, after a chat model's frame none; `Cause:` may stand in the prompt.
        """
        return f"{'' if self.frame else ' '}{line if self.notes else advice(line)}\n"

    def fit(self, text: str, limit: int = 0, start: str = "") -> list[int]:
        """The ids of a prompt, at most `limit`; 0 = as many as leave room for a reflection. Of a
        longer text the middle is left out, but not its `start` if that fits in half of the room.
        """
        limit = limit or self.context - self.reflection_tokens
        before, after = self.around
        encode, room = self.tokenizer.encode, limit - len(before) - len(after)
        whole = ids = encode(text)
        head = min(len(encode(start)) or room, room // 2) if len(ids) > room else 0
        tail = room - head
        while len(ids) > room:
            # as a run that is resumed from the text would read it, maybe in more ids
            ids = encode(self.tokenizer.decode(whole[:head] + whole[len(whole) - tail :]))
            tail -= 1
        return before + ids + after

    # ---- reading and writing

    def decoder(self) -> "GPT | Decoder":
        """What to sample from: the weights as they are now, with the active adapter."""
        with autocast(self.device):
            return decoder_of(self.model)

    def sample(
        self, chunks: list[list[int]], max_new_tokens: int, temperature: float | Sequence[float],
        generator: Draws, cache: KVCache | None = None,
        decoder: "GPT | Decoder | None" = None,
    ) -> Generation:  # fmt: skip
        """One response after each chunk, up to a stop id; the arguments are generate's. A decoder
        made before serves many calls.
        """
        with autocast(self.device):
            return generate(
                decoder or decoder_of(self.model), chunks, max_new_tokens, self.stop_ids,
                temperature, generator, cache,
            )  # fmt: skip

    @torch.no_grad()
    def prefill(
        self, prompts: Sequence[list[int]], adapt_prompt: bool = False
    ) -> Iterator[PromptCache]:
        """Keys and values of all prompt tokens but the last, from the frozen base unless
        `adapt_prompt`. Prompts of similar length are read together, group by group.
        """
        order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), prompts[i]))
        most = batch_size(self.device, PREFILL_TOKENS, self.model.config)
        while order:
            n = 1
            while n < len(order) and (n + 1) * len(prompts[order[n]]) <= most:
                n += 1
            group, order = order[:n], order[n:]
            distinct = list(dict.fromkeys(tuple(prompts[i]) for i in group))
            ids, counts = pad([list(prompt[:-1]) for prompt in distinct], self.device)
            adapter = nullcontext() if adapt_prompt else self.frozen()
            with adapter, autocast(self.device):
                cache = self.model.new_cache(len(distinct), ids.shape[1])
                if ids.shape[1]:  # else prompts of one token: nothing comes before the last
                    self.model.hidden(ids, cache, counts)
            slots = [distinct.index(tuple(prompts[i])) for i in group]
            yield PromptCache(group, torch.tensor(slots, device=self.device), cache)
