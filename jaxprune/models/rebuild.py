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
      ValueError: as `from_variables`; `pruned.wrap` serves any other module.
    """
    return from_variables(module, pruned.variables)


def from_variables(module: Any, variables: Any) -> Any:
    """The module with the widths of these variables, such as those of an exported pruned network.

    Args:
      module: the shipped model, of any widths.
      variables: of it, of any widths.

    Raises:
      ValueError: a module that has no `widths`, or variables of another one.
    """
    if not hasattr(module, "widths"):
        raise ValueError(
            f"only the models of jaxprune.models have widths, not a {type(module).__name__}; "
            "pruned.wrap(fn) runs any other pruned network"
        )
    shapes = {path: leaf.shape for path, leaf in paths.leaves(variables)}
    kernels = {layer: f"params/{layer}/kernel" for layer in module.layers()}
    if missing := [kernel for kernel in kernels.values() if kernel not in shapes]:
        raise ValueError(f"these are no variables of this {type(module).__name__}: no {missing[0]}")
    return module.clone(
        parent=None, widths={layer: shapes[kernel][-1] for layer, kernel in kernels.items()}
    )
