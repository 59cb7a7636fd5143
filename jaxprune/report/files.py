"""Files of a run: replaced whole or not at all, with errors that name the path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def replace(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file atomically; its folder is made where there is none.

    A reader sees the old file or the new one: the bytes go to a neighbour in the same folder,
    reach the disk, and take the name in one step.

    Raises:
      OSError: it cannot be written, naming `path`; what was there stays.
    """
    path = Path(path)
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with neighbour.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(neighbour, path)
        except BaseException:
            neighbour.unlink(missing_ok=True)
            raise


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Adds the path to an OSError that names none: the system's of a full disk does not."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
