"""What the commands of the command line share."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

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
