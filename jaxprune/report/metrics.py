"""`metrics.jsonl`: one JSON object a line, appended while a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from jaxprune.files import naming, plain, replace


class MetricsWriter:
    """Appends records to a JSON-lines file; each is on its way to the disk when `write` returns.

    A process that was killed while it wrote leaves a torn last line: opening the file again cuts
    it off, so that the next record does not continue it.

        with MetricsWriter("runs/digits/metrics.jsonl") as metrics:
            metrics.write(stage="train", step=100, loss=0.31)
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens `path` for appending and makes its folder where there is none."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        self._file.truncate(_complete(self._file))

    def write(self, **record: Any) -> None:
        """Appends one record; values may be NumPy or JAX scalars, a non-finite one becomes null.

        Raises:
          OSError: the disk is full; the torn line is cut off when the file is opened again.
        """
        line = _line(record)
        with naming(self.path):
            self._file.write(line)
            self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        with naming(self.path):
            self._file.close()

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The records of a metrics file, in order; a torn last line is left out.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: a complete line that is no JSON object, with its number.
    """
    records = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is not a JSON object")
        records.append(record)
    return records


def drop_from(path: str | os.PathLike[str], stage: str, step: int) -> None:
    """Drops what a stage wrote from `step` on, atomically.

    A process that was killed had got further than its last checkpoint; the one that goes on from
    there writes those steps again.
    """
    path = Path(path)
    if not path.exists():
        return
    records = read(path)
    kept = [r for r in records if not (r.get("stage") == stage and r.get("step", -1) >= step)]
    if len(kept) < len(records):
        replace(path, b"".join(_line(record) for record in kept))


def _line(record: Any) -> bytes:
    text = json.dumps(plain(record), allow_nan=False, ensure_ascii=False)
    return text.encode() + b"\n"


def _complete(file: Any, block: int = 1 << 16) -> int:
    """The length of `file` up to and with its last newline, found from its end."""
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - block)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
