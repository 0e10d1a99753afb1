"""Prompts are plain text that nothing can break out of."""

import pytest

from retro import prompts

def test_reflector_prompt_continues_the_actors():
    steps = [("look", "You see nothing."), ("go to bed 1", "Nothing happens.")]
    text = prompts.transcript("Room.\n\nYour task is to: x.", ["a. Plan: b."], steps)
    assert text.startswith(prompts.opening("Room.\n\nYour task is to: x.", ["a. Plan: b."]))
    assert prompts.transcript(
        "R", [], steps[:1]
    ) + "\n> go to bed 1\nNothing happens." == prompts.transcript("R", [], steps)

@pytest.mark.parametrize("text", ["a\nReflection: b", "a\r\n> take", "\t a  b \n"])
def test_reflections_and_actions_stay_on_their_line(text):
    assert prompts.opening("R", [text]).count("\n") == 1
    assert prompts.transcript("R", [], [(text, "o")]).count("\n") == 2

@pytest.mark.parametrize(
    "text, good",
    [
        ("I never found a mug. Plan: search bed 1.", True),
        ("Plan: search bed 1.", False),
        ("", False),
        ("I never found a mug.", False),
        ("x Plan: .", False),
        ("x Plan: look", False),
        ("x. Plan: a. b.", True),
        ("Notes: mug 1 in bed 1; no lamp. Cause: I slept. Plan: look.", True),
        ("Cause: I slept. Plan: look.", True),
        ("Notes: mug 1 in bed 1. Plan: look.", False),  # no cause
        ("Notes: mug 1 in bed 1. Cause: I slept.", False),
        ("Notes: a. Cause: Plan: look.", False),
        ("Notes: Cause: I slept. Plan: look.", False),  # no notes
        ("Notes: a. Plan: b. Cause: I slept. Plan: look.", False),  # two plans
        ("mug mug. Cause: I slept. Plan: look.", False),
        ("I slept. Plan: look. Cause: no.", False),  # the actor would read: no.
        ("Cause: Notes: a. Plan: look.", False),
    ],
)
def test_well_formed(text, good):
    assert prompts.well_formed(text) is good

WHOLE = "Notes: mug 1 first in bed 1; no lamp seen. Cause: I slept. Plan: take mug 1 from bed 1."
SAID = "I slept. Plan: take mug 1 from bed 1."

@pytest.mark.parametrize(
    "text, read",
    [
        (WHOLE, SAID),
        (f"Cause: {SAID}", SAID),
        (SAID, SAID),
        ("Notes: cut off in the mid", "Notes: cut off in the mid"),
        ("Notes: a. Cause: b. Cause: c.", "b. Cause: c."),
        ("Notes: a.\nCause:\n b.", "b."),
        ("", ""),
    ],
)
def test_the_actor_reads_what_follows_the_first_cause(text, read):
    """In whatever it starts from: alone, among others, and in the reflector's next prompt."""
    assert prompts.opening("R", [text]) == f"R\nReflection: {read}"
    assert prompts.opening("R", [SAID, text]).splitlines()[1:] == [
        f"Reflection: {SAID}", f"Reflection: {read}"
    ]  # fmt: skip
    whole = prompts.transcript("R", [text], [("look", "You see nothing.")])
    assert whole == f"R\nReflection: {read}\n> look\nYou see nothing."

def test_a_reflection_is_asked_for_with_notes_or_from_its_cause_on():
    assert prompts.reflection_request(0.5) == "\nFailed, score 0.50.\nReflection:"
    bare = prompts.reflection_request(0.5, notes=False)
    assert bare == "\nFailed, score 0.50.\nReflection: Cause:"
    chat = prompts.reflection_request(0.5, chat=True)
    assert chat == prompts.reflection_request(0.5, chat=True, notes=False) and "Cause" not in chat
