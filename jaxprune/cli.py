"""The command line: `jaxprune run CONFIG [--field value ...]`.

Everything that is slow to import waits until a command needs it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxprune.config import RunConfig

_USAGE = """\
usage: jaxprune run CONFIG [--field value ...]

Structured channel pruning for JAX.

commands:
  run CONFIG        train, prune and fine-tune as a config says: a Python file that defines
                    `config`, or the config.json of an earlier run
  run CONFIG --help   every field of that config, with its value and its meaning

options:
  --help, -h        this text
  --version         the version
  --debug           show the traceback of an error

examples:
  jaxprune run configs/digits_vgg.py
  jaxprune run configs/digits_vgg.py --search.population 256 --out runs/larger
"""


def main(argv: Sequence[str] | None = None) -> None:
    """The entry point of the `jaxprune` command.

    Exits with 0; with 2 after one line on the standard error where the user's input is at fault;
    with 130 where the user stopped it. Other errors keep their traceback: they are ours.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    # A table that the terminal cannot spell must not end a finished run with an error.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        _dispatch(arguments)
    except (ValueError, OSError, FloatingPointError) as error:
        if debug:
            raise
        _fail(" ".join(str(error).split()) or type(error).__name__)
    except KeyboardInterrupt:
        print("jaxprune: stopped", file=sys.stderr)
        sys.exit(130)


def run(arguments: Sequence[str]) -> None:
    """`jaxprune run CONFIG ...`: the whole pipeline, then its summary as a table."""
    config = parse(arguments)
    from jaxprune import pipeline
    from jaxprune.report import table

    table.show(pipeline.run(config))


def parse(arguments: Sequence[str]) -> RunConfig:
    """The config that the arguments after `run` name, with its fields overridden.

    Raises:
      ValueError: no config is named first, or a value is out of range.
      FileNotFoundError: there is no such config.
      SystemExit: after `--help`, or with tyro's own words on a field that is not known.
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in _HELP):
        raise ValueError("name a config first: jaxprune run configs/digits_vgg.py [--field value]")
    import tyro

    from jaxprune.config import RunConfig, load

    asked_in_general = arguments[0] in _HELP
    path, overrides = ("CONFIG", arguments) if asked_in_general else (arguments[0], arguments[1:])
    return tyro.cli(
        RunConfig,
        prog=f"jaxprune run {path}",
        default=RunConfig() if asked_in_general else load(path),
        args=list(overrides),
    )


_COMMANDS: dict[str, Callable[[Sequence[str]], Any]] = {"run": run}
_HELP = ("--help", "-h")


def _dispatch(arguments: Sequence[str]) -> None:
    """Runs the command that the first argument names."""
    if not arguments:
        print(_USAGE, file=sys.stderr)
        sys.exit(2)
    command, *rest = arguments
    if command in _HELP:
        print(_USAGE)
    elif command == "--version":
        from importlib.metadata import version

        print(f"jaxprune {version('jaxprune')}")
    elif command in _COMMANDS:
        _COMMANDS[command](rest)
    else:
        raise ValueError(f"unknown command {command!r}; there are: {', '.join(_COMMANDS)}")


def _fail(message: str) -> None:
    """One line on the standard error, and exit code 2."""
    red, plain = ("\033[1;31m", "\033[0m") if sys.stderr.isatty() else ("", "")
    if "NO_COLOR" in os.environ:
        red = plain = ""
    print(f"{red}jaxprune: error:{plain} {message}", file=sys.stderr)
    sys.exit(2)
