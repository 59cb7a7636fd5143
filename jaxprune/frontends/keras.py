"""Keras 3 on the JAX backend: a built model, which holds its variables.

So all of `keras.applications` can be pruned. What comes back is a `keras.Model` with `compile`,
`fit` and `predict`. Where KERAS_BACKEND is `jax` before Keras is imported:

>>> import jax
>>> import jaxprune as jp
>>> import keras
>>> from sklearn.datasets import load_digits
>>> images, labels = load_digits(return_X_y=True)
>>> layers = [keras.layers.Dense(64, "relu", name=name) for name in ("first", "next")]
>>> model = keras.Sequential([*layers, keras.layers.Dense(10, name="out")], name="net")
>>> model.build((None, 64))
>>> fn, variables = jp.functional(model)
>>> pruned = jp.prune(fn, variables, [(images[:256], labels[:256])], budget="params/2", method="l1",
...                   key=jax.random.key(1))
>>> small = pruned.module()
>>> logits = small.predict(images, verbose=0)
>>> jp.save("pruned", pruned)
>>> small = jp.load("pruned").module(fn)                # as in another process, with `fn` as above
>>> small.predict(images, verbose=0).shape
(1797, 10)

Keras numbers unnamed layers within a process: name them, or call `keras.utils.clear_session()`
before the model is built, and a saved network is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras

from jaxprune.frontends.parts import MODULE, call_as_before, refuse_variables
from jaxprune.graph import Pruned


def functional(model: keras.Model, variables: Any = None) -> tuple[Callable[..., Any], Any]:
    """`model.stateless_call` as `fn(variables, *args, train=False, **static)`.

    Args:
      model: any built model or layer. It stays as it is.
      variables: None.

    Returns:
      The function, and the variables by path: `params`, the trainable ones, and `state`, all
      others. With `train=True` the result is `(output, {"state": new_state})`.

    Raises:
      ValueError: another backend than JAX; a model that is not built; there are variables.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=jax before it is imported"
        )
    refuse_variables(model, variables)
    if not model.built:
        raise ValueError(f"{model.name} is not built: call it on an example first")
    trainable, others = _names(model.trainable_variables), _names(model.non_trainable_variables)

    def run(variables: Any, *args: Any, training: bool, **kwargs: Any) -> Any:
        """The model's call, and its variables that are not trained after it."""
        out, state, *_ = model.stateless_call(
            [variables["params"][name] for name in trainable],
            [variables["state"][name] for name in others],
            *args,
            training=training,
            **kwargs,
        )
        return out, {"state": dict(zip(others, state, strict=True))}

    def fn(variables: Any, *args: Any, train: bool = False, **kwargs: Any) -> Any:
        out, state = run(variables, *args, training=train, **kwargs)
        return (out, state) if train else out

    setattr(fn, MODULE, lambda pruned: SmallModel(model, run, pruned))
    return fn, {
        "params": dict(zip(trainable, _copies(model.trainable_variables), strict=True)),
        "state": dict(zip(others, _copies(model.non_trainable_variables), strict=True)),
    }


class SmallModel(keras.Model):
    """A pruned Keras model: called, fitted and evaluated as any.

    Its weights are saved with `save_weights`; its architecture is the first model's, cut.
    """

    def __init__(self, model: keras.Model, run: Callable[..., Any], pruned: Pruned):
        super().__init__(name=f"{model.name}_pruned")
        self._small = call_as_before(pruned, run)
        self._held: dict[str, dict[str, keras.Variable]] = {}
        for collection, values in pruned.variables.items():
            self._held[collection] = {}
            for name, value in values.items():
                self._held[collection][name] = self.add_weight(
                    name=name.replace("/", "_"),
                    shape=value.shape,
                    dtype=str(value.dtype),
                    trainable=collection == "params",
                    initializer="zeros",
                )
                self._held[collection][name].assign(jnp.array(value))
        self.built = True

    def call(self, *args: Any, training: bool = False, **kwargs: Any) -> Any:
        """What the model was called with; a state (moving averages) is updated in training."""
        values = {c: {n: v.value for n, v in held.items()} for c, held in self._held.items()}
        out, new = self._small(values, *args, training=bool(training), **kwargs)
        if training:
            for name, value in new["state"].items():
                self._held["state"][name].assign(value)
        return out


def _names(variables: Sequence[keras.Variable]) -> list[str]:
    """Their paths, where two are alike with a number behind."""
    names: list[str] = []
    for variable in variables:
        name, n = variable.path, 1
        while name in names:
            n += 1
            name = f"{variable.path}_{n}"
        names.append(name)
    return names


def _copies(variables: Sequence[keras.Variable]) -> list[jax.Array]:
    """Keras donates a model's own arrays when it fits it."""
    return [jnp.array(variable.value) for variable in variables]
