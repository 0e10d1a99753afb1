"""Guides for a language model that was not trained here: rules and a worked example for each
environment, in ReAct's manner (Yao et al., ICLR 2023), made up for this project. They stand in
texts/*.txt, in sections between lines of `----`. A turn is (thought, action, answer): `> think:
...` and `> ...` in a plain completion, in a chat `Thought: ...` and `Action: ...`.
Read before: retro/prompts.py.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retro import prompts

TURN = re.compile(r"\n> (?:think: (.*)\nOK\.\n> )?(.*)\n")  # its answer goes up to the next one

class Turn(NamedTuple):
    thought: str  # "" if none
    action: str  # "" if it was only a thought
    answer: str

class Guide(NamedTuple):
    mark: str  # in every first observation of this environment, in none of another one
    rules: str
    first: str  # the example's first observation
    turns: list[Turn]

def _sections(name: str) -> list[str]:
    text = Path(__file__).with_name("texts").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return text.removesuffix("\n").split("\n----\n")

def _read_guide(name: str) -> Guide:
    mark, rules, example = _sections(name)
    first, *parts = TURN.split(example)
    turns = zip(parts[::3], parts[1::3], parts[2::3])
    return Guide(mark, rules, first, [Turn(thought or "", *rest) for thought, *rest in turns])

HOUSEHOLD, HOTPOT, SHOP = map(_read_guide, ("household", "hotpot", "shop"))
GUIDES = {"household": HOUSEHOLD, "hotpot": HOTPOT, "shop": SHOP}
COMMON, THINK, REPLY, NEXT = _sections("common")
REFLECTION_RULES, FAILED, ADVICE = _sections("reflection")

def guide_of(opening: str, names: Sequence[str]) -> Guide:
    """The guide of the environment, one of `names`, that a trial with this opening belongs to."""
    guides = [GUIDES[name] for name in names]
    return next((guide for guide in guides if guide.mark in opening), guides[0])

def completion_prompt(guide: Guide | None, opening: str, turns: Sequence[Turn]) -> str:
    """The prompt for a plain completion, without a guide only the transcript: our base reads it."""
    return (lead(guide, think=True) if guide else "") + opening + _lines(turns) + prompts.ACT

def lead(guide: Guide, think: bool = False) -> str:
    """What stands before the transcript of an actor, which may `think` aloud before it acts."""
    how = f"{THINK} {COMMON} A thought is a line `> think: ...`." if think else COMMON
    turns = guide.turns if think else [turn._replace(thought="") for turn in guide.turns]
    example = guide.first + _lines(turns)
    return f"{guide.rules}\n{how}\n\nAn example:\n\n{example}\n\nYour task:\n\n"

def chat_messages(guide: Guide, opening: str, turns: Sequence[Turn]) -> list[dict]:
    """The messages for chat: the rules, the example as if it had just been played, the trial."""
    rules = f"{guide.rules}\n{THINK} {COMMON}\n{REPLY}"
    messages = [dict(role="system", content=rules), *_dialogue(guide.first, guide.turns)]
    last = messages.pop()["content"]  # the roles must alternate
    return messages + _dialogue(f"{last}\n\n{NEXT}\n\n{opening}", turns)

def reflection_query(text: str, episode_return: float, api: str) -> str | list[dict]:
    """The prompt for a reflection on a trial with this text: rules, an example, the trial."""
    example = FAILED + prompts.reflection_request(0.0)
    attempt = text + prompts.reflection_request(episode_return)
    if api == "completions":
        shown = f"{REFLECTION_RULES}\n\nAn example:\n\n{example} {ADVICE}"
        return f"{shown}\n\nThe attempt:\n\n{attempt}"
    return [dict(role="system", content=REFLECTION_RULES), dict(role="user", content=example),
            dict(role="assistant", content=ADVICE), dict(role="user", content=attempt)]  # fmt: skip

def _lines(turns: Sequence[Turn]) -> str:
    text = ""
    for thought, action, answer in turns:
        if thought:
            text += f"{prompts.ACT} think: {thought}{prompts.turn('OK.')}"
        if action or not thought:
            text += f"{prompts.ACT} {action}{prompts.turn(answer)}"
    return text

def _dialogue(opening: str, turns: Sequence[Turn]) -> list[dict]:
    messages = [dict(role="user", content=opening)]
    for thought, action, answer in turns:
        lines = [f"Thought: {thought}"] * bool(thought)
        lines += [f"Action: {action}"] * bool(action or not thought)
        own = "\n".join(lines)
        messages += [dict(role="assistant", content=own), dict(role="user", content=answer)]
    return messages
