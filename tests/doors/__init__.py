"""A room with doors and a key, a complete example beside `tests/guess.py`: the same files as in
`envs/NAME/`, and nothing else that an environment needs. Copy the folder in order to begin your
own. Read `engine` (game and tasks), `observer`, `demonstrations`; docs/new-environment.md says what
comes then.
"""

from tests.doors.engine import Doors

__all__ = ["Doors"]
