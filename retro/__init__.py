"""Retroformer (Yao et al., ICLR 2024, arXiv 2308.02151): a language model learns to reflect.

The files here are the method and the language model, in this order of reading:

    prompts  trial  reflect  memory  policy  ppo  sft  reward  learn  evaluate     the method
    actor  language_model  model  kv_cache  generate  lora  tokenizer              the model

The folders are other rooms: `fast/` (only speed), `interop/` (other people's models and files),
`pretrain/` (how the base was made), `run/` (command line, files, processes), `report/` (tables and
pictures). README.md says more.
"""
