"""A run as one page to look at: success by retry, learning curves, episodes with shaded tokens.

One file without network: report.html, style, scripts, data. All text of environments and models is
data: JSON in a script element, no "<" in it, shown by textContent only; a security policy runs no
other script. Read before: retro/reflect.py, retro/ppo.py. Shapes: B reflections, R tokens.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import torch

from retro.evaluate import Chains
from retro.language_model import LanguageModel
from retro.lora import REFLECTOR, load_adapter
from retro.policy import Policy
from retro.ppo import gae, token_rewards
from retro.reflect import Reflection, rate, reflection_prompt, worth
from retro.run import checkpoint
from retro.run.files import JsonLines, read_bytes, write_atomically
from retro.run.finished import read_run
from retro.run.printable import visible
from retro.trial import Environments, Trajectory

EPISODES = 40  # tasks of an environment on the page, at most
FEW = 12  # the same where a run ends with its page: it shall take seconds
EPISODE_BYTES = 1_500_000  # of all episodes together
ROWS = 64  # reflections that pass the model together

TaskChains = dict[str, list[Trajectory]]  # method -> one task's chain

def write_page(
    path: str | Path, reports: Sequence[dict], chains: Sequence[dict[str, Chains]],
    environments: Environments, run_dir: Path, lm: LanguageModel, episodes: int = EPISODES,
) -> None:  # fmt: skip
    """Write the page of a finished run: a report (`results.report`) and chains an environment."""
    data = page_data(reports, chains, environments, Path(run_dir), lm, episodes)
    write_atomically(path, render(data))

def page_data(
    reports: Sequence[dict], chains: Sequence[dict[str, Chains]], environments: Environments,
    run_dir: Path, lm: LanguageModel, episodes: int = EPISODES,
) -> dict:  # fmt: skip
    """Everything the page shows, as JSON can hold it."""
    settings, metrics, critic = left_by(run_dir)
    load_adapter(lm.model, run_dir / "adapter")
    policy = Policy(lm, settings["adapt_prompt"])
    for name, weight in policy.value_head.named_parameters():
        weight.data.copy_(critic[name])
    kl_coef = metrics[-1]["kl_coef"] if metrics else settings["kl_coef"]

    picked = pick(reports, chains, episodes)
    written = []
    for name, own in picked:
        for before, after in (pair for trials in own.values() for pair in pairwise(trials)):
            if after.reflections:
                text = after.reflections[-1]
                said = environments[name].judge(text, before.observation, before.exchanges)
                value = worth(rate(before, after, text), said.cause, settings["cause_price"])
                written.append((before, text, value))
    tokens = iter(weigh(policy, written, kl_coef, settings["gamma"], settings["gae_lambda"]))
    shown, size = [], 0
    for name, task_chains in picked:
        one = episode(name, task_chains, environments[name].judge, tokens)
        size += len(json.dumps(plain(one)))
        if size > EPISODE_BYTES:
            break
        shown.append(one)
    run = {"name": run_dir.name, "seed": settings["seed"], "base": settings["base"]}
    failed = sum(len(failed_first(env_chains)) for env_chains in chains)
    return {"run": run, "reports": list(reports), "metrics": metrics, "kl_coef": kl_coef,
            "episodes": shown, "failed": failed}  # fmt: skip

def left_by(run_dir: str | Path) -> tuple[dict, list[dict], dict[str, torch.Tensor]]:
    """A run's settings, metrics and critic; ValueError if a page can't be made of them."""
    run_dir = Path(run_dir)
    settings = read_run(run_dir, "base", "seed", "adapt_prompt", "kl_coef", "gamma", "gae_lambda")
    metrics = list(JsonLines(run_dir / "metrics.jsonl", ("update", "kl_coef")))
    stored, head = checkpoint.read(run_dir / "checkpoint")[0], "weight.value_head."
    critic = {name.removeprefix(head): w for name, w in stored.items() if name.startswith(head)}
    if set(critic) != {"weight", "bias"}:
        raise ValueError(f"{run_dir / 'checkpoint'}: no critic in it")
    return settings, metrics, critic

def failed_first(chains: dict[str, Chains]) -> list[int]:
    """The rows whose first trial failed: only they have a reflection to show."""
    return [i for i, trials in enumerate(next(iter(chains.values()))) if not trials[0].success]

def pick(reports: Sequence[dict], chains: Sequence[dict[str, Chains]],
         episodes: int = EPISODES) -> list[tuple[str, TaskChains]]:  # fmt: skip
    """What is shown, so many tasks of each environment, the environments in turn."""
    by_env = []
    for report, env_chains in zip(reports, chains):
        first = next(iter(env_chains.values()))
        failed = failed_first(env_chains)
        rows = {first[i][0].task_id: i for i in reversed(failed)}  # of several repeats the first
        by_env.append([
            (report["env"], {method: own[i] for method, own in env_chains.items()})
            for i in sorted(rows.values())[:episodes]
        ])  # fmt: skip
    return [one for turn in zip_longest(*by_env) for one in turn if one]

def episode(env: str, task_chains: TaskChains, judge: Callable, tokens: Iterator) -> dict:
    """A task's chains as data; `tokens` yields each reflection's, method by method."""

    def retry(before: Trajectory, after: Trajectory) -> dict:
        text = after.reflections[-1] if after.reflections else ""
        retried = {"text": None, "rating": rate(before, after, text), "trial": trial_data(after)}
        if not after.reflections:
            return retried
        verdict = judge(text, before.observation, before.exchanges)
        return retried | {"text": text, "tokens": next(tokens), "verdict": verdict._asdict()}

    chains = {m: [retry(*pair) for pair in pairwise(own)] for m, own in task_chains.items()}
    first = next(iter(task_chains.values()))[0]
    opening = {"observation": first.observation, **trial_data(first)}
    return {"env": env, "id": first.task_id, "first": opening, "chains": chains}

def trial_data(trajectory: Trajectory) -> dict:
    """A trial as data, without its first observation, which all trials of a task share."""
    steps = [list(exchange) for exchange in trajectory.exchanges]
    return {"steps": steps, "return": trajectory.episode_return, "success": trajectory.success}

def weigh(policy: Policy, written: Sequence[tuple[Trajectory, str, float]], kl_coef: float,
          gamma: float, gae_lambda: float) -> list[list[list] | None]:  # fmt: skip
    """What the trained policy and critic make of each token of reflections, whoever wrote them.
    written: (the failed trial, the reflection on it, what it was worth).

    -> for each a list of [token, advantage (worth, baseline 0, not whitened), value (before the
    token), log-probability (nats), the base's], or None if it is longer than the reflector writes.
    The text is tokenised again, line end included.
    """
    lm = policy.lm
    asked = [Reflection(reflection_prompt(before, lm), lm.answer_ids(lm.as_answer(text)), [], text)
             for before, text, _ in written]  # fmt: skip
    ratings = [value for *_, value in written]
    found: list[list[list] | None] = [None] * len(asked)
    short = [i for i, r in enumerate(asked) if len(r.response_ids) <= lm.reflection_tokens]
    for part in (short[start : start + ROWS] for start in range(0, len(short), ROWS)):
        batch = policy.load_batch([asked[i] for i in part])
        mask = batch.mask  # (B, R)
        with lm.using(REFLECTOR):
            logprobs, ref_logprobs, values = policy.evaluate(batch)  # (B, R) each
        rating = torch.tensor([ratings[i] for i in part], device=mask.device)  # (B,)
        rewards = token_rewards(rating, logprobs, ref_logprobs, mask, kl_coef)  # (B, R)
        advantages, _ = gae(rewards, values, mask, gamma, gae_lambda)  # (B, R)
        numbers = torch.stack((advantages, values, logprobs, ref_logprobs), dim=-1)  # (B, R, 4)
        for i, row in zip(part, numbers.tolist()):
            found[i] = [[t, *n] for t, n in zip(token_texts(lm, asked[i].response_ids), row)]
    return found

def token_texts(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """The text of each token. A character of several tokens belongs to the first of them."""
    text, starts = lm.tokenizer.encoding.decode_with_offsets(list(ids))
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)])]

def plain(value: Any) -> Any:
    """`value` with visible strings, and numbers that JSON and the page's size can take."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {visible(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

def render(data: dict) -> bytes:
    """The page: a template filled in one pass. Its data is ASCII with `<` written as an escape."""
    names = ("report.html", "report.css", "report.js", "report_episodes.js")
    html, css, *scripts = (read_bytes(Path(__file__).with_name(n)).decode() for n in names)
    js = "\n".join(scripts)
    text = json.dumps(plain(data), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    parts = {"css": css, "js": js, "data": text, "css_hash": digest(css), "js_hash": digest(js)}
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], html).encode()

def digest(text: str) -> str:
    """The hash by which a content security policy names a style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
