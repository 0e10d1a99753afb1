"""Prompts: pure text, the same for every environment and every language model.

    transcript   first observation, earlier reflections, then `> action` and the answer to it
    actor        a transcript and `>`: the model writes the action, up to the line's end
    reflector    a failed transcript, its return, then `Reflection:`; the model writes one line
    reflection   `Notes: fact; fact. Cause: a sentence. Plan: clause, clause.`: facts are looked up
                 for the cause and the plan, and only these two are what the actor reads (`advice`)

The reflector's prompt continues the actor's transcript, so one KV cache can serve both: one base,
two roles. x = (task, earlier reflections, trajectory, G) of the paper (section 4) is this text.
"""

from collections.abc import Iterable

from envs.observer import advice

ACT = "\n>"  # an action follows, after a space
REFLECT = "\nReflection:"  # a reflection follows, after a space
NO_NOTES = f"{REFLECT} Cause:"  # the same, but the reflection goes on at its cause
NOTES, CAUSE, PLAN = "Notes: ", "Cause: ", "Plan: "
CHAT_REFLECT = " In one line: why did it fail, and what is the plan for the next attempt?"
ASK, ANSWER = "\nQuestion:", "\nAnswer:"

def opening(observation: str, reflections: Iterable[str]) -> str:
    """What a trial starts from: the first observation and the long-term memory, oldest first."""
    return observation + "".join(f"{REFLECT} {advice(one_line(text))}" for text in reflections)

def turn(observation: str) -> str:
    """What the actor reads after an action."""
    return f"\n{observation}"

def transcript(
    observation: str, reflections: Iterable[str], steps: Iterable[tuple[str, str]]
) -> str:
    """A trial as one text.

    >>> print(transcript("You see a box 1.", ["Plan: open it."], [("open box 1", "You open it.")]))
    You see a box 1.
    Reflection: Plan: open it.
    > open box 1
    You open it.
    """
    acts = "".join(f"{ACT} {one_line(action)}{turn(reply)}" for action, reply in steps)
    return opening(observation, reflections) + acts

def reflection_request(episode_return: float, chat: bool = False, notes: bool = True) -> str:
    """What turns a transcript into the reflector's prompt; G in [0, 1] is what the critic sees of
    it. A chat model is asked, any other goes on writing, without `notes` from `Cause:` on.
    """
    asked = CHAT_REFLECT if chat else REFLECT if notes else NO_NOTES
    return f"\nFailed, score {episode_return:.2f}.{asked}"

def question(text: str) -> str:
    """A question about the transcript before it; only the pretraining text has them."""
    return f"{ASK} {text}{ANSWER}"

def one_line(text: str) -> str:
    """Text without line breaks: whatever a model or a user wrote stays one line of the prompt."""
    return " ".join(text.split())

def well_formed(reflection: str) -> bool:
    """True if a reflection has the form asked for: a cause, `Plan: `, a word or more, a full stop.
    `Cause: ` may stand before the cause, and notes before that.

    >>> [well_formed(text) for text in ("I never found a mug. Plan: search shelf 2.", "mug mug")]
    [True, False]
    """
    before, _, plan = reflection.partition(PLAN)
    cause = advice(before)
    notes = before.removesuffix(cause).removesuffix(CAUSE).strip()
    noted = (not notes or notes.startswith(NOTES)) and not cause.startswith(NOTES)
    said = cause.strip() and plan.rstrip(".").strip() and plan.endswith(".")
    return noted and bool(said) and CAUSE not in plan
