"""What plays: the frozen actor M_a. It reads a transcript and writes the next action, one line.

An actor has `start(openings) -> session`; a session has `act(rows) -> actions` and `observe(rows,
texts)`, where rows are the trials still running. `GPTActor` is a language model, `ScriptedActor`
plays fixed lines (tests).
"""

from collections.abc import Callable, Sequence

import torch

from retro import prompts
from retro.fast.decoder import Decoder, decoder_of
from retro.generate import generate
from retro.interop.chat import answer, line_breaks, line_ends
from retro.interop.guides import GUIDES, guide_of, lead
from retro.interop.hf_tokenizer import HFTokenizer
from retro.kv_cache import KVCache
from retro.lora import adapter_off
from retro.model import GPT
from retro.run.device import autocast
from retro.tokenizer import AnyTokenizer

ACTION_TOKENS = 16  # a longer action is cut off
TOLD_TOKENS = 32  # the same for a model that was not trained here: its tokens are shorter
TEMPERATURE = 0.3  # of its sampling; hotter, a plain second draw does half of a reflection's work
MEMORY = 3  # reflections that it reads, the newest ones (Reflexion keeps the last three)


class GPTActor:
    """A frozen GPT. If the model carries an adapter, it is off while it acts: the base plays,
    always. `memory`: how many of a task's reflections it reads; 0 = none, whatever is written.
    One that was not trained here is told the rules of the environments `names`, with an example,
    as far as `react_prompts.py` has them.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: AnyTokenizer,
        temperature: float,
        generator: torch.Generator,
        memory: int = MEMORY,
        names: Sequence[str] = (),
    ):
        self.model, self.tokenizer = model, tokenizer
        told = isinstance(tokenizer, HFTokenizer)
        self.names = [name for name in names if name in GUIDES] if told else []
        self.temperature, self.generator, self.memory = temperature, generator, memory
        self.device = model.device

    def start(self, openings: Sequence[str]) -> "GPTSession":
        return GPTSession(self, openings)


class GPTSession:
    """Trials in lock step on one KV cache: each turn appends an observation and samples an action.
    """

    def __init__(self, actor: GPTActor, openings: Sequence[str]):
        self.actor = actor
        encode = actor.tokenizer.encode
        self.newline, self.ask = encode("\n"), encode(prompts.ACT)
        self.stops, self.breaks = line_ends(actor.tokenizer), set(line_breaks(actor.tokenizer))
        first: list[int] = [] if actor.tokenizer.bos is None else [actor.tokenizer.bos]
        if actor.names:
            openings = [lead(guide_of(text, actor.names)) + text for text in openings]
        self.tokens = TOLD_TOKENS if actor.names else ACTION_TOKENS
        chunks = [first + encode(opening) + self.ask for opening in openings]
        # the trial of each row of the cache: neighbours of like length are faster
        self.rows = sorted(range(len(chunks)), key=lambda i: len(chunks[i]))
        self.chunks = [chunks[i] for i in self.rows]  # not in the cache yet
        self.cache: KVCache | None = None
        self.decoder: GPT | Decoder | None = None

    def act(self, rows: Sequence[int]) -> list[str]:
        """The next action of each trial in `rows`; "" from one whose context is full."""
        room = self.actor.model.config.max_position_embeddings - self.tokens
        lengths = [0] * len(self.rows) if self.cache is None else self.cache.lengths.tolist()
        wanted = set(rows)
        keep = [
            j
            for j, row in enumerate(self.rows)
            if row in wanted and lengths[j] + len(self.chunks[j]) <= room
        ]
        if len(keep) < len(self.rows):
            if self.cache is not None:
                keep = self.cache.keep(keep)
            self.rows, self.chunks = [self.rows[j] for j in keep], [self.chunks[j] for j in keep]
        if not self.rows:
            return [""] * len(rows)
        with adapter_off(self.actor.model), autocast(self.actor.device):
            self.decoder = self.decoder or decoder_of(self.actor.model)
            out = generate(
                self.decoder,
                self.chunks,
                self.tokens,
                self.stops,
                self.actor.temperature,
                self.actor.generator,
                self.cache,
            )
        self.cache, self.chunks = out.cache, out.pending
        texts = [answer(self.actor.tokenizer, ids).strip() for ids in out.response_ids]
        said = dict(zip(self.rows, texts))
        return [said.get(row, "") for row in rows]

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        """What the environment answered to the last actions."""
        answers = dict(zip(rows, observations))
        for j, row in enumerate(self.rows):
            cut_off = self.chunks[j][0] not in self.breaks  # too long, or ended as an answer ends
            line_end = self.newline if cut_off else []
            reply = self.actor.tokenizer.encode(prompts.turn(answers[row])[1:])
            self.chunks[j] = self.chunks[j] + line_end + reply + self.ask


class ScriptedActor:
    """For tests: `play(transcript) -> action`, a plain function of what an actor would read."""

    def __init__(self, play: Callable[[str], str], memory: int = MEMORY):
        self.play, self.memory = play, memory

    def start(self, openings: Sequence[str]) -> "ScriptedSession":
        return ScriptedSession(self.play, openings)


class ScriptedSession:
    def __init__(self, play: Callable[[str], str], openings: Sequence[str]):
        self.play, self.texts = play, list(openings)

    def act(self, rows: Sequence[int]) -> list[str]:
        actions = [self.play(self.texts[row]) for row in rows]
        for row, action in zip(rows, actions):
            self.texts[row] += f"{prompts.ACT} {action}"
        return actions

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        for row, observation in zip(rows, observations):
            self.texts[row] += prompts.turn(observation)
