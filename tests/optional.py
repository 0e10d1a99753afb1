"""What may be absent: Java and TextWorldExpress. A test that needs them says so and skips."""

import pytest

import envs

OPTIONAL = {"textworld"}

def made(name: str, **settings) -> envs.Environment:
    """`envs.make`; where an optional environment lacks what it needs, the test ends here."""
    try:
        return envs.make(name, **settings)
    except ValueError as error:
        if name in OPTIONAL and "needs Java" in str(error):
            pytest.skip(str(error))
        raise
