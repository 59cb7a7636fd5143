"""A pruned network as an ordinary Flax module again."""

from __future__ import annotations

from typing import Any

from jaxprune.graph import Pruned, paths


def from_pruned(module: Any, pruned: Pruned) -> Any:
    """The module whose variables are `pruned.variables`.

    `from_pruned(module, pruned).apply(pruned.variables, ...)` equals
    `pruned.wrap(module.apply)(pruned.variables, ...)`.

    Args:
      module: the shipped model whose `apply` was traced first, before any pruning.
      pruned: what `ChannelGraph.slice` or `prune` gave.

    Raises:
      ValueError: a module that has no `widths`, which `pruned.wrap` serves.
    """
    if not hasattr(module, "widths"):
        raise ValueError(
            f"from_pruned rebuilds the models of jaxprune.models, not a {type(module).__name__}; "
            "pruned.wrap(fn) runs any other pruned network"
        )
    shapes = {path: leaf.shape for path, leaf in paths.leaves(pruned.variables)}
    widths = {layer: shapes[f"params/{layer}/kernel"][-1] for layer in module.layers()}
    return module.clone(parent=None, widths=widths)
