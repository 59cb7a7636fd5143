"""What the front ends share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxprune.graph import Pruned

# An attribute of `fn`: from a pruned network to a module like the one that `fn` was made of.
MODULE = "jaxprune_module"


def is_array(leaf: Any) -> bool:
    """Whether a leaf of a module is an array: JAX's or NumPy's."""
    return isinstance(leaf, (jax.Array, np.ndarray))


def call_as_before(pruned: Pruned, fn: Callable[..., Any]) -> Callable[..., Any]:
    """`fn` on the pruned variables, which may get arrays as keyword arguments too.

    A module's own call takes such (`rngs=`, `key=`, `mask=`), but keyword arguments of `fn` are
    static: those that hold arrays are passed as one more positional argument.
    """

    def bundled(variables: Any, args: tuple, arrays: Mapping[str, Any], **static: Any) -> Any:
        return fn(variables, *args, **arrays, **static)

    small = pruned.wrap(bundled)

    def call(variables: Any, *args: Any, **keywords: Any) -> Any:
        arrays = {k: v for k, v in keywords.items() if any(map(is_array, jax.tree.leaves(v)))}
        static = {k: v for k, v in keywords.items() if k not in arrays}
        return small(variables, args, arrays, **static)

    return call


def refuse_variables(module: Any, variables: Any) -> None:
    """A module that holds its own variables takes no others.

    Raises:
      ValueError: there are others.
    """
    if variables is not None:
        raise ValueError(
            f"{type(module).__name__} holds its own variables: call functional(module) alone"
        )
