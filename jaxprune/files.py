"""Atomic files and JSON: the ground floor of all that is kept on disk.

JSON here is plain: no NumPy or JAX scalar, no tuple, nothing non-finite.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any


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


def write_json(path: str | os.PathLike[str], document: Mapping[str, Any]) -> None:
    """Writes a JSON document of a run, such as its summary, atomically.

    Args:
      path: the file; its folder is made where there is none.
      document: accuracies are fractions of the test images, parameters and MACs counts, `latency_*`
        milliseconds a batch, `seconds` a mapping from stage to wall time.

    Raises:
      OSError: it cannot be written, naming the path; what was there stays.
      TypeError: a value that has no form in JSON.
    """
    text = json.dumps(plain(document), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    replace(path, text.encode())


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The JSON object at `path`.

    Raises:
      FileNotFoundError: there is no such file: the run has not come that far.
      ValueError: it is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no {path.stem} there; has the run finished?")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path} is not a JSON object")
    return document


def plain(value: Any) -> Any:
    """`value` built of dict, list, str, int, float, bool and None alone.

    Arrays become lists, dataclasses dicts, and NaN and infinities None: JSON has no word for them.

    Raises:
      TypeError: a value of another kind, by its type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars, without importing either
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in value]
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")
