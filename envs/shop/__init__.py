"""WebShop. Read `tasks.py`, `engine.py`, `observer.py`, `demonstrations.py` in this order;
`files.py` reads WebShop's own products and goals.
"""

from envs.shop.engine import Shop, purchase_reward

__all__ = ["Shop", "purchase_reward"]
