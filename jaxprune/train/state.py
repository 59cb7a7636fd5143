"""What a training is configured by, and what it changes."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from jaxprune.train.optimizer import OptimizerConfig, build
from jaxprune.wrappers import Wrapper, same


@dataclass(frozen=True)
class TrainConfig:
    """One training: how long, with what optimizer, on which views of the images."""

    epochs: float = 100.0
    """Passes over the training images; a fraction is fine, 0 trains nothing."""

    batch_size: int = 128
    """Images a step; the rest of an epoch that fills no batch is left out."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The optimizer and its learning rate."""

    crop_padding: int = 4
    """Pixels of reflected border that random crops may shift into; 0 crops nothing."""

    flip: bool = True
    """Whether half of the images are mirrored left to right."""

    alternating: bool = False
    """Whether flips alternate: an image mirrored in one epoch is not in the next, and so on.
    Only of images that are held in memory."""

    cutout: int = 0
    """Side of a square of zeros somewhere in each image; 0 cuts nothing out."""

    small_crops: float = 0.0
    """Fraction of the training, from its start, on random crops of `small_size` without border.
    They take less time; not for networks that take images of one size only."""

    small_size: int = 24
    """Height and width of these crops."""

    average: float = 0.0
    """Decay, a step, of an average of the weights and statistics; 0.999 for a thousand steps or so.
    The last step leaves the average in their place. 0: none."""

    label_smoothing: float = 0.0
    """Part of each label's mass that is spread evenly over all classes."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """What the networks compute in; weights, statistics, optimizer and losses stay float32."""

    def __post_init__(self):
        for name, allowed, wanted in (
            ("epochs", self.epochs >= 0, "at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("crop_padding", self.crop_padding >= 0, "at least 0"),
            ("cutout", self.cutout >= 0, "at least 0"),
            ("small_crops", 0 <= self.small_crops <= 1, "a fraction in [0, 1]"),
            ("small_size", self.small_size >= 1, "at least 1"),
            ("average", 0 <= self.average < 1, "in [0, 1)"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "in [0, 1)"),
            ("precision", self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
        ):
            if not allowed:
                raise ValueError(
                    f"TrainConfig.{name} has to be {wanted}, got {getattr(self, name)!r}"
                )


class Averaged(NamedTuple):
    """The optimizer's state, and the average of the variables so far."""

    inner: Any
    variables: Any


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("step", "params", "state", "opt_state"),
    meta_fields=(),
)
@dataclass(frozen=True)
class TrainState:
    """Everything that training changes; with the seed, everything that it needs to go on.

    Attributes:
      step: int32 scalar, the number of steps done.
      params: the trained weights.
      state: the collections beside `params`, e.g. `{"batch_stats": ...}`.
      opt_state: the optimizer's, and that of its wrapper around it; an `Averaged` of it where
        `TrainConfig.average` asks for one.
    """

    step: Any
    params: Any
    state: dict[str, Any]
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """`{"params": ..., **state}`, as the networks take them."""
        return {"params": self.params, **self.state}


def total_steps(config: TrainConfig, num_examples: int) -> int:
    """Steps of a whole training, at least one unless `epochs` is 0.

    Raises:
      ValueError: fewer examples than one batch.
    """
    per_epoch = num_examples // config.batch_size
    if per_epoch == 0:
        raise ValueError(
            f"TrainConfig.batch_size is {config.batch_size}, but there are only {num_examples} "
            "training images"
        )
    return max(1, round(config.epochs * per_epoch)) if config.epochs else 0


def initial_state(
    variables: Any,
    config: TrainConfig,
    optimizer: Wrapper = same,
) -> TrainState:
    """The state before the first step; under `jax.eval_shape`, its shapes to restore into.

    `optimizer` is the wrapper that `fit` is given.

    Raises:
      ValueError: variables without a `params` collection.
    """
    if not isinstance(variables, dict) or "params" not in variables:
        raise ValueError('training takes variables of the form {"params": ..., **state}')
    params = variables["params"]
    state = {name: tree for name, tree in variables.items() if name != "params"}
    # The number of steps shapes the schedule alone, no buffer.
    opt_state = build(config.optimizer, 1, optimizer).init(params)
    if config.average:
        opt_state = Averaged(opt_state, variables)
    return TrainState(jnp.zeros((), jnp.int32), params, state, opt_state)
