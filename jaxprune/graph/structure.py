"""Structure within kernels, as far as the engine has to know it: something that projects them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from jaxprune.graph import paths


class Structure(Protocol):
    """Which kernels of a shape there may be, as `jaxprune.kernels.blocks.Blocks` says it."""

    @property
    def order(self) -> Mapping[int, np.ndarray]:
        """Axis → the order in which its channels are taken, where it is another than they have."""
        ...

    def require(self, name: str, shape: Sequence[int]) -> None:
        """Refuses a kernel of a shape that it is not for.

        Raises:
          ValueError: it is not.
        """
        ...

    def project(self, kernel: jax.Array) -> jax.Array:
        """The nearest such kernel."""
        ...

    def mask(self, shape: Sequence[int]) -> np.ndarray:
        """Where a kernel has entries: bool, broadcast against its shape."""
        ...

    def contract(self, eqn: Any, values: Sequence[Any]) -> jax.Array | None:
        """What an equation gives whose second operand is such a kernel; None: run it as it is."""
        ...

    def words(self, shape: Sequence[int]) -> str:
        """What it is, in words."""
        ...

    def size(self, shape: Sequence[int]) -> int:
        """How many entries are not zero."""
        ...

    def storage(self, shape: Sequence[int], bits: int = 32) -> int:
        """Bytes of such a kernel in its small form."""
        ...


Structures = Mapping[str, Structure]
"""Kernel's path → its structure."""


def project(variables: Any, structures: Structures) -> Any:
    """The variables with their kernels projected."""
    if not structures:
        return variables
    leaves = [
        structures[path].project(leaf) if path in structures else leaf
        for path, leaf in paths.leaves(variables)
    ]
    return jax.tree.structure(variables).unflatten(leaves)


def require(structures: Structures, shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuses structures of kernels that there are not, or of other shapes.

    Raises:
      ValueError: there are such.
    """
    for path, structure in structures.items():
        if path not in shapes:
            raise ValueError(
                f"blocks of {path}, which is no variable of the network; there are "
                f"{paths.listed(list(shapes))}"
            )
        structure.require(path, shapes[path])


def fractions(structures: Structures, shapes: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Kernel's path → the fraction of its entries that are not zero."""
    return {
        path: structure.size(shapes[path]) / int(np.prod(shapes[path]))
        for path, structure in structures.items()
    }
