import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.frontends import functional
from jaxprune.graph import trace


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, double=False):
        y = nn.Dense(3)(x)
        return 2 * y if double else y


X = jnp.ones((2, 4))


def test_a_module_with_its_variables():
    variables = Net().init(jax.random.key(0), X)
    fn, same = functional(Net(), variables)
    assert same is variables
    np.testing.assert_array_equal(fn(variables, X), Net().apply(variables, X))
    np.testing.assert_array_equal(fn(variables, X, double=True), 2 * fn(variables, X))


def test_a_bound_module_brings_its_variables():
    variables = Net().init(jax.random.key(0), X)
    fn, own = functional(Net().bind(variables))
    np.testing.assert_array_equal(fn(own, X), Net().apply(variables, X))


def test_without_variables():
    with pytest.raises(ValueError, match=r"Net.*module\.init"):
        functional(Net())


@pytest.mark.parametrize("module", [object(), lambda variables, x: x])
def test_any_other_thing_is_refused_with_the_way_out(module):
    with pytest.raises(TypeError, match=r"flax\.linen.*fn\(variables, \*args\)"):
        functional(module)


class Dropped(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.Dense(8)(x)))


def test_what_comes_back_takes_keys_and_gives_fresh_variables():
    module = Dropped()
    fn, variables = functional(module, module.init(jax.random.key(0), X))
    graph = trace(fn, variables, X)
    pruned = graph.slice(variables, graph.masks({"Dense_1": [1, 2, 6]}))
    small = pruned.module()
    once, twice = (
        small.apply(pruned.variables, X, train=True, rngs={"dropout": jax.random.key(k)})
        for k in (0, 1)
    )
    assert not np.allclose(once, twice)
    fresh = small.init(jax.random.key(5), X)
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, pruned.variables)
    assert np.isfinite(small.apply(fresh, X)).all()
