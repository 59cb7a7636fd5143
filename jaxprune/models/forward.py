"""From a module to variables and to the pure functions that training calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxprune.train.network import Network, Output


def init(module: nn.Module, input_shape: tuple[int, int, int], key: jax.Array) -> dict[str, Any]:
    """Fresh variables `{"params": ..., "batch_stats": ...}` of a shipped model.

    Args:
      module: from `build`.
      input_shape: of one image, (height, width, channels).
      key: of the random initialisation. The same key gives the same variables on the same kind of
        device.
    """
    return _init(module, input_shape, key)


# XLA unrolls Threefry anew for every kernel, which compiles for seconds; its own generator does
# not. Under jit the forward pass is dead code: only the initialisers run.
@partial(jax.jit, static_argnums=(0, 1))
def _init(module: nn.Module, input_shape: tuple[int, int, int], key: jax.Array) -> Any:
    rng = jax.random.wrap_key_data(jax.random.bits(key, (4,), jnp.uint32), impl="rbg")
    return module.init(rng, jnp.zeros((1, *input_shape)))


def network(module: nn.Module) -> Network:
    """The training-mode and the evaluation-mode function of a shipped model.

    Both are `(variables, images, key) -> Output`. In training mode BatchNorm normalises by the
    batch and `Output.state` holds its updated statistics; in evaluation mode it holds the
    statistics as they came. The key drives dropout; None will do for a model without.
    """

    def train(variables: Mapping[str, Any], images: jax.Array, key: jax.Array | None) -> Output:
        (logits, maps), state = module.apply(
            variables,
            images,
            train=True,
            maps=True,
            rngs=None if key is None else {"dropout": key},
            mutable=[name for name in variables if name != "params"],
        )
        return Output(logits, maps, dict(state))

    def evaluate(variables: Mapping[str, Any], images: jax.Array, key: jax.Array | None) -> Output:
        del key  # Nothing is drawn in evaluation mode.
        out: Any = module.apply(variables, images, maps=True)
        logits, maps = out
        state = {name: tree for name, tree in variables.items() if name != "params"}
        return Output(logits, maps, state)

    return Network(train, evaluate)


def features(module: nn.Module) -> Callable[[Any, jax.Array], tuple[jax.Array, jax.Array]]:
    """`(variables, images) → (logits [B, K], features [B, D])` of a shipped model.

    In evaluation mode; the features are what the last linear layer, `classifier`, reads.
    """

    def forward(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        read: list[jax.Array] = []

        def watch(call: Any, args: Any, keywords: Any, context: Any) -> Any:
            if context.module.name == "classifier":
                read.append(args[0])
            return call(*args, **keywords)

        with nn.intercept_methods(watch):
            logits: Any = module.apply(variables, images)
        return logits, read[0]

    return forward
