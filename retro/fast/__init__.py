"""What is there only for speed: the same numbers as the core's, sooner.

    attention.py   what new tokens attend to, on a CPU
    decoder.py     the forward pass of a small model for sampling
    drafts.py      several sampled tokens in one forward pass

One switch: RETRO_FAST=0 in the environment, or `retro.fast.enabled = False` before a LanguageModel
is made, leaves only the core. `tests/test_decode.py` and `tests/test_model.py` check that both give
the same numbers.
"""

import os

enabled = os.environ.get("RETRO_FAST") != "0"
