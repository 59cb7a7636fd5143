"""Training: one jitted step that gathers, augments, asks the teacher, and updates.

Axes: `N` examples, `B` batch; images are uint8 `[N, H, W, C]` and stay on the device. Those of a
split on disk come batch by batch, decoded while the steps before them are computed.

Everything random is a pure function of (seed, step): the order of the data, the augmentation and
the dropout. A run that stops after any step and goes on from its `TrainState` ends with the same
bits as one that never stopped.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxprune.data.batches import batch_indices
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed
from jaxprune.graph import paths
from jaxprune.mesh import DATA, place, require_shares, sharding
from jaxprune.train.losses import DistillConfig
from jaxprune.train.network import Network
from jaxprune.train.state import TrainConfig, TrainState, initial_state, total_steps
from jaxprune.train.step import MAX_CHUNK, Data, Program, cast, program
from jaxprune.wrappers import Until, Wrapper, same

CHUNK_SECONDS = 1.0
"""Time between two reports that the number of steps aims at."""


class Chunk(NamedTuple):
    """What a callback hears after every chunk of steps.

    Attributes:
      steps: `[n]`, the numbers of the steps just done, from 0.
      metrics: by name, one value a step `[n]`: `loss` and its terms, `accuracy` on the batch,
        `gradient_norm` before clipping, `learning_rate`.
      done: steps done since the start of the training.
      total: steps of the whole training.
      epoch: epochs done, as a fraction.
      ends_epoch: whether the last step was an epoch's last; chunks never reach over one.
    """

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    done: int
    total: int
    epoch: float
    ends_epoch: bool


OnChunk = Callable[[TrainState, Chunk], None]
"""Called between chunks. The state's buffers are handed to the next chunk: save or read it at once,
copy what has to last."""


def fit(
    network: Network,
    variables: Any,
    split: Split | Streamed,
    config: TrainConfig,
    *,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    teacher: tuple[Network, Any] | None = None,
    distill: DistillConfig | None = None,
    optimizer: Wrapper = same,
    on_chunk: OnChunk | None = None,
    state: TrainState | None = None,
    until: Until | int | None = None,
    mesh: Mesh | None = None,
) -> TrainState:
    """Trains a network, alone or guided by a teacher.

    The teacher runs in evaluation mode on the same augmented view within the same step. One program
    is compiled for the whole training (two where it begins with small crops), and found again by a
    later call with the same networks and configs.

    Args:
      network: the network to train, a pair of pure functions.
      variables: `{"params": ..., **state}` to start from; left as they are.
      split: the training images and labels, in memory or on disk.
      config: how long and how.
      seed: with the step, decides the order of the data, the augmentation and the dropout.
      mean: per channel, of pixels in [0, 1].
      std: per channel, of pixels in [0, 1].
      teacher: its network and variables.
      distill: weights of the teacher's terms in the loss; by default `DistillConfig()`.
      optimizer: wraps the optimizer, `GradientTransformation → GradientTransformation`; its state
        is within `TrainState.opt_state`. The program is found again for the same object.
      on_chunk: called after every chunk of steps, about once a second.
      state: goes on from here instead of from `variables`.
      until: stops when this many steps are done since the training's start, or where a condition
        on the state holds that is asked after every so many steps.
      mesh: splits each batch over the devices along its axis `data`, and copies the rest to all of
        its devices. The result is that of one device to rounding; `state` may come from any.

    Returns:
      The state after the last step, on the mesh where there is one.

    Raises:
      ValueError: empty or mismatched data, labels beyond the classes, weights that are not finite,
        a batch that the mesh cannot split evenly.
      FloatingPointError: a loss or gradient that is not finite, naming the step.
    """
    if isinstance(split, Split):
        _check_data(split.images, split.labels)
    total = total_steps(config, len(split))
    require_shares("TrainConfig.batch_size", config.batch_size, mesh)
    start_state = initial_state(variables, config, optimizer) if state is None else state
    _check_finite(start_state.variables, "variables")
    if teacher:
        _check_finite(teacher[1], "teacher")
    # Copied once, since every step overwrites its input's buffers.
    current: TrainState = jax.tree.map(functools.partial(_copy, mesh=mesh), start_state)
    per_epoch = len(split) // config.batch_size
    compile_for = functools.partial(
        program,
        network,
        teacher[0] if teacher else None,
        config,
        distill or DistillConfig(),
        total,
        mean=tuple(map(float, mean)),
        std=tuple(map(float, std)),
        classes=split.num_classes if isinstance(split, Streamed) else int(split.labels.max()) + 1,
        wrapper=optimizer,
        mesh=mesh,
        per_epoch=per_epoch,
    )
    target = cast(jax.tree.map(jnp.asarray, teacher[1]), config) if teacher else None
    data = functools.partial(Data, key=jax.random.key(seed), teacher=place(target, mesh))
    small = round(config.small_crops * total)
    condition = until if isinstance(until, Until) else None
    stop = min(until, total) if isinstance(until, int) else total
    start, length = int(current.step), 1
    if isinstance(split, Streamed):
        if config.flip and config.alternating:
            raise ValueError("TrainConfig.alternating is for images that are held in memory")
        batches = split.batches(seed, config.batch_size, start, stop)
        advance = _on_disk(data, batches, mesh)
    else:
        advance = _in_memory(data, split, seed, config.batch_size, mesh)
    while start < stop and not (condition and condition.holds(current, start)):
        end = min(start + length, stop, (start // per_epoch + 1) * per_epoch)
        if condition is not None:
            end = min(end, (start // condition.every + 1) * condition.every)
        if start < small:
            end = min(end, small)
        compiled = compile_for(size=config.small_size if start < small else None)
        steps = np.arange(start, end)
        began = time.perf_counter()
        current, metrics = advance(compiled, current, steps)
        seconds = (time.perf_counter() - began) / len(steps)
        _check_metrics(metrics, steps, per_epoch)
        if on_chunk is not None:
            ends = end % per_epoch == 0
            on_chunk(current, Chunk(steps, metrics, end, total, end / per_epoch, ends))
        # Grown by and by, since the first chunk's time is mostly compilation.
        length = max(1, min(4 * length, MAX_CHUNK, int(CHUNK_SECONDS / seconds)))
        start = end
    return current


Advance = Callable[[Program, TrainState, np.ndarray], tuple[TrainState, dict[str, np.ndarray]]]
"""Does the steps of the numbers given: the state after them, and their metrics."""


def _in_memory(
    data: Callable[..., Data],
    split: Split,
    seed: int,
    batch_size: int,
    mesh: Mesh | None,
) -> Advance:
    examples = jnp.asarray(split.images), jnp.asarray(split.labels, jnp.int32)
    images, labels = place(examples, mesh)
    whole = data(images=images, labels=labels)

    def advance(compiled: Program, state: TrainState, steps: np.ndarray):
        order = [batch_indices(seed, step, len(split), batch_size) for step in steps.tolist()]
        # XLA's CPU backend takes a hundred times as long for a convolution's kernel gradient
        # within a loop; there, steps are dispatched one by one.
        if jax.default_backend() == "cpu":
            return compiled.one_by_one(state, ((whole, indices) for indices in order))
        return compiled.looped(state, whole, np.stack(order))

    return advance


def _on_disk(
    data: Callable[..., Data],
    batches: Iterator[tuple[np.ndarray, np.ndarray]],
    mesh: Mesh | None,
) -> Advance:
    def inputs(count: int) -> Iterator[tuple[Data, None]]:
        for batch in itertools.islice(batches, count):
            images, labels = place(batch, mesh, DATA)
            yield data(images=images, labels=labels), None

    return lambda compiled, state, steps: compiled.one_by_one(state, inputs(len(steps)))


def _copy(leaf: Any, mesh: Mesh | None) -> jax.Array:
    # With the dtype given, the copy is not weakly typed, and put where it is, it is bound to its
    # device as a restored or a computed array is: else the second step would compile anew.
    copied = jnp.array(leaf, dtype=jnp.result_type(leaf), copy=True)
    return jax.device_put(copied, sharding(mesh) or copied.sharding)


def _check_data(images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) == 0:
        raise ValueError("split.images is empty: there is nothing to train on")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(
            f"split.images has to be uint8 [N, H, W, C], got {images.dtype} {images.shape}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"split.labels has to be integers [{len(images)}], got {labels.dtype} {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"split.labels has {labels.min()}; classes count from 0")


def _check_finite(variables: Any, whose: str) -> None:
    # On the host: there is a program less to compile.
    named = paths.leaves(jax.device_get(variables))
    bad = [name for name, leaf in named if not np.all(np.isfinite(leaf))]
    if bad:
        raise ValueError(f"NaN or infinity in the {whose} before training: {', '.join(bad[:8])}")


def _check_metrics(metrics: dict[str, np.ndarray], steps: np.ndarray, per_epoch: int) -> None:
    watched = ("loss", "gradient_norm")
    finite = np.all([np.isfinite(metrics[name]) for name in watched], axis=0)
    if finite.all():
        return
    first = int(np.argmin(finite))
    values = {name: float(v[first]) for name, v in metrics.items()}
    name = next(n for n in watched if not math.isfinite(values[n]))
    rest = {n: v for n, v in values.items() if math.isfinite(v)}
    step = int(steps[first])
    raise FloatingPointError(
        f"{name} is {values[name]} at step {step} (epoch {step / per_epoch:.2f}), beside {rest}; "
        "a lower learning_rate, a longer warmup or clip_norm=1.0 in OptimizerConfig usually helps"
    )
