"""The shipped networks in their CIFAR forms, as functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

import jaxprune as jp
from jaxprune import models

SHAPE = (32, 32, 3)


class Shipped(NamedTuple):
    """A network in evaluation mode, and images for it."""

    module: Any
    fn: Callable[..., Any]
    variables: Any
    images: jax.Array


def shipped(name: str, batch: int) -> Shipped:
    """With the weights that one key gives."""
    module = models.build(name, num_classes=10, input_shape=SHAPE)
    fn, variables = jp.functional(module, models.init(module, SHAPE, jax.random.key(0)))
    images = jax.random.normal(jax.random.key(1), (batch, *SHAPE))
    return Shipped(module, fn, variables, images)
