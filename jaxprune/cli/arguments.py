"""What the commands of the command line share: how their arguments are read, and how they stop."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from jaxprune.config import RunConfig

HELP = ("--help", "-h")
"""How help is asked for."""


def without_accelerator() -> None:
    """For commands that only read: the process that runs may hold the accelerator alone."""
    import jax

    jax.config.update("jax_platforms", "cpu")


class Parser(argparse.ArgumentParser):
    """A command's arguments; a mistake in them is an error like every other."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"jaxprune {command}", description=description)

    def error(self, message: str) -> NoReturn:
        """Raises the message as a ValueError."""
        raise ValueError(f"{message}; see {self.prog} --help")


@contextmanager
def stoppable() -> Iterator[None]:
    """Where a training saved and stopped because of SIGTERM: one line, and exit code 143."""
    from jaxprune.pipeline.stopping import Stopped

    try:
        yield
    except Stopped as stopped:
        print(f"jaxprune: {stopped}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)


def parse(arguments: Sequence[str], command: str = "run") -> RunConfig:
    """The config that the arguments after a command name, with its fields overridden.

    Raises:
      ValueError: no config is named first, or a value is out of range.
      FileNotFoundError: there is no such config, or a folder without a run.
      SystemExit: after `--help`, or with tyro's own words on a field that is not known.
    """
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in HELP):
        raise ValueError(
            "name a config first, or the folder of a run: "
            f"jaxprune {command} configs/digits_vgg.py [--field value]"
        )
    import tyro

    from jaxprune.config import RunConfig, load

    asked_in_general = arguments[0] in HELP
    path, overrides = ("CONFIG", arguments) if asked_in_general else (arguments[0], arguments[1:])
    if asked_in_general:
        default = RunConfig()
    elif os.path.isdir(path):
        from jaxprune import pipeline

        default = pipeline.config_of(path)
    else:
        default = load(path)
    default, overrides = _with_method(default, list(overrides))
    return tyro.cli(RunConfig, prog=f"jaxprune {command} {path}", default=default, args=overrides)


def option(arguments: Sequence[str], name: str) -> tuple[str | None, list[str]]:
    """The value of an option, `NAME VALUE` or `NAME=VALUE`, and the arguments without it.

    Raises:
      ValueError: the option stands last, without a value.
    """
    rest = list(arguments)
    for i, argument in enumerate(rest):
        flag, equals, value = argument.partition("=")
        if flag == name:
            if not equals and i + 1 == len(rest):
                raise ValueError(f"{name} needs a value after it")
            value = value if equals else rest[i + 1]
            return value, rest[:i] + rest[i + (1 if equals else 2) :]
    return None, rest


def _with_method(config: RunConfig, arguments: list[str]) -> tuple[RunConfig, list[str]]:
    """`--method NAME` picks the method whose fields the other arguments set.

    Raises:
      ValueError: no name, or an unknown one; a field of another method.
    """
    import dataclasses

    from jaxprune.methods import METHODS, get, name_of

    name, arguments = option(arguments, "--method")
    if name is not None and name_of(config.method) != name:
        config = dataclasses.replace(config, method=get(name)())
    chosen = name_of(config.method)
    fields = {field.name for field in dataclasses.fields(config.method)}  # pyright: ignore
    for argument in arguments:
        if argument.startswith("--method."):
            field = argument[len("--method.") :].partition("=")[0].partition(".")[0]
            field = field.replace("-", "_")
            if field not in fields:
                owners = [
                    name
                    for name, kind in METHODS.items()
                    if field in {f.name for f in dataclasses.fields(kind)}  # pyright: ignore
                ]
                whose = f"; it is one of {', '.join(owners)}" if owners else ""
                known = ", ".join(sorted(fields)) or "none"
                raise ValueError(
                    f"--method.{field}: the method {chosen} has no such field{whose}. Its fields: "
                    f"{known}"
                )
    return config, arguments
