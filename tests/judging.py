"""What every judge says of its own environment's oracle and templates."""

from itertools import islice

from envs import Environment
from retro.prompts import well_formed

def judge_the_oracle_and_templates(env: Environment, split: str, n: int) -> None:
    """On the failed ones of n demonstrations: the oracle is right, constant plans invent nothing.
    """
    for d in islice(env.demonstrations(split, "judge", 0.3), n):
        if d.reflection is None:
            continue
        said = env.oracle_reflection(d.observation, d.steps)
        verdict = env.judge(said, d.observation, d.steps)
        assert verdict.kind and verdict.place is not False, (said, verdict)
        assert (verdict.cause, verdict.sound, verdict.invented) == (True, True, False), said
        for write in env.templates.values():
            said = write(d.observation, d.steps)
            assert well_formed(said) and "\n" not in said
            assert env.judge(said, d.observation, d.steps).invented is False, said
