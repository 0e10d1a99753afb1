"""The reward model r_theta(x, y): what a reflection will be worth, told without playing the trial.

The paper's second offline step (section 4): fitted to the ratings of collected reflections, it is
what PPO maximises, and at execution it picks the best of n samples. It is the base with a LoRA
adapter of its own, "reward", beside the reflector's. Its score is how much more likely a reflection
is with that adapter than without (Rafailov et al. 2023, eq. 5), so it starts from all that the base
has learnt in pretraining. The adapter acts on the response only; in PPO the prompts are read once
for the reward model and the reflector.

    d       = sum_t log pi_theta(y_t) - log pi_base(y_t)
    r_theta = low + (high - low) * p,   p = sigmoid(b + s * d)
    loss    = cross-entropy of p with target (rating - low) / (high - low)
              - mean of log sigmoid(d(y) - d(z)) over pairs on one trajectory, y rated above z

The second term (Ouyang et al. 2022, eq. 1) says which reflection is better, and fixes no scale. PPO
needs a scale for the KL penalty, and the first term gives it. The first term is smallest where p is
the mean target, as a squared error is, but its gradient does not vanish where p is confidently
wrong. Read before: `policy.py`.

Shapes: B reflections, b rows of a minibatch, R response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retro.language_model import LanguageModel, PromptCache
from retro.lora import load_adapter, lora_parameters, save_adapter
from retro.policy import READ_TOGETHER, Response, ResponseBatch, minibatches
from retro.ppo import take_step
from retro.run.files import read_tensors, write_tensors
from retro.run.model_files import check_tensors

HELD_OUT = 0.2  # share of the tasks whose reflections are not learnt from
ADAPTER = "reward"  # its name on the language model

R = TypeVar("R", bound=Response)

@dataclass(frozen=True)
class FitConfig:
    """How r_theta is fitted."""

    epochs: int
    lr: float  # at the first step; falls to zero, linearly
    minibatch_size: int
    max_grad_norm: float

class RewardModel(nn.Module):
    """r_theta. Its weights are the adapter "reward" on the language model, a bias and a scale."""

    range: Tensor  # (2,), the rating's

    def __init__(self, lm: LanguageModel, low: float, high: float):
        super().__init__()
        self.lm = lm
        self.bias = nn.Parameter(torch.zeros((), device=lm.device))
        self.scale = nn.Parameter(torch.ones((), device=lm.device))
        self.register_buffer("range", torch.tensor([low, high], device=lm.device))

    def log_ratios(self, batch: ResponseBatch, rows: Tensor, base_logprobs: Tensor) -> Tensor:
        """d of each row, (b,): log pi_theta(y) - log pi_base(y). base_logprobs: (B, R), of all
        rows. The caller has made the adapter active.
        """
        return (batch.logprobs(rows) - base_logprobs[rows]).sum(1)

    def logits(self, log_ratios: Tensor) -> Tensor:
        return self.bias + self.scale * log_ratios

    @torch.no_grad()
    def score(
        self, responses: Sequence[Response], caches: Sequence[PromptCache] | None = None
    ) -> list[float]:
        """r_theta of each; `caches` as in `reflect.reflect`."""
        if caches is None and len(responses) > READ_TOGETHER:
            starts = range(0, len(responses), READ_TOGETHER)
            parts = [self.score(responses[start : start + READ_TOGETHER]) for start in starts]
            return [score for part in parts for score in part]
        batch = ResponseBatch(self.lm, responses, caches)
        base, (low, high) = batch.reference_logprobs(), self.range
        with self.lm.using(ADAPTER):
            logits = [self.logits(self.log_ratios(batch, rows, base)) for rows in batch.parts()]
        return (low + (high - low) * torch.cat(logits).sigmoid()).tolist()

    def best(self, responses: Sequence[R], n: int) -> list[R]:
        """Best of n: of each n responses in a row, the one with the highest score."""
        scores = self.score(responses)
        starts = range(0, len(responses), n)
        return [responses[max(range(i, i + n), key=scores.__getitem__)] for i in starts]

    def save(self, folder: str | Path) -> None:
        """The adapter in PEFT's format, and head.safetensors: b, s, and the rating's range."""
        save_adapter(self.lm.model, folder, ADAPTER)
        write_tensors(Path(folder) / "head.safetensors", self._head())

    def load(self, folder: str | Path) -> "RewardModel":
        """Take up what `save` wrote; ValueError where it does not fit."""
        load_adapter(self.lm.model, folder, ADAPTER)
        path = Path(folder) / "head.safetensors"
        tensors, wanted = read_tensors(path), self._head()
        check_tensors(path, tensors, wanted)
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])
        return self

    def _head(self) -> dict[str, Tensor]:
        return {"bias": self.bias.data, "scale": self.scale.data, "range": self.range}

def fit(
    reward: RewardModel, responses: Sequence[Response], ratings: Sequence[float],
    tasks: Sequence[tuple[str, str]], config: FitConfig, generator: torch.Generator,
) -> tuple[list[float], list[int]]:  # fmt: skip
    """Fit r_theta to the ratings of some tasks; the reflections of HELD_OUT of the tasks are kept.

    tasks[i], (environment, id), is what response i was about. Returns the mean loss of each epoch
    (nats), and which responses were kept; `retro/report/ranking.py` says what it is worth on them.
    """
    names = sorted(set(tasks))
    order = torch.randperm(len(names), generator=generator).tolist()
    kept = {names[i] for i in order[: round(HELD_OUT * len(names))]}
    learnt = [i for i, task in enumerate(tasks) if task not in kept]
    means = fit_epochs(reward, [responses[i] for i in learnt], [ratings[i] for i in learnt],
                       config, generator)  # fmt: skip
    return means, [i for i, task in enumerate(tasks) if task in kept]

def fit_epochs(
    reward: RewardModel, responses: Sequence[Response], ratings: Sequence[float],
    config: FitConfig, generator: torch.Generator,
) -> list[float]:  # fmt: skip
    """Passes over the rated responses; returns the mean loss of each (nats)."""
    (low, high), device = reward.range, reward.lm.device
    targets = (torch.tensor(ratings, device=device) - low) / (high - low)  # in [0, 1]
    ids: dict[tuple[int, ...], int] = {}  # of the distinct prompts
    numbers = [ids.setdefault(tuple(r.prompt_ids), len(ids)) for r in responses]
    prompts = torch.tensor(numbers, device=device)
    weights = lora_parameters(reward.lm.model, ADAPTER)
    optimizer = torch.optim.AdamW([
        {"params": weights, "initial_lr": config.lr},
        {"params": [reward.bias, reward.scale], "initial_lr": 10 * config.lr},
    ], weight_decay=0.0)  # fmt: skip
    parameters = [reward.bias, reward.scale, *weights]
    means, seen, total = [], 0, config.epochs * len(responses)
    for _ in range(config.epochs):
        losses, base_logprobs, current = [], torch.empty(0), None
        for batch, which, rows in minibatches(
            reward.lm, responses, config.minibatch_size, generator
        ):
            if batch is not current:
                current, base_logprobs = batch, batch.reference_logprobs()
            with reward.lm.using(ADAPTER):
                log_ratios, wanted = reward.log_ratios(batch, rows, base_logprobs), targets[which]
                loss = F.binary_cross_entropy_with_logits(reward.logits(log_ratios), wanted)
                loss = loss + pair_loss(log_ratios, wanted, prompts[which])
                if not loss.isfinite():
                    raise FloatingPointError(f"reward model's loss is {loss}: step not taken")
                for group in optimizer.param_groups:  # falls to zero, linearly
                    group["lr"] = group["initial_lr"] * (1 - seen / total)
                seen += len(rows)
                optimizer.zero_grad()
                loss.backward()
                take_step(optimizer, parameters, config.max_grad_norm)
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))
    return means

def pair_loss(log_ratios: Tensor, ratings: Tensor, prompts: Tensor) -> Tensor:
    """Mean of -log sigmoid(d_i - d_j) over the pairs of one prompt with rating i above rating j
    (Ouyang et al. 2022, eq. 1); 0 without such pairs. (b,) each; prompts: equal ids, equal prompts.
    """
    above = (prompts[:, None] == prompts) & (ratings[:, None] > ratings)  # (b, b) [i, j]
    return (F.softplus(log_ratios - log_ratios[:, None]) * above).sum() / above.sum().clamp(min=1)
