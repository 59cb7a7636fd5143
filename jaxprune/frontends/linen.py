"""Flax Linen: a module with its variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn


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

    return fn, variables
