"""What holds for the modules of every library, on one small network in each."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

os.environ["KERAS_BACKEND"] = "jax"

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxprune as jp

X = jax.random.normal(jax.random.key(9), (4, 6, 6, 3))


@dataclass
class Case:
    """A convolution of 8 channels, BatchNorm and a linear layer.

    `fn` and `train` take a batch, `made` is what `functional` gave; `call` calls what comes back.
    """

    made: Any
    variables: Any
    group: str
    state: set[str]
    train: Any
    call: Any
    fn: Any = None

    def __post_init__(self):
        self.fn = self.fn or self.made


def linen() -> Case:
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, train=False):
            x = nn.relu(nn.BatchNorm(not train, name="norm")(nn.Conv(8, (3, 3), name="conv")(x)))
            return nn.Dense(5)(x.mean((1, 2)))

    fn, variables = jp.functional(Net(), Net().init(jax.random.key(0), X))
    return Case(
        fn, variables, "params/conv/kernel[3]", {"batch_stats/norm/mean", "batch_stats/norm/var"},
        train=functools.partial(fn, train=True, mutable=("batch_stats",)),
        call=lambda small, pruned: small.apply(pruned.variables, X),
    )  # fmt: skip


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.out = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        return self.out(self.drop(nnx.relu(self.norm(self.conv(x))).mean((1, 2))))


def flax_nnx() -> Case:
    fn, variables = jp.functional(NNXNet(nnx.Rngs(0)))

    def call(small, pruned):
        small.eval()
        return small(X)

    return Case(
        fn, variables, "params/conv/kernel[3]",
        {"batch_stats/norm/mean", "batch_stats/norm/var",
         "RngCount/drop/rngs/count", "RngKey/drop/rngs/key"},
        train=functools.partial(fn, train=True), call=call,
    )  # fmt: skip


def haiku() -> Case:
    hk = pytest.importorskip("haiku")

    def forward(x, is_training=False):
        x = hk.BatchNorm(True, True, 0.9, name="norm")(hk.Conv2D(8, 3, name="conv")(x), is_training)
        return hk.Linear(5)(jax.nn.relu(x).mean((1, 2)))

    transformed = hk.transform_with_state(forward)
    fn, variables = jp.functional(transformed, transformed.init(jax.random.key(0), X, True))

    def call(small, pruned):
        params, state = pruned.variables["params"], pruned.variables["state"]
        return small.apply(params, state, None, X)[0]

    averages = {f"state/norm/~/{m}_ema/{v}" for m in ("mean", "var")
                for v in ("average", "hidden", "counter")}  # fmt: skip
    return Case(
        fn, variables, "params/conv/w[3]", averages,
        train=functools.partial(fn, is_training=True, mutable=True), call=call,
    )  # fmt: skip


def equinox() -> Case:
    eqx = pytest.importorskip("equinox")

    class Net(eqx.Module):
        conv: eqx.nn.Conv2d
        norm: eqx.nn.BatchNorm
        out: eqx.nn.Linear

        def __init__(self, key):
            self.conv = eqx.nn.Conv2d(3, 8, 3, key=key)
            self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
            self.out = eqx.nn.Linear(8, 5, key=key)

        def __call__(self, x, state):
            x, state = self.norm(self.conv(jnp.moveaxis(x, -1, 0)), state)
            return self.out(jax.nn.relu(x).mean((1, 2))), state

    made, variables = jp.functional(*eqx.nn.make_with_state(Net)(jax.random.key(0)))

    def train(variables, x):
        each = functools.partial(made, train=True)
        return jax.vmap(each, (None, 0), (0, None), axis_name="batch")(variables, x)

    def call(small, pruned):
        small, state = small
        return jax.vmap(eqx.nn.inference_mode(small), (0, None), (0, None))(X, state)[0]

    return Case(
        made, variables, "params/conv/weight[0]",
        {"state/norm/batch_counter", "state/norm/batch_state_index/0",
         "state/norm/batch_state_index/1"},
        train=train, call=call, fn=jax.vmap(made, (None, 0)),
    )  # fmt: skip


def keras() -> Case:
    if not importlib.util.find_spec("keras"):
        pytest.skip("keras is not installed")
    import keras

    keras.utils.clear_session()  # unnamed layers are numbered within a process
    layers = keras.layers
    stack = [
        layers.Input((6, 6, 3)), layers.Conv2D(8, 3, name="conv"),
        layers.BatchNormalization(name="norm"), layers.ReLU(), layers.GlobalAveragePooling2D(),
        layers.Dropout(0.5, seed=0), layers.Dense(5, name="out"),
    ]  # fmt: skip
    fn, variables = jp.functional(keras.Sequential(stack, name="net"))
    return Case(
        fn, variables, "params/net/conv/kernel[3]",
        {"state/net/norm/moving_mean", "state/net/norm/moving_variance",
         "state/seed_generator/seed_generator_state"},
        train=functools.partial(fn, train=True), call=lambda small, pruned: small(X),
    )  # fmt: skip


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in leaves}


@pytest.fixture(params=[linen, flax_nnx, haiku, equinox, keras], ids=lambda f: f.__name__)
def case(request):
    return request.param()


def test_a_module_goes_in_and_a_smaller_one_comes_back(case, tmp_path):
    graph = jp.trace(case.fn, case.variables, X)
    assert list(graph.groups) == [case.group]
    masks = graph.masks({case.group: [0, 3, 4]})
    pruned = graph.slice(case.variables, masks)
    expected = graph.masked(case.fn)(case.variables, masks, X)
    assert not np.allclose(expected, case.fn(case.variables, X), atol=1e-3)

    small = pruned.module(None if case.fn is case.made else case.made)
    np.testing.assert_allclose(case.call(small, pruned), expected, atol=1e-6)

    jp.save(tmp_path / "pruned", pruned)
    loaded = jp.load(tmp_path / "pruned")
    with pytest.raises(ValueError, match=r"jp\.functional\(module\)"):
        loaded.module()
    reloaded = loaded.module(case.made)
    np.testing.assert_allclose(case.call(reloaded, loaded), expected, atol=1e-6)


def test_in_training_mode_the_new_state_comes_out_cut(case):
    graph = jp.trace(case.fn, case.variables, X)
    masks = graph.masks({case.group: [0, 3, 4]})
    pruned = graph.slice(case.variables, masks)
    _, state = pruned.wrap(case.train)(pruned.variables, X)
    assert set(named(state)) == case.state
    expected = pruned.cut_state(graph.masked(case.train)(case.variables, masks, X))[1]
    old, expected = named(pruned.variables), named(expected)
    for name, value in named(state).items():
        assert value.shape == old[name].shape
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5, err_msg=name)
    moved = [n for n, value in named(state).items() if not np.allclose(value, old[n])]
    assert any("mean" in n or "batch_state_index/0" in n for n in moved)


def test_a_network_of_a_bare_function_has_no_module():
    variables = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    graph = jp.trace(lambda v, x: x @ v["a"] @ v["b"], variables, jnp.ones((1, 3)))
    with pytest.raises(ValueError, match=r"pruned\.wrap\(fn\)"):
        graph.slice(variables, graph.full_masks()).module()


def test_a_bare_function_of_all_kinds_of_inputs():
    table = jnp.arange(24.0).reshape(3, 8) / 24  # captured

    def fn(variables, inputs, keep):
        x = inputs["image"] @ variables["shared"] + table[inputs["kind"]]
        x = jnp.where(keep[:, None], jax.nn.relu(x), 0)
        return {"a": x @ variables["a"], "b": (x @ variables["a"] + inputs["image"], x.sum())}

    keys = jax.random.split(jax.random.key(0), 3)
    variables = {
        "shared": jax.random.normal(keys[0], (5, 8)),
        "a": jax.random.normal(keys[1], (8, 5)),
        "unused": jax.random.normal(keys[2], (8, 8)),
    }
    inputs = {"image": jnp.ones((4, 5)), "kind": jnp.arange(4) % 3}
    keep = jnp.array([True, False, True, True])
    graph = jp.trace(fn, variables, inputs, keep)
    assert {name: group.size for name, group in graph.groups.items()} == {"shared[1]": 8}
    assert "not used" in graph.fixed["unused[0]"]
    assert graph.check(fn, variables, inputs, keep).ok


def test_no_library_is_imported_that_the_user_did_not():
    code = """
import sys, jaxprune as jp
try:
    jp.functional(object())
except TypeError:
    pass
assert not {"keras", "haiku", "equinox"} & set(sys.modules), sys.modules.keys()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
