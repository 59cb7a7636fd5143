"""The metrics of a run for TensorBoard, as an extra: `pip install jaxprune[tensorboard]`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import time
from pathlib import Path
from typing import Any


def require() -> None:
    """Checks that the extra is installed.

    Raises:
      ValueError: it is not.
    """
    if importlib.util.find_spec("tensorboardX") is None:
        raise ValueError(
            "the config asks for tensorboard, but tensorboardX is not installed: "
            "pip install jaxprune[tensorboard], or set --no-tensorboard"
        )


class TensorBoard:
    """Writes scalars by step into a folder of event files.

    A training that goes on opens the folder at the step where it does: TensorBoard then forgets
    the points of the killed process from that step on, so that none is there twice. Events are
    written by this thread, so that after `flush` none of the earlier ones is missing.

        with TensorBoard("runs/digits/tensorboard/train", step=100) as board:
            board.write(100, loss=0.31)
    """

    def __init__(self, folder: str | os.PathLike[str], step: int):
        """Opens a folder, and makes it where there is none.

        Raises:
          ValueError: tensorboardX is not installed.
        """
        require()
        files = importlib.import_module("tensorboardX.event_file_writer")
        self._events = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summaries = importlib.import_module("tensorboardX.proto.summary_pb2")
        Path(folder).mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names, which otherwise tell only the second.
        prefix, suffix = str(Path(folder) / "events"), f".{step:012}.{os.getpid()}"
        self._writer = files.EventsWriter(prefix, suffix)
        log = self._events.SessionLog
        self._add(step, session_log=log(status=log.START))

    def write(self, step: int, **values: float) -> None:
        """Adds a point to the curve of each name."""
        summary = self._summaries.Summary
        points = [summary.Value(tag=name, simple_value=v) for name, v in values.items()]
        self._add(step, summary=summary(value=points))

    def flush(self) -> None:
        """Hands what was written to the system: a process that is killed later loses none of it."""
        self._writer.flush()

    def close(self) -> None:
        """Writes what is left and closes the files."""
        self._writer.close()

    def _add(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._events.Event(step=step, wall_time=time.time(), **content))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
