"""HotPotQA. Read `tasks.py`, `observer.py`, `engine.py`, `demonstrations.py` in this order;
`files.py` reads HotpotQA's own questions.
"""

from envs.hotpot.engine import Hotpot, exact_match, f1_score
from envs.hotpot.files import load_items

__all__ = ["Hotpot", "exact_match", "f1_score", "load_items"]
