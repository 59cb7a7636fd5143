"""`summary.json`: the figures of a finished run, written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxprune.report import files
from jaxprune.report.encode import plain


def write(path: str | os.PathLike[str], summary: Mapping[str, Any]) -> None:
    """Writes a summary (or any other JSON document of a run) atomically.

    Args:
      path: the file; its folder is made where there is none.
      summary: accuracies are fractions of the test images, parameters and MACs counts, `latency_*`
        milliseconds a batch, `seconds` a mapping from stage to wall time.

    Raises:
      OSError: it cannot be written, naming the path; what was there stays.
      TypeError: a value that has no form in JSON.
    """
    text = json.dumps(plain(summary), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    files.replace(path, text.encode())


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
