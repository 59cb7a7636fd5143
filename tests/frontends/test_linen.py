import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.frontends import functional


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
