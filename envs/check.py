"""Is an environment whole? The contract of `envs/__init__.py`, tried out: what is missing or wrong,
by name, a line each.

    python -m envs.check NAME             a name of `envs.CLASSES`
    python -m envs.check MODULE:CLASS     a class that is not among them yet

It ends with status 1 if there is a fault. Else it says how often the demonstrations' players
succeed with and without an oracle's reflection: all that a reflector can learn lies between.
"""

import json
import re
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from itertools import islice
from random import Random
from typing import NamedTuple

import envs
from envs import Environment
from envs.demonstrations import Demonstration
from envs.observer import Verdict

STRANGE = ("", " ", "x" * 100_000, "\0\x1b[31m", "看 тест", "[[[", "]", "Search[", "\n> go")
MARKS = ("Question:", "Answer:", "Reflection:")  # they begin a line of the prompts, and no other
TRIALS = 100  # demonstrations that are looked at
LEAST_GAIN = 0.15  # success after the oracle's reflection, above that of first trials
REFLECTION = re.compile(r"\S.* ?Plan: \S.*\.")  # a cause, `Plan: `, a plan, a full stop

def problems(env: Environment) -> list[str]:
    """What is wrong, a line each; [] if nothing is."""
    if missing := envs.lacking(env):
        return [f"{name}: missing{_or_part(name)}. {meaning(name)}" for name in missing]
    found: list[str] = []
    for check in (tasks, trials, copies, oracle, demonstrations, glances):
        if found and check is oracle:  # no player need find the end of a game that has faults
            return found
        try:
            found += dict.fromkeys(f"{check.__name__}: {text}" for text in check(env))
        except Exception as error:  # the environment's own; where it was raised, in one line
            *_, last = traceback.extract_tb(error.__traceback__)
            place = f"{last.filename}:{last.lineno}, in {last.name}"
            found.append(f"{check.__name__}: {type(error).__name__} {error} ({place})")
    return found

def _or_part(name: str) -> str:
    part = envs.PARTS.get(name)
    return f" (or give the base class {part})" if part else ""

def meaning(name: str) -> str:
    """What the contract says of a method."""
    entry = rf"^(?! )[\w, ()=]*\b{name}\b.*?: (.*?)(?=\n\w|\n\n)"
    text = re.search(entry, envs.__doc__ or "", re.MULTILINE | re.DOTALL)
    return " ".join(text[1].split()) if text else ""

def tasks(env: Environment) -> Iterator[str]:
    for split in ("train", "seen", "unseen"):
        drawn = env.tasks(split, 5, 7)
        if len(drawn) != 5 or len({task.get("id") for task in drawn}) != 5:
            yield f"tasks({split!r}, 5, 7) does not give 5 tasks, each with an `id` of its own"
        if any(task.get("env") != env.name for task in drawn):
            yield f"a task's `env` is not {env.name!r}"
        if not all(type(n := task.get("max_steps")) is int and n > 0 for task in drawn):
            yield "a task's `max_steps` is not a number above 0"
        if json.loads(json.dumps(drawn)) != drawn:
            yield "a task is not what JSON makes of it (a tuple, a key that is no string?)"
        if env.fresh().tasks(split, 5, 7) != drawn:
            yield "the same arguments give other tasks"
        if env.tasks(split, 5, 8) == drawn:
            yield "another seed gives the same tasks"
    try:
        env.tasks("other", 1, 0)
        yield "tasks('other', 1, 0) is no ValueError (see envs.tasks.check_split)"
    except ValueError:
        pass

def trials(env: Environment) -> Iterator[str]:
    """Legal actions and strange ones, up to the end and beyond."""
    rng = Random(0)
    for task in env.tasks("seen", 20, 1):
        observation, info = env.reset(task)
        told = observation and isinstance(observation, str)
        if not told or set(info) != {"success", "progress"}:
            yield "reset does not give a text and info with `success` and `progress`"
            return
        for _ in range(task["max_steps"]):
            legal = env.admissible_actions()
            if legal != sorted(legal):
                yield "admissible_actions is not sorted"
            answer = env.step(rng.choice((rng.choice([*legal, ""]), rng.choice(STRANGE))))
            reply, reward, terminated, truncated, info = answer
            if not isinstance(reply, str) or not 0 <= reward <= 1 or not 0 <= info["progress"] <= 1:
                yield "a step gives no text, or a reward or progress outside [0, 1]"
            if info["success"] and not (terminated and info["progress"] == 1):
                yield "a success that is not terminated, or whose progress is not 1"
            if terminated or truncated:
                break
        if not (terminated or truncated):
            yield "after `max_steps` steps a trial is neither terminated nor truncated"
        elif env.step("look") != answer or env.step("") != answer:
            yield "a step after the end changes the last answer"

def copies(env: Environment) -> Iterator[str]:
    """The same actions give the same answers, whatever a copy does meanwhile."""
    task, other = env.tasks("train", 2, 3)
    env.reset(task)
    actions = [*env.admissible_actions(), ""][:5]
    alone = [env.step(action) for action in actions]
    first, again = env.reset(task), env.fresh()
    if again is env or first != env.fresh().reset(task):
        yield "fresh gives no copy that plays as this one does"
    for action, expected in zip(actions, alone):
        again.reset(other)
        again.step(action)
        if env.step(action) != expected:
            yield "a trial depends on chance, or on a copy that plays beside it"

def oracle(env: Environment) -> Iterator[str]:
    """What the oracle says, and what is made of it."""
    played, followed = chained(env), []
    for before, after in played.after:
        said = env.oracle_reflection(before.observation, before.steps)
        if not REFLECTION.fullmatch(said):
            yield f"{said!r} is not one line of the form `cause. Plan: plan.`"
        if said != env.oracle_reflection(before.observation, before.steps):
            yield "a trial's oracle_reflection is not always the same"
        verdict = env.judge(said, before.observation, before.steps)
        wrong = (verdict.cause, verdict.sound, verdict.invented) != (True, True, False)
        if wrong and verdict != Verdict():
            yield f"judge finds fault with the oracle's own reflection {said!r}: {verdict}"
        for name, template in env.templates.items():
            if not REFLECTION.fullmatch(text := template(before.observation, before.steps)):
                yield f"the template {name!r} writes {text!r}, not `cause. Plan: plan.`"
        if after.success:
            followed.append(env.follows(said, after.steps))
    if sum(followed) < len(followed) / 2:
        yield (f"follows is true of {sum(followed)} of {len(followed)} trials that succeeded after "
               "the oracle's reflection")  # fmt: skip
    at_first, mended = played.success()
    if mended < at_first + LEAST_GAIN:
        yield (f"players succeed in {at_first:.2f} of their first trials and in {mended:.2f} after "
               "an oracle's reflection: with so small a gain nothing can be learnt")  # fmt: skip

class Played(NamedTuple):
    """Demonstrations in which all reflections are the oracle's."""

    first: list[Demonstration]  # trials without a reflection
    after: list[tuple[Demonstration, Demonstration]]  # failed ones, each with the trial after it

    def success(self) -> tuple[float, float]:
        """Of first trials, and of trials after a reflection."""
        ends = [d.success for d in self.first], [d.success for _, d in self.after]
        at_first, mended = (sum(own) / max(len(own), 1) for own in ends)
        return at_first, mended

def chained(env: Environment) -> Played:
    stream = list(islice(env.demonstrations("train", "check", 1.0), TRIALS))
    pairs = [pair for pair in zip(stream, stream[1:])
             if pair[0].reflection and pair[1].reflections[-1:] == [pair[0].reflection]]
    return Played([d for d in stream if not d.reflections], pairs)

def demonstrations(env: Environment) -> Iterator[str]:
    kinds = set()
    for d in islice(env.demonstrations("train", "check", 0.5, 0.3), TRIALS):
        text = "\n".join(["", d.observation, *(line for step in d.steps for line in step)])
        if marks := [mark for mark in MARKS if f"\n{mark}" in text]:
            yield f"a line of a trial begins with {marks[0]!r}, as only the prompts' may"
        if any(not q or not a or "\n" in q + a for q, a in d.questions):
            yield "a question or its answer is empty, or has several lines"
        if d.reflection is not None and ("\n" in d.reflection or d.success):
            yield "a reflection has several lines, or follows a success"
        if any(not text[:end].endswith(name) for name, end, _, _ in env.bindings(text)):
            yield "bindings gives an offset where its mention does not end"
        if env.cut_names(text).replace("\n", "") != text.replace("\n", ""):
            yield "cut_names changes more than line ends"
        kinds.add((bool(d.reflections), d.success))
    if len(kinds) < 4:
        yield "some of these never occur: failure and success, each with and without a reflection"

def glances(env: Environment) -> Iterator[str]:
    """What drills ask about; an environment may have none."""
    if type(env).glance is Environment.glance:
        return
    for task in env.tasks("train", 10, 3):
        env.reset(task)
        views = env.glance(Random(0))
        if not views or not all(isinstance(text, str) for view in views for text in view):
            yield "glance gives no pairs of texts"

def opened(name: str) -> Environment:
    """What was named on the command line; ValueError if there is no such class."""
    module, _, class_name = name.partition(":")
    if not class_name:
        return envs.class_of(name)()
    try:
        return getattr(import_module(module), class_name)()
    except (ModuleNotFoundError, AttributeError) as error:
        raise ValueError(f"{name}: {error}") from error

def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        names = ", ".join(envs.CLASSES)
        print(f"error: python -m envs.check NAME: {names}, or MODULE:CLASS", file=sys.stderr)
        return 2
    try:
        env = opened(arguments[0])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = problems(env)
    print(*found, sep="\n", end="\n" * bool(found))
    if not found:
        print("{}: nothing is missing. Its players succeed in {:.2f} of their first trials and in "
              "{:.2f} after an oracle's reflection.".format(env.name, *chained(env).success()))
    return int(bool(found))

if __name__ == "__main__":
    sys.path.insert(0, "")
    sys.exit(main(sys.argv[1:]))
