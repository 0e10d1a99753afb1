"""Speed beside the libraries that a user would pick instead: `python -m bench`.

Each comparison runs both sides on the same weights, inputs and dtype, checks that they compute the
same numbers, and only then times them, in turn. Settings are those of `train.py`.
"""
