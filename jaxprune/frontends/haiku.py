"""Haiku: `hk.transform` and `hk.transform_with_state` with their parameters and state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from jaxprune.frontends.parts import MODULE, call_as_before
from jaxprune.graph import Pruned

Transformed = hk.Transformed | hk.TransformedWithState


def functional(transformed: Transformed, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """`transformed.apply` as `fn(variables, *args, mutable=False, **static)`.

    `mutable=True` asks for `(output, {"state": new_state})` instead of the output alone. No random
    key is given: for dropout in training wrap a function of your own, which takes one.

    Args:
      transformed: what `hk.transform` or `hk.transform_with_state` gave.
      variables: what its `init` gave: `params`, or `(params, state)`; or a dict of these, as here
        returned.

    Returns:
      The function and `{"params": params, "state": state}`.

    Raises:
      ValueError: no variables, or no state.
      TypeError: something else that Haiku made.
    """
    if not isinstance(transformed, Transformed):
        raise TypeError(f"functional() takes a Haiku transform, not a {type(transformed).__name__}")
    stateful = isinstance(transformed, hk.TransformedWithState)
    if variables is None:
        wanted = "(params, state)" if stateful else "params"
        raise ValueError(f"functional(transformed, {wanted}) needs what transformed.init gave")
    if not stateful and not (isinstance(variables, Mapping) and set(variables) == {"params"}):
        variables = {"params": variables}
    elif stateful and not isinstance(variables, Mapping):
        params, state = variables
        variables = {"params": params, "state": state} if state else {"params": params}
    elif stateful and "params" not in variables:
        raise ValueError("functional(transformed, (params, state)) needs the state, too")
    # As `hk.without_apply_rng` leaves it, `apply` takes no key.
    keyed = "rng" in inspect.signature(transformed.apply).parameters

    def apply(variables: Any, rng: jax.Array | None, *args: Any, **kwargs: Any) -> Any:
        args = (rng, *args) if keyed else args
        if not stateful:
            return transformed.apply(variables["params"], *args, **kwargs), {}
        state = _tied(variables.get("state", {}))
        return transformed.apply(variables["params"], state, *args, **kwargs)

    def fn(variables: Any, *args: Any, mutable: bool = False, **kwargs: Any) -> Any:
        out, state = apply(variables, None, *args, **kwargs)
        return (out, {"state": state}) if mutable else out

    def small(pruned: Pruned) -> Transformed:
        made, held = _small(transformed, apply, pruned), 2 if stateful else 1
        if keyed:
            return made
        return made._replace(
            apply=lambda *args, **kw: made.apply(*args[:held], None, *args[held:], **kw)
        )

    setattr(fn, MODULE, small)
    return fn, variables


def _small(transformed: Transformed, apply: Callable[..., Any], pruned: Pruned) -> Transformed:
    """The pair of functions again: `init` gives fresh variables of the pruned shapes."""
    call = call_as_before(
        pruned, lambda v, rng, *args, **kw: _named_state(apply(v, rng, *args, **kw))
    )

    def with_state(params: Any, state: Any, rng: Any, *args: Any, **kwargs: Any) -> Any:
        variables = {"params": params, "state": state} if state else {"params": params}
        out, new = call(variables, rng, *args, **kwargs)
        return out, new["state"]

    def init(rng: Any, *args: Any, **kwargs: Any) -> Any:
        return pruned.cut(transformed.init(rng, *args, **kwargs))

    if isinstance(transformed, hk.TransformedWithState):
        return hk.TransformedWithState(init, with_state)
    return hk.Transformed(
        init, lambda params, rng, *args, **kw: with_state(params, {}, rng, *args, **kw)[0]
    )


def _tied(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state, with each `hk.ExponentialMovingAverage`'s sum and average seen as one channel.

    In evaluation it reads the average alone; a sum that keeps its channels would not fit later.
    """
    tied = {}
    for module, values in state.items():
        tied[module] = dict(values)
        if "hidden" in values and jnp.shape(values["hidden"]) == jnp.shape(values.get("average")):
            # Always the average: the sum is named in the equation, never taken.
            tied[module]["average"] = jnp.where(False, values["hidden"], values["average"])
    return tied


def _named_state(out: tuple[Any, Any]) -> Any:
    """The new state under its name in the variables, by which it is known."""
    return out[0], {"state": out[1]}
