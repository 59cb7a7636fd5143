"""Kept tiles under the orders of channels, as blocks, with what can be folded of the orders folded.

The order of a group goes into every variable on which its channels lie (`graph.permute`); what a
kernel's axis is then still away from its own order stays in `Blocks.order`, and is gathered at run
time.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jaxprune.graph import ChannelGraph
from jaxprune.graph.permute import positions
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods.tiled import Kernel
from jaxprune.search.orders import Keep, Layer, Orders, lost, natural, tiles


def blocks_of(kernel: Kernel, layer: Layer, orders: Orders, keep: Keep) -> Blocks:
    """The kept tiles as blocks of the kernel as it is, with the orders of both of its axes.

    Args:
      kernel: the kernel.
      layer: its matrix of channels read × written, with its tiles.
      orders: of the layer's rows and columns.
      keep: which tiles stay.
    """
    kept = keep(tiles(layer, orders), layer.count)
    if kernel.reads > kernel.writes:
        kept = kept.T
    grid = [1] * len(kernel.shape)
    low, high = sorted((kernel.reads, kernel.writes))
    grid[low], grid[high] = kept.shape
    order = {kernel.reads: orders[layer.rows], kernel.writes: orders[layer.columns]}
    return Blocks(kernel.sides(layer.sides), kept.reshape(grid), None, order)


def fold(
    graph: ChannelGraph, blocks: Mapping[str, Blocks], orders: Orders
) -> tuple[dict[str, Blocks], dict[str, np.ndarray]]:
    """The blocks of the network after `graph.permute`, and the orders that it is given.

    Args:
      graph: of the network.
      blocks: by kernel, with the orders of the network as it is.
      orders: by group; those under other names are a kernel's alone and cannot be folded.
    """
    folded = {name: order for name, order in orders.items() if name in graph.groups}
    places = positions(graph.groups, graph.shapes, folded)
    found = {}
    for path, whole in blocks.items():
        left = {}
        for axis, order in whole.order.items():
            moved = places.get(path, {}).get(axis)
            after = order if moved is None else np.argsort(moved)[order]
            side = whole.sides[axis]
            # Within a tile the order says nothing.
            after = np.concatenate(
                [np.sort(after[i : i + side]) for i in range(0, len(after), side)]
            )
            if not np.array_equal(after, np.arange(len(after))):
                left[axis] = after
        found[path] = whole._replace(order=left)
    return found, folded


def masses(
    layers: Mapping[str, Layer], unpruned: Mapping[str, Layer], orders: Orders, keep: Keep
) -> dict[str, dict[str, float]]:
    """The part of the unpruned magnitudes in the tiles that stay, and in the best unpivoted.

    Args:
      layers: of the network whose tiles were chosen.
      unpruned: the same of the network before.
      orders: of their rows and columns.
      keep: which tiles stay.

    Returns:
      `mass` and `mass_unpivoted`, by kernel.
    """
    first = natural(layers.values())
    kept = {
        path: tiles(unpruned[path], orders)[keep(tiles(layer, orders), layer.count)].sum()
        for path, layer in layers.items()
    }
    return {
        "mass": {path: float(mass) for path, mass in kept.items()},
        "mass_unpivoted": {p: 1 - lost([layer], first, keep) for p, layer in unpruned.items()},
    }
