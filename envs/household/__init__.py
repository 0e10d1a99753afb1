"""ALFWorld's household. Read `tasks.py`, `engine.py`, `observer.py`, `demonstrations.py` in this
order; `files.py` reads the real games.
"""

from envs.household.engine import Household
from envs.household.files import find_games, load_game

__all__ = ["Household", "find_games", "load_game"]
