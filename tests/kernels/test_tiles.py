"""Products by kept tiles, interpreted: those of the dense matrix, and its gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.kernels import tiles
from jaxprune.kernels.blocks import Blocks
from jaxprune.kernels.tiles import by_tiles, product
from jaxprune.kernels.visits import visits_of

DEVICES = ("gpu", "tpu")
# rows, inputs, outputs, sides, kept
CASES = {
    "shapes that sides do not divide": (17, 11, 13, (4, 8), 0.5),
    "all": (16, 8, 8, (4, 4), 1.0),
    "none": (16, 8, 8, (4, 4), 0.0),
    "few": (130, 24, 24, (8, 8), 0.15),
}


def drawn(rows, inputs, outputs, sides, density, dtype=np.float64):
    rng = np.random.default_rng(rows)
    kept = rng.uniform(size=(-(-inputs // sides[0]), -(-outputs // sides[1]))) < density
    if 0 < density < 1:
        kept[-1], kept[:, 0] = False, False  # a row and a column without any
        kept[0, -1] = True
    mask = np.kron(kept, np.ones(sides))[:inputs, :outputs]
    x, w = rng.normal(size=(rows, inputs)), rng.normal(size=(inputs, outputs)) * mask
    return x.astype(dtype), w.astype(dtype), kept, mask


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", CASES)
def test_a_product_and_its_gradients_are_those_of_the_dense_matrix(case, device):
    x, w, kept, mask = drawn(*CASES[case])
    sides = CASES[case][3]
    y, pull = jax.vjp(lambda x, w: product(x, w, kept, sides, device, True), x, w)
    g = np.cos(np.arange(y.size)).reshape(y.shape)
    by_x, by_w = pull(jnp.asarray(g))
    for found, wanted in ((y, x @ w), (by_x, g @ w.T), (by_w, (x.T @ g) * mask)):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-12 * max(1, abs(wanted).max()))


@pytest.mark.parametrize("device", DEVICES)
def test_bfloat16_has_float32_sums(device):
    x, w, kept, _ = drawn(20, 512, 8, (4, 4), 0.9)
    x, w = (np.asarray(v, jnp.bfloat16) for v in (x, w))
    found = product(jnp.asarray(x), jnp.asarray(w), kept, (4, 4), device, True)
    assert found.dtype == jnp.bfloat16
    wanted = x.astype(np.float64) @ w.astype(np.float64)
    np.testing.assert_allclose(np.float64(found), wanted, rtol=2**-8, atol=1e-4)


def test_every_block_is_visited_once_for_each_tile_and_the_empty_ones_once():
    kept = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], bool)
    forward, backward, rows, columns = visits_of(kept)
    assert list(zip(rows, columns, strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert forward.writes.tolist() == [0, 1, 2, 2] and forward.tile.tolist() == [3, 0, 1, 2]
    assert forward.starts.tolist() == [0, 1, 2, 4] and forward.reads.tolist() == [0, 0, 0, 1]
    assert backward.writes.tolist() == [0, 0, 1, 2] and backward.starts.tolist() == [0, 2, 3, 4]


def test_as_many_tiles_elsewhere_compile_nothing():
    tiles._product.clear_cache()
    x, w = jnp.ones((16, 16)), jnp.ones((16, 16))
    for kept in (np.eye(4, dtype=bool), np.eye(4, dtype=bool)[::-1]):
        product(x, w, kept, (4, 4), "gpu", True)
    assert tiles._product._cache_size() == 1


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("numbers", [("NHWC", "HWIO", "NHWC"), ("NCHW", "OIHW", "NCHW")])
def test_a_network_runs_by_its_kept_tiles(numbers, device):
    """A strided convolution whose channels have an order, a pointwise one and a product."""
    rng = np.random.default_rng(0)
    last = numbers[0] == "NHWC"

    def conv(x, kernel, stride):
        return lax.conv_general_dilated(
            x, kernel, (stride, 1), "SAME", dimension_numbers=numbers
        )  # fmt: skip

    def fn(v, x):
        x = jnp.tanh(conv(x, v["stem"], 1))
        x = jnp.tanh(conv(x, v["strided"], 2))
        x = jnp.tanh(conv(x, v["pointwise"], 1)).mean((1, 2) if last else (2, 3))
        return jnp.tanh(x @ v["product"]) @ v["head"]

    shapes = {"stem": (10, 3, 1, 1), "strided": (12, 10, 3, 3), "pointwise": (8, 12, 1, 1)}
    axes = (2, 3, 1, 0) if last else (0, 1, 2, 3)
    variables = {n: rng.normal(size=s).transpose(axes) for n, s in shapes.items()}
    variables |= {"product": rng.normal(size=(8, 8)), "head": rng.normal(size=(8, 3))}
    variables = jax.tree.map(jnp.asarray, variables)
    reads, writes = (2, 3) if last else (1, 0)
    blocks = {}
    for name in ("strided", "pointwise", "product"):
        shape = variables[name].shape
        one, other = (0, 1) if name == "product" else (reads, writes)
        sides = tuple(4 if axis in (one, other) else 0 for axis in range(len(shape)))
        grid = [-(-n // 4) if side else 1 for n, side in zip(shape, sides, strict=True)]
        kept = rng.uniform(size=grid) < 0.6
        kept.flat[0], kept.flat[-1] = False, True  # on no diagonal
        order = {axis: rng.permutation(shape[axis]) for axis in (one, other)}
        blocks[name] = Blocks(sides, kept, None, order if name == "strided" else {})
    x = jnp.asarray(rng.normal(size=(2, 6, 5, 3) if last else (2, 3, 6, 5)))
    graph = jp.trace(fn, variables, x)
    pruned = graph.slice(variables, graph.full_masks(), blocks)
    chosen = dataclasses.replace(pruned, blocks=by_tiles(blocks, device, interpret=True))
    dense, quick = pruned.wrap(fn), chosen.wrap(fn)
    jaxprs = [str(jax.make_jaxpr(network)(variables, x)) for network in (dense, quick)]
    assert [jaxpr.count("pallas_call[") for jaxpr in jaxprs] == [0, 3]

    def both(network):
        return jax.jit(jax.value_and_grad(lambda v: jnp.sum(jnp.sin(network(v, x)))))(variables)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-10), both(quick), both(dense)
    )


def test_where_no_kernel_suits_it_stays_dense():
    kept = np.array([[True, False], [True, True]])
    blocks = Blocks((4, 4), kept)
    (eqn,) = jax.make_jaxpr(jnp.dot)(jnp.ones((2, 8)), jnp.ones((8, 8))).eqns
    values = jnp.ones((2, 8)), blocks.project(jnp.ones((8, 8)))
    for device in ("gpu", "tpu"):
        (chosen,) = by_tiles({"": blocks}, device).values()
        assert chosen.contract(eqn, values) is None
    with pytest.raises(ValueError, match="for gpu and tpu, not for cpu"):
        by_tiles({"": blocks}, "cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("device", "platform", "side"), [("gpu", "cuda", 32), ("tpu", "tpu", 128)])
def test_kernels_lower_for_their_device(device, platform, side, dtype):
    """As far as one gets without the device."""
    kept = np.random.default_rng(0).uniform(size=(3, 4)) < 0.5
    shapes = [jax.ShapeDtypeStruct(s, dtype) for s in ((200, 3 * side), (3 * side, 4 * side))]

    def fn(x, w):
        y, pull = jax.vjp(lambda x, w: product(x, w, kept, (side, side), device), x, w)
        return y, pull(y)

    with jax.enable_x64(False):
        traced = jax.jit(fn).trace(*shapes)
        try:
            text = traced.lower(lowering_platforms=(platform,)).as_text()
        except RuntimeError as error:
            if "No supported GPU devices" not in str(error):
                raise
            pytest.skip("this JAX lowers for a GPU only where there is one")
    assert ("tpu_custom_call" if device == "tpu" else "triton") in text
