"""Models, inputs and keywords that are named by a text, as on the command line."""

from __future__ import annotations

import ast
import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxprune import models
from jaxprune.frontends import functional
from jaxprune.graph import ChannelGraph, trace

_KINDS = (
    "it has to name a module of a supported library, (module, variables), (fn, variables), or a "
    "callable without arguments that gives one of these"
)


def named_graph(
    name: str,
    inputs: Sequence[jax.ShapeDtypeStruct],
    *,
    arguments: Mapping[str, Any] | None = None,
    protect: Sequence[str] = (),
    allow_inexact: bool = False,
) -> ChannelGraph:
    """The channel graph of a model that is named by a text: that of `named_network`.

    Args:
      name: as for `named_network`.
      inputs: likewise.
      arguments: likewise.
      protect: as for `jaxprune.trace`.
      allow_inexact: as for `jaxprune.trace`.

    Raises:
      ValueError: as `named_network`, or nothing in it can be pruned.
    """
    fn, variables, inputs = named_network(name, inputs, arguments)
    return trace(fn, variables, *inputs, protect=protect, allow_inexact=allow_inexact)


def named_network(
    name: str,
    inputs: Sequence[jax.ShapeDtypeStruct],
    arguments: Mapping[str, Any] | None = None,
) -> tuple[Callable[..., Any], Any, Sequence[jax.ShapeDtypeStruct]]:
    """A model that is named by a text: its function, variables or their shapes, and inputs.

    Nothing of the model is computed but what its own Python code computes: a Linen module or a
    Haiku transform without variables is initialised abstractly, by shapes alone.

    Args:
      name: `module:attribute`, where the attribute is a module of a supported library, a pair
        (module, variables) or (fn, variables), or a callable without arguments that gives one of
        these; or one of `jaxprune.models.NAMES`. The Python module is imported: its code runs.
      inputs: shape and type of every positional argument of the model. Of a shipped model one
        image's, (height, width, channels); a batch of one is traced.
      arguments: keywords that the model is called with, such as `train`. Of a shipped model options
        of `jaxprune.models.build`; `num_classes` is 1000 where it is not given.

    Raises:
      ValueError: there is no such model, it is none, or it fails on such inputs.
    """
    arguments = dict(arguments or {})
    keywords = dict(arguments or {})
    shown = f"{name} with input {describe(inputs)}"
    try:
        if ":" in name:
            fn, variables = _network(_attribute(name), inputs, keywords)
        else:
            inputs, module = _shipped(name, inputs, keywords)
            keywords = {}
            fn, variables = _network(module, inputs, keywords)
        fn = partial(fn, **keywords)
        jax.eval_shape(fn, variables, *inputs)
    except Exception as error:
        # The user's own code may raise anything.
        raise ValueError(f"{shown}: {_told(error)}") from error
    return fn, variables, inputs


def describe(inputs: Sequence[jax.ShapeDtypeStruct]) -> str:
    """Types and shapes as they were asked for, as a text: `float32[1,32,32,3]`."""
    return ", ".join(f"{i.dtype}[{','.join(map(str, i.shape))}]" for i in inputs)


def structs(shapes: Sequence[str], dtypes: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
    """The inputs that texts such as `1,32,32,3` and `float32` spell.

    Args:
      shapes: one for each input.
      dtypes: one for each input, one for all, or none: float32.

    Raises:
      ValueError: a text that spells no shape or type, or neither one type nor one for each input.
    """
    dtypes = dtypes or ["float32"]
    if len(dtypes) not in (1, len(shapes)):
        raise ValueError(f"{len(dtypes)} types for {len(shapes)} inputs; give one, or one for each")
    if len(dtypes) == 1:
        dtypes = [dtypes[0]] * len(shapes)
    return [
        jax.ShapeDtypeStruct(_shape(shape), _dtype(dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]


def keyword(text: str) -> tuple[str, Any]:
    """The keyword and the value that `train=False` or `shortcut=B` spells.

    The value is a Python literal, and where it is none a string.

    Raises:
      ValueError: it is not `key=value`.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise ValueError(f"{text!r} is no keyword argument; write key=value, as in train=False")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _shipped(
    name: str, inputs: Sequence[jax.ShapeDtypeStruct], options: Mapping[str, Any]
) -> tuple[list[jax.ShapeDtypeStruct], Any]:
    """A batch of one image, and the shipped model."""
    if name not in models.NAMES:
        raise ValueError(
            "no shipped model has this name; a model of your own is named module:attribute, a "
            f"shipped one by {', '.join(models.NAMES)}"
        )
    if len(inputs) != 1:
        raise ValueError(f"a shipped model has one input, not {len(inputs)}")
    image = inputs[0]
    module = models.build(name, **{"num_classes": 1000, "input_shape": image.shape, **options})
    return [jax.ShapeDtypeStruct((1, *image.shape), image.dtype)], module


def _attribute(name: str) -> Any:
    """What `module:attribute` names; the attribute may be dotted."""
    module, _, attribute = name.partition(":")
    try:
        return operator.attrgetter(attribute)(importlib.import_module(module))
    except ModuleNotFoundError as error:
        if f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"there is no Python module {error.name!r}, neither in the current directory nor "
                "among the installed packages"
            ) from error
        raise


def _network(
    found: Any, inputs: Sequence[Any], keywords: Mapping[str, Any], made: bool = False
) -> tuple[Callable[..., Any], Any]:
    """Function and variables of what was named, or of what that `made` when it was called."""
    if type(found) is tuple and len(found) == 2:  # A Haiku transform is a tuple of its own.
        try:
            return functional(*found)
        except TypeError:
            if callable(found[0]):
                return found
            raise
    # The classes of modules have what a module has.
    if not isinstance(found, type):
        init = getattr(found, "init", None)
        if init and hasattr(found, "apply") and getattr(found, "scope", None) is None:
            initialise = partial(init, **keywords)
            return functional(found, jax.eval_shape(initialise, jax.random.key(0), *inputs))
        try:
            return functional(found)
        except TypeError as error:
            if made or not callable(found):
                raise ValueError(
                    f"it is of type {type(found).__name__}, no model; {_KINDS}"
                ) from error
    try:
        given = found()
    except Exception as error:
        raise ValueError(f"calling it failed: {_told(error)}; {_KINDS}") from error
    return _network(given, inputs, keywords, made=True)


def _told(error: Exception) -> str:
    """The first line of an error, with its type where that says more than that a value is wrong."""
    line = next(iter(str(error).strip().splitlines()), "")
    return line if line and type(error) is ValueError else f"{type(error).__name__}: {line}"


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(size) for size in text.split(","))
    except ValueError:
        sizes = (0,)
    if min(sizes) < 1:
        raise ValueError(f"{text!r} is no shape; write sizes from 1 up, as in 1,32,32,3")
    return sizes


def _dtype(text: str) -> Any:
    try:
        return jnp.dtype(text)
    except TypeError as error:
        raise ValueError(f"{text!r} is no type; write one as float32, bfloat16 or int32") from error
