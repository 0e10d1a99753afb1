"""Are reflections true, and do they depend on the trial? The rating pays for what follows from a
reflection, and not for what is true: so both are measured.

    faithfulness         what reflections say, checked by the environment's judge
    mutual_information   how much a reflection depends on its trial, by the reflector's own odds
    truth                both, of one update's reflections: a part of metrics.jsonl, as is
    rollout_metrics      what these reflections were worth, and what they look like
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch

from envs import Environment
from retro.evaluate import Chains, Reflector, Variant
from retro.language_model import LanguageModel, PromptCache
from retro.learn import Rollout
from retro.policy import Policy, Response, ResponseBatch
from retro.prompts import well_formed
from retro.reflect import Reflection, reflection_prompt
from retro.run.processes import ALONE, Processes
from retro.trial import Environments, Trajectory

ASKED = 16  # reflections whose mutual information with their trials is measured; of an update 8

def said(chains: Chains) -> list[tuple[Trajectory, str]]:
    """The reflections on first trials, which all methods have in common."""
    pairs = (chain[:2] for chain in chains if len(chain) > 1)
    return [(before, after.reflections[-1]) for before, after in pairs if after.reflections]

def faithfulness(env: Environment, pairs: Sequence[tuple[Trajectory, str]]) -> dict:
    """Reflections, checked against their trials by the environment's judge (`envs.observer.Verdict`
    says what is checked): shares of those for which it can be told, None where it never can.

    `kinds` counts the kinds of cause that they state. `kind_information` is the mutual information
    between this kind and the oracle's, in nats, from the counts: 0 if they always state the same.
    """
    verdicts = [env.judge(text, t.observation, t.exchanges) for t, text in pairs]
    found: dict = {"n": len(pairs)}
    for field in ("cause", "sound", "place", "invented", "notes"):
        told = [value for v in verdicts if (value := getattr(v, field)) is not None]
        found[field] = sum(told) / len(told) if told else None
    right: dict[int, str] = {}  # the oracle is asked once for each trial
    for key, t in {id(t): t for t, _ in pairs}.items():
        text = env.oracle_reflection(t.observation, t.exchanges)
        right[key] = env.judge(text, t.observation, t.exchanges).kind
    kinds = [(right[id(t)], v.kind) for (t, _), v in zip(pairs, verdicts)]
    counts = Counter(stated for _, stated in kinds)
    found["kinds"] = dict(sorted(counts.items(), key=lambda kind: (-kind[1], kind[0])))
    found["kind_information"] = information(kinds)
    return found

def information(pairs: Sequence[tuple[str, str]]) -> float:
    """sum p(a, b) log p(a, b) / (p(a) p(b)) of the pairs, in nats, from their counts. Of few pairs
    it is too high.

    >>> round(information([("x", "1"), ("y", "2")]), 4), information([("x", "1"), ("y", "1")])
    (0.6931, 0.0)
    """
    n, joint = len(pairs), Counter(pairs)
    a, b = (Counter(own) for own in zip(*pairs)) if pairs else (Counter(), Counter())
    return sum(c / n * math.log(c * n / (a[x] * b[y])) for (x, y), c in joint.items())

@torch.no_grad()
def mutual_information(
    lm: LanguageModel, responses: Sequence[Response], adapt_prompt: bool = False
) -> float:
    """I(x; y) between trial and reflection, nats a reflection, of N responses to N prompts:

        mean over i of  log p(y_i | x_i) - log( mean over j of p(y_i | x_j) )

    under the adapter that is active; at most log N. Near 0 the reflections would do for any trial:
    they have collapsed into a template (RAGEN-2, Wang et al. 2026, arXiv 2604.06268).
    """
    n = len(responses)
    crossed = [Crossed(x.prompt_ids, y.response_ids) for y in responses for x in responses]
    caches = None if adapt_prompt else [  # each prompt is read once
        PromptCache([y * n + x for x in read.rows for y in range(n)],
                    read.slots.repeat_interleave(n), read.cache)
        for read in lm.prefill([x.prompt_ids for x in responses])
    ]  # fmt: skip
    batch = ResponseBatch(lm, crossed, caches, adapt_prompt)
    logprobs = torch.cat([batch.logprobs(part).sum(1) for part in batch.parts()])
    logprobs = logprobs.view(n, n)  # (y, x)
    return float((logprobs.diagonal() - logprobs.logsumexp(1) + math.log(n)).mean())

class Crossed(NamedTuple):
    """A response after another response's prompt."""

    prompt_ids: list[int]
    response_ids: list[int]

def information_of(
    reflector: Reflector, compared: Sequence[Variant], chains: Sequence[Chains]
) -> float | None:
    """Mutual information of first trials and the reflections on them, mean over the runs;
    None if there are not two.
    """
    found = []
    for variant, own in zip(compared, chains):
        pairs = [one for _, one in sorted({p[0].task_id: p for p in said(own)}.items())[:ASKED]]
        written = [
            Reflection(reflection_prompt(t, reflector.lm),
                       reflector.lm.answer_ids(reflector.lm.as_answer(text)), [], text)
            for t, text in pairs
        ]  # fmt: skip
        if len(written) > 1:
            with reflector.lm.using(reflector.adapter(variant)):
                found.append(mutual_information(reflector.lm, written, reflector.adapt_prompt))
    return sum(found) / len(found) if found else None

def truth(
    environments: Environments, played: Rollout, policy: Policy, processes: Processes = ALONE
) -> dict:
    """What the reflections of all processes say, checked against their trials; and how much they
    depend on them. By environment.
    """
    pairs = zip(played.failed, played.reflections)
    rows = processes.all_gather([(f.env, f.key, f.trajectory, r) for f, r in pairs])
    found: dict[str, dict] = {}
    for name in processes.split(sorted({row[0] for row in rows})):
        own = [row for row in rows if row[0] == name]
        told = [(trajectory, r.text) for _, _, trajectory, r in own if trajectory]
        distinct = list({key: r for _, key, _, r in own}.values())  # short ones first, rank by rank
        asked = distinct[:: max(1, 2 * len(distinct) // ASKED)][: ASKED // 2]
        known = len(asked) > 1
        found[name] = {
            "faithfulness": faithfulness(environments[name], told) if told else None,
            "mutual_information":
                mutual_information(policy.lm, asked, policy.adapt_prompt) if known else None,
        }  # fmt: skip
    found = dict(pair for part in processes.all_gather([found]) for pair in part.items())
    return {
        key: {name: own[key] for name, own in sorted(found.items()) if own[key] is not None}
        for key in ("faithfulness", "mutual_information")
    }

def rollout_metrics(played: Rollout, processes: Processes = ALONE) -> dict:
    """What an update's reflections, of all processes, were worth, and what they look like."""
    success: list[bool | None] = [t.success for t in played.trials]
    success = success or [None] * len(played.failed)
    written = zip(played.failed, played.reflections, played.ratings, played.verdicts, success)
    rows = [(f.env, r.text, len(r.response_ids), *rest) for f, r, *rest in written]
    names, texts, tokens, ratings, verdicts, won = zip(*processes.all_gather(rows))
    by_env = {
        name: [r for r, n in zip(ratings, names) if n == name] for name in sorted(set(names))
    }
    return {
        "mean_rating": sum(ratings) / len(ratings),
        "mean_rating_by_env": {name: sum(own) / len(own) for name, own in by_env.items()},
        "success": sum(won) / len(won) if played.trials else None,
        "well_formed": sum(map(well_formed, texts)) / len(texts),
        "distinct": len(set(texts)) / len(texts),
        "tokens": sum(tokens) / len(tokens),
        "cause_true": true_share([v.cause for v in verdicts]),
        "plan_sound": true_share([v.sound for v in verdicts]),
        "notes_true": true_share([v.notes for v in verdicts]),
    }

def true_share(told: Sequence[bool | None]) -> float | None:
    """Of all reflections the share of which it is true; None where it can be told of none."""
    return sum(map(bool, told)) / len(told) if any(t is not None for t in told) else None
