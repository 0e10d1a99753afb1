"""HotPotQA. Read `tasks.py`, `observer.py`, `engine.py`, `demonstrations.py`, then `files.py`."""

from envs.hotpot.engine import Hotpot, exact_match, f1_score
from envs.hotpot.files import load_items

__all__ = ["Hotpot", "exact_match", "f1_score", "load_items"]
