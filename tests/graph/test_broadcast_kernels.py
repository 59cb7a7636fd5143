"""Depthwise convolutions by one filter for all channels: blur, resampling, its transpose."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from laws import assert_laws, fill
from networks import DIMENSIONS

from jaxprune.graph import trace

IMAGES = np.random.default_rng(0).normal(size=(2, 4, 4, 2))
BINOMIAL = np.outer([1, 2, 1], [1, 2, 1]) / 16


def depthwise(h, kernel, **options):
    defaults = {
        "window_strides": (1, 1), "padding": "SAME", "dimension_numbers": DIMENSIONS,
        "feature_group_count": h.shape[-1],
    }  # fmt: skip
    return lax.conv_general_dilated(h, kernel, **(defaults | options))


def upfirdn(h, f):
    """StyleGAN's resampling: zeros between the pixels, then a filter."""
    n, rows, columns, c = h.shape
    h = h.reshape(n, rows, 1, columns, 1, c)
    h = jnp.pad(h, ((0, 0), (0, 0), (0, 1), (0, 0), (0, 1), (0, 0)))
    h = jnp.pad(h.reshape(n, 2 * rows, 2 * columns, c), ((0, 0), (2, 1), (2, 1), (0, 0)))
    f = jnp.repeat(jnp.expand_dims(jnp.flip(4 * f, (0, 1)), (-2, -1)), c, -1)
    return depthwise(h, f, padding="VALID")


def transposed(h, f):
    kernel = jnp.tile(f[:, :, None, None], (1, 1, 1, 6))
    return depthwise(h, kernel, lhs_dilation=(2, 2), padding=((1, 2), (1, 2)))


FILTERS = {
    "repeat": lambda h, f: depthwise(h, jnp.repeat(f[:, :, None, None], 6, -1)),
    "strided": lambda h, f: depthwise(
        h, jnp.broadcast_to(f[:, :, None, None], (3, 3, 1, 6)), window_strides=(2, 2)
    ),
    "array": lambda h, f: depthwise(h, np.repeat(BINOMIAL[:, :, None, None], 6, -1)),
    "multiplier": lambda h, f: depthwise(h, jnp.repeat(f[:, :, None, None], 12, -1))[..., 1::2],
    "transposed": transposed,
    "upfirdn": upfirdn,
}


def holds(fn, units, laws=True, **shapes):
    variables = fill({n: jax.ShapeDtypeStruct(s, float) for n, s in shapes.items()})
    x = jnp.asarray(IMAGES)
    graph = trace(fn, variables, x)
    assert {name: g.size for name, g in graph.groups.items()} == units
    if laws:
        assert_laws(graph, fn, variables, x)


@pytest.mark.parametrize("name", FILTERS)
def test_one_filter_for_all_channels_passes_them(name):
    def fn(v, x):
        return jnp.cos(FILTERS[name](jnp.cos(x @ v["a"]), v["f"])).mean((1, 2)) @ v["b"]

    laws = name in ("repeat", "multiplier", "upfirdn")
    holds(fn, {"a[1]": 6}, laws=laws, a=(2, 6), f=(3, 3), b=(6, 3))


def test_one_filter_for_the_outputs_of_a_group_goes_by_groups():
    def fn(v, x):
        kernel = jnp.broadcast_to(v["f"][..., None], (3, 3, 2, 6))
        return jnp.cos(depthwise(jnp.cos(x @ v["a"]), kernel, feature_group_count=3)) @ v["b"]

    holds(fn, {"a[1]": 3}, a=(2, 6), f=(3, 3, 2), b=(6, 3))


def test_one_image_for_all_filters():
    def fn(v, x):
        wide = jnp.broadcast_to(x[..., :1], (2, 4, 4, 6))
        return jnp.cos(depthwise(wide, v["k"])) @ v["b"]

    holds(fn, {"k[3]": 6}, k=(3, 3, 1, 6), b=(6, 3))


def test_a_kernel_that_sums_its_inputs_alike():
    def fn(v, x):
        kernel = jnp.broadcast_to(v["f"][:, :, None, None], (3, 3, 6, 4))
        sums = depthwise(jnp.cos(x @ v["a"]), kernel, feature_group_count=1)
        return jnp.cos(sums + x @ v["c"]) @ v["b"]

    holds(fn, {"a[1]": 6, "c[1]": 4}, a=(2, 6), f=(3, 3), c=(2, 4), b=(4, 3))
