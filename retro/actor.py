"""The actor M_a: a frozen language model that plays. It reads a transcript and writes the next
action, one line.

An actor has `start(openings) -> session`. A session has `act(rows) -> actions` and `observe(rows,
texts)`; rows are the trials that still run (`trial.py`). Read before: `language_model.py`.
"""

from collections.abc import Callable, Sequence

import torch

from retro import prompts
from retro.fast.decoder import Decoder
from retro.kv_cache import KVCache
from retro.language_model import LanguageModel
from retro.memory import MEMORY
from retro.model import GPT
from retro.run.device import batch_size
from retro.trial import Generators

ACTION_TOKENS = 16
ROWS = 64  # trials that are played at a time on a CPU
TEMPERATURE = 0.3  # of its sampling; hotter, a plain second draw does half of a reflection's work

class LMActor:
    """A frozen language model. If the model carries an adapter, it is off while the model acts.

    memory: how many of a task's reflections it reads; 0 = none, whatever is written.
    lead: what a model that was not trained here is told before an opening, such as the rules.
    action_tokens: a longer action is cut off; 0 = at ACTION_TOKENS.
    """

    def __init__(
        self, lm: LanguageModel, temperature: float, generator: torch.Generator,
        memory: int = MEMORY, lead: Callable[[str], str] | None = None,
        action_tokens: int = 0,
    ):  # fmt: skip
        self.lm, self.temperature, self.generator = lm, temperature, generator
        self.memory, self.lead = memory, lead
        self.action_tokens = action_tokens or ACTION_TOKENS
        self.device = lm.device
        self.rows = batch_size(lm.device, ROWS, lm.model.config, lm.context)

    def start(self, openings: Sequence[str], generators: Generators = None) -> "LMSession":
        return LMSession(self, openings, generators)

class LMSession:
    """Trials in lock step on one KV cache. Each turn appends an observation and samples an action.
    """

    def __init__(self, actor: LMActor, openings: Sequence[str], generators: Generators = None):
        self.actor, self.lm, self.generators = actor, actor.lm, generators
        self.encode = self.lm.tokenizer.encode
        self.ask = self.encode(prompts.ACT)
        first: list[int] = [] if self.lm.tokenizer.bos is None else [self.lm.tokenizer.bos]
        if actor.lead:
            openings = [actor.lead(text) + text for text in openings]
        chunks = [first + self.encode(opening) + self.ask for opening in openings]
        # the trial of each row of the cache; neighbours of similar length attend faster
        self.rows = sorted(range(len(chunks)), key=lambda i: len(chunks[i]))
        self.chunks = [chunks[i] for i in self.rows]  # ids that are not in the cache yet
        self.cache: KVCache | None = None
        self.decoder: GPT | Decoder | None = None

    def act(self, rows: Sequence[int]) -> list[str]:
        """The next action of each trial in `rows`; "" from one whose context is full."""
        self._drop_all_but(set(rows))
        if not self.rows:
            return [""] * len(rows)
        own = self.generators and [self.generators[row] for row in self.rows]
        with self.lm.frozen():
            self.decoder = self.decoder or self.lm.decoder()
            out = self.lm.sample(
                self.chunks, self.actor.action_tokens, self.actor.temperature,
                own or self.actor.generator, self.cache, self.decoder,
            )  # fmt: skip
        self.cache, self.chunks = out.cache, out.pending
        texts = [self.lm.text(ids).strip() for ids in out.response_ids]
        actions = dict(zip(self.rows, texts))
        return [actions.get(row, "") for row in rows]

    def _drop_all_but(self, wanted: set[int]) -> None:
        """Take the rows of other trials, and of trials whose context is full, out of the cache."""
        room = self.lm.context - self.actor.action_tokens
        lengths = [0] * len(self.rows) if self.cache is None else self.cache.lengths.tolist()
        fits = lambda j: lengths[j] + len(self.chunks[j]) <= room
        keep = [j for j, row in enumerate(self.rows) if row in wanted and fits(j)]
        if len(keep) == len(self.rows):
            return
        if self.cache is not None:
            keep = self.cache.keep(keep)
        self.rows, self.chunks = [self.rows[j] for j in keep], [self.chunks[j] for j in keep]

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        """What the environment answered to the last actions."""
        replies = dict(zip(rows, observations))
        for j, row in enumerate(self.rows):
            # an action that was cut off, or that ended with a special token, has no line end yet
            closed = self.chunks[j][0] in self.lm.line_breaks
            line_end = [] if closed else self.encode("\n")
            reply = self.encode(prompts.turn(replies[row])[1:])
            self.chunks[j] = self.chunks[j] + line_end + reply + self.ask
