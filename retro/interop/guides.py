"""Guides for a language model that was not trained here: rules and a worked example for each
environment, in ReAct's manner (Yao et al., ICLR 2023).

Read before: retro/prompts.py. A turn is (thought, action, answer). It is written in two ways. In a
plain completion it is a line after `>`, as in `prompts.transcript`, and a thought is the line
`> think: ...`. In a chat it is one message, `Thought: ...` and `Action: ...`. All examples were
made up for this project.
"""

from collections.abc import Sequence
from typing import NamedTuple

from retro import prompts


class Turn(NamedTuple):
    thought: str  # "" if none
    action: str  # "" if it was only a thought
    answer: str


class Guide(NamedTuple):
    mark: str  # in every first observation of this environment, in none of another one
    rules: str
    first: str  # the example's first observation
    turns: list[Turn]


COMMON = (
    "Lines that begin with `Reflection:` were written after earlier failed attempts at this very "
    "task: follow them."
)
THINK = "Before an action you may think aloud."
REPLY = (
    "Answer each observation with one line `Thought: ...`, which may be left out, and one line "
    "`Action: ...`, nothing else. You get the next observation in return."
)
NEXT = "That task is over. Here is the next one, in another place:"

HOUSEHOLD = Guide(
    "Your task is to:",
    "You do an errand in a house by typed commands. You stand in one room; things lie in or on "
    "numbered places. The commands are:\n"
    "go to PLACE, open PLACE, close PLACE, take THING from PLACE, put THING in/on PLACE, "
    "use LAMP, clean THING with SINKBASIN, heat THING with MICROWAVE, cool THING with FRIDGE, "
    "examine PLACE, inventory, look.\n"
    "Names always carry their number, as in `mug 1`. You can hold one thing at a time. Go to a "
    "place before you use it, open it if it is closed. To look at a thing under a lamp, hold the "
    "thing and use the lamp. `Nothing happens.` means that a command was not possible.",
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, a "
    "cabinet 1, a countertop 1, a fridge 1, a shelf 1, and a sinkbasin 1.\n\n"
    "Your task is to: put a clean cup in shelf.",
    [
        Turn("I need a cup, then the sinkbasin, then the shelf. Cups stand on countertops or in "
             "cabinets. I begin with the countertop.", "go to countertop 1",
             "You arrive at loc 4. On the countertop 1, you see a bread 1, and a spoon 2."),
        Turn("No cup here. Cabinet 1 is next.", "go to cabinet 1",
             "You arrive at loc 2. The cabinet 1 is closed."),
        Turn("", "open cabinet 1",
             "You open the cabinet 1. The cabinet 1 is open. In it, you see a cup 1."),
        Turn("There is a cup.", "take cup 1 from cabinet 1",
             "You pick up the cup 1 from the cabinet 1."),
        Turn("It must be clean before I put it down.", "go to sinkbasin 1",
             "You arrive at loc 6. On the sinkbasin 1, you see nothing."),
        Turn("", "clean cup 1 with sinkbasin 1", "You clean the cup 1 using the sinkbasin 1."),
        Turn("", "go to shelf 1", "You arrive at loc 5. On the shelf 1, you see nothing."),
        Turn("", "put cup 1 in/on shelf 1", "You put the cup 1 in/on the shelf 1."),
    ],
)  # fmt: skip

HOTPOT = Guide(
    "Answer by searching:",
    "You answer a question by looking facts up. It takes two or more paragraphs to know the "
    "answer. The actions are:\n"
    "Search[title]: the beginning of the paragraph with that title, or titles that are similar.\n"
    "Lookup[word]: the next sentence with that word in the paragraph found last.\n"
    "Finish[answer]: your answer, which ends the task.\n"
    "There are only about seven actions, so search names, not sentences. The answer is a name, a "
    "number, a few words, yes or no: as short as it can be, never a sentence.",
    "Answer by searching: In which town was the painter of The Salt Ferry born?",
    [
        Turn("I must find who painted The Salt Ferry, then where that painter was born.",
             "Search[The Salt Ferry]",
             "The Salt Ferry is an oil painting by Maren Oldevik from 1891. It shows workers who "
             "cross a fjord at dawn. It hangs in the town hall of Brekkvik."),
        Turn("Maren Oldevik painted it. Brekkvik is only where it hangs; I search the painter.",
             "Search[Maren Oldevik]",
             "Maren Oldevik (1858 - 1923) was a painter of coasts and harbours. She studied in "
             "Copenhagen with her brother Jens."),
        Turn("This does not say where she was born. I look for the word in the paragraph.",
             "Lookup[born]", "(Result 1 / 1) She was born in Lyseng as the daughter of a pilot."),
        Turn("She was born in Lyseng.", "Finish[Lyseng]", "Answer is CORRECT."),
    ],
)  # fmt: skip

SHOP = Guide(
    "Webshop",
    "You buy one product in a web shop, the one that fits the instruction best. The actions are:\n"
    "search[words]: on the start page; a few words about the product find most.\n"
    "click[button]: a button of the page, written as between its brackets: a product's code, a "
    "value of an option, Description, Features, Next >, < Prev, Back to Search, Buy Now.\n"
    "Open a product by its code, choose each option that the instruction names, then "
    "click[Buy Now], which ends the task. Mind the price limit. A product that fits nearly is "
    "better than none.",
    "Webshop\nInstruction:\ni want a set of two linen aprons in dark green, and price lower than "
    "40.00 dollars\n[Search]",
    [
        Turn("I search with the words that matter: linen apron, set of two, dark green.",
             "search[linen apron set of two dark green]",
             "[Back to Search]\nPage 1 (Total results: 3)\n[X0AP01QQ7L]\nHearthside Cotton Apron "
             "for Kitchen and Garden\n$15.00\n[X0AP02WW3K]\nTallow & Thread Linen Apron with Two "
             "Pockets\n$31.50\n[X0AP03EE9M]\nLinen Apron Gift Set, Handmade\n$58.00"),
        Turn("The first is cotton and the third costs more than 40 dollars. I open X0AP02WW3K.",
             "click[X0AP02WW3K]",
             "[Back to Search]\n[< Prev]\ncolor [sand][dark green][navy]\nsize [single][set of 2]\n"
             "Tallow & Thread Linen Apron with Two Pockets\nPrice: $31.50\nRating: N.A.\n"
             "[Description]\n[Features]\n[Reviews]\n[Buy Now]"),
        Turn("It has both options that I need.", "click[dark green]",
             "You have clicked dark green."),
        Turn("", "click[set of 2]", "You have clicked set of 2."),
        Turn("Both options are chosen and the price fits.", "click[Buy Now]",
             "Your score (min 0.0, max 1.0): 1.0"),
    ],
)  # fmt: skip

GUIDES = {"household": HOUSEHOLD, "hotpot": HOTPOT, "shop": SHOP}

REFLECTION_RULES = (
    "An agent tried a task and failed. You read the attempt, its actions after `>`, and write "
    "advice for its next attempt at this same task, where everything is in the same place again. "
    "Write one line: one sentence on what went wrong, then `Plan:` and the steps to take, with the "
    "exact names that the attempt showed. State only what the attempt shows."
)
FAILED = [*HOUSEHOLD.turns[:3], Turn("", "go to shelf 1", "You arrive at loc 5. On the shelf 1, "
                                     "you see nothing.")]  # fmt: skip
ADVICE = (
    "I saw cup 1 in cabinet 1 but did not take it. Plan: take cup 1 from cabinet 1, clean cup 1 "
    "with sinkbasin 1, put cup 1 in/on shelf 1."
)


def guide_of(opening: str, names: Sequence[str]) -> Guide:
    """The guide of the environment, one of `names`, that a trial with this opening belongs to."""
    guides = [GUIDES[name] for name in names]
    if len(guides) == 1:
        return guides[0]
    return next((g for g in guides if g.mark in opening), guides[0])


def completion_prompt(guide: Guide | None, opening: str, turns: Sequence[Turn]) -> str:
    """The prompt for a plain completion: the model goes on after the last `>`. Without a guide it
    is only the transcript, which our own base reads.
    """
    text = opening + _lines(turns) + prompts.ACT
    if guide is None:
        return text
    rules = f"{guide.rules}\n{THINK} {COMMON} A thought is a line `> think: ...`."
    return _introduced(rules, guide.first + _lines(guide.turns)) + text


def lead(guide: Guide) -> str:
    """What stands before the transcript of an actor that acts without thinking aloud."""
    acts = [turn._replace(thought="") for turn in guide.turns]
    return _introduced(f"{guide.rules}\n{COMMON}", guide.first + _lines(acts))


def _introduced(rules: str, example: str) -> str:
    return f"{rules}\n\nAn example:\n\n{example}\n\nYour task:\n\n"


def chat_messages(guide: Guide, opening: str, turns: Sequence[Turn]) -> list[dict]:
    """The messages for chat: the rules, the example as if it had just been played, the trial."""
    messages = [_message("system", f"{guide.rules}\n{THINK} {COMMON}\n{REPLY}")]
    messages += _dialogue(guide.first, guide.turns)
    last = messages.pop()["content"]  # the roles must alternate
    return messages + _dialogue(f"{last}\n\n{NEXT}\n\n{opening}", turns)


def reflection_query(text: str, episode_return: float, api: str) -> str | list[dict]:
    """The prompt for a reflection on a trial with this text: rules, an example, the trial."""
    example = HOUSEHOLD.first + _lines([t._replace(thought="") for t in FAILED])
    example += prompts.reflection_request(0.0)
    attempt = text + prompts.reflection_request(episode_return)
    if api == "completions":
        shown = f"An example:\n\n{example} {ADVICE}\n\nThe attempt:\n\n{attempt}"
        return f"{REFLECTION_RULES}\n\n{shown}"
    return [
        _message("system", REFLECTION_RULES),
        _message("user", example),
        _message("assistant", ADVICE),
        _message("user", attempt),
    ]


def _lines(turns: Sequence[Turn]) -> str:
    text = ""
    for thought, action, answer in turns:
        if thought:
            text += f"{prompts.ACT} think: {thought}{prompts.turn('OK.')}"
        if action or not thought:
            text += f"{prompts.ACT} {action}{prompts.turn(answer)}"
    return text


def _dialogue(opening: str, turns: Sequence[Turn]) -> list[dict]:
    messages = [_message("user", opening)]
    for thought, action, answer in turns:
        lines = [f"Thought: {thought}"] * bool(thought)
        lines += [f"Action: {action}"] * bool(action or not thought)
        messages += [_message("assistant", "\n".join(lines)), _message("user", answer)]
    return messages


def _message(role: str, content: str) -> dict:
    return {"role": role, "content": content}
