"""`summary.json`: the figures of a finished run, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprune.report.encode import plain


def write(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """Writes a summary (or any other JSON document of a run) atomically.

    A reader sees the old file or the new one: the text goes to a neighbour in the same folder,
    reaches the disk, and takes the name in one step.

    Args:
      path: the file; its folder is made where there is none.
      summary: accuracies are fractions of the test images, parameters and MACs counts, `latency_*`
        milliseconds a batch, `seconds` a mapping from stage to wall time.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(plain(summary), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    neighbour = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with neighbour.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(neighbour, path)
    except BaseException:
        neighbour.unlink(missing_ok=True)
        raise


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The summary at `path`.

    Raises:
      FileNotFoundError: there is no such file: the run has not finished.
      ValueError: it is no JSON object.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no summary there; has the run finished?")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(summary, dict):
        raise ValueError(f"{path} is not a JSON object")
    return summary
