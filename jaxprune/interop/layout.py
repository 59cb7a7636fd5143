"""Where each variable of a shipped model is in PyTorch: its name, its shape, its order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxprune import models
from jaxprune.graph import paths
from jaxprune.interop import names
from jaxprune.interop.names import Module
from jaxprune.models import VGG, ResNet

Zeros = Literal["around", "after"]
Orders = dict[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Variable:
    """A variable of a shipped model, and the same one in PyTorch.

    Attributes:
      name: there, such as `conv1.weight`.
      shape: there.
      flattened: the channels of the map that it reads flattened, if it does.
      writes: of each channel along its last axis here, the place there; None: the same.
      reads: of each channel along the axis before that, likewise.
    """

    name: str
    shape: tuple[int, ...]
    flattened: int | None
    writes: np.ndarray | None
    reads: np.ndarray | None

    def here(self, array: np.ndarray) -> np.ndarray:
        """From PyTorch's layout: (out, in, height, width), (out, in) or (channels,)."""
        if array.ndim == 4:
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:
            array = array.T
        if self.flattened:  # (channels, positions) there, (positions, channels) here
            parts = array.reshape(self.flattened, -1, array.shape[-1])
            array = parts.swapaxes(0, 1).reshape(array.shape)
        if self.writes is not None:
            array = array.take(self.writes, axis=-1)
        return array if self.reads is None else array.take(self.reads, axis=-2)

    def there(self, array: np.ndarray) -> np.ndarray:
        """From the layout here: (height, width, in, out), (in, out) or (channels,)."""
        if self.reads is not None:
            array = array.take(np.argsort(self.reads), axis=-2)
        if self.writes is not None:
            array = array.take(np.argsort(self.writes), axis=-1)
        if self.flattened:
            parts = array.reshape(-1, self.flattened, array.shape[-1])
            array = parts.swapaxes(0, 1).reshape(array.shape)
        return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


def shapes(module: Module, input_shape: tuple[int, int, int]) -> Any:
    """The shapes of a module's variables.

    Raises:
      ValueError: widths that a residual sum cannot have.
    """
    return jax.eval_shape(lambda key: models.init(module, input_shape, key), jax.random.key(0))


def variables(
    module: Module, tree: Any, layers: dict[str, str], zeros: Zeros = "around"
) -> list[Variable]:
    """What is what, in the order of the leaves of `tree`, which has the variables' shapes.

    Args:
      module: the model.
      tree: from `shapes`.
      layers: from `names.layers`.
      zeros: where shortcut "A" has its zeros there.
    """
    found = [(path, tuple(leaf.shape)) for path, leaf in paths.leaves(tree)]
    flattened = {}
    if isinstance(module, VGG) and module.hidden:
        last = names.last_convolution(module)
        flattened["fc1"] = dict(found)[f"params/{last}/kernel"][-1]
    writes, reads = _orders(module, dict(found), zeros) if isinstance(module, ResNet) else ({}, {})
    return [
        Variable(
            name=f"{layers[layer]}.{names.LEAVES[leaf]}",
            shape=(*shape[:-3:-1], *shape[:-2]),  # (out, in, height, width)
            flattened=flattened.get(layer) if leaf == "kernel" else None,
            writes=writes.get(layer),
            reads=reads.get(layer) if leaf == "kernel" else None,
        )
        for path, shape in found
        for layer, leaf in [split(path)]
    ]


def split(path: str) -> tuple[str, str]:
    """The layer and the leaf of a variable's path."""
    layer, _, leaf = path.partition("/")[2].rpartition("/")
    return layer, leaf


def zeros_around(narrow: int, wide: int) -> tuple[int, int]:
    """How many channels shortcut "A" adds before and after those there are, in PyTorch."""
    before = (wide - narrow) // 2
    return before, wide - narrow - before


def padded(module: ResNet, tree: Any) -> Iterator[tuple[str, int, int]]:
    """The blocks with shortcut "A": name, and how many channels go in and come out."""
    found = {path: leaf.shape for path, leaf in paths.leaves(tree)}
    last = names.convolutions(module)
    for s, blocks in enumerate(module.block_names()):
        for b, block in enumerate(blocks):
            if module.shortcut_of(s, b) == "A":
                yield (
                    block,
                    found[f"params/{block}/conv1/kernel"][-2],
                    found[f"params/{block}/conv{last}/kernel"][-1],
                )


def _orders(
    module: ResNet, found: dict[str, tuple[int, ...]], zeros: Zeros
) -> tuple[Orders, Orders]:
    """The places in PyTorch of the channels that layers write and read, where they differ.

    Shortcut "A" puts the channels that there are first here. In PyTorch, zeros go before and after
    them; which of the added channels those are is free.
    """
    if module.shortcut == "B" or zeros == "after":
        return {}, {}
    writes: Orders = {}
    reads: Orders = {}
    last = f"conv{names.convolutions(module)}"
    order = np.arange(found["params/conv1/kernel"][-1])
    for s, blocks in enumerate(module.block_names()):
        for b, block in enumerate(blocks):
            reads[f"{block}/conv1"] = order
            if module.shortcut_of(s, b) == "A":
                wide = found[f"params/{block}/{last}/kernel"][-1]
                before, _ = zeros_around(len(order), wide)
                there = before + order
                order = np.concatenate([there, np.setdiff1d(np.arange(wide), there)])
            writes[f"{block}/{last}"] = writes[f"{block}/{names.norm_of(last)}"] = order
    return writes, reads | {"classifier": order}
