"""Watch one task in the terminal: the actor's trial, a reflection on its failure, the retry.

    python play.py                                  the untrained reflector
    python play.py --run-dir runs/joint             the trained one
    python play.py --you actor                      you play; `?` lists what can be done
    python play.py --games DIR                      ALFWorld's own games, or one game file
    python play.py --you reflector                  you write; the frozen actor reads it

Ctrl-C or Ctrl-D ends it. Colours and pauses are for terminals only, and NO_COLOR is heeded.
"""

import retro.run.loading  # isort: skip  # noqa: F401  (Ctrl-C from here on)
import contextlib
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import envs
from retro import prompts
from retro.actor import LMActor
from retro.interop.open import open_model, run_settings
from retro.lora import load_adapter
from retro.memory import MEMORY
from retro.reflect import rate, reflect, reflection_prompt
from retro.report.terminal import Screen
from retro.run.cli import FROM_0, option, parse, run_script
from retro.run.data import FileOptions, files_of
from retro.run.device import pick_device, seeded
from retro.trial import Actor, Generators, Trajectory, run_trials

CANDIDATES = 20  # tasks among which to find one that the actor fails at first

@dataclass(frozen=True)
class Config(FileOptions):
    run_dir: str = option("", "folder of a run of train.py; none: an untrained reflector", "run")
    seed: int = option(0, "number that chooses the task and the samples", "run", low=0)
    env: str = option("", "environment that is played; none: of the files, or household", "data")
    retries: int = option(2, "retries after the first trial", "trial", **FROM_0)
    delay: float = option(0.5, "seconds that a step is shown", "trial", low=0, high=60)
    you: Literal["", "actor", "reflector"] = option("", "which of the two you are", "trial")

def main(config: Config) -> None:
    env, tasks = choose(config)
    watched = Watched(env)

    # 1. the two roles, as in train.py
    settings, device = run_settings(config.run_dir), pick_device()
    base, folder = settings["base"], settings["reflector"] or settings["base"]
    context = settings["context"]
    bfloat16 = settings["bfloat16"] and folder != base
    lm = open_model(folder, device, bfloat16, context, settings["notes"])
    if config.run_dir:
        load_adapter(lm.model, Path(config.run_dir) / "adapter")
    plays = lm if folder == base else open_model(base, device, False, context)
    actor = LMActor(plays, settings["actor_temperature"], seeded(config.seed), settings["memory"])

    def trial(task: dict, number: int, memory: list[str], player: Any) -> Trajectory:
        actor.generator = seeded(config.seed, "play", number, device=device)
        return run_trials({env.name: watched}, [task], player, [memory])[0]

    # 2. a task: one with something to reflect on, if there is a choice
    task = tasks[0]
    if config.you != "actor" and len(tasks) > 1:
        task = next((t for t in tasks if not trial(t, 0, [], actor).success), task)

    # 3. trial, reflection, retry
    screen, last, memory = Screen(config.delay), None, list[str]()
    player = Aloud(None if config.you == "actor" else actor, screen, watched)
    generator = seeded(config.seed, "play", "reflector", device=device)
    trained = "after training" if config.run_dir else "untrained"
    whose = "you" if config.you == "reflector" else trained
    screen.say(f"environment {env.name}, task {task['id']}, reflector: {whose}", "dim")
    for number in range(config.retries + 1):
        screen.heading(f"Retry {number}" if number else "First trial")
        trajectory = trial(task, number, memory, player)
        tell_end(screen, trajectory, last)
        if trajectory.success or number == config.retries:
            break
        screen.heading("Reflection")
        screen.wait(2)
        if config.you == "reflector":
            screen.say("One line, such as: I looked in the wrong places. Plan: do this, then that. "
                       "An empty one: retry without.", "dim")  # fmt: skip
            text = screen.ask("> ", "mind")
        else:
            (written,) = reflect(lm, [reflection_prompt(trajectory, lm)], temperature=1.0,
                                 generator=generator, adapt_prompt=settings["adapt_prompt"])
            text = written.text
            screen.say(text, "mind")
            screen.wait(6)
        if prompts.one_line(text):
            memory.append(text)
        last = trajectory

def choose(config: Config) -> tuple[envs.Environment, list[dict]]:
    """The environment and the tasks to choose from: generated ones, or those of files."""
    files = files_of(config, envs.FILES)
    name = config.env or next(iter(files), "household")
    if foreign := [other for other in files if other != name]:
        raise ValueError(f"--env {name}: a file of {foreign[0]} is given")
    env = envs.make(name, **files.get(name, {}))
    return env, env.tasks("unseen", CANDIDATES, config.seed)

def tell_end(screen: Screen, trajectory: Trajectory, last: Trajectory | None) -> None:
    """How a trial ended, and what the reflection before it was worth."""
    end = "SOLVED" if trajectory.success else f"FAILED, score {trajectory.episode_return:.2f}"
    count = len(trajectory.steps)
    end += f" after {count} step{'s' * (count != 1)}{', the limit' * trajectory.truncated}"
    end += f"; rating of the reflection: {rate(last, trajectory):+.2f}" if last else ""
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

class Aloud:
    """Shows a trial as it happens. The actor plays it; without one you type the actions."""

    def __init__(self, actor: Actor | None, screen: Screen, env: Any = None):
        self.actor, self.screen, self.env = actor, screen, env
        self.memory = actor.memory if actor else MEMORY  # you read as much as the model

    def start(self, openings: Sequence[str], generators: Generators = None) -> "Aloud":
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
        if self.actor:
            actions = self.session.act(rows)
            self.screen.say(prompts.one_line(actions[0]), "act", "> ")
            self.screen.wait()
            return actions
        while (action := self.screen.ask("> ").strip()) == "?":
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
