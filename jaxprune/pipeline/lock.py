"""One process at a time in a run folder."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Concatenate, ParamSpec, TypeVar

from jaxprune.files import naming
from jaxprune.pipeline.compilation import cached, counted
from jaxprune.pipeline.experiment import Experiment

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Result = TypeVar("Result")
More = ParamSpec("More")

FILE = ".lock"
_ours: set[Path] = set()


@contextmanager
def lock(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keeps other processes from working at the run in `folder` while the block lasts.

    The lock belongs to the process: a block within a block is free to enter, and the kernel lets
    go of it however the process ends. Where the system or the file system has no locks, nothing
    is locked.

    Raises:
      ValueError: another process is at work there, with its id.
      OSError: there is no such folder, or it cannot be written.
    """
    path = Path(folder).resolve() / FILE
    if path in _ours:
        yield
        return
    try:
        file = path.open("a+")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror}); choose another run folder with --out"
        ) from error
    with file:
        # `holder` of another process may have the file for a moment.
        if not _free(file, exclusive=True, tries=5):
            raise ValueError(
                f"{folder}: another process, {_process(path) or 'of unknown id'}, is at work on "
                "this run; wait for it or stop it, or choose another folder with --out"
            )
        with naming(path):
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
        _ours.add(path)
        try:
            yield  # The file stays when it is closed: to remove it would race with the next lock.
        finally:
            _ours.remove(path)


def exclusive(
    stage: Callable[Concatenate[Experiment, More], Result],
) -> Callable[Concatenate[Experiment, More], Result]:
    """A stage of a run: it holds the lock of the folder, and what it compiles is kept."""

    @functools.wraps(stage)
    def locked(run: Experiment, *more: More.args, **options: More.kwargs) -> Result:
        cache = cached() if run.config.compilation_cache else nullcontext()
        with lock(run.folder), cache, counted(run.folder, stage.__name__):
            return stage(run, *more, **options)

    return locked


def holder(folder: str | os.PathLike[str]) -> int | None:
    """The id of the process that is at work in `folder`, or None. Writes nothing."""
    path = Path(folder).resolve() / FILE
    if path in _ours:
        return os.getpid()
    try:
        with path.open() as file:
            return None if _free(file, exclusive=False) else _process(path)
    except OSError:
        return None


def _free(file: IO[str], exclusive: bool, tries: int = 1) -> bool:
    """Whether no other process holds the lock; takes it where there is one to take."""
    if fcntl is None:
        return True
    for left in reversed(range(tries)):
        try:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            if left:
                time.sleep(0.02)
        except OSError:  # a file system without locks
            return True
        else:
            return True
    return False


def _process(path: Path) -> int | None:
    """The process id in a lock file; None where it has not been written yet."""
    text = path.read_text().strip()
    return int(text) if text.isdecimal() else None
