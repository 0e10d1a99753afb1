"""A tiny language model with an adapter, trials, and its reflections on failed ones."""

from contextlib import nullcontext

import pytest
import torch

import envs
import retro.language_model
import retro.policy
from retro.lora import lora_parameters
from retro.reflect import reflect, reflection_prompt
from retro.trial import Trajectory, run_trials
from tests.scripted import ScriptedActor

def failed_trials(n: int, steps: int) -> list:
    """Trials of different lengths in which the actor only looks around."""
    env = envs.make("household", max_steps=steps)
    actor = ScriptedActor(lambda text: "look")
    return run_trials({"household": env}, env.tasks("train", n, 2), actor, [[]] * n)

def trial(task: str, success: bool, g: float = 0.0, reflections=()) -> Trajectory:
    """One without steps."""
    g = 1.0 if success else g
    return Trajectory("guess", task, "x", (*reflections,), (), g, success, success, not success)

def shorten(patch: pytest.MonkeyPatch, lm) -> None:
    """A few tokens a reflection; and no bfloat16, whatever the processor has: for tight tolerances.
    """
    patch.setattr(lm, "reflection_tokens", 12)
    for module in (retro.language_model, retro.policy):
        patch.setattr(module, "autocast", lambda device: nullcontext())

def sample(lm, trials, seed=0, **changes):
    """One reflection on each trial, at temperature 1."""
    asked = [reflection_prompt(trial, lm) for trial in trials]
    generator = torch.Generator().manual_seed(seed)
    return reflect(lm, asked, temperature=1.0, generator=generator, **changes)

def randomise(lm, name="reflector", std=0.2, seed=0) -> None:
    """Weights of the adapter that matter."""
    for i, weight in enumerate(lora_parameters(lm.model, name), 100 * seed):
        torch.nn.init.normal_(weight, std=std, generator=torch.Generator().manual_seed(i))
