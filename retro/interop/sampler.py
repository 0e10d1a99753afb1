"""Reflections for PPO sampled by a server that serves LoRA adapters by name, as vLLM does:
`train.py --sampler URL`. Learning stays in this process.

    load    the adapter as it is -> a folder -> the server, under a new name; the one before goes
    write   prompts -> reflections, as token ids with their log-probabilities (`reflect`'s place)
    weigh   how far the server's model mu is from the policy pi that learns

The server computes a little otherwise (kernels, bfloat16), so a token's log-probability is computed
here again. What is left is corrected by truncated importance sampling (Espeholt et al. 2018,
section 4.1; arXiv 1802.01561): a token's advantage is multiplied by

    weight = min(pi(token) / mu(token), MOST)

and above a bound on the mean |pi / mu - 1|, the ratio error, nothing is learnt.

A server puts an adapter on the whole prompt, so the policy must too (`--adapt-prompt`). Ids go
there and come back: `return_token_ids` of vLLM, or `tokens` of which each is one id. Read before:
post.py, retro/reflect.py; docs/own-models.md says how vLLM is started.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import isfinite
from pathlib import Path
from secrets import token_hex
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from retro.interop.api_actor import request_seeds
from retro.interop.endpoint import endpoint_url, key_in, public_url, secrets_in
from retro.interop.post import Refused, post, post_json
from retro.language_model import LanguageModel
from retro.lora import save_adapter
from retro.reflect import Reflection, line
from retro.run.printable import visible
from retro.run.processes import Processes

MOST = 2.0  # a token's weight: a rare token may not carry the update
PLAIN = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
         "presence_penalty": 0.0, "frequency_penalty": 0.0}  # or generation_config.json has a say
ROUNDING = 1e-3  # above 0, of a log-probability
KEY = "SAMPLER_API_KEY"  # the variable; OPENAI_API_KEY is another server's
NEEDED = ("; it must serve LoRA adapters by name and read this machine's files (vLLM: "
          "--enable-lora, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True)")  # fmt: skip

Sample = tuple[list[int], list[float]]  # ids of a response, their log-probabilities

class Sampler:
    """`folder`: where adapters lie while the server has them; of several processes one loads them.
    """

    def __init__(self, base_url: str, folder: Path, processes: Processes, max_ratio_error: float,
                 concurrency: int = 8, timeout: float = 60.0, tries: int = 6):  # fmt: skip
        self.url = lambda path: endpoint_url(base_url, path, "--sampler", KEY)
        self.shown, self.folder, self.processes = public_url(base_url), folder, processes
        self.max_ratio_error, self.concurrency = max_ratio_error, concurrency
        secrets = [key_in(KEY), *secrets_in(self.url(""))]
        self.patience: dict[str, Any] = {"secrets": secrets, "timeout": timeout, "tries": tries}
        self.name = ""  # of the adapter that is loaded
        self.as_text = False  # prompts, where the server takes no ids
        self.ratio_error = 0.0  # of the latest update

    # ---- the adapter

    def load(self, lm: LanguageModel) -> None:
        """The adapter as it is now, under a new name; the one before is unloaded."""
        before, name = self.name, f"retro-{token_hex(8)}"
        if self.processes.is_main:
            if not before:  # what a killed run has left
                shutil.rmtree(self.folder, ignore_errors=True)
            path = (self.folder / name).resolve()
            save_adapter(lm.model, path)
            try:
                post(self.url("/load_lora_adapter"), {"lora_name": name, "lora_path": str(path)},
                     lambda _: None, **self.patience)  # fmt: skip
            except Refused as error:
                if "already been loaded" not in str(error):  # by a try whose answer was lost
                    raise ValueError(f"--sampler: {error}{NEEDED}") from error
        (self.name,) = self.processes.all_gather([name] if self.processes.is_main else [])
        self._unload(before)

    def close(self) -> None:
        """Nothing stays, there or here."""
        self._unload(self.name)
        self.name = ""
        if self.processes.is_main:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _unload(self, name: str) -> None:
        if not name or not self.processes.is_main:
            return
        try:
            post(self.url("/unload_lora_adapter"), {"lora_name": name}, lambda _: None,
                 **self.patience | {"tries": 1})  # fmt: skip
        except Refused as error:  # nothing here needs it to be gone
            print(f"note: --sampler keeps {name}: {visible(str(error))}", file=sys.stderr)
        shutil.rmtree(self.folder / name, ignore_errors=True)

    # ---- sampling

    def write(self, lm: LanguageModel, asked: Sequence[list[int]], *, temperature: float,
              generator: torch.Generator, adapt_prompt: bool, caches: None) -> list[Reflection]:
        """As `reflect`: one reflection on each prompt. A prompt that stands there n times gets n
        samples, by other seeds.
        """
        assert self.name and temperature == 1.0 and adapt_prompt, "the server's way of sampling"
        seeds = request_seeds(generator, len(asked), temperature)
        try:
            first = [self._first(lm, asked[0], seeds[0])] if asked else []
            with ThreadPoolExecutor(self.concurrency) as pool:
                ask = partial(self._ask, lm, self.as_text)
                found = [*first, *pool.map(ask, asked[1:], seeds[1:])]
        except Refused as error:
            raise ValueError(f"--sampler: {error}") from error
        return [Reflection(prompt, *own, line(own[0], lm)) for prompt, own in zip(asked, found)]

    def _first(self, lm: LanguageModel, ids: list[int], seed: int | None) -> Sample:
        """It shows whether the server takes ids. If not, prompts go there as text."""
        try:
            return self._ask(lm, self.as_text, ids, seed)
        except Refused as error:
            if self.as_text or error.problem.status not in (400, 422) or error.problem.fault():
                raise
            refused = error
        try:
            found = self._ask(lm, True, ids, seed)
        except Refused:
            raise refused from None
        self.as_text = True
        if self.processes.is_main:
            print(f"note: {visible(str(refused))}; prompts go there as text", file=sys.stderr)
        return found

    def _ask(self, lm: LanguageModel, as_text: bool, ids: list[int], seed: int | None) -> Sample:
        body = {"model": self.name, "prompt": ids, "max_tokens": lm.reflection_tokens, "seed": seed,
                "stop_token_ids": [*lm.stop_ids], "ignore_eos": True, "skip_special_tokens": False,
                "logprobs": 1, "return_token_ids": True, "return_tokens_as_token_ids": True,
                **PLAIN}  # fmt: skip
        if as_text:
            body |= {"prompt": lm.tokenizer.decode(ids), "add_special_tokens": False}
        read = lambda answer: sample_in(answer, ids, lm, as_text)
        return post_json(self.url("/completions"), body, read, **self.patience)

    # ---- learning

    def weigh(self, reflections: Sequence[Reflection], logprobs: Tensor) -> Tensor:
        """logprobs (B, R) of pi -> weights (B, R), at most MOST. ValueError, in all processes, if
        the ratio error is above its bound.
        """
        rows = [torch.tensor(r.logprobs, device=logprobs.device) for r in reflections]
        sampled = pad_sequence(rows, batch_first=True)  # (B, R) of mu
        written = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True) > 0
        ratios = torch.where(written, logprobs - sampled, 0.0).exp()  # (B, R) 1 on padding
        sums = torch.stack(((ratios - 1).abs().sum(), written.sum()))
        off, tokens = self.processes.all_reduce(sums).tolist()
        self.ratio_error = off / tokens
        if not self.ratio_error <= self.max_ratio_error:
            raise ValueError(
                f"--sampler {self.shown}: a token's probability there is {self.ratio_error:.3g} "
                f"off on average, above --max-ratio-error {self.max_ratio_error}: it serves "
                "another base, another precision, or samples otherwise"
            )
        return ratios.clamp(max=MOST)

def sample_in(answer: Any, prompt: list[int], lm: LanguageModel, as_text: bool) -> Sample:
    """The sample in a server's answer; Refused unless its ids are certain and are what this model
    could have sampled.
    """
    try:
        choice, usage = answer["choices"][0], answer.get("usage") or {}
        logprobs = choice["logprobs"]["token_logprobs"]
        ids = choice.get("token_ids") or ids_of(choice["logprobs"]["tokens"], choice["text"], lm)
        read = choice.get("prompt_token_ids") or usage.get("prompt_tokens")  # or their number
        numbers = {type(i) for i in ids} == {int} and {type(p) for p in logprobs} <= {int, float}
    except (TypeError, KeyError, IndexError, AttributeError):
        raise Refused("expected choices with token ids and their logprobs, got "
                      f"{json.dumps(answer)[:200]}") from None  # fmt: skip
    if read not in (prompt, len(prompt)) and (as_text or read is not None):
        raise Refused(f"has read another prompt than the {len(prompt)} token ids that are meant")
    ends, size = {*lm.stop_ids}, lm.model.config.vocab_size
    whole = numbers and (ids[-1] in ends or len(ids) == lm.reflection_tokens)
    if not whole or not all(0 <= i < size for i in ids) or not ends.isdisjoint(ids[:-1]):
        raise Refused(f"its answer is none that this model could have sampled: token ids {ids}"
                      f", at most {lm.reflection_tokens}")  # fmt: skip
    if len(logprobs) != len(ids) or not all(isfinite(p) and p <= ROUNDING for p in logprobs):
        raise Refused(f"its answer has no log-probability for each of {len(ids)} tokens")
    return ids, logprobs

def ids_of(tokens: list[str], text: str, lm: LanguageModel) -> list[int]:
    """The ids of tokens, told as `token_id:7` (older vLLM) or as their text. Refused where one may
    be another token: a part of a letter, or a space that was stripped.
    """
    if all(token.startswith("token_id:") for token in tokens):
        return [int(token.removeprefix("token_id:")) for token in tokens]
    known, named = lm.tokenizer.ranks, lm.tokenizer.special_tokens
    ids = [named.get(token, known.get(token.encode(), -1)) for token in tokens]
    joined = "".join(tokens)
    if -1 in ids or "\ufffd" in joined or joined not in (text, text + tokens[-1]):
        raise Refused(f"its answer has no token ids, and its text {text!r} is not exactly that of "
                      f"known tokens: {tokens}")  # fmt: skip
    return ids
