"""A training of a run: it checkpoints, writes its metrics, and goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import jax

from jaxprune.checkpoint import Checkpoints
from jaxprune.pipeline.experiment import Experiment, missing
from jaxprune.pipeline.stopping import Stopped, stopping
from jaxprune.report.metrics import MetricsWriter, drop_from
from jaxprune.report.progress import track
from jaxprune.report.tensorboard import TensorBoard
from jaxprune.train.loop import Chunk, fit
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, TrainState, initial_state, total_steps
from jaxprune.wrappers import Until, Wrapper, same

Variables = dict[str, Any]

CHECKPOINTS = 10
"""How many checkpoints a training leaves, at ends of epochs; the newest two stay."""

SECONDS = 600.0
"""At the end of an epoch, one more where the last one is as old as this."""


@dataclass(frozen=True)
class Training:
    """One of the trainings of a run, by what does not change while it goes on.

    Attributes:
      stage: its name, which is that of its folder in `checkpoints/` and of its metrics.
      network: what is trained.
      config: for how long, and how.
      teacher: its network and variables.
      distill: the weights of the teacher's terms.
      optimizer: wraps its optimizer.
    """

    stage: str
    network: Network
    config: TrainConfig
    teacher: tuple[Network, Variables] | None = None
    distill: DistillConfig | None = None
    optimizer: Wrapper = same

    def steps(self, run: Experiment) -> int:
        """Of the whole training."""
        return total_steps(self.config, len(run.data.train))

    def begin(self, variables: Variables) -> TrainState:
        """The state before the first step."""
        return initial_state(variables, self.config, self.optimizer)


def train_until(
    run: Experiment, training: Training, state: TrainState, until: Until | int | None = None
) -> TrainState:
    """Trains on from a state, up to a step, a condition or the end, and saves what comes out.

    Raises:
      Stopped: the process got SIGTERM; what was done until then is saved.
      FloatingPointError: a loss that is not finite; what was saved before stays.
    """
    total = training.steps(run)
    stop = min(until, total) if isinstance(until, int) else total
    done = int(state.step)
    if done >= stop:
        return state
    drop_from(run.metrics_path, training.stage, done)
    with (
        Checkpoints(run.folder / "checkpoints" / training.stage) as checkpoints,
        MetricsWriter(run.metrics_path) as metrics,
        run.stage(training.stage),
        track(training.stage, total) as advance,
        stopping() as asked,
        _tensorboard(run, training.stage, done) as board,
    ):
        advance(done)
        saved = time.monotonic()

        def on_chunk(state: TrainState, chunk: Chunk) -> None:
            for i, step in enumerate(chunk.steps.tolist()):
                record = {name: float(values[i]) for name, values in chunk.metrics.items()}
                metrics.write(stage=training.stage, step=step, steps=total, **record)
                if board is not None:
                    board.write(step, **record)
            if board is not None:
                board.flush()
            advance(len(chunk.steps), note=f"loss {float(chunk.metrics['loss'][-1]):.3f}")
            nonlocal saved
            due = chunk.ends_epoch and (_due(chunk) or time.monotonic() - saved > SECONDS)
            if chunk.done < stop and (due or asked.requested):
                checkpoints.save(chunk.done, state)
                saved = time.monotonic()
                if asked.requested:
                    raise Stopped(training.stage, chunk.done, total)

        try:
            state = fit(
                training.network,
                state.variables,
                run.data.train,
                training.config,
                seed=run.config.seed,
                teacher=training.teacher,
                distill=training.distill,
                optimizer=training.optimizer,
                on_chunk=on_chunk,
                state=state,
                until=until,
                mean=run.data.mean,
                std=run.data.std,
                mesh=run.mesh,
            )
        except FloatingPointError as error:
            good = checkpoints.latest()
            where = (
                "there is no state before it"
                if good is None
                else (f"the last good state is that of step {good} in {checkpoints.folder}")
            )
            raise FloatingPointError(f"{training.stage}: {error}; {where}") from error
        done = int(state.step)
        checkpoints.save(done, state)
        if asked.requested:
            raise Stopped(training.stage, done, total)
    # What comes after a training computes on one device.
    return state if run.mesh is None else jax.device_put(state, jax.local_devices()[0])


def _tensorboard(run: Experiment, stage: str, step: int) -> AbstractContextManager[Any]:
    """The training's curves from `step` on, where the config asks for them; else None."""
    if not run.config.tensorboard:
        return nullcontext()
    return TensorBoard(run.folder / "tensorboard" / stage, step)


def latest(run: Experiment, training: Training, variables: Variables) -> TrainState | None:
    """The newest state that the training left, or None; `variables` may be shapes alone."""
    folder = run.folder / "checkpoints" / training.stage
    if not folder.exists():
        return None
    like = jax.eval_shape(training.begin, variables)
    with Checkpoints(folder) as checkpoints:
        return None if checkpoints.latest() is None else checkpoints.restore(like)


def finished(run: Experiment, training: Training, variables: Variables, command: str) -> Variables:
    """What a finished training left.

    Args:
      run: the run.
      training: which of its trainings.
      variables: of the shapes that it has, or these shapes alone.
      command: what a person calls to get it.

    Raises:
      FileNotFoundError: it has not begun, or has not come to its end.
    """
    state = latest(run, training, variables)
    if state is None:
        raise missing(run, f"checkpoints/{training.stage}", command)
    done, total = int(state.step), training.steps(run)
    if done < total:
        raise missing(
            run, f"the end of checkpoints/{training.stage} (at step {done} of {total})", command
        )
    return state.variables


def train(
    run: Experiment, training: Training, shapes: Variables, begin: Callable[[], Variables]
) -> Variables:
    """A training from its first step, or from where it was, to its end.

    Args:
      run: the run.
      training: which of its trainings.
      shapes: of what it trains.
      begin: gives what it trains; called where it has not begun.
    """
    state = latest(run, training, shapes)
    if state is None:
        state = training.begin(begin())
        if training.steps(run) == 0:  # it is at its end, and leaves what it begins with
            with Checkpoints(run.folder / "checkpoints" / training.stage) as checkpoints:
                checkpoints.save(0, state)
    return train_until(run, training, state).variables


def _due(chunk: Chunk) -> bool:
    """Whether an epoch's end passes another part of the training that is to be kept."""
    per_epoch = chunk.done / chunk.epoch
    before = chunk.done - per_epoch
    parts = CHECKPOINTS / chunk.total
    return int(chunk.done * parts) > int(before * parts)
