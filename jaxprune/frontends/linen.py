"""Flax Linen: a module with its variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxprune.frontends.parts import MODULE, call_as_before
from jaxprune.graph import Pruned


def functional(module: nn.Module, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """`module.apply` as a pure function, and the variables.

    Args:
      module: any Linen module; a bound one (`module.bind(variables)`) brings its variables.
      variables: e.g. `{"params": ..., "batch_stats": ...}`.

    Raises:
      ValueError: no variables, and the module is not bound.
    """
    if module.scope is not None:
        module, bound = module.unbind()
        variables = bound if variables is None else variables
    if variables is None:
        raise ValueError(
            f"functional({type(module).__name__}(...)) needs the module's variables: pass "
            "functional(module, module.init(key, x)), or a bound module"
        )

    def fn(variables: Any, *args: Any, **kwargs: Any) -> Any:
        return module.apply(variables, *args, **kwargs)

    setattr(fn, MODULE, lambda pruned: SmallModule(module, pruned))
    return fn, variables


class SmallModule:
    """A pruned Linen module: `init` and `apply` as before, for the smaller variables.

    Linen itself refuses them: it compares the shape of each parameter with the one declared.
    """

    def __init__(self, module: nn.Module, pruned: Pruned):
        self.module = module
        self._pruned = pruned
        self._call = call_as_before(pruned, module.apply)

    def init(self, *args: Any, **kwargs: Any) -> Any:
        """Fresh variables of the pruned shapes; the pruned ones are `pruned.variables`."""
        return self._pruned.cut(self.module.init(*args, **kwargs))

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """`module.apply` on the smaller variables: `rngs`, `mutable` and all else as before."""
        return self._call(variables, *args, **kwargs)
