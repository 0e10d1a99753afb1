"""Which models act and reflect: their options, and the models opened from them. Read before:
retro/actor.py (an actor in this process), api_actor.py (an actor behind an endpoint).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from retro.actor import TEMPERATURE, LMActor, LMSession
from retro.interop import guides
from retro.interop.api_actor import REPLY_TOKENS, APIActor
from retro.interop.chat import chat_frame
from retro.interop.endpoint import Budget, Client
from retro.language_model import REFLECTION_TOKENS, LanguageModel
from retro.memory import MEMORY
from retro.run.cli import FROM_0, FROM_1, check, option
from retro.run.finished import read_run
from retro.run.tally import Tally
from retro.tokenizer import Tokenizer
from retro.trial import Generators

models, api_option = (partial(option, group=g) for g in ("models", "models behind an API"))
LEAST_PROMPT = 64  # tokens: a model that reads fewer can't reflect
TOLD_TOKENS = 32  # of an action of a pretrained model: its tokens are shorter than ours

@dataclass(frozen=True)
class ActorOptions:
    """Who plays: options of train.py and eval.py alike."""

    actor: str = models("", "folder of the actor; `openai`: behind --base-url; none: the base")
    base_url: str = api_option("https://api.openai.com/v1", "an OpenAI-compatible endpoint")
    actor_model: str = api_option("", "the actor's name there; the key is in OPENAI_API_KEY")
    api: Literal["chat", "completions"] = api_option("chat", "the endpoint's way of asking")
    examples: bool = api_option(True, "tell rules and an example first; off for a base of ours")
    answers: str = api_option("runs/answers", "folder of answers, each paid for once")
    reply_tokens: int = api_option(REPLY_TOKENS, "tokens of an answer, thinking included", low=1)
    concurrency: int = api_option(8, "requests at a time", low=1, high=1000)
    timeout: float = api_option(60.0, "seconds that a request may take", above=0, high=86400)
    max_requests: int = api_option(0, "requests that may be sent, tries counted; 0 = any", low=0)
    max_tokens: int = api_option(0, "tokens of prompts and answers to spend; 0 = any", low=0)
    bfloat16: bool = models(False, "weights of --actor and --reflector in bfloat16")
    context: int = models(0, "tokens that a model reads and writes at most; 0 = its own", low=0)
    action_tokens: int = models(
        0, "longer actions are cut off; 0 = at 16, of a pretrained model at 32", **FROM_0
    )

@dataclass(frozen=True)
class RoleOptions:
    """The two roles of a run: options of train.py, whose defaults play.py needs too."""

    base: str = models("assets", "folder of the base model: actor and reflector")
    reflector: str = models("", "folder of another model for the reflector; none: base")
    actor_temperature: float = models(TEMPERATURE, "sampling temperature; 0 = greedy", low=0)
    memory: int = models(MEMORY, "newest reflections that the actor reads; 0 = none", low=0)
    notes: bool = models(True, "reflections begin with notes, which the actor does not read; off: "
                               "with the cause")  # fmt: skip
    reflection_tokens: int = models(REFLECTION_TOKENS, "longer reflections are cut off", **FROM_1)
    adapt_prompt: bool = option(False, "adapter on the prompt too (paper's way, slower)", "adapter")

def run_settings(run_dir: str | Path, *needed: str) -> dict[str, Any]:
    """The settings a run was started with; train.py's own without one, or where it has none.
    ValueError on a value that train.py would refuse, or if one that is needed is missing.
    """
    found = asdict(RoleOptions()) | asdict(ActorOptions())
    if run_dir:
        found |= read_run(run_dir, *needed)
    for one in (*fields(RoleOptions), *fields(ActorOptions)):
        try:
            check(one, found[one.name])
        except ValueError as error:
            raise ValueError(f"{Path(run_dir) / 'config.json'}: {error}") from error
    return found

def open_client(options: ActorOptions, model: str, budget: Budget) -> Client:
    return Client(options.base_url, model, options.api, cache=options.answers, budget=budget,
                  concurrency=options.concurrency, timeout=options.timeout)  # fmt: skip

def open_model(folder: str, device: torch.device, bfloat16: bool, context: int = 0,
               answer: int = REFLECTION_TOKENS, notes: bool = True) -> LanguageModel:  # fmt: skip
    """A model of ours or a pretrained one; ValueError if its tokenizer does not fit, or an answer
    (tokens of a reflection, or of an actor's action) not into its context. `notes`: see
    LanguageModel.
    """
    lm = LanguageModel.open(folder, device, torch.bfloat16 if bfloat16 else None, context)
    lm.frame = chat_frame(lm.tokenizer, guides.REFLECTION_RULES)
    lm.notes = notes or lm.frame is not None
    lm.reflection_tokens, around = answer, sum(map(len, lm.around))
    if lm.context < around + answer + LEAST_PROMPT:
        raise ValueError(f"{folder}: its context of {lm.context} tokens is too short for what "
                         f"stands around a prompt ({around}), a prompt (at least {LEAST_PROMPT}) "
                         f"and an answer ({answer})")  # fmt: skip
    return lm

class LocalActor(LMActor):
    """An LMActor that counts the turns in which nothing is said, or the context is full."""

    def __init__(self, *settings: Any):
        super().__init__(*settings)
        self.tally = Tally("turns")

    def start(self, openings: Sequence[str], generators: Generators = None) -> "LocalSession":
        return LocalSession(self, openings, generators)

class LocalSession(LMSession):
    actor: LocalActor

    def act(self, rows: Sequence[int]) -> list[str]:
        actions = super().act(rows)  # a trial that is lost stays unanswered, turn by turn
        faults = ["empty" if row in self.rows else "context"
                  for row, action in zip(rows, actions) if not action]  # fmt: skip
        self.actor.tally.note(len(rows), faults)
        return actions

def open_actor(options: ActorOptions, names: Sequence[str], base: str,
               loaded: dict[str, LanguageModel], temperature: float, generator: torch.Generator,
               memory: int, budget: Budget) -> LocalActor | APIActor:  # fmt: skip
    """The actor of the options, by default the model in `base`. `loaded`: folder -> in memory
    already. `names`: of the environments; a pretrained model is told their rules from `guides.py`.
    """
    if options.actor == "openai":
        client = open_client(options, options.actor_model, budget)
        tokens = options.reply_tokens if options.examples else options.action_tokens
        return APIActor(client, names, temperature, generator, options.examples, memory,
                        tokens)  # fmt: skip
    folder = options.actor or base
    bfloat16 = options.bfloat16 and folder != base
    tokens = options.action_tokens or TOLD_TOKENS
    lm = loaded.get(folder) or open_model(
        folder, generator.device, bfloat16, options.context, tokens
    )
    told = [name for name in names if name in guides.GUIDES]
    if isinstance(lm.tokenizer, Tokenizer) or not told:
        return LocalActor(lm, temperature, generator, memory, None, options.action_tokens)
    lead = lambda opening: guides.lead(guides.guide_of(opening, told))
    return LocalActor(lm, temperature, generator, memory, lead, tokens)
