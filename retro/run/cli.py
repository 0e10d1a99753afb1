"""The doors of the scripts: options from a config dataclass, errors as one line."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Literal, TypeVar, get_args, get_origin

from retro.run.device import keep_memory

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")  # a script's dataclass of settings

BOUNDS = {
    "tasks": 1,
    "gap_tasks": 1,
    "eval_tasks": 1,
    "train_tasks": 1,
    "batch_reflections": 1,
    "minibatch": 1,
    "epochs": 1,
    "updates": 0,
    "retries": 0,
    "lora_rank": 1,
    "collect_rounds": 1,
    "sft_epochs": 0,
    "seed": 0,
    "tokens": 1,
    "batch_tokens": 1,
    "memory": 0,
    "group": 1,
    "offline_each": 1,
    "reward_epochs": 1,
    "best_of": 1,
    "kl_coef": 0,
    "baseline_step": 0,
    "concurrency": 1,
    "max_requests": 0,
    "max_tokens": 0,
    "temperature": 0,
    "actor_temperature": 0,
}


def option_of(field: str) -> str:
    """The name on the command line: `batch_tokens` -> `--batch-tokens`."""
    return f"--{field.replace('_', '-')}"


def parse(
    config_class: type[Config],
    doc: str,
    defaults: Callable[[argparse.Namespace], dict] = lambda given: {},
    argv: Sequence[str] | None = None,
) -> Config:
    """Each field becomes an option with its own default, or with that of
    `defaults`, which sees what was given; exit status 2 on a wrong one.
    """
    parser = argparse.ArgumentParser(
        description=doc, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for field in fields(config_class):
        option = option_of(field.name)
        if field.type is bool:
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default
            )
        elif get_origin(field.type) is Literal:
            parser.add_argument(option, choices=get_args(field.type), default=field.default)
        else:
            parser.add_argument(
                option, type=field.type, default=field.default, help=f"default {field.default!r}"
            )
    parser.set_defaults(**defaults(parser.parse_args(argv)))
    config = parser.parse_args(argv)
    for name, least in BOUNDS.items():
        value = getattr(config, name, least)
        if value < least:
            parser.error(f"{option_of(name)} is {value}: must be at least {least}")
    return config_class(**vars(config))


def run_script(main: Callable[[Config], None], config: Config) -> None:
    """main(config); what the user can mend becomes one line on stderr and exit status 2."""
    keep_memory()
    try:
        main(config)
    except (ValueError, OSError) as error:
        sys.exit(_say(error, 2))
    except FloatingPointError as error:
        sys.exit(_say(f"training broke down: {error}; the last checkpoint is whole", 1))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; --resume goes on from the last checkpoint", 130))


def _say(message: object, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
