"""From a module of a neural-network library to a pure function and its variables."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# The package in which a library defines its modules, and the front end that reads them. Each is
# imported only when such a module arrives, so that none of the libraries is needed for another.
_FRONTENDS = {"flax.linen": "jaxprune.frontends.linen"}


def functional(module: Any, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """A module as `(fn, variables)` for `jaxprune.trace` and everything after it.

    Args:
      module: a Flax Linen module.
      variables: of a Linen module, as its `init` gives them; a bound module brings its own.

    Returns:
      The pure function `fn(variables, *args, **static_kwargs)` and the variables.

    Raises:
      TypeError: a module of no supported kind.
      ValueError: a Linen module without variables.
    """
    for cls in type(module).__mro__:
        for package, frontend in _FRONTENDS.items():
            if f"{cls.__module__}.".startswith(f"{package}."):
                return importlib.import_module(frontend).functional(module, variables)
    raise TypeError(
        f"functional() has no front end for {type(module).__module__}.{type(module).__qualname__}; "
        f"there are front ends for modules of: {', '.join(_FRONTENDS)}. Any other network works "
        "without one: pass a pure function fn(variables, *args) and its variables to trace()"
    )
