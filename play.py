"""Watch one task in the terminal: the actor's trial, a reflection on its failure, the retry.

    python play.py                                  the trained reflector that is shipped
    python play.py --untrained                      the same task, without its adapter
    python play.py --run-dir runs/joint             the reflector of a run of yours
    python play.py --you actor                      you play; `?` lists what can be done
    python play.py --games DIR                      ALFWorld's own games, or one game file
    python play.py --you reflector                  you write; the frozen actor reads it
    python play.py --delay 0.5                      slower, to read along

Ctrl-C or Ctrl-D ends it. Colours and pauses are for terminals only, and NO_COLOR is heeded.
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

import envs
from retro import prompts
from retro.actor import LMActor
from retro.interop.open import open_model, run_settings
from retro.lora import REFLECTOR, load_adapter
from retro.memory import MEMORY
from retro.reflect import rate, write_reflections
from retro.report.terminal import Screen
from retro.run.cli import FROM_0, flags_of, option, parse, run_script
from retro.run.data import FileOptions, files_of
from retro.run.device import pick_device, seeded
from retro.run.finished import part_of, shipped_adapter
from retro.trial import Actor, Generators, Trajectory, run_trials

CANDIDATES = 24  # tasks among which to find one to show
AT_ONCE = 8  # of them, looked at together
CHOSEN = " It was chosen for what the trained one does: a comparison is in docs/results.md."

@dataclass(frozen=True)
class Config(FileOptions):
    run_dir: str = option("", "folder of a run of train.py; none: the shipped adapter", "run")
    untrained: bool = option(False, "the base reflects, without the adapter", "run")
    seed: int = option(0, "number that chooses the task and the samples", "run", low=0)
    env: str = option("", "environment that is played; none: of the files, or household", "data")
    retries: int = option(2, "retries after the first trial", "trial", **FROM_0)
    delay: float = option(0.05, "seconds that a step is shown", "trial", low=0, high=60)
    you: Literal["", "actor", "reflector"] = option("", "which of the two you are", "trial")

    def __post_init__(self) -> None:
        if self.untrained and self.you == "reflector":
            raise ValueError("--untrained: there is no other reflector beside --you reflector")

def main(config: Config) -> None:
    env, tasks = choose(config)
    watched = Watched(env)

    # 1. the two roles, as in train.py
    settings, device = run_settings(config.run_dir), pick_device()
    base, folder = settings["base"], settings["reflector"] or settings["base"]
    context = settings["context"]
    bfloat16, run = settings["bfloat16"] and folder != base, config.run_dir
    lm = open_model(folder, device, bfloat16, context, settings["reflection_tokens"],
                    settings["notes"])  # fmt: skip
    load_adapter(lm.model, part_of(run, "adapter") if run else shipped_adapter(settings))
    plays = lm if folder == base else open_model(base, device, False, context)
    actor = LMActor(plays, settings["actor_temperature"], seeded(config.seed), settings["memory"],
                    action_tokens=settings["action_tokens"])  # fmt: skip

    def draws(role: str, number: int, tasks: list[dict]) -> list[torch.Generator]:
        return [seeded(config.seed, role, number, task["id"], device=device) for task in tasks]

    def trials(tasks: list[dict], number: int, memories: list, player: Any) -> list[Trajectory]:
        generators = draws("play", number, tasks)
        return run_trials({env.name: watched}, tasks, player, memories, generators)

    def write(tasks: list[dict], number: int, failed: list[Trajectory]) -> list[str]:
        generator = draws("reflect", number, tasks)
        return [one.text for one in write_reflections(lm, failed, temperature=1.0,
                generator=generator, adapt_prompt=settings["adapt_prompt"])]  # fmt: skip

    # 2. a task: one with something to reflect on, if there is a choice
    screen, task, known = Screen(config.delay), tasks[0], list[Trajectory]()
    if config.you != "actor" and len(tasks) > 1:
        if config.run_dir or env.source:  # the first that fails
            task = next((t for t in tasks if not trials([t], 0, [[]], actor)[0].success), task)
        else:
            look = lambda tasks, number, memories: trials(tasks, number, memories, actor)
            task, known, looked = showpiece(env, tasks, look, write)
            known = known[:1] if config.untrained or config.you else known  # the base's own trial
            screen.say(looked + CHOSEN * config.untrained, "dim")

    # 3. trial, reflection, retry
    def reflection(number: int, failed: Trajectory) -> str:
        if config.you == "reflector":
            screen.say("One line, such as: I looked in the wrong places. Plan: do this, then that. "
                       "An empty one: retry without.", "dim")  # fmt: skip
            return screen.ask("> ", "mind")
        if number + 1 < len(known):
            text = known[number + 1].reflections[-1]
        else:
            with lm.using(None if config.untrained else REFLECTOR):
                (text,) = write([task], number, [failed])
        screen.say(text, "mind")
        return text

    last, text, memory = None, "", list[str]()
    limit = getattr(env, "max_steps", None) or task["max_steps"]
    trained = "untrained" if config.untrained else "after training"
    whose = "you" if config.you == "reflector" else trained
    screen.say(f"environment {env.name}, task {task['id']}, reflector: {whose}", "dim")
    for number in range(config.retries + 1):
        screen.heading(f"Retry {number}" if number else "First trial")
        own = Again(known[number], actor.memory) if number < len(known) else actor
        player = Aloud(None if config.you == "actor" else own, screen, watched, limit)
        (trajectory,) = trials([task], number, [memory], player)
        tell_end(screen, trajectory, last, text)
        if trajectory.success or number == config.retries:
            break
        screen.heading("Reflection")
        screen.wait(2)
        text = reflection(number, trajectory)
        screen.say(judged(env, trajectory, text), "dim")
        screen.wait(6)
        if prompts.one_line(text):
            memory.append(text)
        last = trajectory
    screen.heading("What to try next")
    screen.say(advice(config))

def showpiece(env: envs.Environment, tasks: list[dict], trials: Callable, write: Callable
              ) -> tuple[dict, list[Trajectory], str]:  # fmt: skip
    """The first task whose first trial fails and whose reflection states a true cause and mends it:
    the task, its two trials, and what was looked at. Without such a one, a task that failed.
    """
    failed, retried = list[tuple[dict, Trajectory]](), list[Trajectory]()
    true, looked = list[bool](), 0  # of each that failed: mended after a true cause?
    while looked < len(tasks) and not any(true):
        some = tasks[looked : looked + AT_ONCE]
        looked += len(some)
        first = trials(some, 0, [[] for _ in some])
        new = [(task, trial) for task, trial in zip(some, first) if not trial.success]
        if not new:
            continue
        own = [task for task, _ in new]
        texts = write(own, 0, [trial for _, trial in new])
        retries = trials(own, 1, [[text] for text in texts])
        for (_, trial), text, retry in zip(new, texts, retries):
            cause = env.judge(text, trial.observation, trial.exchanges).cause
            true.append(retry.success and cause is True)
        failed, retried = failed + new, retried + retries
    mended = sum(retry.success for retry in retried)
    said = (f"Looked at {looked} tasks: {len(failed)} failed at first; the trained reflector "
            f"mended {mended}, {sum(true)} with a true cause.")  # fmt: skip
    if not failed:
        return tasks[0], [], said
    found = true.index(True) if any(true) else 0
    (task, trial), retry = failed[found], retried[found]
    what = "of these" if any(true) else "that failed"
    return task, [trial, retry], f"{said} This is the first {what}."

def judged(env: envs.Environment, trajectory: Trajectory, text: str) -> str:
    """What the environment's judge says of the cause that a reflection states."""
    cause = env.judge(text, trajectory.observation, trajectory.exchanges).cause
    return ("The judge knows no cause in it." if cause is None
            else f"The cause that it states is {'true' if cause else 'false'}, says the judge.")

def advice(config: Config) -> str:
    """Commands that go on from here, and what for."""
    other = replace(config, untrained=not config.untrained, you="")
    found = [(other, "the same task " + ("with" if config.untrained else "without")
              + " the adapter"),
             (replace(config, untrained=False, you="" if config.you else "reflector"),
              "watch it" if config.you else "write the reflection yourself"),
             (replace(config, seed=config.seed + 1), "another task")]  # fmt: skip
    default = flags_of(Config())
    own = [([flag for flag in flags_of(one) if flag not in default], what) for one, what in found]
    lines = [(shlex.join(["python", "play.py", *flags]), what) for flags, what in own]
    if not config.run_dir:
        lines.append(("python train.py", "train a reflector yourself"))
    width = max(len(command) for command, _ in lines)
    return "\n".join(f"{command:{width}}  {what}" for command, what in lines)

def choose(config: Config) -> tuple[envs.Environment, list[dict]]:
    """The environment and the tasks to choose from: generated ones, or those of files."""
    files = files_of(config, envs.FILES)
    name = config.env or next(iter(files), "household")
    if foreign := [other for other in files if other != name]:
        raise ValueError(f"--env {name}: a file of {foreign[0]} is given")
    env = envs.make(name, **files.get(name, {}))
    return env, env.tasks("unseen", CANDIDATES, config.seed)

def tell_end(
    screen: Screen, trajectory: Trajectory, last: Trajectory | None, text: str
) -> None:
    """How a trial ended, and what `text`, the reflection before it, was worth."""
    end = "SOLVED" if trajectory.success else f"FAILED, score {trajectory.episode_return:.2f}"
    count = len(trajectory.steps)
    end += f" after {count} step{'s' * (count != 1)}{', the limit' * trajectory.truncated}"
    end += f"; rating of the reflection: {rate(last, trajectory, text):+.2f}" if last else ""
    print()
    screen.say(end, "good" if trajectory.success else "bad")
    screen.wait(3)

class Watched(envs.Environment):
    """Wraps an environment and remembers the copy that plays now: `?` lists its actions."""

    def __init__(self, env: envs.Environment):
        self.env = self.playing = env

    def fresh(self) -> envs.Environment:
        self.playing = self.env.fresh()
        return self.playing

    def admissible_actions(self) -> list[str]:
        return self.playing.admissible_actions()

class Again:
    """Repeats the actions of a trial: what was looked at is what is shown."""

    def __init__(self, trajectory: Trajectory, memory: int):
        self.actions, self.memory = iter(trajectory.steps), memory

    def start(self, openings: Sequence[str], generators: Generators = None) -> "Again":
        return self

    def act(self, rows: Sequence[int]) -> list[str]:
        return [next(self.actions).action]

    def observe(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        """It knows what comes."""

class Aloud:
    """Shows a trial as it happens. The actor plays it; without one you type the actions."""

    def __init__(self, actor: Actor | Again | None, screen: Screen, env: Any, limit: int):
        """`limit`: the steps of a trial."""
        self.actor, self.screen, self.env, self.limit = actor, screen, env, limit
        self.memory = actor.memory if actor else MEMORY  # you read as much as the model

    def start(self, openings: Sequence[str], generators: Generators = None) -> "Aloud":
        self.left = self.limit
        if self.actor:
            self.session = self.actor.start(openings, generators)
        else:
            self.screen.say("Type an action; ? lists what would be accepted now.\n", "dim")
        for line in openings[0].split("\n"):
            style = "task" if line.startswith("Your task is to:") else ""
            self.screen.say(line, "mind" if line.startswith(prompts.REFLECT.strip()) else style)
        self.screen.wait(4)
        return self

    def act(self, rows: Sequence[int]) -> list[str]:
        sign = f"[{self.left} step{'s' * (self.left != 1)} left] > "
        self.left -= 1
        if self.actor:
            actions = self.session.act(rows)
            self.screen.say(prompts.one_line(actions[0]), "act", sign)
            self.screen.wait()
            return actions
        while (action := self.screen.ask(sign).strip()) == "?":
            self.screen.say("\n".join(self.env.admissible_actions()), "dim")
        return [action]

    def observe(self, rows: Sequence[int], texts: Sequence[str]) -> None:
        if self.actor:
            self.session.observe(rows, texts)
        self.screen.say(texts[0])
        self.screen.wait()

def interruptible(config: Config) -> None:
    """main, which Ctrl-C, Ctrl-D and a reader that has gone away end politely."""
    try:
        main(config)
    except (KeyboardInterrupt, EOFError):
        print("\nGoodbye.")
    except BrokenPipeError:  # `play.py | head`: nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

if __name__ == "__main__":
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401  (gives input() its line editing)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    run_script(interruptible, parse(Config, __doc__))
