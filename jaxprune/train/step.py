"""One training step, compiled: gather, augment, ask the teacher, differentiate, update.

Axes: `N` examples, `B` batch, `n` steps of a chunk. Everything random in a step is a pure function
of (key, step).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxprune.data.augment import augment
from jaxprune.graph import paths
from jaxprune.kernels import accelerate
from jaxprune.mesh import DATA, constrain, sharding
from jaxprune.train.losses import DistillConfig, objective
from jaxprune.train.network import Network, Output
from jaxprune.train.optimizer import build, learning_rate
from jaxprune.train.state import Averaged, TrainConfig, TrainState
from jaxprune.wrappers import WEIGHTS, Wrapper, same, weights_of

MAX_CHUNK = 256
"""Steps that are dispatched together, at most."""


class Data(NamedTuple):
    """What every step reads and none changes; images and labels may be those of one batch."""

    images: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray
    key: jax.Array
    teacher: Any


@dataclass(frozen=True)
class Program:
    """The compiled step, and the two ways of running a chunk of them."""

    step: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    loop: Callable[..., tuple[TrainState, dict[str, jax.Array]]]

    def one_by_one(self, state: TrainState, batches: Iterable[tuple[Data, np.ndarray | None]]):
        """One dispatch a step: its data, and the indices `[B]` of its examples there; None: all."""
        metrics = []
        for data, indices in batches:
            state, step_metrics = self.step(state, data, indices)
            metrics.append(step_metrics)
        columns = jax.device_get(metrics)
        return state, {name: np.array([m[name] for m in columns]) for name in columns[0]}

    def looped(self, state: TrainState, data: Data, order: np.ndarray):
        """One dispatch a chunk, `order` being `[n, B]`.

        The shapes, so the compilation, are those of the longest chunk.
        """
        count = len(order)
        padded = np.concatenate([order, np.zeros((MAX_CHUNK - count, order.shape[1]), order.dtype)])
        state, metrics = self.loop(state, data, padded, count)
        return state, {name: value[:count] for name, value in jax.device_get(metrics).items()}


@functools.lru_cache(maxsize=4)
def program(
    network: Network,
    teacher: Network | None,
    config: TrainConfig,
    distill: DistillConfig,
    total: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    classes: int,
    wrapper: Wrapper = same,
    mesh: Mesh | None = None,
    per_epoch: int = 1,
    size: int | None = None,
) -> Program:
    """Cached, so that a resumed training compiles nothing; few, so that old ones go.

    On a mesh the batch is split over its `data` axis, and the state is on every device. Images are
    cropped to `size` pixels without a border where that is given.
    """
    optimizer = build(config.optimizer, total, wrapper)
    schedule = learning_rate(config.optimizer, total)

    def batch_of(examples: Any, indices: jax.Array | None) -> jax.Array:
        batch = examples if indices is None else jnp.take(examples, indices, axis=0)
        return constrain(batch, mesh, DATA)

    def mirrored(key: jax.Array, indices: jax.Array | None, epoch: jax.Array) -> jax.Array | None:
        if not (config.flip and config.alternating):
            return None
        assert indices is not None, "`fit` refuses it for images on disk"
        key = jax.random.fold_in(key, 0x0DD)
        first = jax.vmap(lambda i: jax.random.bernoulli(jax.random.fold_in(key, i)))(indices)
        return first ^ (epoch % 2 == 1)

    def step(state: TrainState, data: Data, indices: jax.Array | None):
        augment_key, dropout_key = jax.random.split(jax.random.fold_in(data.key, state.step))
        labels = batch_of(data.labels, indices)
        images = augment(
            augment_key,
            batch_of(data.images, indices),
            crop_padding=config.crop_padding if size is None else 0,
            flip=config.flip,
            mean=mean,
            std=std,
            dtype=jnp.dtype(config.precision),
            size=size,
            cutout=config.cutout,
            mirrored=mirrored(data.key, indices, state.step // per_epoch),
        )
        hints = teacher.eval(data.teacher, images, None) if teacher else None

        def loss_of(params: Any) -> tuple[jax.Array, tuple[Output, dict[str, jax.Array]]]:
            variables = cast({"params": params, **state.state}, config)
            out = network.train(variables, images, dropout_key)
            _check_output(out, state, classes)
            loss, terms = objective(out, labels, hints, distill, config.label_smoothing)
            return loss, (out, terms)

        (loss, (out, terms)), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        averaged = state.opt_state if config.average else None
        before = averaged.inner if averaged else state.opt_state
        updates, opt_state = optimizer.update(gradients, before, state.params)
        metrics = {
            "loss": loss,
            **terms,
            "accuracy": jnp.mean(jnp.argmax(out.logits, axis=-1) == labels),
            "gradient_norm": optax.tree.norm(weights_of(gradients)),
            "learning_rate": schedule(state.step),
        }
        after = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            state=jax.tree.map(lambda new, old: new.astype(old.dtype), out.state, state.state),
            opt_state=opt_state,
        )
        if averaged:
            after = average(after, averaged.variables)
        return after, {name: value.astype(jnp.float32) for name, value in metrics.items()}

    def average(after: TrainState, before: Any) -> TrainState:
        """With the average in the optimizer's state; in the last step also as the variables."""
        # Shorter at first, so that where the training began is soon forgotten.
        decay = jnp.minimum(config.average, after.step / (after.step + 9))

        def mix(old: jax.Array, new: jax.Array) -> jax.Array:
            floats = jnp.issubdtype(new.dtype, jnp.floating)
            return (new + decay * (old - new)).astype(new.dtype) if floats else new

        mean = jax.tree.map(mix, before, after.variables)
        last = jax.tree.map(
            functools.partial(jnp.where, after.step == total), mean, after.variables
        )
        params, state = last["params"], {n: tree for n, tree in last.items() if n != "params"}
        return TrainState(after.step, params, state, Averaged(after.opt_state, mean))

    def loop(state: TrainState, data: Data, order: jax.Array, count: jax.Array):
        _, shapes = jax.eval_shape(step, state, data, order[0])
        record = {name: jnp.zeros(len(order), s.dtype) for name, s in shapes.items()}

        def body(i: Any, carry: Any) -> Any:
            state, record = carry
            state, metrics = step(state, data, order[i])
            return state, {name: record[name].at[i].set(metrics[name]) for name in record}

        # Not a scan: a chunk may be shorter than the padded order.
        return jax.lax.fori_loop(0, count, body, (state, record))

    compiled = functools.partial(jax.jit, donate_argnums=0, out_shardings=sharding(mesh))
    return Program(compiled(accelerate(step)), compiled(accelerate(loop)))


def cast(variables: Any, config: TrainConfig) -> Any:
    """The variables as the networks compute with them; state (running statistics) stays."""
    if config.precision == "float32":
        return variables
    dtype = jnp.dtype(config.precision)
    params = variables["params"]
    rounded = jax.tree.map(
        lambda p: p.astype(dtype) if jnp.issubdtype(p.dtype, jnp.floating) else p,
        weights_of(params),
    )
    if weights_of(params) is not params:
        rounded = {**params, WEIGHTS: rounded}
    return {**variables, "params": rounded}


def _check_output(out: Output, state: TrainState, classes: int) -> None:
    """At trace time: what a network gives back has to fit the data and its own variables."""
    if out.logits.ndim != 2 or out.logits.shape[1] < classes:
        raise ValueError(
            f"split.labels reaches {classes - 1}, but the network's logits are {out.logits.shape}: "
            f"it needs at least {classes} classes"
        )
    if jax.tree.structure(out.state) != jax.tree.structure(state.state):
        given, taken = ([n for n, _ in paths.leaves(t)] for t in (out.state, state.state))
        odd = sorted(set(given) ^ set(taken)) or "other containers"
        raise ValueError(f"Output.state has to have the variables' collections; they differ: {odd}")
