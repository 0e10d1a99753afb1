"""A shop of a few products made by hand, a task in it, and shopping without a mistake."""

from envs.shop.files import product as shown

def raw(asin="BAK73", name="Norvik velvet lamp", pricing="$15.00", **changes) -> dict:
    """A product in WebShop's own schema."""
    values = {"color": ["Red", "Navy/Blue"], "Size": ["small", "large"]}
    fields = {
        "asin": asin,
        "name": name,
        "category": "home",
        "query": "Velvet Lamp ",
        "product_category": "Home › Lamps › Velvet",
        "pricing": pricing,
        "customization_options": {
            group: [{"value": v, "image": None} for v in shown_] for group, shown_ in values.items()
        },
        "small_description": ["washable cover", "padded foot"],
        "full_description": "By Norvik.",
    }
    return fields | changes

GOAL = {
    "asin": "BAK73",
    "category": "home",
    "query": "velvet lamp",
    "name": "Norvik velvet lamp",
    "product_category": "Home › Lamps › Velvet",
    "attributes": ["washable", "easy clean"],
    "goal_options": {"color": "red", "size": "small"},
    "price_upper": 20.0,
}

def task(*raws, goal=GOAL, max_steps=30, attributes=("easy to clean",)) -> dict:
    return {
        "env": "shop",
        "id": "hand",
        "max_steps": max_steps,
        "products": [shown(r, list(attributes)) for r in raws],
        "goal": goal,
        "instruction": "find one washable velvet lamp in color red and size small, and price lower "
        "than 20.00 dollars",
    }

def shop_perfectly(env, t) -> dict:
    """Look through the results, open what fits, choose, buy."""
    goal = t["goal"]
    env.reset(t)
    reply = env.step(f"search[{goal['query']}]")[0]
    while f"[{goal['asin']}]" not in reply:
        reply = env.step("click[Next >]")[0]
    env.step(f"click[{goal['asin']}]")
    for value in goal["goal_options"].values():
        env.step(f"click[{value}]")
    env.step("click[Buy Now]")
    return env.info()
