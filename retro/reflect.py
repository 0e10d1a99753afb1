"""The retrospective step: a failed trial in, a reflection out; and what the reflection was worth.

    reflection_prompt(trajectory)     x, as the ids of a prompt      (paper, section 4)
    reflect(lm, prompts)              y ~ M_r(. | x)                 (paper, section 4)
    rate(before, after, reflection)   r(x, y) = G_next - G           (paper, section 4)

The adapter acts from the prompt's last token on (activated LoRA, Greenewald et al. 2025). So the
prompt's keys and values are the frozen base's: they are computed once and serve sampling, reference
and every epoch. With `adapt_prompt` the adapter acts on all tokens, as in the paper, and the prompt
is read anew each time. Read before: `trial.py`, `language_model.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from retro import prompts
from retro.language_model import Draws, LanguageModel, PromptCache
from retro.trial import Trajectory

RATINGS: dict[str, Callable[[Trajectory, Trajectory, str], float]] = {  # of `rate`, by kind
    "delta": lambda before, after, reflection: after.episode_return - before.episode_return,
    "next": lambda before, after, reflection: after.episode_return,
    "success": lambda before, after, reflection: float(after.success),
}
RANGES = {"delta": (-1.0, 1.0), "next": (0.0, 1.0), "success": (0.0, 1.0)}  # of `rate`, by kind

@dataclass(frozen=True)
class Reflection:
    """One sample of M_r. `response_ids` ends with a line end unless it was cut off."""

    prompt_ids: list[int]
    response_ids: list[int]
    logprobs: list[float]  # nats, of each response token, under the policy that wrote it
    text: str  # one line, with the `Cause:` that a prompt without notes ends in

def reflection_prompt(trajectory: Trajectory, lm: LanguageModel) -> list[int]:
    """x as ids. A transcript that leaves no room for the answer loses its middle, not its task or
    its end.
    """
    request = prompts.reflection_request(trajectory.episode_return, bool(lm.frame), lm.notes)
    start = prompts.opening(trajectory.observation, trajectory.reflections)
    return lm.fit(trajectory.text() + request, start=start)

def reflect(
    lm: LanguageModel, prompts_: Sequence[list[int]], *, temperature: float | Sequence[float],
    generator: Draws, adapt_prompt: bool = False, caches: Iterable[PromptCache] | None = None,
) -> list[Reflection]:  # fmt: skip
    """One reflection on each prompt; a prompt that stands there n times gets n samples.

    With an adapter on the model this is M_r; inside `lm.frozen()` it is the untrained reflector.
    `caches` is what `lm.prefill` gave for these prompts, if they have been read already.
    `temperature` and `generator` may be sequences, with one for each prompt.
    """
    reflections: dict[int, Reflection] = {}
    decoder = lm.decoder()
    own = lambda value, rows: [value[i] for i in rows] if isinstance(value, Sequence) else value
    for read in caches or lm.prefill(prompts_, adapt_prompt):
        cache = read.cache.select(read.slots, lm.reflection_tokens + 1)  # a copy: that stays
        out = lm.sample(
            [prompts_[i][-1:] for i in read.rows], lm.reflection_tokens,
            own(temperature, read.rows), own(generator, read.rows), cache, decoder,
        )  # fmt: skip
        logprobs = out.logprobs.tolist()
        for j, i in enumerate(read.rows):
            ids = out.response_ids[j]
            reflections[i] = Reflection(prompts_[i], ids, logprobs[j][: len(ids)], line(ids, lm))
    return [reflections[i] for i in range(len(prompts_))]

def line(response_ids: list[int], lm: LanguageModel) -> str:
    """A response as a reflection: one line, with the `Cause: ` that its prompt may end in."""
    return prompts.one_line(("" if lm.notes else prompts.CAUSE) + lm.text(response_ids))

def write_reflections(
    lm: LanguageModel, trajectories: Sequence[Trajectory], **sampling: Any
) -> list[Reflection]:
    """`reflect` on the prompts of failed trials, with its other arguments: one on each."""
    return reflect(lm, [reflection_prompt(t, lm) for t in trajectories], **sampling)

def rate(before: Trajectory, after: Trajectory, reflection: str = "",
         kind: str = "delta") -> float:  # fmt: skip
    """The rating of the reflection between two trials, in RANGES[kind]: the change in episode
    return ("delta", the paper's), the next trial's return ("next"), or its success ("success").
    """
    return RATINGS[kind](before, after, reflection)

def worth(rating: float, cause: bool | None, price: float) -> float:
    """What PPO maximises: rating - price * [the stated cause is not true]. Stating none (None) is
    no way around the price, since a trial that failed has a cause.
    """
    return rating - price * (not cause)
