"""WebShop's reward: how well a purchase fits the goal (Yao et al., NeurIPS 2022, section 3.2).

Changed from WebShop's goal.py, to need no model and no package: nouns of a title are its words
without stop words, numbers and common adjectives (there: spaCy's tags); the colour list of option
matching is shorter; a goal without a price limit counts its price as kept (there: an error).
"""

import re
from functools import lru_cache

MATCHED = 85  # a fuzzy match scores more (0..100)
_FUNCTION_WORDS = frozenset(
    """a an and are as at by for from in is it its made of on or our set than that the this to up
    with without your big black blue brown clear cool cute dark easy free fresh gold good gray great
    green grey heavy high hot large light long low mini natural new non old orange pink pure purple
    red short silver slim small soft solid super tall ultra warm white wide yellow""".split()
)
_COLORS = """aqua beige black blue bronze brown burgundy charcoal chocolate coffee copper coral
cream gold gray green grey ivory khaki lavender lemon magenta maroon mint mustard navy olive orange
peach pink plum purple red rose rust sand silver tan teal turquoise violet white wine
yellow""".split()
_COLOR = re.compile(rf"\b({'|'.join(_COLORS)})\b")


@lru_cache(maxsize=100_000)
def token_set_ratio(a: str, b: str) -> float:
    """Likeness of two texts as sets of words, 0..100: 100 if one's words hold all of the other's.

    The best `ratio` of two among common words, common + rest of a, common + rest of b: as thefuzz.

    >>> token_set_ratio("long sleeve", "Sleeve, long and soft")
    100.0
    """
    words = [set(re.sub(r"[\W_]+", " ", text.lower()).split()) for text in (a, b)]
    if not all(words):
        return 0.0
    common = " ".join(sorted(words[0] & words[1]))
    if common and (words[0] <= words[1] or words[1] <= words[0]):
        return 100.0
    whole = [" ".join([common, *sorted(w - (words[0] & words[1]))]).strip() for w in words]
    pairs = [whole] + ([[common, text] for text in whole] if common else [])
    return max(float(round(ratio(x, y))) for x, y in pairs)


def ratio(a: str, b: str) -> float:
    """Likeness of two texts, 0..100: letters of their longest common subsequence, out of both.

    >>> ratio("abcd", "axbx")
    50.0
    """
    longest = [0] * (len(b) + 1)  # of a's letters so far with each start of b
    for x in a:
        before = longest[:]
        for j, y in enumerate(b):
            longest[j + 1] = before[j] + 1 if x == y else max(before[j + 1], longest[j])
    return 200 * longest[-1] / max(len(a) + len(b), 1)


def nouns(title: str) -> list[str]:
    """The words of a title that can name a thing, lower case."""
    words = re.findall(r"[^\W\d_]{2,}", title.lower())
    return [word for word in words if word not in _FUNCTION_WORDS]


def type_reward(product: dict, goal: dict) -> float:
    """r_type: 1 for the right kind of thing, .5 for another kind, .1 or 0 if the titles share next
    to nothing.
    """
    wanted = nouns(goal["name"])
    common = set(wanted) & set(nouns(product["name"]))
    title = len(common) / len(wanted) if wanted else 0.2
    categories = [{c.strip() for c in x["product_category"].split("›")} for x in (product, goal)]
    alike = product["query"] == goal["query"] or len(categories[0] & categories[1]) >= 2
    if title == 0.0:
        return 0.0
    if title < 0.1:
        return 0.1
    return 1.0 if alike or title > 0.2 else 0.5


def attributes_matched(product: dict, goal: dict) -> int:
    """Asked attributes that the product has, in its list of them or in its texts."""
    bullets = " ".join(product["BulletPoints"])
    texts = [text.lower() for text in (product["Title"], bullets, product["Description"])]
    return sum(
        any(token_set_ratio(own, asked) > MATCHED for own in product["Attributes"])
        or any(asked in text for text in texts)
        for asked in goal["attributes"]
    )


def options_matched(chosen: dict[str, str], goal: dict) -> int:
    """Asked option values that were chosen."""
    return sum(
        any(token_set_ratio(_color(own), _color(value)) > MATCHED for own in chosen.values())
        for value in values_of(goal["goal_options"])
    )


def values_of(goal_options: dict[str, str] | list[str]) -> list[str]:
    """Generated goals name the option's group, those that people wrote do not."""
    return list(goal_options.values() if isinstance(goal_options, dict) else goal_options)


def _color(value: str) -> str:
    """`light blue #3` -> `blue`; what names no colour stays."""
    match = _COLOR.search(value.lower())
    return match[0] if match else value


def purchase_reward(product: dict, options: dict[str, str], price: float, goal: dict) -> float:
    """r_type * (attributes + options + [price <= limit]) / (asked attributes + asked options + 1).

    product: `name, query, product_category, Attributes, Title, BulletPoints, Description`; options:
    group -> value chosen; goal: `name, query, product_category, attributes, goal_options,
    price_upper` (0: no limit). In [0, 1].
    """
    limit = goal["price_upper"]
    got = attributes_matched(product, goal) + options_matched(options, goal)
    got += price <= limit or limit <= 0
    asked = len(goal["attributes"]) + len(goal["goal_options"]) + 1
    return type_reward(product, goal) * got / asked
