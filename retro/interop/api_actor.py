"""The actor, and an untrained reflector, behind an HTTP endpoint: the method's black boxes. What a
model writes is data: one line of it becomes the action. Read before: retro/actor.py, guides.py.
"""

import re
from collections.abc import Callable, Sequence

import torch

from retro.actor import ACTION_TOKENS, ROWS
from retro.interop import guides
from retro.interop.endpoint import Answer, Client
from retro.interop.guides import Turn
from retro.interop.spoken import spoken
from retro.language_model import Draws, uniforms
from retro.memory import MEMORY
from retro.run.printable import one_printable_line
from retro.run.tally import CUT, Tally
from retro.trial import Generators, Trajectory

REPLY_TOKENS = 200  # of a thought and an action, or of a reflection
THOUGHTS = 2  # replies in a row that are a thought without an action; after them the action is ""
REFLECTION_CHARACTERS = 1000
REPLY_CHARACTERS = 20_000  # that are read of a reply
_LABEL = re.compile(r"[\s>*_`#-]*\b(thought|think|action|observation|reflection)s?\b[\s\d*_`]*"
                    r"(?::|(?=\[))[\s*_]*", re.IGNORECASE)  # fmt: skip
_ACTION = re.compile(r"\s[*_]*Action(?: \d+)?[*_]*:[\s*_]*", re.IGNORECASE)  # in a thought's line
_FENCE = re.compile(r"\s*```\w*\s*")

class APIActor:
    """A language model that acts through `client`, in the environments `names`. With `examples` it
    reads rules and an example first, without (completions only) what a base of ours was trained on.
    """

    def __init__(self, client: Client, names: Sequence[str], temperature: float,
                 generator: torch.Generator, examples: bool = True, memory: int = MEMORY,
                 reply_tokens: int = 0):  # fmt: skip
        if client.api == "chat" and not examples:
            raise ValueError("--no-examples: only with --api completions")
        for name in names:
            if examples and name not in guides.GUIDES:
                raise ValueError(f"{name}: has no rules to tell in GUIDES of guides.py")
        self.client, self.names, self.temperature = client, names, temperature
        self.generator, self.examples, self.memory = generator, examples, memory
        self.device, self.rows, self.tally = generator.device, ROWS, Tally("turns")
        self.reply_tokens = reply_tokens or (REPLY_TOKENS if examples else ACTION_TOKENS)

    def start(self, openings: Sequence[str], generators: Generators = None) -> "APISession":
        return APISession(self, openings, generators)

    def whole(self, reply: str) -> bool:
        """Whether a reply that was cut off has an action, named as one, before its last line: plain
        lines may be thoughts. A base of ours is cut off as it is in this process.
        """
        return not self.examples or bool(read_reply(reply.rpartition("\n")[0], plainly=False)[1])

class APISession:
    """Trials in lock step. A turn is one request for each trial, and one more for each thought."""

    def __init__(self, actor: APIActor, openings: Sequence[str], generators: Generators = None):
        self.actor, self.openings = actor, list(openings)
        self.turns: list[list[Turn]] = [[] for _ in openings]
        self.last: dict[int, tuple[str, str]] = {}  # thought, action
        self.full: set[int] = set()  # trials that have outgrown the model's context
        self.seeds = request_seeds(generators or actor.generator, len(self.openings),
                                   actor.temperature)  # fmt: skip

    def act(self, rows: Sequence[int]) -> list[str]:
        """The next action of each trial in `rows`; "" from one that the model leaves unanswered.
        A trial whose context is full is not asked again; its turns stay unanswered.
        """
        self.last = dict.fromkeys(rows, ("", ""))
        faults = {row: "context" if row in self.full else "no action" for row in rows}
        asked = [row for row in rows if row not in self.full]
        for _ in range(1 + THOUGHTS):
            thinking = []
            for row, answer in zip(asked, self._ask(asked)):
                thought, action = read_reply(answer.text or "")
                if answer.fault:
                    faults[row] = answer.fault
                elif thought and not action:
                    self.turns[row].append(Turn(thought, "", "OK."))
                    thinking.append(row)
                elif action:
                    self.last[row] = thought, action
                    del faults[row]
                if answer.text is None:
                    self.full.add(row)
            asked = thinking
        self.actor.tally.note(len(rows), [*faults.values()])
        return [self.last[row][1] for row in rows]

    def observe(self, rows: Sequence[int], observations: Sequence[str]) -> None:
        for row, observation in zip(rows, observations):
            self.turns[row].append(Turn(*self.last[row], observation))

    def _ask(self, rows: list[int]) -> list[Answer]:
        actor, chat, asked = self.actor, self.actor.client.api == "chat", []
        prompt: Callable = guides.chat_messages if chat else guides.completion_prompt
        for row in rows:
            guide = guides.guide_of(self.openings[row], actor.names) if actor.examples else None
            asked.append(prompt(guide, self.openings[row], self.turns[row]))
        seeds, stop = [self.seeds[row] for row in rows], "\nObservation:" if chat else "\n"
        return actor.client.ask(asked, actor.reply_tokens, actor.temperature, seeds, stop,
                                actor.whole)  # fmt: skip

def reflection_writer(client: Client, temperature: float, generator: torch.Generator,
                      tally: Tally, reply_tokens: int = REPLY_TOKENS) -> Callable:  # fmt: skip
    """A writer for retro/evaluate.py; None where the trial is too long or nothing is written. A
    reflection that is cut off is used.
    """

    def write(trials: Sequence[Trajectory]) -> list[str | None]:
        asked = [guides.reflection_query(t.text(), t.episode_return, client.api) for t in trials]
        seeds = request_seeds(generator, len(asked), temperature)
        stop = "" if client.api == "chat" else "\n"
        answers = client.ask(asked, reply_tokens, temperature, seeds, stop)
        texts = [read_reflection(answer.text or "") or None for answer in answers]
        faults = [CUT if text and answer.fault else answer.fault or "empty"
                  for text, answer in zip(texts, answers) if answer.fault or not text]  # fmt: skip
        tally.note(len(asked), faults)
        return texts

    return write

def read_reply(reply: str, plainly: bool = True) -> tuple[str, str]:
    """(thought, action) of a reply, each one printable line or "". The action is the first line
    after `Action:` or `>`, else, `plainly`, the first that is no thought or code fence.
    Reading ends where the model makes up an observation.

    >>> read_reply("Thought: A mug is in there.\\nAction: open cabinet 1\\nObservation: You see")
    ('A mug is in there', 'open cabinet 1')
    >>> read_reply("```\\n> go to drawer 2\\n```\\nI did it!"), read_reply("think[It is cheap.]")
    (('', 'go to drawer 2'), ('It is cheap.', ''))
    """
    thought, plain, awaited = "", "", False
    for line in spoken(reply)[:REPLY_CHARACTERS].splitlines():
        label = _LABEL.match(line)
        kind, rest = (label[1].lower(), line[label.end() :]) if label else ("", line)
        if kind == "observation":
            break
        if kind in ("thought", "think"):
            text, *actions = _ACTION.split(rest, maxsplit=1)
            thought = thought or _bare(text).removeprefix("[").removesuffix("]")
            if actions:
                return thought, _bare(actions[0])
        elif kind == "action" or awaited or line.lstrip().startswith(">"):
            awaited = True  # it may stand on a line of its own below
            if action := _bare(rest):
                return thought, action
        elif not kind and not _FENCE.fullmatch(line):
            plain = plain or _bare(rest)
    return thought, plain if plainly else ""

def read_reflection(reply: str) -> str:
    """A reflection as one printable line, without code fences and its label: **Reflection:**."""
    lines = spoken(reply)[:REPLY_CHARACTERS].splitlines()
    text = " ".join(line for line in lines if not _FENCE.fullmatch(line))
    if (label := _LABEL.match(text)) and label[1].lower() == "reflection":
        text = text[label.end() :]
    return one_printable_line(text, REFLECTION_CHARACTERS)

def _bare(text: str) -> str:
    """A line without prompt signs, quotes and emphasis around it, and without a full stop."""
    return one_printable_line(text).lstrip("> ").strip("`*\"' ").removesuffix(".")

def request_seeds(generator: Draws, n: int, temperature: float) -> list[int | None]:
    """A seed for each of n samples: it makes two trials with the same prompt two requests."""
    if temperature == 0:
        return [None] * n
    return (uniforms(generator, n, 1, None)[:, 0].double() * 2**31).long().tolist()
