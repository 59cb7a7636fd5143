"""From a module of a neural-network library to a pure function and its variables, and back.

`functional` turns a module into a pure function and its variables; `pruned.module()` turns what was
pruned into such a module again, called as before.

- `fn` may take several inputs and dictionaries, and return them; positional arguments are traced,
  keyword arguments static. `pruned.module()` takes arrays by keyword as well (`rngs=`, `key=`).
- Variables are `{"params": ..., ...}` with "/"-joined paths, so patterns such as
  `protect=["head"]` name layers, with all below them, in every library.
- An Equinox module and its function take one example: for batches prune
  `lambda v, x: jax.vmap(fn, in_axes=(None, 0))(v, x)`, and pass `fn` to `pruned.module(fn)`.
- A saved network is read with `jaxprune.load`; `pruned.module(fn)` then takes the function of a
  module that is built as the unpruned one was.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# The package in which a library defines its modules, and the front end that reads them. Each is
# imported only when such a module arrives, so that none of the libraries is needed for another.
_FRONTENDS = {
    "flax.linen": "linen",
    "flax.nnx": "nnx",
    "haiku": "haiku",
    "equinox": "equinox",
    "keras": "keras",
}


def functional(module: Any, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """A module as `(fn, variables)` for `jaxprune.trace` and everything after it.

    `fn` runs in evaluation mode unless it is told otherwise, and keeps in mind what it was made of:
    `pruned.module()` of a network that was traced from it is such a module again, only smaller.

    Args:
      module: a Flax Linen or NNX module, a Haiku transform, an Equinox module, or a Keras model
        on the JAX backend.
      variables: what such a module does not hold itself. Linen: the variables, as `init` gives
        them; a bound module brings its own. Haiku: `(params, state)`, or `params` for a
        transform without state. Equinox: the `eqx.nn.State`, where the module has one. NNX and
        Keras: nothing.

    Returns:
      The pure function `fn(variables, *args, **static_kwargs)` and the variables: of all but Linen
      and Haiku a dict of collections, `params` first, from "/"-joined paths to arrays. Further
      keywords: NNX, Keras, and Equinox with a state take `train=True` and Haiku
      `mutable=True`; the result is then `(output, new_state)`, with the state under the names that
      it has in the variables.

    Raises:
      TypeError: a module of no supported kind, or the class of one.
      ValueError: a module without its variables, or with variables where it has its own.
    """
    if isinstance(module, type):
        raise TypeError(f"functional() takes a module, not the class {module.__name__}: make one")
    for cls in type(module).__mro__:
        for package, frontend in _FRONTENDS.items():
            if f"{cls.__module__}.".startswith(f"{package}."):
                name = f"jaxprune.frontends.{frontend}"
                return importlib.import_module(name).functional(module, variables)
    raise TypeError(
        f"functional() has no front end for {type(module).__module__}.{type(module).__qualname__}; "
        f"there are front ends for modules of: {', '.join(_FRONTENDS)}. Any other network works "
        "without one: pass a pure function fn(variables, *args) and its variables to trace()"
    )
