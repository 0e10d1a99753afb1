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
    ],
)
def test_well_formed(text, good):
    assert prompts.well_formed(text) is good
