"""The retrospective step: a failed trajectory in, a reflection out; and what it was worth.

    reflect(...)       x = prompt, y ~ M_r(. | x)          (paper, section 4)
    rate(...)          r(x, y) = G_next - G                (paper, section 4)
    read_prompts(...)  the prompts' keys and values, once for all that follows
    ReflectionPolicy   M_r as `ppo.py` and `sft.py` train it

The adapter acts from the prompt's last token on (activated LoRA, Greenewald et al. 2025): the
prompt's keys and values are the frozen base's, so they are computed once and serve sampling,
reference and every epoch. With `adapt_prompt` the adapter acts on all tokens, as in the paper, and
the prompt is read anew each time.

Shapes: B reflections, P prompt tokens, R response tokens, V vocabulary, D width.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from retro import prompts
from retro.fast.decoder import decoder_of
from retro.generate import generate, pad
from retro.interop.chat import answer, frame, line_ends, template_of
from retro.interop.guides import REFLECTION_RULES
from retro.lora import adapter_off
from retro.model import GPT, Cache
from retro.run.device import autocast, release_memory
from retro.tokenizer import AnyTokenizer
from retro.trial import Trajectory

REFLECTION_TOKENS = 64  # a longer reflection is cut off
READ_TOKENS = 8192  # of prompts that are read, answered and learnt from together, with padding
HELD = 512  # reflections whose prompts are kept in memory at a time, where there may be thousands
BLOCK = 8  # rows of a minibatch that were read together, at least where there are as many
RANGES = {"delta": (-1.0, 1.0), "next": (0.0, 1.0), "success": (0.0, 1.0)}  # of `rate`, by kind


@dataclass(frozen=True)
class Reflection:
    """One sample of M_r. `response_ids` ends with a line end unless it was cut off."""

    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]  # nats, of each response token, under the policy that wrote it
    text: str

    def to_json(self) -> dict:
        return {"text": self.text, "tokens": len(self.response_ids)}


@dataclass(frozen=True)
class Reading:
    """Some prompts' keys and values; prompts that are equal share them."""

    rows: list[int]  # which prompts
    places: torch.Tensor  # (b,) the cache's row of each
    cache: Cache


@dataclass(frozen=True)
class Recorded:
    """A failed trial of which only the reflector's prompt is left."""

    env: str
    task_id: str
    prompt: str

    @property
    def length(self) -> int:
        return len(self.prompt)


def reflection_prompt(
    trajectory: Trajectory | Recorded, tokenizer: AnyTokenizer, context: int
) -> list[int]:
    """x as ids, a chat model's with its frame. A transcript that leaves no room for the answer
    loses its middle, not its task or its end.
    """
    if isinstance(trajectory, Recorded):
        return framed(tokenizer, trajectory.prompt, context - REFLECTION_TOKENS)
    chat = template_of(tokenizer) is not None
    request = prompts.reflection_request(trajectory.episode_return, chat)
    start = prompts.opening(trajectory.observation, trajectory.reflections)
    return framed(tokenizer, trajectory.text(), context - REFLECTION_TOKENS, request, start)


def framed(
    tokenizer: AnyTokenizer, text: str, limit: int, request: str = "", start: str = ""
) -> list[int]:
    """text + request as ids, in a chat model's frame. Of a text that makes more than `limit` the
    middle is left out, but not its `start` if that fits in half of the room.
    """
    before, after = frame(tokenizer, REFLECTION_RULES)
    ids, asked = tokenizer.encode(text), tokenizer.encode(request)
    room = limit - len(before) - len(asked) - len(after)
    if len(ids) > room:
        head = min(len(tokenizer.encode(start)) or room, room // 2)
        ids = ids[:head] + ids[len(ids) - (room - head) :]
    return before + ids + asked + after


def reflect(
    model: GPT,
    tokenizer: AnyTokenizer,
    trajectories: Sequence[Trajectory | Recorded],
    *,
    temperature: float,
    generator: torch.Generator,
    adapt_prompt: bool = False,
    read: Iterable[Reading] | None = None,
) -> list[Reflection]:
    """One reflection on each trajectory; one that is named n times gets n samples.

    With an adapter on the model this is M_r; under `adapter_off` it is the untrained reflector.
    `read` is what read_prompts gave for their prompts, if they have been read already.
    """
    limit, stops = model.config.max_position_embeddings, line_ends(tokenizer)
    asked = [reflection_prompt(t, tokenizer, limit) for t in trajectories]
    reflections: dict[int, Reflection] = {}
    with autocast(model.device):
        decoder = decoder_of(model)
    for part in read or read_prompts(model, asked, adapt_prompt):
        with autocast(model.device):
            out = generate(
                decoder,
                [asked[i][-1:] for i in part.rows],
                REFLECTION_TOKENS,
                stops,
                temperature,
                generator,
                part.cache.select(part.places, REFLECTION_TOKENS + 1),  # a copy: `read` stays
            )
        logprobs = out.logprobs.tolist()
        for j, i in enumerate(part.rows):
            ids = out.response_ids[j]
            text = prompts.one_line(answer(tokenizer, ids))
            reflections[i] = Reflection(asked[i], ids, logprobs[j][: len(ids)], text)
    return [reflections[i] for i in range(len(asked))]


def rate(trajectory: Trajectory, next_trajectory: Trajectory, kind: str = "delta") -> float:
    """The rating of the reflection between two trials, in RANGES[kind]: the change in episode
    return ("delta", the paper's), the next trial's return ("next"), or its success ("success").
    """
    before, after = trajectory.episode_return, next_trajectory.episode_return
    return {
        "delta": after - before,
        "next": after,
        "success": float(next_trajectory.success),
    }[kind]


@torch.no_grad()
def read_prompts(
    model: GPT, prompts_: Sequence[list[int]], adapt_prompt: bool = False
) -> Iterator[Reading]:
    """Keys and values of all prompt tokens but the last, from the frozen base unless
    `adapt_prompt`: those of like length together, group by group.
    """
    device = model.device
    order = sorted(range(len(prompts_)), key=lambda i: (len(prompts_[i]), prompts_[i]))
    while order:
        n = 1
        while n < len(order) and (n + 1) * len(prompts_[order[n]]) <= READ_TOKENS:
            n += 1
        part, order = order[:n], order[n:]
        distinct = list(dict.fromkeys(tuple(prompts_[i]) for i in part))
        ids, counts = pad([list(prompt[:-1]) for prompt in distinct], device)  # (distinct, P-1)
        with nullcontext() if adapt_prompt else adapter_off(model), autocast(device):
            cache = model.new_cache(len(distinct), ids.shape[1])
            if ids.shape[1]:  # else prompts of one token: nothing comes before the last
                model.hidden(ids, cache, counts)
        places = [distinct.index(tuple(prompts_[i])) for i in part]
        yield Reading(part, torch.tensor(places, device=device), cache)


class ReflectionPolicy(nn.Module):
    """M_r with a value head, as a function of rows of a batch of stored reflections.

    `hold(reflections)` reads their prompts once; then `policy(rows) -> logprobs, entropy, values`,
    (b, R) each, response-aligned: entry t belongs to response token t. values[t] is the critic's
    guess before token t. `release()` when they have served: the prompts fill the memory.
    """

    def __init__(self, model: GPT, adapt_prompt: bool = False):
        super().__init__()
        self.model, self.adapt_prompt = model, adapt_prompt
        device = model.device
        self.value_head = nn.Linear(model.config.hidden_size, 1, device=device)
        nn.init.zeros_(self.value_head.weight)  # the critic starts by expecting nothing
        nn.init.zeros_(self.value_head.bias)

    def hold(
        self,
        reflections: Sequence[Reflection],
        read: Sequence[Reading] | None = None,
    ) -> torch.Tensor:
        """Make these the rows; returns response_mask (B, R). `read` as in `reflect`."""
        self.reflections = list(reflections)
        device = self.model.device
        if read is None and not self.adapt_prompt:
            read = list(read_prompts(self.model, [r.prompt_ids for r in reflections]))
        self.read = read  # None: the adapter is on the prompt too
        self.responses, counts = pad([r.response_ids for r in reflections], device)  # (B, R)
        self.mask = torch.arange(self.responses.shape[1], device=device) < counts[:, None]  # (B, R)
        return self.mask

    def release(self) -> None:
        """Forget what `hold` took."""
        self.reflections, self.read = [], None
        self.responses = self.mask = torch.empty(0)
        release_memory()

    def shuffled(self, rows: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """rows (N,) in random order, in blocks of rows that were read together: a minibatch of rows
        from everywhere would be as many passes through the model as it has rows. Rows of one prompt
        follow one another.
        """
        part_of = {row: n for n, part in enumerate(self.read or ()) for row in part.rows}
        together: dict = defaultdict(lambda: defaultdict(list))
        for row in rows[torch.randperm(len(rows), generator=generator).to(rows.device)].tolist():
            together[part_of.get(row)][tuple(self.reflections[row].prompt_ids)].append(row)
        parts = [[row for rows in own.values() for row in rows] for own in together.values()]
        blocks = [block for part in parts for block in torch.tensor(part).split(BLOCK)]
        turns = torch.randperm(len(blocks), generator=generator).tolist()
        return torch.cat([blocks[i] for i in turns]).to(rows.device)

    def passage(
        self, reflections: Sequence[Reflection], size: int, generator: torch.Generator
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass over any number of reflections in minibatches of `size`, HELD of them held at a
        time: (their numbers, the rows where they are held), (b,) each. Random, but those on one
        prompt follow one another.
        """
        same: dict = defaultdict(list)
        for i, r in enumerate(reflections):
            same[tuple(r.prompt_ids)].append(i)
        own = list(same.values())
        turns = torch.randperm(len(own), generator=generator).tolist()
        for numbers in torch.tensor([i for turn in turns for i in own[turn]]).split(HELD):
            device = self.hold([reflections[i] for i in numbers.tolist()]).device
            for rows in self.shuffled(torch.arange(len(numbers)), generator).split(size):
                yield numbers[rows], rows.to(device)
        self.release()

    def states(self, rows: torch.Tensor) -> torch.Tensor:
        """Hidden states (b, R, D) that predict each response token: the one next-token shift there
        is.
        """
        responses = self.responses[rows]  # (b, R)
        if self.adapt_prompt:
            chosen = [self.reflections[i] for i in rows.tolist()]
            ids, _ = pad([r.prompt_ids + r.response_ids[:-1] for r in chosen], responses.device)
            hidden = self.model.hidden(ids)  # (b, P+R-1, D)
            first = torch.tensor([len(r.prompt_ids) - 1 for r in chosen], device=responses.device)
            places = first[:, None] + torch.arange(responses.shape[1], device=responses.device)
            places = places.clamp(max=hidden.shape[1] - 1)  # (b, R), padding clamped
            return hidden.gather(1, places[..., None].expand(-1, -1, hidden.shape[2]))
        which = rows.tolist()
        last = torch.tensor(
            [[self.reflections[i].prompt_ids[-1]] for i in which], device=responses.device
        )
        ids = torch.cat((last, responses[:, :-1]), dim=1)  # (b, R): the prompt's last token, then y
        found, order = [], []
        for part in self.read or ():
            among = {row: place for place, row in enumerate(part.rows)}
            here = [n for n, i in enumerate(which) if i in among]  # rows that were read together
            if here:
                places = part.places[[among[which[n]] for n in here]]
                longest = max(len(self.reflections[which[n]].response_ids) for n in here)
                states = self.model.hidden(ids[here, :longest], prefix=part.cache.select(places))
                found.append(F.pad(states, (0, 0, 0, ids.shape[1] - longest)))
                order += here
        return torch.cat(found)[torch.tensor(order, device=ids.device).argsort()]

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """rows (b,) -> logprobs, entropy (nats), values: (b, R) each, float32; padding is 0."""
        hidden, full = self._distributions(rows)
        entropy = -(full.exp() * full).sum(-1)  # (N,)
        values = self.value_head(hidden.float())[:, 0]  # (N,)
        return self._chosen(rows, full), self._padded(rows, entropy), self._padded(rows, values)

    def logprobs(self, rows: torch.Tensor) -> torch.Tensor:
        """forward's logprobs alone."""
        return self._chosen(rows, self._distributions(rows)[1])

    @torch.no_grad()
    def ref_logprobs(self, rows: int = 64) -> torch.Tensor:
        """logprobs of all rows under the frozen base, (B, R)."""
        with adapter_off(self.model):
            return torch.cat([self.logprobs(part) for part in self._parts(rows)])

    @torch.no_grad()
    def evaluate(self, rows: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(logprobs, ref_logprobs, values), (B, R) each: of M_r, of the frozen base, of the critic.
        """
        own = [self(part) for part in self._parts(rows)]
        logprobs, _, values = map(torch.cat, zip(*own))
        return logprobs, self.ref_logprobs(rows), values

    def _parts(self, rows: int) -> Sequence[torch.Tensor]:
        return torch.arange(len(self.reflections), device=self.mask.device).split(rows)

    def _distributions(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states (N, D) and all tokens' log-probabilities (N, V), at the N tokens of the
        responses.
        """
        with autocast(self.responses.device):
            hidden = self.states(rows)[self.mask[rows]]  # (N, D)
            logits = self.model.logits(hidden)  # (N, V)
        return hidden, torch.log_softmax(logits.float(), dim=-1)

    def _chosen(self, rows: torch.Tensor, full: torch.Tensor) -> torch.Tensor:
        tokens = self.responses[rows][self.mask[rows]]  # (N,)
        return self._padded(rows, full.gather(-1, tokens[:, None])[:, 0])

    def _padded(self, rows: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """(N,) -> (b, R)."""
        mask = self.mask[rows]
        return torch.zeros(mask.shape, device=mask.device).masked_scatter(mask, found)
