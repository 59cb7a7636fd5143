"""Flax NNX: a module, which holds its variables.

The module that comes back trains with `nnx.Optimizer`, splits and nests as any:

>>> import jax
>>> import jaxprune as jp
>>> from flax import nnx
>>> from sklearn.datasets import load_digits
>>> images, labels = load_digits(return_X_y=True)
>>> linear = lambda i, o, seed: nnx.Linear(i, o, rngs=nnx.Rngs(seed))
>>> layers = [linear(64, 64, 0), nnx.relu, linear(64, 64, 1), nnx.relu]
>>> module = nnx.Sequential(*layers, linear(64, 10, 2))
>>> fn, variables = jp.functional(module)
>>> pruned = jp.prune(fn, variables, [(images[:256], labels[:256])], budget="params/2", method="l1",
...                   key=jax.random.key(1))
>>> small = pruned.module()
>>> logits = small(images)
>>> jp.save("pruned", pruned)
>>> small = jp.load("pruned").module(fn)                # as in another process, with `fn` as above
>>> small(images).shape
(1797, 10)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxprune.frontends.parts import MODULE, call_as_before, refuse_variables
from jaxprune.graph import Pruned


def functional(module: nnx.Module, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """A call of the module as `fn(variables, *args, train=False, **static)`.

    Args:
      module: any NNX module; it stays as it is.
      variables: None.

    Returns:
      The function, and the variables by collection (`params`, `batch_stats`, …) and path. The
      keys and counts of `nnx.Rngs` are among them, keys as integers. With `train=True` the function
      returns the output and the new values of all but the parameters.

    Raises:
      ValueError: there are variables.
    """
    refuse_variables(module, variables)
    modes = {}
    for train in (False, True):
        copy = nnx.clone(module)
        (copy.train if train else copy.eval)()
        modes[train] = nnx.graphdef(copy)
    like = nnx.state(module)

    def run(variables: Any, *args: Any, graphdef: Any, **kwargs: Any) -> Any:
        """The module's call, and all its variables after it."""
        live = nnx.merge(graphdef, _state(variables, like))
        out = live(*args, **kwargs)
        return out, _variables(nnx.state(live))

    def fn(variables: Any, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        out, new = run(variables, *args, graphdef=modes[train], **kwargs)
        return (out, {k: v for k, v in new.items() if k != "params"}) if train else out

    setattr(fn, MODULE, lambda pruned: SmallModule(module, run, pruned))
    return fn, _variables(like)


class SmallModule(nnx.Module):
    """A pruned NNX module, called, trained, split and put into others as any.

    Attributes:
      module: the module as it was, with the smaller variables; only this wrapper can call it.
    """

    def __init__(self, module: nnx.Module, run: Callable[..., Any], pruned: Pruned):
        self.module = nnx.clone(module)
        nnx.update(self.module, _state(pruned.variables, nnx.state(module)))
        self._run = _Call(call_as_before(pruned, run))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module was called with, in the mode (`train()`, `eval()`) that it is in."""
        graphdef, state = nnx.split(self.module)
        out, new = self._run(_variables(state), *args, graphdef=graphdef, **kwargs)
        # All but parameters can have changed.
        nnx.update(self.module, _state({k: v for k, v in new.items() if k != "params"}, state))
        return out


class _Call:
    """A function that NNX keeps as it is, compared by identity."""

    def __init__(self, call: Callable[..., Any]):
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)


def _variables(state: nnx.State) -> dict[str, dict[str, Any]]:
    """By collection and path; a random key as its integers, which can be saved and cut."""
    variables: dict[str, dict[str, Any]] = {"params": {}}
    for path, variable in nnx.to_flat_state(state):
        value = variable[...]
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        variables.setdefault(_collection(variable), {})["/".join(map(str, path))] = value
    return variables


def _state(variables: Any, like: nnx.State) -> nnx.State:
    """The reverse of `_variables`, for the collections that there are."""
    flat = []
    for path, variable in nnx.to_flat_state(like):
        if _collection(variable) in variables:
            value = variables[_collection(variable)]["/".join(map(str, path))]
            old = variable[...]
            if jnp.issubdtype(old.dtype, jax.dtypes.prng_key):
                value = jax.random.wrap_key_data(value, impl=jax.random.key_impl(old))
            flat.append((path, variable.replace(value)))
    return nnx.from_flat_state(flat)


def _collection(variable: nnx.Variable) -> str:
    """The name that Linen has for variables of this kind: `params` for `nnx.Param`."""
    return nnx.variable_name_from_type(type(variable), allow_register=True)
