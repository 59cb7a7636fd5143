"""What a stranger gets wrong: each error names the thing and the way out."""

# pyright: reportArgumentType=false

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp

X, Y = jnp.ones((4, 6)), jnp.array([0, 1, 2, 0])
VARIABLES = {"params": {n: {"w": jnp.ones(s)} for n, s in {"a": (6, 8), "b": (8, 3)}.items()}}


def fn(variables, x):
    return jax.nn.relu(x @ variables["params"]["a"]["w"]) @ variables["params"]["b"]["w"]


@functools.cache
def graph():
    return jp.trace(fn, VARIABLES, X)


def prune(batches=((X, Y),), budget="params/2", method="l1", **options):
    key = options.pop("key", jax.random.key(0))
    return jp.prune(fn, VARIABLES, batches, budget=budget, method=method, key=key, **options)


def trace(variables=VARIABLES, *args, of=fn, **options):
    return jp.trace(of, variables, *(args or (X,)), **options)


class Net:
    def apply(self, variables, x):
        return x


A = "params/a/w[1]"
PARAMS = VARIABLES["params"]


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: graph().masks({"a": [1.5]}), ValueError, r"units 0 to 7, not \[1.5\]: masks\("),
        (lambda: graph().masks({"a": 3}), ValueError, "lists the units that fall"),
        (lambda: graph().masks({"a": np.eye(8)[0] > 0}), ValueError, "masks of 0 and 1 are used"),
        (lambda: graph().masks({"a": [-1]}), ValueError, r"units 0 to 7, not \[-1\]"),
        (lambda: graph().masks({"b": [1]}), ValueError, "'b' names no group: .*are fixed"),
        (lambda: graph().slice(VARIABLES, None), TypeError, "masks are a mapping .* not NoneType"),
        (lambda: graph().masked(fn)(VARIABLES, X), TypeError, r"masked\(fn\)\(variables, masks"),
        (lambda: graph().slice(VARIABLES, {A: np.full(8, 0.5)}), ValueError, "round them, mask >"),
        (lambda: trace(protect="c"), ValueError, "pattern 'c' matches nothing"),
        (lambda: trace(VARIABLES, X, True), TypeError, "takes 2 positional arguments.*partial"),
        (lambda: trace(of=Net()), TypeError, "an object of type Net .*jp.functional"),
        (lambda: trace({**VARIABLES, "name": "net"}), TypeError, "hold a str at 'name'"),
        (lambda: trace(state=lambda out: out["s"]), ValueError, "state= does not fit the output"),
        (
            lambda: trace({"a": PARAMS["a"]["w"]}, of=lambda v, x: {"a": v["a"] * x.sum()}),
            ValueError,
            "if these are new values of a, name them with state=",
        ),
        (lambda: jp.functional(Net), TypeError, "not the class Net"),
        (lambda: prune(budget=2), TypeError, "budget=2 is no budget: pass a string"),
        (lambda: prune(key=0), TypeError, r"pass jax.random.key\(0\)"),
        (lambda: prune(batches=(X, Y)), ValueError, r"single batch: .*\[\(inputs, labels\)\]"),
        (lambda: prune(batches=X), ValueError, r"single batch: .*\[\(inputs, labels\)\]"),
        (lambda: prune([(X, Y[:2])], method="taylor"), ValueError, r"labels of shape \(4,\) for"),
        (lambda: prune([(X, X[:, :3])], method="taylor"), ValueError, "integer labels"),
        (lambda: jp.Budget("params/2", limits={"a": 0.5}), ValueError, r"limits\['a'\]: 0.5"),
    ],
)
def test_an_error_names_the_thing_and_the_way_out(wrong, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        wrong()


def test_a_single_pattern_need_not_be_a_list():
    wide = {n: {"w": jnp.ones(s)} for n, s in {"stem": (6, 8), "b": (8, 8), "c": (8, 3)}.items()}

    def deep(variables, x):
        return x @ variables["stem"]["w"] @ variables["b"]["w"] @ variables["c"]["w"]

    assert list(jp.trace(deep, wide, X, protect="stem").groups) == ["b/w[1]"]
