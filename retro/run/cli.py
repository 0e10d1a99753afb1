"""The command line of every script: options made from a config dataclass, errors as one line."""

import argparse
import difflib
import io
import operator
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import Field, asdict, field, fields
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, get_args, get_origin

from retro.run import loading
from retro.run.device import keep_memory
from retro.run.printable import visible

Config = TypeVar("Config", bound=Any)  # a script's dataclass of settings
COMPARISONS = {"low": operator.ge, "high": operator.le, "above": operator.gt}
# bounds of counts: tasks, reflections, samples
FROM_0, FROM_1 = dict[str, Any](low=0, high=10**6), dict[str, Any](low=1, high=10**6)
CLOSE = 0.7  # how alike a wrong option and the one that is meant are at least (difflib)
LARGEST = 10**18  # that a number may be for which nothing is said: a seed has 64 bits
OUT_OF_MEMORY = re.compile("allocate memory|out of memory", re.IGNORECASE)
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "a text", bool: "a switch"}
METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT"}
NEGATIVE = re.compile(r"-(\.?\d|inf|nan)")  # a value, and no option: -1e-3 too

def option(default: Any, help: str, group: str, *, low: float | None = None,
           high: float | None = None, above: float | None = None) -> Any:  # fmt: skip
    """A field of a Config; `group` is its heading, its value in [low, high], or (above, high]."""
    bounds = {"low": low, "high": high, "above": above}
    return field(default=default, metadata={"help": help, "group": group, "bounds": bounds})

def option_of(name: str) -> str:
    """The name on the command line: `batch_tokens` -> `--batch-tokens`."""
    return f"--{name.replace('_', '-')}"

def allowed(low: float | None, high: float | None, above: float | None) -> str:
    """The bounds in words.

    >>> allowed(0, 1, None), allowed(1, None, None), allowed(None, 1, 0), allowed(None, None, None)
    ('between 0 and 1', 'at least 1', 'above 0 and at most 1', '')
    """
    if low is not None and high is not None:
        return f"between {low} and {high}"
    bounds = {"at least": low, "above": above, "at most": high}
    return " and ".join(f"{word} {bound}" for word, bound in bounds.items() if bound is not None)

def parse(config_class: type[Config], doc: str,
          defaults: Callable[[argparse.Namespace], dict] = lambda given: {},
          argv: Sequence[str] | None = None) -> Config:  # fmt: skip
    """What was typed, as a Config. `defaults`, from what was given, replace the fields' own."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(usage="%(prog)s [options]", description=doc,
                                     allow_abbrev=False, formatter_class=raw)  # fmt: skip
    parser.error = fail  # type: ignore[method-assign]  # without argparse's list of all options
    parser._negative_number_matcher = NEGATIVE  # as Python 3.14 has it
    own = config_class.__annotations__
    own_first = sorted(fields(config_class), key=lambda one: one.name not in own)
    names = dict.fromkeys(one.metadata["group"] for one in own_first)
    groups = {name: parser.add_argument_group(name) for name in names}
    for one in own_first:
        add_option(groups[one.metadata["group"]], one)
    try:
        given, unknown = parser.parse_known_args(argv)
        if unknown:
            raise ValueError(no_option(unknown, own_first))
        parser.set_defaults(**defaults(given))
        config = parser.parse_args(argv)
        for one in own_first:
            check(one, getattr(config, one.name))
        return config_class(**vars(config))
    except ValueError as error:  # or of settings that make no sense together
        parser.error(str(error))

def no_option(unknown: Sequence[str], known: Sequence[Field]) -> str:
    """What is wrong with arguments that no option has taken: for each option among them the nearest
    one that there is.
    """
    names = [option_of(one.name) for one in known]
    names += [f"--no-{one.name.replace('_', '-')}" for one in known if one.type is bool]
    parts = []
    for word in (word.partition("=")[0] for word in unknown if word.startswith("-")):
        near = difflib.get_close_matches(f"--{word.lstrip('-')}", names, 1, CLOSE)
        parts.append(f"{word}: did you mean {near[0]}?" if near
                     else f"{word}: no such option here; --help lists them")  # fmt: skip
    return "; ".join(parts) or f"{unknown[0]!r} belongs to no option; --help lists them"

def flags_of(config: Any) -> list[str]:
    """The command line that `parse` makes this Config of."""
    return [
        option_of(name if value else f"no_{name}") if isinstance(value, bool)
        else f"{option_of(name)}={value}"
        for name, value in asdict(config).items()
    ]  # fmt: skip

def check(one: Field, value: Any) -> None:
    """ValueError unless a field of a Config may have this value."""
    name, choices, bounds = option_of(one.name), get_args(one.type), one.metadata["bounds"]
    if choices and value not in choices:
        raise ValueError(f"{name} is {value!r:.100}: must be one of {', '.join(choices)}")
    if not choices and type(value) not in ((int, float) if one.type is float else (one.type,)):
        raise ValueError(f"{name} is {value!r:.100}: must be {KINDS[one.type]}")
    if one.type is str and one.default and not value:
        raise ValueError(f"{name} is '': must be a text that is not empty")
    if one.type in (int, float):
        kept = all(compare(value, bounds[side]) for side, compare in COMPARISONS.items()
                   if bounds[side] is not None)  # fmt: skip
        if not (kept and abs(value) <= LARGEST):  # NaN compares with nothing
            must = f"at most {LARGEST}" if kept else allowed(**bounds)
            raise ValueError(f"{name} is {value}: must be {must}")

def add_option(group: Any, one: Field) -> None:
    """The option of a field: its type, its choices, and its help with range and default."""
    kind: dict[str, Any] = {"type": one.type, "metavar": METAVARS.get(one.type)}
    if one.type is bool:
        kind = {"action": argparse.BooleanOptionalAction}
    elif get_origin(one.type) is Literal:
        kind = {"choices": get_args(one.type)}
    action = group.add_argument(option_of(one.name), default=one.default, **kind)
    shown = ("on" if one.default else "off") if one.type is bool else one.default
    notes = [allowed(**one.metadata["bounds"]), f"default: {'none' if shown == '' else shown}"]
    text = f"{one.metadata['help']} ({'; '.join(filter(None, notes))})"
    action.help = text.replace("%", "%%")  # set here: before 3.13 argparse adds a switch's default

class Spent(ValueError):
    """A budget has ended the work half-way: what is on the disk can go on."""

def run_script(main: Callable[[Config], None], config: Config, left: str = "") -> None:
    """main(config). What the user can mend becomes one line on stderr and exit status 2; `left` is
    what Ctrl-C leaves behind.
    """
    keep_memory()
    if signal.getsignal(signal.SIGINT) is loading.end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that is no UTF-8 ends no work
    try:
        main(config)
    except KeyboardInterrupt:
        fail(f"interrupted{left_behind(config, left)}", 130)
    except FloatingPointError as error:
        whole = "; the last checkpoint is whole" if checkpoint_of(config).exists() else ""
        fail(f"training broke down: {error}{whole}", 1)
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not OUT_OF_MEMORY.search(str(error)):
            raise
        fail(f"out of memory: {error}".removesuffix(": "), 1)
    except (ValueError, OSError) as error:
        goes_on = left_behind(config, "") if isinstance(error, Spent) else ""
        fail(f"{error}{goes_on}")

def left_behind(config: Any, left: str) -> str:
    """`left`, or how a run with a checkpoint goes on, behind the reason for an end."""
    if hasattr(config, "resume") and checkpoint_of(config).exists():
        left = "--resume goes on from the last checkpoint"
    return f"; {left}" if left else ""

def checkpoint_of(config: Any) -> Path:
    """Where train.py or pretraining with these settings has its checkpoint."""
    if hasattr(config, "checkpoint_minutes"):
        return Path(config.out) / "pretrain.state"
    return Path(getattr(config, "run_dir", "")) / "checkpoint"

def fail(message: object, status: int = 2) -> NoReturn:
    """End the program with one line on stderr."""
    print(error_line(message), file=sys.stderr)
    sys.exit(status)

def error_line(message: object) -> str:
    """One printable line, whatever the message holds."""
    return f"error: {visible(' '.join(str(message).splitlines()))}"
