"""Layouts over devices, and functions that run on each of them: one device here, two apart."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from laws import assert_laws, fill

from jaxprune.graph import trace

X = np.random.default_rng(0).normal(size=(4, 5))
SHAPES = {"a": (5, 6), "b": (6, 6), "c": (6, 3)}
ORDER = np.array([2, 5, 0, 1, 4, 3])


def mesh(kind=AxisType.Auto):
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(kind,))


def graph_of(fn, **shapes):
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    return trace(fn, variables, X), variables


def layers(v, x):
    """With what devices tell each other, entry by entry and along axes that are no channels'."""
    h = jnp.tanh(x @ v["a"])
    h = h - lax.pmean(h, "data") + 0.1 * lax.axis_index("data")
    h = h + lax.all_gather(h, "data").sum((0, 1)) + lax.psum_scatter(h, "data", tiled=True).sum(0)
    h = jnp.sin(lax.ppermute(h, "data", [(0, 0)]) @ v["b"])[:, ORDER]
    h = h + lax.all_gather(h, "data", tiled=True).sum(0)
    return h @ v["c"]


@pytest.mark.parametrize("checked", [True, False])
def test_a_batch_over_devices(checked):
    over = jax.shard_map(
        layers, mesh=mesh(), in_specs=(P(), P("data")), out_specs=P("data"), check_vma=checked
    )
    graph, variables = graph_of(over, **SHAPES)
    assert {n: g.size for n, g in graph.groups.items()} == {"a[1]": 6, "b[1]": 6}
    assert_laws(graph, over, variables, X)
    out, reads = graph.tapped(over)(variables, X)
    np.testing.assert_allclose(out, over(variables, X), rtol=1e-12)
    assert not reads  # what one device reads cannot leave it
    whole = trace(lambda v, x: jnp.sin(jnp.tanh(x @ v["a"]) @ v["b"]) @ v["c"], variables, X)
    assert graph.cost().macs == whole.cost().macs
    assert graph.cost({"a[1]": 2, "b[1]": 3}).macs == 4 * (5 * 2 + 2 * 3 + 3 * 3)


def test_channels_over_devices_are_fixed():
    def fn(v, x):
        h = jax.shard_map(
            lambda w, x: lax.psum(x @ w, "data"),
            mesh=mesh(), in_specs=(P("data"), P(None, "data")), out_specs=P(),
        )(v["b"], jnp.tanh(x @ v["a"]))  # fmt: skip
        return jnp.tanh(h) @ v["c"]

    graph, variables = graph_of(fn, **SHAPES)
    assert list(graph.groups) == ["b[1]"]
    assert "shard_map at" in graph.fixed["a[1]"] and "parted over devices" in graph.fixed["a[1]"]
    assert_laws(graph, fn, variables, X)


def test_a_pmap():
    def fn(v, x):
        def each(x):
            h = jnp.tanh(x @ v["a"])
            return (h - lax.pmean(h, "i") * 0.5) @ v["b"][:, :3]

        return jax.pmap(each, axis_name="i")(x.reshape(1, 4, 5))

    graph, variables = graph_of(fn, a=(5, 6), b=(6, 6))
    assert graph.groups["a[1]"].size == 6
    assert_laws(graph, fn, variables, X)


def test_a_named_axis_of_vmap():
    def fn(v, x):
        def each(x):
            h = jnp.tanh(x @ v["a"])
            mixed = lax.all_gather(h, "i")[lax.axis_index("i")] + lax.psum(h, "i")
            mixed = mixed * lax.ppermute(h, "i", [(0, 1), (1, 2), (2, 3), (3, 0)])
            return (mixed + lax.psum_scatter(jnp.stack([h] * 4), "i")) @ v["b"]

        return jax.vmap(each, axis_name="i")(x)

    graph, variables = graph_of(fn, a=(5, 6), b=(6, 6))
    assert graph.groups["a[1]"].size == 6
    assert_laws(graph, fn, variables, X)


def test_laid_out_explicitly():
    explicit = mesh(AxisType.Explicit)

    def fn(v, x):
        x = jax.sharding.reshard(x, NamedSharding(explicit, P("data", None)))
        h = jnp.tanh(x @ v["a"])
        h = jax.sharding.reshard(h, NamedSharding(explicit, P(None, "data")))
        return jnp.sin(h) @ v["c"]

    with jax.set_mesh(explicit):
        graph, variables = graph_of(fn, a=(5, 6), c=(6, 3))
        assert {n: g.size for n, g in graph.groups.items()} == {"a[1]": 6}
        masks = graph.masks({"a[1]": [0, 2, 3]})  # three are left, which two devices do not divide
        pruned = graph.slice(variables, masks)
        np.testing.assert_allclose(
            pruned.wrap(fn)(pruned.variables, X), graph.masked(fn)(variables, masks, X), rtol=1e-12
        )


@pytest.mark.skipif(jax.device_count() > 1, reason="the other tests run here")
def test_a_batch_and_a_layout_on_two_devices():
    options = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    chosen = ["-k", "explicitly or (batch and True)", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *chosen, __file__]
    done = subprocess.run(command, env=os.environ | options, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
