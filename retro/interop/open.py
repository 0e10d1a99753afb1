"""Which models act and reflect: their options, and the models opened from them. Read before:
retro/actor.py (an actor in this process), api_actor.py (an actor behind an endpoint).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from retro.actor import TEMPERATURE, LMActor
from retro.interop import guides
from retro.interop.api_actor import APIActor
from retro.interop.chat import chat_frame
from retro.interop.endpoint import Budget, Client
from retro.language_model import LanguageModel
from retro.memory import MEMORY
from retro.model import GPT
from retro.run.cli import option
from retro.run.files import read_json
from retro.tokenizer import Tokenizer, load

models, api_option = (partial(option, group=g) for g in ("models", "models behind an API"))
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
    concurrency: int = api_option(8, "requests at a time", low=1)
    timeout: float = api_option(60.0, "seconds that a request may take", above=0)
    max_requests: int = api_option(0, "requests that may be sent, tries counted; 0 = any", low=0)
    max_tokens: int = api_option(0, "tokens of prompts and answers to spend; 0 = any", low=0)
    bfloat16: bool = models(False, "weights of --actor and --reflector in bfloat16")

@dataclass(frozen=True)
class RoleOptions:
    """The two roles of a run: options of train.py, whose defaults play.py needs too."""

    base: str = models("assets", "folder of the base model: actor and reflector")
    reflector: str = models("", "folder of another model for the reflector; none: base")
    actor_temperature: float = models(TEMPERATURE, "sampling temperature; 0 = greedy", low=0)
    memory: int = models(MEMORY, "newest reflections that the actor reads; 0 = none", low=0)
    adapt_prompt: bool = option(False, "adapter on the prompt too (paper's way, slower)", "adapter")

def run_settings(run_dir: str) -> dict[str, Any]:
    """The settings a run was started with; train.py's own without one, or where it has none."""
    given = read_json(Path(run_dir) / "config.json") if run_dir else {}
    return asdict(RoleOptions()) | asdict(ActorOptions()) | given

def open_client(options: ActorOptions, model: str, budget: Budget) -> Client:
    return Client(options.base_url, model, options.api, cache=options.answers, budget=budget,
                  concurrency=options.concurrency, timeout=options.timeout)  # fmt: skip

def open_model(folder: str, device: torch.device, bfloat16: bool) -> LanguageModel:
    """A model of ours or a pretrained one; ValueError if its tokenizer does not fit."""
    tokenizer = load(folder)
    model = GPT.from_pretrained(folder, device, torch.bfloat16 if bfloat16 else None)
    size, most = tokenizer.vocab_size, model.config.vocab_size
    if size > most:
        raise ValueError(f"{folder}: the tokenizer has {size} tokens, the model {most}")
    return LanguageModel(model, tokenizer, chat_frame(tokenizer, guides.REFLECTION_RULES))

def open_actor(options: ActorOptions, names: Sequence[str], base: str,
               loaded: dict[str, LanguageModel], temperature: float, generator: torch.Generator,
               memory: int, budget: Budget) -> LMActor | APIActor:  # fmt: skip
    """The actor of the options, by default the model in `base`. `loaded`: folder -> in memory
    already. `names`: of the environments; a pretrained model is told their rules from `guides.py`.
    """
    if options.actor == "openai":
        client = open_client(options, options.actor_model, budget)
        return APIActor(client, names, temperature, generator, options.examples, memory)
    folder = options.actor or base
    bfloat16 = options.bfloat16 and folder != base
    lm = loaded.get(folder) or open_model(folder, generator.device, bfloat16)
    told = [name for name in names if name in guides.GUIDES]
    if isinstance(lm.tokenizer, Tokenizer) or not told:
        return LMActor(lm, temperature, generator, memory)
    lead = lambda opening: guides.lead(guides.guide_of(opening, told))
    return LMActor(lm, temperature, generator, memory, lead, TOLD_TOKENS)
