"""Optimizers and learning-rate schedules, built from a config."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxprune.wrappers import MASKS, WEIGHTS, Wrapper, same, weights_of

Name = Literal["sgd", "adamw", "muon"]
Schedule = Literal["cosine", "linear", "step", "constant"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Which optimizer, and its learning rate over the steps."""

    name: Name = "sgd"
    """`sgd` (weight decay goes into the gradient), `adamw` (weight decay beside it), or `muon`.
    The last gives kernels updates of orthogonal columns, as large as those of `adamw`."""

    learning_rate: float = 0.1
    """The highest learning rate."""

    momentum: float = 0.9
    """Momentum of `sgd` and `muon`; `adamw` keeps its usual 0.9 and 0.999."""

    nesterov: bool = True
    """Nesterov's form of the momentum of `sgd` and `muon`."""

    weight_decay: float = 5e-4
    """Weight decay of kernels; biases and normalisation parameters (one axis or none) have none."""

    clip_norm: float | None = None
    """Gradients whose global norm is above this are scaled down to it."""

    schedule: Schedule = "cosine"
    """After the warm-up: `cosine` or `linear` to 0, `step` falls at the milestones, `constant`."""

    warmup: float = 0.05
    """Fraction of all steps in which the learning rate rises linearly from 0."""

    milestones: tuple[float, ...] = (0.5, 0.75)
    """Fractions of all steps at which `step` multiplies the learning rate by `gamma`."""

    gamma: float = 0.1
    """What `step` multiplies the learning rate by."""

    def __post_init__(self):
        for field, value, choices in (
            ("name", self.name, get_args(Name)),
            ("schedule", self.schedule, get_args(Schedule)),
        ):
            if value not in choices:
                raise ValueError(
                    f"OptimizerConfig.{field} is one of {', '.join(choices)}, got {value!r}"
                )
        for field, allowed, wanted in (
            ("learning_rate", self.learning_rate > 0, "positive"),
            ("momentum", 0 <= self.momentum < 1, "in [0, 1)"),
            ("weight_decay", self.weight_decay >= 0, "at least 0"),
            ("clip_norm", self.clip_norm is None or self.clip_norm > 0, "positive or None"),
            ("warmup", 0 <= self.warmup < 1, "a fraction in [0, 1)"),
            ("milestones", _rises_within_one(self.milestones), "rising fractions in (0, 1)"),
            ("gamma", self.gamma > 0, "positive"),
        ):
            if not allowed:
                raise ValueError(
                    f"OptimizerConfig.{field} has to be {wanted}, got {getattr(self, field)}"
                )


def learning_rate(config: OptimizerConfig, total_steps: int) -> optax.Schedule:
    """The learning rate as a function of the step (from 0), over `total_steps` steps."""
    warmup_steps = round(config.warmup * total_steps)

    def schedule(step: Any) -> jax.Array:
        # Not step / warmup: the first step would not move.
        rise = jnp.minimum(1.0, (step + 1) / max(1, warmup_steps))
        done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
        left = 1 - jnp.clip(done, 0.0, 1.0)
        if config.schedule == "cosine":
            fall = 0.5 * (1 - jnp.cos(jnp.pi * left))
        elif config.schedule == "linear":
            fall = left
        elif config.schedule == "step":
            drops = jnp.array([round(m * total_steps) for m in config.milestones])
            fall = config.gamma ** jnp.sum(step >= drops)
        else:
            fall = 1.0
        return jnp.asarray(config.learning_rate * rise * fall, jnp.float32)

    return schedule


def build(
    config: OptimizerConfig,
    total_steps: int,
    wrapper: Wrapper = same,
) -> optax.GradientTransformation:
    """The optimizer for a training of `total_steps` steps.

    Clipping comes first, so that neither weight decay nor what `wrapper` adds, such as the gradient
    of a penalty, is ever clipped.
    """
    schedule = learning_rate(config, total_steps)
    if config.name == "sgd":
        update = optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=_kernels),
            optax.sgd(schedule, config.momentum or None, config.nesterov),
        )
    elif config.name == "adamw":
        update = optax.adamw(schedule, weight_decay=config.weight_decay, mask=_kernels)
    else:
        update = optax.contrib.muon(
            schedule,
            beta=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=_ADAMS_RMS,
        )
    update = wrapper(update)
    if config.clip_norm is None:
        return update
    clip = optax.masked(optax.clip_by_global_norm(config.clip_norm), _no_masks)
    return optax.chain(clip, update)


def _no_masks(params: Any) -> Any:
    """All leaves but the masks that a wrapper put among the parameters."""
    if weights_of(params) is params:
        return jax.tree.map(lambda _: True, params)
    return {WEIGHTS: True, MASKS: False}


# Of an Adam's updates, relative to the learning rate (Liu et al. 2025, arXiv 2502.16982).
_ADAMS_RMS = 0.2


def _matrices(params: Any) -> Any:
    """Kernels as matrices of all their input axes and the output axis, the last one; else None."""

    def matrix(p: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        inputs = tuple(range(jnp.ndim(p) - 1))
        return optax.contrib.MuonDimensionNumbers(inputs, len(inputs)) if inputs else None

    return jax.tree.map(matrix, params)


def _kernels(params: Any) -> Any:
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


def _rises_within_one(fractions: tuple[float, ...]) -> bool:
    inside = all(0 < f < 1 for f in fractions)
    return inside and all(a < b for a, b in itertools.pairwise(fractions))
