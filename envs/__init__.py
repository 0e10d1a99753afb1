"""The environments, and the contract they share.

    env = envs.make("household")
    task = env.tasks("train", n=1, seed=0)[0]               # or household.load_game(path), ...
    observation, info = env.reset(task)
    observation, reward, terminated, truncated, info = env.step("go to drawer 1")

tasks(split, n, seed)   n tasks, JSON-able dicts; split is `train`, `seen` (new tasks, known names)
                        or `unseen` (names and rooms never met in training). Fixed by the arguments.
reset(task, seed=None)  the first observation, which states the task, and info.
step(action)            any string is legal: what makes no sense is answered ("Nothing happens." in
                        the household) and counts as a step; nothing raises.
reward                  1 on success, else 0.
terminated, truncated   the task has ended; its step limit (`max_steps`) is reached. After either,
                        `step` changes nothing and gives its last answer again.
info["success"]         bool, the benchmark's own measure.
info["progress"]        in [0, 1], partial credit: the best so far in this episode; 1 on success.
admissible_actions()    sorted list of what would be accepted now; computed only when called.

For reflection and pretraining (`observation` is the first one, `steps` the (action, observation)
pairs after it):

name, fresh()           the name in `make`; another environment of the same kind, to run beside it.
oracle_reflection(observation, steps)
                        what a perfect observer writes of a failed trial, from its text alone.
follows(reflection, steps)
                        whether a trial's actions carry out a reflection's plan.
questions(observation, steps, rng)
                        neutral (question, answer) pairs about a trial, to measure reading.
demonstrations(split, seed, oracle_share, drill_share)
                        endless trials by players of mixed skill, with reflections of mixed quality;
                        drills are short exercises in reading.
cut_names(text)         the text with made-up names in parts, for training a tokenizer.
bindings(text)          (name, end of its mention, the name it is bound to, whether it was mentioned
                        before) in a trial's text: what belongs together, for the reading loss of
                        pretraining.

The order of results is Gymnasium's, without depending on it. An environment knows no model.
"""


def make(name: str, **kwargs):
    """The environment `name`; ValueError if there is no such. Imports that environment only."""
    if name == "household":
        from envs.household import Household

        return Household(**kwargs)
    raise ValueError(f"environment {name!r}: must be household")
