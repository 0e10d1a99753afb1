"""The reward model r_theta(x, y): what a reflection will be worth, told without playing the trial.

The paper's second offline step (section 4): fitted to the ratings of collected reflections, it is
what PPO maximises, and at execution it picks the best of n samples. It is the base with a LoRA of
its own, and says by how much more likely that has made a reflection (a language model is a reward
model: Rafailov et al. 2023, eq. 5), so that what the base has read is at hand, as it is in writing.
The adapter acts on the response only; in PPO prompts are read once for it and the reflector.

    d       = sum_t log pi_theta(y_t) - log pi_base(y_t)
    r_theta = low + (high - low) * p,   p = sigmoid(b + s * d)
    loss    = cross-entropy of p with target (rating - low) / (high - low)
              - mean of log sigmoid(d(y) - d(z)) over pairs on one trajectory, y rated above z

The second term (Ouyang et al. 2022, eq. 1) says which is better, and fixes no scale; PPO needs one
for the KL penalty, and the first gives it. It is smallest where p is the mean target, as a squared
error is, but its gradient does not vanish where p is wrong and sure.

Shapes: B reflections, R response tokens.
"""

from collections import defaultdict
from collections.abc import Sequence
from copy import deepcopy
from itertools import combinations
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retro.lora import add_lora, load_adapter, lora_layers, lora_parameters, save_adapter
from retro.model import GPT
from retro.reflect import HELD, RANGES, Reading, Reflection, ReflectionPolicy
from retro.run.files import read_tensors, write_tensors
from retro.run.model_files import check_tensors

HELD_OUT = 0.2  # share of the tasks whose reflections are not learnt from
BINS = 10  # of the calibration, over the rating's range


class RewardModel(ReflectionPolicy):
    """`hold` and `states` are the policy's; `model(rows)` is r_theta, (b,) float32."""

    range: Tensor  # (2,), the rating's
    base_logprobs: Tensor  # (B, R) of the rows held

    def __init__(self, model: GPT, low: float, high: float):
        super().__init__(model)
        device = self.value_head.requires_grad_(False).bias.device  # it has no critic
        self.bias = nn.Parameter(torch.zeros((), device=device))
        self.scale = nn.Parameter(torch.ones((), device=device))
        self.register_buffer("range", torch.tensor([low, high], device=device))

    @classmethod
    def new(
        cls, base: GPT, rank: int, alpha: float, rating: str, generator: torch.Generator
    ) -> "RewardModel":
        """An untrained one beside a base without adapter; they share the frozen weights."""
        model = _twin(base)
        add_lora(model, rank, alpha, generator)
        return cls(model, *RANGES[rating])

    def hold(
        self, reflections: Sequence[Reflection], read: Sequence[Reading] | None = None
    ) -> Tensor:
        """As the policy's; and what the base thinks of the responses."""
        mask = super().hold(reflections, read)
        self.base_logprobs = self.ref_logprobs()  # (B, R)
        return mask

    def release(self) -> None:
        super().release()
        self.base_logprobs = torch.empty(0)

    def forward(self, rows: Tensor) -> Tensor:  # type: ignore[override]  # not the policy's triple
        low, high = self.range
        return low + (high - low) * self.logits(self.gains(rows)).sigmoid()

    def gains(self, rows: Tensor) -> Tensor:
        """d of each, (b,): log pi_theta(y) - log pi_base(y)."""
        return (self.logprobs(rows) - self.base_logprobs[rows]).sum(1)

    def logits(self, gains: Tensor) -> Tensor:
        return self.bias + self.scale * gains

    @torch.no_grad()
    def score(
        self, reflections: Sequence[Reflection], read: Sequence[Reading] | None = None
    ) -> list[float]:
        """r_theta of each; `read` as in `reflect`."""
        if read is None and len(reflections) > HELD:
            starts = range(0, len(reflections), HELD)
            return [s for start in starts for s in self.score(reflections[start : start + HELD])]
        device = self.hold(reflections, read).device
        parts = torch.arange(len(reflections), device=device).split(64)
        scores = torch.cat([self(part) for part in parts]).tolist()
        self.release()
        return scores

    def best(self, reflections: Sequence[Reflection], n: int) -> list[Reflection]:
        """Best of n: of each n reflections in a row, the one with the highest score."""
        scores = self.score(reflections)
        starts = range(0, len(reflections), n)
        return [reflections[max(range(i, i + n), key=scores.__getitem__)] for i in starts]

    def save(self, folder: str | Path) -> None:
        """The adapter in PEFT's format, and head.safetensors: b, s, and the rating's range."""
        save_adapter(self.model, folder)
        write_tensors(Path(folder) / "head.safetensors", self._head())

    @classmethod
    def load(cls, base: GPT, folder: str | Path) -> "RewardModel":
        """What `save` wrote, beside a base without adapter; ValueError where it does not fit."""
        model = _twin(base)
        load_adapter(model, folder)
        reward = cls(model, 0.0, 1.0)
        reward.load_weights(folder)
        return reward

    def load_weights(self, folder: str | Path) -> None:
        load_adapter(self.model, folder)
        path = Path(folder) / "head.safetensors"
        tensors, wanted = read_tensors(path), self._head()
        check_tensors(path, tensors, wanted)
        for name, tensor in wanted.items():
            tensor.copy_(tensors[name])

    def _head(self) -> dict[str, Tensor]:
        return {"bias": self.bias.data, "scale": self.scale.data, "range": self.range}


def _twin(base: GPT) -> GPT:
    """A second model on the same tensors."""
    assert not any(lora_layers(base)), "the base has an adapter, which the two would share"
    return deepcopy(base, {id(t): t for t in (*base.parameters(), *base.buffers())})


def fit(
    reward: RewardModel,
    reflections: Sequence[Reflection],
    ratings: Sequence[float],
    tasks: Sequence[tuple[str, str]],
    *,
    epochs: int,
    lr: float,
    minibatch_size: int,
    max_grad_norm: float,
    generator: torch.Generator,
) -> dict:
    """Fit r_theta to the ratings, but for those of HELD_OUT of the tasks; tasks[i], (environment,
    id), is what reflection i was about. Returns the mean loss of each epoch (nats), the number of
    reflections it learnt from, and `quality` on the held-out ones, of each environment and
    of "all".
    """
    names = sorted(set(tasks))
    order = torch.randperm(len(names), generator=generator).tolist()
    held_out = {names[i] for i in order[: round(HELD_OUT * len(names))]}
    learnt = [i for i, task in enumerate(tasks) if task not in held_out]

    low, high = reward.range
    device = low.device
    targets = (torch.tensor(ratings, device=device)[learnt] - low) / (high - low)  # in [0, 1]
    own = [reflections[i] for i in learnt]
    ids: dict[tuple[int, ...], int] = {}  # of the distinct prompts
    numbers = [ids.setdefault(tuple(r.prompt_ids), len(ids)) for r in own]
    prompts = torch.tensor(numbers, device=device)
    parameters = [p for p in reward.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW([
        {"params": lora_parameters(reward.model), "initial_lr": lr},
        {"params": [reward.bias, reward.scale], "initial_lr": 10 * lr},
    ], weight_decay=0.0)  # fmt: skip
    means, seen = [], 0
    for _ in range(epochs):
        losses = []
        for which, rows in reward.passage(own, minibatch_size, generator):
            gains, wanted = reward.gains(rows), targets[which]  # (b,)
            loss = F.binary_cross_entropy_with_logits(reward.logits(gains), wanted)
            loss = loss + pair_loss(gains, wanted, prompts[which])
            if not loss.isfinite():
                raise FloatingPointError(f"reward model's loss is {loss.item()}: step not taken")
            for group in optimizer.param_groups:  # falls to zero, linearly
                group["lr"] = group["initial_lr"] * (1 - seen / (epochs * len(own)))
            seen += len(rows)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
            optimizer.step()
            losses.append(loss.item())
        means.append(sum(losses) / len(losses))

    unseen: dict[str, list[int]] = defaultdict(list)
    for i, task in enumerate(tasks):
        if task in held_out:
            unseen["all"].append(i)
            unseen[task[0]].append(i)
    scores = reward.score([reflections[i] for i in unseen["all"]]) if unseen["all"] else []
    score = dict(zip(unseen["all"], scores))
    held = {
        name: quality(
            [score[i] for i in rows],
            [ratings[i] for i in rows],
            [tuple(reflections[i].prompt_ids) for i in rows],
            low.item(),
            high.item(),
        )
        for name, rows in unseen.items()
    }
    return {"loss": means, "learnt_from": len(learnt), "held_out": held}


def pair_loss(gains: Tensor, ratings: Tensor, prompts: Tensor) -> Tensor:
    """Mean of -log sigmoid(d_i - d_j) over the pairs of one prompt with rating i above rating j
    (Ouyang et al. 2022, eq. 1); 0 without such pairs. (b,) each; prompts: equal ids, equal prompts.
    """
    above = (prompts[:, None] == prompts) & (ratings[:, None] > ratings)  # (b, b) [i, j]
    return (F.softplus(gains - gains[:, None]) * above).sum() / above.sum().clamp(min=1)


def quality(
    scores: Sequence[float], ratings: Sequence[float], prompts: Sequence, low: float, high: float
) -> dict:
    """How good a reward model is on reflections that it has not learnt from.

    ranking       of pairs of reflections on the same trajectory that were rated differently, the
                  share with the better one scored higher (equal scores: half); null without pairs
    calibration   of each BINS-th of the range that is met: [mean score, mean rating, number]
    ece           expected calibration error: mean of |mean score - mean rating| over the bins,
                  weighted by their numbers (Guo et al. 2017, eq. 3); in the rating's unit
    """
    same: dict = defaultdict(list)
    for score, rating, prompt in zip(scores, ratings, prompts):
        same[prompt].append((score, rating))
    pairs = [(a, b) for own in same.values() for a, b in combinations(own, 2) if a[1] != b[1]]
    right = sum(0.5 if a[0] == b[0] else (a[0] > b[0]) == (a[1] > b[1]) for a, b in pairs)

    bins: dict = defaultdict(list)
    for score, rating in zip(scores, ratings):
        bins[min(int((score - low) / (high - low) * BINS), BINS - 1)].append((score, rating))
    calibration = [
        [sum(s for s, _ in own) / len(own), sum(r for _, r in own) / len(own), len(own)]
        for _, own in sorted(bins.items())
    ]
    gaps = sum(abs(score - rating) * n for score, rating, n in calibration)
    return {
        "n": len(scores),
        "pairs": len(pairs),
        "ranking": right / len(pairs) if pairs else None,
        "calibration": calibration,
        "ece": gaps / max(len(scores), 1),
    }


def print_reward(fitted: dict) -> None:
    """What the reward model learnt from, and how good it is on the tasks held out."""
    print(f"reward model: fitted to {fitted['learnt_from']} ratings; on tasks held out")
    for name, found in fitted["held_out"].items():
        ranking = "-" if found["ranking"] is None else f"{found['ranking']:.2f}"
        print(
            f"    {name}: ranks {ranking} of {found['pairs']} pairs rightly; "
            f"calibration error {found['ece']:.3f} over {found['n']} reflections"
        )
