import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxprune as jp

X = jax.random.normal(jax.random.key(0), (16, 4))


TRACES = []


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(4, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.shared = nnx.Linear(8, 8, rngs=rngs)
        self.again = self.shared
        self.out = nnx.Linear(8, 2, rngs=rngs)

    def __call__(self, x):
        TRACES.append(self.norm.use_running_average)
        x = self.drop(nnx.relu(self.norm(self.hidden(x))))
        return self.out(self.again(nnx.relu(self.shared(x))))


def pruned():
    fn, variables = jp.functional(Net(nnx.Rngs(0)))
    graph = jp.trace(fn, variables, X)
    # One matrix used twice ties what it reads to what it writes.
    assert list(graph.groups) == ["params/hidden/kernel[1]"]
    return graph.slice(variables, graph.masks({"hidden": [1, 2, 6]}))


def test_the_smaller_module_trains_as_any():
    small = pruned().module()
    optimizer = nnx.Optimizer(small, optax.adam(0.05), wrt=nnx.Param)
    assert small.module.hidden.kernel.shape == (4, 5)

    @nnx.jit
    def step(small, optimizer):
        loss, gradients = nnx.value_and_grad(lambda net: jnp.mean(jnp.square(net(X) - 1)))(small)
        optimizer.update(small, gradients)
        return loss

    small.train()
    losses = [step(small, optimizer) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) / 2
    assert small.module.drop.rngs.count[...] == 40
    assert not np.allclose(small.module.norm.mean[...], 0, atol=1e-2)

    small.eval()
    np.testing.assert_array_equal(small(X), small(X))
    small.train()
    assert not np.allclose(small(X), small(X))


def test_each_mode_is_traced_once():
    small = pruned().module()
    TRACES.clear()
    for _ in range(3):
        small.train()
        small(X)
        small.eval()
        small(X)
    assert TRACES == [False, True]


def test_it_splits_merges_and_nests():
    network = pruned()
    small = network.module()
    small.eval()
    again = nnx.merge(*nnx.split(small))
    np.testing.assert_array_equal(again(X), small(X))
    both = nnx.Sequential(small, nnx.Linear(2, 3, rngs=nnx.Rngs(1)))
    assert both(X).shape == (16, 3)


def test_the_first_module_stays_as_it_is():
    module = Net(nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    fn, variables = jp.functional(module)
    fn(variables, X, train=True)
    after = jax.tree.map(np.asarray, nnx.to_pure_dict(nnx.state(module, nnx.Param)))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert not module.drop.deterministic
    assert module.drop.rngs.count[...] == 0


def test_it_holds_its_own_variables():
    with pytest.raises(ValueError, match=r"Net holds its own.*functional\(module\) alone"):
        jp.functional(Net(nnx.Rngs(0)), {})
