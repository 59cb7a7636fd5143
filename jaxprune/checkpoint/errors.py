"""Errors of orbax, told as one error that says where and, for a system's error, which."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

Result = TypeVar("Result")

_NOT_DAMAGE = (
    errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
)  # fmt: skip


def attempt(where: Path, read: Callable[[], Result], remedy: str = "") -> Result:
    """What `read` gives; whatever orbax raises becomes one error that says where."""
    try:
        return read()
    except OSError:
        raise
    except Exception as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        code = _system_error(error)
        if code in _NOT_DAMAGE:
            raise OSError(code, os.strerror(code), str(where)) from error
        raise ValueError(
            f"{where} cannot be read, it is no checkpoint or its files are damaged{remedy} "
            f"({_brief(error)})"
        ) from error


@contextmanager
def writing(where: Path) -> Iterator[None]:
    """Whatever orbax raises while it writes becomes an OSError that says where."""
    try:
        yield
    except Exception as error:
        code = _system_error(error)
        if code is None:
            raise OSError(f"{where} cannot be written: {_brief(error)}") from error
        raise OSError(code, os.strerror(code), str(where)) from error


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: orbax wraps whatever ends a read."""
    while error is not None:
        if isinstance(error, (KeyboardInterrupt, asyncio.CancelledError)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _system_error(error: BaseException) -> int | None:
    """The system's error number behind an error; TensorStore tells it within its text."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return getattr(error, "errno", None) or (int(number[1]) if number else None)


def _brief(error: Exception, length: int = 160) -> str:
    """The beginning of an error: those of TensorStore go on for a page."""
    line = (str(error).splitlines() or [""])[0].partition(". See full")[0] or repr(error)
    return line if len(line) <= length else line[:length] + "…"
