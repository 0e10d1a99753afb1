"""WebShop. Read `tasks.py`, `engine.py`, `observer.py`, `demonstrations.py`, then `files.py`."""

from envs.shop.engine import Shop, purchase_reward

__all__ = ["Shop", "purchase_reward"]
