import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.train.batchnorm import recalibrate, renewal
from jaxprune.train.network import Network, Output


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_statistics_are_the_mean_over_batches_whatever_the_momentum(tiny, split, normal, momentum):
    network, variables = tiny(momentum=momentum)
    stale = {"mean": jnp.full(6, -40.0), "var": jnp.full(6, 1e4)}
    variables["batch_stats"] = {**variables["batch_stats"], "bn": stale}
    fresh = recalibrate(network, variables, split.images, batch_size=30, **normal)

    x = (split.images / 255.0 - 0.5) / 0.25 @ np.asarray(variables["params"]["conv"]["kernel"])
    batches = [x[:30], x[30:60]]
    found = fresh["batch_stats"]["bn"]
    mean = np.mean([b.mean((0, 1, 2)) for b in batches], axis=0)
    var = np.mean([b.var((0, 1, 2)) for b in batches], axis=0)
    np.testing.assert_allclose(found["mean"], mean, rtol=2e-6, atol=1e-6)
    np.testing.assert_allclose(found["var"], var, rtol=5e-6)
    assert fresh["params"] is variables["params"]
    assert int(fresh["batch_stats"]["count"]) == 0


def test_it_repeats_itself(tiny, split, normal):
    network, variables = tiny()
    once = recalibrate(network, variables, split.images, batch_size=35, **normal)
    twice = recalibrate(network, once, split.images, batch_size=35, **normal)
    for name in ("mean", "var"):
        np.testing.assert_array_equal(
            once["batch_stats"]["bn"][name], twice["batch_stats"]["bn"][name]
        )


def test_state_that_is_no_average_stays_and_works(split, normal):
    """A mask among the state multiplies what BatchNorm sees; it must neither vanish nor drift."""
    gate = jnp.array([0.0, 1.0, 0.5])
    kernel = jnp.array([[1.0, 2.0, -1.0]])

    def train(variables, images, key):
        x = images @ variables["params"]["kernel"] * variables["masks"]["gate"]
        mean = 0.8 * variables["stats"]["mean"] + 0.2 * x.mean((0, 1, 2))
        state = {"stats": {"mean": mean}, "masks": variables["masks"]}
        return Output(x.mean((1, 2)), (), state)

    variables = {
        "params": {"kernel": kernel},
        "masks": {"gate": gate},
        "stats": {"mean": jnp.ones(3)},
    }
    fresh = recalibrate(Network(train, train), variables, split.images, batch_size=70, **normal)
    x = (split.images / 255.0 - 0.5) / 0.25 @ np.asarray(kernel) * np.asarray(gate)
    np.testing.assert_array_equal(fresh["masks"]["gate"], gate)
    np.testing.assert_allclose(fresh["stats"]["mean"], x.mean((0, 1, 2)), rtol=1e-5, atol=1e-6)


def test_one_compilation(tiny, split, normal):
    network, variables = tiny()
    traces = []

    def train(variables, images, key):
        traces.append(images.shape)
        return network.train(variables, images, key)

    for _ in range(2):
        recalibrate(Network(train, train), variables, split.images, batch_size=20, **normal)
    assert len(traces) == 1


def test_a_network_without_state_comes_back_as_it_is(split, normal):
    def forward(variables, images, key):
        return Output(images.mean((1, 2)), (), {})

    variables = {"params": {"unused": jnp.ones(2)}}
    assert recalibrate(Network(forward, forward), variables, split.images, **normal) is variables


def test_no_images_are_refused(tiny, split, normal):
    network, variables = tiny()
    with pytest.raises(ValueError, match="no calibration images"):
        recalibrate(network, variables, split.images[:0], **normal)


def test_renewed_variables_are_those_that_recalibration_leaves(tiny, split, normal):
    network, variables = tiny()
    x = ((split.images[:30] / 255.0 - 0.5) / 0.25).astype(np.float32)
    wanted = recalibrate(network, variables, split.images[:30], batch_size=30, **normal)
    found = jax.jit(renewal(network, jnp.asarray(x)))(variables)
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_renewal_leaves_state_that_is_no_average(split):
    gate = jnp.array([0.0, 1.0, 0.5])

    def train(variables, images, key):
        x = images * variables["masks"]["gate"]
        mean = 0.8 * variables["stats"]["mean"] + 0.2 * x.mean((0, 1, 2))
        return Output(x, (), {"stats": {"mean": mean}, "masks": variables["masks"]})

    images = jnp.asarray(np.random.default_rng(0).normal(size=(20, 4, 4, 3)), jnp.float32)
    variables = {"params": {}, "masks": {"gate": gate}, "stats": {"mean": jnp.ones(3)}}
    found = renewal(Network(train, train), images)(variables)
    np.testing.assert_array_equal(found["masks"]["gate"], gate)
    np.testing.assert_allclose(found["stats"]["mean"], (images * gate).mean((0, 1, 2)), atol=1e-6)
