"""Retroformer (Yao et al., ICLR 2024, arXiv 2308.02151): a language model learns to reflect.

The files here are the method and the language model. README.md gives the order of reading:

    prompts  trial  reflect  memory  ppo  policy  learn  sft  reward  evaluate     the method
    language_model  model  kv_cache  lora  tokenizer  actor                        the model

The folders beside them: `fast/` (only speed), `interop/` (chat, models behind an API, export),
`pretrain/` (how the base was made), `run/` (command line, files, processes), `report/` (tables and
pictures). README.md says more.

As a library, installed or not (docs/notebook.ipynb has one step of the method with these names):

    make_all           environments, by name                    -> {name: Environment}
    LanguageModel      LanguageModel.open("assets")             the shipped base, or another folder
    LMActor            LMActor(lm, temperature, generator)      M_a, the frozen model that plays
    run_trials         tasks, memories                          -> trajectories, one a task
    reflection_prompt  a failed trajectory                      -> x, as ids
    write_reflections  failed trajectories                      -> reflections y, sampled from M_r
    rate               before, after, reflection                -> r(x, y)
    lora_parameters    lm.model, after lm.add_adapter(...)      -> what an optimiser trains
    Policy             Policy(lm)                               M_r with a value head
    Batch, PPOConfig   what PPO knows of the reflections        log-probabilities, ratings; settings
    ppo_update         one update of the policy                 -> its metrics
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "make_all": "envs", "LanguageModel": "retro.language_model", "LMActor": "retro.actor",
    "run_trials": "retro.trial", "reflection_prompt": "retro.reflect",
    "write_reflections": "retro.reflect", "rate": "retro.reflect",
    "lora_parameters": "retro.lora", "Policy": "retro.policy", "Batch": "retro.ppo",
    "PPOConfig": "retro.ppo", "ppo_update": "retro.ppo",
}  # fmt: skip
__all__ = [*_HOMES]

def __getattr__(name: str) -> Any:
    """One of these names, from its file, which is read only now: scripts import `retro.run.loading`
    before PyTorch.
    """
    if name not in _HOMES:
        raise AttributeError(f"module 'retro' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
