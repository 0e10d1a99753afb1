"""ALFWorld's household. Read `tasks`, `engine`, `observer`, `demonstrations`; then `files`."""

from envs.household.engine import Household
from envs.household.files import find_games, load_game, load_games

__all__ = ["Household", "find_games", "load_game", "load_games"]
