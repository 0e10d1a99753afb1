"""Retroformer (Yao et al., ICLR 2024, arXiv 2308.02151): a language model learns to reflect.

The files here are the method and the language model. README.md gives the order of reading:

    prompts  trial  reflect  memory  ppo  policy  learn  sft  reward  evaluate     the method
    language_model  model  kv_cache  lora  tokenizer  actor                        the model

The folders beside them: `fast/` (only speed), `interop/` (chat, models behind an API, export),
`pretrain/` (how the base was made), `run/` (command line, files, processes), `report/` (tables and
pictures). README.md says more.
"""
