"""What every stage of a run shares: config, data, network, graph and the run folder.

`open_run` makes all of it and finds what is wrong with a config before any long work starts.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxprune import config as run_config
from jaxprune import data, interop, latency, models
from jaxprune import mesh as meshes
from jaxprune.budget import Budget
from jaxprune.config import RunConfig
from jaxprune.data import Dataset, Split, Streamed
from jaxprune.data.augment import normalize
from jaxprune.files import read_json, write_json
from jaxprune.graph import ChannelGraph, trace
from jaxprune.methods import sparse_training
from jaxprune.report import tensorboard
from jaxprune.report.progress import Advance, track
from jaxprune.train.evaluate import correct, predict
from jaxprune.train.network import Network
from jaxprune.train.state import total_steps
from jaxprune.wrappers import Wrapper

Batch = tuple[jax.Array, jax.Array]

_at_work: ContextVar[bool] = ContextVar("at_work", default=False)


@dataclass(frozen=True)
class Experiment:
    """A run that is ready to start or to go on.

    Attributes:
      config: as used.
      folder: the run folder.
      data: the data set.
      network: the unpruned network's functions.
      forward: `(variables, images) → logits`, in evaluation mode: what is traced and pruned.
      shapes: of the unpruned network's variables.
      graph: of `forward`, traced at a batch of one: costs are per image.
      budget: the config's, measured where it asks for this device.
      penalty: wraps the optimizer of the unpruned network's training.
      mesh: of the devices that share the work, where the config asks for several.
    """

    config: RunConfig
    folder: Path
    data: Dataset
    module: Any
    network: Network
    forward: Callable[[Any, jax.Array], jax.Array]
    shapes: Any
    graph: ChannelGraph
    budget: Budget
    penalty: Wrapper
    mesh: Mesh | None

    @property
    def key(self) -> jax.Array:
        """The root of all keys of the run."""
        return jax.random.key(self.config.seed)

    def prunable(self) -> list[str]:
        """The groups that the budget lets get narrower."""
        return self.budget.prunable(self.graph)

    def correct(self, network: Network, variables: Any, split: Split | Streamed) -> np.ndarray:
        """Which of a split's images one of the run's networks classifies as labelled, bool [N]."""
        return correct(network, variables, split, **self._evaluation())

    def predict(self, network: Network, variables: Any, split: Split | Streamed) -> np.ndarray:
        """What one of the run's networks answers to a split's images: logits float32 [N, K]."""
        return predict(network, variables, split, **self._evaluation())

    def _evaluation(self) -> dict[str, Any]:
        return {
            "batch_size": self.config.evaluation.batch_size,
            "mean": self.data.mean,
            "std": self.data.std,
            "mesh": self.mesh,
        }

    def batches(self, images: np.ndarray, labels: np.ndarray, batch_size: int) -> list[Batch]:
        """Normalised batches of equal size; the rest that fills no batch is left out."""
        size = min(batch_size, len(images))
        return [
            (
                normalize(
                    jnp.asarray(images[i : i + size]), mean=self.data.mean, std=self.data.std
                ),
                jnp.asarray(labels[i : i + size]),
            )
            for i in range(0, len(images) - size + 1, size)
        ]

    def calibration(self, images: int, batch_size: int) -> list[Batch]:
        """Batches of training images, drawn by the run's seed."""
        chosen = self.draw(images, purpose=0xCA11B)
        return self.batches(chosen.images, chosen.labels, batch_size)

    def draw(self, images: int, purpose: int) -> Split:
        """Training images drawn by the run's seed, others for each purpose."""
        rng = np.random.default_rng([self.config.seed, purpose])
        return self.data.train.take(rng.permutation(len(self.data.train))[:images])

    def heldout(self, images: int | None, batch_size: int) -> list[Batch]:
        """Batches of the held-out images: all that chooses reads these."""
        split = self.data.heldout
        return self.batches(split.images[:images], split.labels[:images], batch_size)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the seconds of a stage, over all processes that worked at it.

        What a method trains within its stage is a part of that stage's time.
        """
        if _at_work.get():
            yield
            return
        began, token = time.perf_counter(), _at_work.set(True)
        try:
            yield
        finally:
            _at_work.reset(token)
            seconds = self.seconds()
            seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - began
            write_json(self.folder / "seconds.json", seconds)

    def seconds(self) -> dict[str, float]:
        """Wall time per stage so far."""
        path = self.folder / "seconds.json"
        return read_json(path) if path.exists() else {}

    @property
    def metrics_path(self) -> Path:
        """`metrics.jsonl`, to which the trainings append."""
        return self.folder / "metrics.jsonl"


def open_run(config: RunConfig | str | os.PathLike[str]) -> Experiment:
    """Checks a config against data, model, method and budget, and opens the run folder.

    Args:
      config: of the run; or the folder of an earlier one, which may have been moved since.

    Raises:
      FileNotFoundError: a folder without a run, or no file of weights.
      ValueError: an unknown name, a target that cannot be met, a pattern that matches nothing,
        labels out of range, a run folder that belongs to another config, a mesh of more devices
        than there are or that a batch cannot be split over, weights that do not fit the model.
      OSError: a run folder that cannot be written.
    """
    if not isinstance(config, RunConfig):
        config = config_of(config)
    if config.tensorboard:
        tensorboard.require()
    mesh = meshes.make(config.mesh)
    dataset = data.load(
        config.data.name,
        data_dir=config.data.data_dir,
        heldout=config.data.heldout,
        seed=config.data.heldout_seed,
        image_size=config.data.image_size,
        workers=config.data.workers,
        left_out=config.data.left_out,
        shape=config.data.shape,
    )
    for training in (config.train, config.finetune):
        total_steps(training, len(dataset.train))
    _require_shares(config, dataset, mesh)
    shape = dataset.input_shape
    module = models.build(
        config.model.name,
        num_classes=dataset.num_classes,
        input_shape=shape,
        widths=config.model.widths or None,
        **config.model.options(),
    )
    network = models.network(module)

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return network.eval(variables, images, None).logits

    shapes = jax.eval_shape(lambda key: models.init(module, shape, key), jax.random.key(0))
    _require_weights(config, module, shape)
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    graph = trace(forward, shapes, image, protect=config.protect)
    config.method.require_counted(config.budget)
    graph, budget = _with_latency(config, graph, config.budget, forward, shapes, shape)
    config.method.require(graph, budget)
    steps = total_steps(config.train, len(dataset.train))
    penalty = sparse_training.build(config.sparsity, graph, steps)
    jax.eval_shape(penalty(optax.identity()).init, shapes["params"])
    folder = _open_folder(config)
    return Experiment(
        config, folder, dataset, module, network, forward, shapes, graph, budget, penalty, mesh
    )


def config_of(folder: str | os.PathLike[str]) -> RunConfig:
    """The config of the run in a folder, wherever the folder is now.

    Raises:
      FileNotFoundError: there is no run.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} is not the folder of a run: it has no config.json; `jaxprune run CONFIG` or "
            "`jaxprune train CONFIG` begins one"
        )
    return dataclasses.replace(run_config.load(path), out=str(folder))


def _require_shares(config: RunConfig, dataset: Dataset, mesh: Mesh | None) -> None:
    """Checks that every batch that is split over the mesh can be."""
    batches = {
        "train.batch_size": config.train.batch_size,
        "finetune.batch_size": config.finetune.batch_size,
        "evaluation.batch_size": config.evaluation.batch_size,
    }
    measured = dataset.heldout.first(config.validation.images)
    batches["validation.batch_size"] = min(config.validation.batch_size, len(measured))
    for name, images in batches.items():
        meshes.require_shares(name, images, mesh)


def _require_weights(config: RunConfig, module: Any, shape: tuple[int, int, int]) -> None:
    """Checks weights that a training starts from or that stand in its place, unless it has them."""
    if config.model.start is not None and not (config.folder / "checkpoints" / "train").exists():
        interop.from_torch(config.model.start, module, input_shape=shape)
    if config.model.weights is None:
        return
    if config.sparsity.kind != "none":
        raise ValueError(
            f"sparsity.kind is {config.sparsity.kind!r}, a penalty on the training, but "
            "model.weights stands in place of the training; leave one of them out"
        )
    if not (config.folder / "checkpoints" / "train" / "0").exists():
        interop.from_torch(config.model.weights, module, input_shape=shape)


def missing(run: Experiment, what: str, command: str) -> FileNotFoundError:
    """The error of a stage that finds nothing of the one before it."""
    return FileNotFoundError(
        f"{run.folder} does not have {what} yet: run `jaxprune {command} {run.folder}` first"
    )


def _with_latency(
    config: RunConfig,
    graph: ChannelGraph,
    budget: Budget,
    forward: Callable[[Any, jax.Array], jax.Array],
    shapes: Any,
    shape: tuple[int, ...],
) -> tuple[ChannelGraph, Budget]:
    """Measures what the budget asks of this device; kept in `latency.json`.

    Time does not depend on the weights, so that this is done before any training.
    """
    if "latency" not in budget.factors and budget.round_to != "measured":
        return graph, budget
    variables = jax.tree.map(lambda s: np.ones(s.shape, s.dtype), shapes)
    images = jnp.ones((config.evaluation.latency_batch, *shape))
    with ExitStack() as stack:
        bar: list[Advance] = []

        def on_layer(done: int, total: int) -> None:
            if not bar:  # no bar where what was measured before is read
                bar.append(stack.enter_context(track("latency", total, "layers")))
            bar[0]()

        return latency.prepare(
            graph, budget, forward, variables, images,
            path=config.folder / "latency.json", on_layer=on_layer,
        )  # fmt: skip


def _open_folder(config: RunConfig) -> Path:
    folder = config.folder
    odd = sorted(set(str(folder)) & set("[]*?\\"))
    if odd:
        raise ValueError(
            f"{folder} holds {' '.join(odd)}, which checkpoints read as a pattern; choose another "
            "folder with --out"
        )
    if folder.is_dir() and not (folder / "config.json").exists() and _foreign(folder):
        raise ValueError(
            f"{folder} is not empty and holds no run ({_foreign(folder)[0]} is in it); choose "
            "another folder with --out"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            f"{folder} cannot be made a run folder ({error.strerror}); choose another with --out"
        ) from error
    path = folder / "config.json"
    if path.exists():
        before = run_config.load(path)
        changed = _differing_fields(_as_used(before), _as_used(config))
        if changed:
            raise ValueError(
                f"{folder} holds a run of another config, which differs in {', '.join(changed)}; "
                "choose another folder with --out, or remove that one"
            )
        if before.controls != config.controls:  # they may be added when the others are there
            run_config.save(path, dataclasses.replace(before, controls=config.controls))
    else:
        run_config.save(path, config)
    return folder


_BEFORE_THE_CONFIG = ("latency.json", ".lock")


def _foreign(folder: Path) -> list[str]:
    """What is in a folder that no run has put there before its config."""
    return sorted(p.name for p in folder.iterdir() if p.name not in _BEFORE_THE_CONFIG)


def _as_used(config: RunConfig) -> dict[str, Any]:
    """A config as JSON would give it back, without what a process may choose anew."""
    fields = run_config.encode(config)
    for name in ("out", "mesh", "compilation_cache", "controls"):
        fields.pop(name)
    return fields


def _differing_fields(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> list[str]:
    differing = []
    for name in {**a, **b}:
        left, right = a.get(name), b.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            differing += _differing_fields(left, right, f"{prefix}{name}.")
        elif left != right:
            differing.append(f"{prefix}{name}")
    return differing
