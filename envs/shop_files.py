"""WebShop's own files: products, their attributes, the goals that people wrote."""

import re


def product(raw: dict, attributes: list[str]) -> dict:
    """A product as pages and reward need it, from one of WebShop's schema.

    As WebShop's loader: no price counts as $100.0; option values in lower case, `/` as ` | `. Of a
    price range the middle is paid (there: a random one, drawn at the start).
    """
    prices = [float(re.sub(r"[^\d.]", "", p)) for p in (raw["pricing"] or "").split("$")[1:3]]
    prices = prices or [100.0]
    bullets = raw["small_description"]
    options = {
        group.lower(): [v["value"].strip().replace("/", " | ").lower() for v in values]
        for group, values in (raw["customization_options"] or {}).items()
        if values is not None
    }
    return {
        "asin": raw["asin"],
        "name": raw["name"],
        "category": raw["category"],
        "query": raw["query"].lower().strip(),
        "product_category": raw["product_category"],
        "Title": raw["name"],
        "Description": raw["full_description"] or "",
        "BulletPoints": bullets if isinstance(bullets, list) else [bullets or ""],
        "Attributes": attributes,
        "Reviews": [],
        "Rating": "N.A.",
        "options": options,
        "Price": " to ".join(f"${p}" for p in prices),
        "price": sum(prices) / len(prices),
    }
