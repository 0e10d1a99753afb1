"""HotpotQA's own files, a JSON list of questions. Read `envs/tasks.py` first."""

import html
import re
import unicodedata
from pathlib import Path

from envs.hotpot.observer import one_line
from envs.tasks import check_ids, read_json

MAX_PARAGRAPHS, MAX_TITLE = 200, 300  # several times the largest: each search compares all titles

def shown(title: str) -> str:
    """A title as sentences write it: they are not HTML-escaped as titles are. In Unicode's NFC.
    >>> shown(" Simon &amp; Garfunkel")
    'Simon & Garfunkel'
    """
    text = re.sub(r"&#?\w+;", lambda entity: html.unescape(entity[0]), title)
    return unicodedata.normalize("NFC", one_line(text))

def load_items(path: str | Path) -> list[dict]:
    """The items of a HotpotQA file, in its order; ValueError, one line, if it is not one."""
    items = read_json(path)
    if not isinstance(items, list) or not items:
        raise ValueError(f"{path}: expected a list of questions")
    for i, item in enumerate(items):
        if wrong := _fault(item):
            raise ValueError(f"{path}: question {i}: {wrong}")
    check_ids((item["_id"] for item in items), path)
    return items

def _fault(item: object) -> str:
    """What is wrong with an item, "" if nothing is."""
    if not isinstance(item, dict):
        return "is not an object"
    for field in ("_id", "question", "answer"):
        if not isinstance(item.get(field), str):
            return f"{field!r} must be a string"
    if not item["answer"].strip():
        return "'answer' is empty"
    for field, second in (("context", list), ("supporting_facts", int)):
        pairs = item.get(field)
        if not isinstance(pairs, list) or not pairs:
            return f"{field!r} must be a list that is not empty"
        for pair in pairs:
            right = isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)
            if not right or not isinstance(pair[1], second):
                return f"{field!r} must hold [title, {'sentences' if second is list else 'number'}]"
    context = item["context"]
    if len(context) > MAX_PARAGRAPHS or any(len(title) > MAX_TITLE for title, _ in context):
        return f"more than {MAX_PARAGRAPHS} paragraphs, or a title of over {MAX_TITLE} characters"
    if not all(isinstance(s, str) for _, sentences in context for s in sentences):
        return "a sentence of 'context' is not a string"
    return ""
