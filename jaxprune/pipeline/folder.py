"""The run folder as a method sees it: its loops and trainings are kept, step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from jaxprune.checkpoint import Checkpoints
from jaxprune.files import read_json, write_json
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.stopping import Stopped, stopping
from jaxprune.pipeline.training import Training, latest, train_until
from jaxprune.problem import Carry, Problem, Retraining, Run
from jaxprune.report.progress import track
from jaxprune.train.batchnorm import renewal
from jaxprune.train.state import TrainConfig, TrainState, total_steps
from jaxprune.wrappers import Until, Wrapper, same, steps_after

LOOPS = "loops"
"""The folder of the loops of a method at work; gone when its selection is there."""
STEPS = "method_steps.json"
"""Steps done by each training of the method."""
RECALIBRATION = 0xBA7C4
"""What the images are drawn for that statistics are taken anew from."""


@dataclasses.dataclass(frozen=True)
class RunFolder(Run):
    """Keeps a method's long work in the folder of a run."""

    run: Experiment
    loops: str = LOOPS

    def loop(
        self, name: str, body: Callable[[Carry, int], Carry], carry: Carry, length: int
    ) -> Carry:
        """As `Run.loop`; a process that is killed goes on with the step that it was at.

        The newest carry alone is kept.

        Raises:
          Stopped: the process got SIGTERM; what was done until then is saved.
        """
        folder = self.run.folder / self.loops / name
        with (
            Checkpoints(folder, keep=1) as kept,
            track(name, length) as advance,
            stopping() as asked,
        ):
            done = kept.latest() or 0
            if done:
                carry = kept.restore(carry)
            advance(done)
            for i in range(done, length):
                carry = body(carry, i)
                kept.save(i + 1, carry)
                write_json(folder.with_suffix(".json"), {"step": i, "steps": length})
                advance()
                if asked.requested:
                    raise Stopped(name, i + 1, length)
        return carry

    def steps(self, config: Retraining) -> int:
        """How many steps a training of this config has."""
        return total_steps(_configured(self.run, config, 1), len(self.run.data.train))

    def train(
        self,
        name: str,
        variables: Any,
        *,
        network: Wrapper = same,
        optimizer: Wrapper = same,
        config: Retraining | None = None,
        rounds: int = 1,
        teacher: Any = None,
        until: Until | int | None = None,
        state: Any = None,
    ) -> TrainState:
        """As `Run.train`; a process that is killed goes on from what it saved last."""
        run = self.run
        training = Training(
            name,
            network(run.network),
            _configured(run, config, rounds),
            None if teacher is None else (run.network, teacher),
            run.config.distill,
            optimizer,
        )
        start = training.begin(variables) if state is None else state
        if isinstance(until, int):
            until = steps_after(until, rounds, training.steps(run))
        saved = latest(run, training, variables)
        if saved is not None and int(saved.step) > int(start.step):
            start = saved
        ended = train_until(run, training, start, until)
        write_json(run.folder / STEPS, {**steps_of(run), name: int(ended.step)})
        return ended


def _configured(run: Experiment, config: Retraining | None, rounds: int) -> TrainConfig:
    """The configuration of a method's own training."""
    finetune = run.config.finetune
    if config is None:
        return dataclasses.replace(finetune, epochs=finetune.epochs * rounds)
    epochs = config.epochs
    if config.steps is not None:
        epochs = config.steps / (len(run.data.train) // finetune.batch_size)
    optimizer = dataclasses.replace(
        finetune.optimizer, learning_rate=config.learning_rate, schedule="constant", warmup=0.0
    )
    return dataclasses.replace(
        finetune, epochs=epochs * rounds, optimizer=optimizer, average=0.0, small_crops=0.0
    )


def steps_of(run: Experiment) -> dict[str, int]:
    """Steps done by each training of the run's method."""
    path = run.folder / STEPS
    return read_json(path) if path.exists() else {}


def problem_of(run: Experiment, variables: Any, loops: str = LOOPS) -> Problem:
    """What the run's method is given: the trained network, and what the config says to measure.

    Work other than the method's own keeps its loops in another folder.
    """
    config = run.config
    calibration, validation = config.calibration, config.validation

    def recalibrated(variables: Any, images: jax.Array) -> jax.Array:
        drawn = run.draw(config.recalibration.images, RECALIBRATION)
        ((inputs, _),) = run.batches(drawn.images, drawn.labels, len(drawn))
        return run.forward(renewal(run.network, inputs)(variables), images)

    return Problem(
        run.graph,
        run.forward,
        variables,
        run.calibration(calibration.images, calibration.batch_size),
        run.budget,
        key=jax.random.fold_in(run.key, 2),
        heldout=run.heldout(validation.images, validation.batch_size),
        run=RunFolder(run, loops),
        mesh=run.mesh,
        recalibrated=None if config.finetune.start == "fresh" else recalibrated,
    )
