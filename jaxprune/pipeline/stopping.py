"""SIGTERM, as a machine that is about to be taken away sends it: save, then end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(Exception):
    """A training that saved where it was and ended, because it was asked to.

    Attributes:
      stage: the stage that it stopped in.
      step: steps done and saved.
      steps: steps of the whole training.
    """

    def __init__(self, stage: str, step: int, steps: int):
        super().__init__(
            f"stopped at step {step} of {steps} of {stage}; the same command goes on from there"
        )
        self.stage, self.step, self.steps = stage, step, steps


class Stop:
    """Whether the process was asked to end: `requested`, to be read between steps."""

    requested = False


@contextmanager
def stopping() -> Iterator[Stop]:
    """Notes the first SIGTERM in the block instead of ending the process.

        with stopping() as stop:
            for step in range(steps):
                ...
                if stop.requested:
                    checkpoints.save(step, state)
                    raise Stopped("train", step, steps)

    A second SIGTERM finds what was there before the block, by default the end of the process.
    Outside of the main thread signals cannot be received: there nothing is ever requested.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    # None is a handler that was not set from Python; it cannot be set back.
    before = signal.getsignal(signal.SIGTERM) or signal.SIG_DFL

    def note(*_: object) -> None:
        stop.requested = True
        signal.signal(signal.SIGTERM, before)

    signal.signal(signal.SIGTERM, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
