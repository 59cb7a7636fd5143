"""Convolutions and poolings in their quick forms: equal to the plain ones, gradients included."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.graph import trace
from jaxprune.kernels import accelerate
from jaxprune.kernels.forms import winograd

LAYOUTS = {
    "last": (("NHWC", "HWIO", "NHWC"), (0, 1, 2, 3), (0, 1, 2, 3)),
    "first": (("NCHW", "OIHW", "NCHW"), (0, 3, 1, 2), (3, 2, 0, 1)),
}
ONE = (1, 1)
# images, rows, columns, inputs, outputs, kernel, strides, padding, convolutions left of three
CASES = {
    "few tiles": (8, 8, 8, 32, 40, 3, ONE, "SAME", 3),
    "winograd": (70, 3, 5, 33, 32, 3, ONE, "SAME", 0),
    "valid": (70, 7, 6, 32, 32, 3, ONE, "VALID", 0),
    "uneven padding": (64, 9, 4, 32, 32, 3, ONE, [(0, 2), (1, 0)], 0),
    "full padding": (70, 4, 4, 32, 33, 3, ONE, [(2, 2), (2, 2)], 0),
    "two by two": (3, 2, 2, 8, 9, 3, ONE, "SAME", 1),
    "two by one": (2, 2, 1, 8, 9, 3, ONE, "SAME", 1),
    "narrow": (4, 6, 5, 16, 17, 3, ONE, "SAME", 2),
    "few channels": (4, 6, 5, 10, 2, 3, ONE, "SAME", 2),
    "strided": (8, 12, 10, 16, 20, 3, (2, 2), "SAME", 2),
    "strided, padded alike": (8, 12, 10, 16, 20, 3, (2, 2), [(1, 1), (1, 1)], 2),
    "strided by two numbers": (8, 12, 10, 16, 20, 3, (3, 2), "VALID", 2),
    "strided, few channels": (8, 12, 10, 10, 12, 3, (2, 2), "SAME", 3),
    "one tap, strided": (8, 12, 10, 16, 20, 1, (2, 2), "SAME", 2),
    "five taps": (8, 12, 10, 32, 32, 5, ONE, "SAME", 3),
}


@pytest.fixture(autouse=True)
def on_the_cpu():
    if jax.default_backend() != "cpu":
        pytest.skip("the forms are for the CPU")


def operands(images, rows, columns, inputs, outputs, kernel, layout="last"):
    _, order, kernel_order = LAYOUTS[layout]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(images, rows, columns, inputs)).transpose(order)
    return x, rng.normal(size=(kernel, kernel, inputs, outputs)).transpose(kernel_order)


def with_gradients(fn):
    def both(x, kernel):
        y, pull = jax.vjp(fn, x, kernel)
        return y, *pull(jnp.cos(y))

    return both


def convolutions(fn, *args):
    return str(jax.make_jaxpr(fn)(*args)).count("conv_general_dilated[")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_equals_the_plain_convolution(case, layout):
    *shape, strides, padding, left = CASES[case]
    with jax.enable_x64(True):
        x, kernel = operands(*shape, layout=layout)
        numbers = LAYOUTS[layout][0]

        def fn(x, kernel):
            return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

        both = with_gradients(fn)
        plain, quick = jax.jit(both)(x, kernel), jax.jit(accelerate(both))(x, kernel)
        for a, b in zip(plain, quick, strict=True):
            assert a.dtype == b.dtype == np.float64
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())
        assert convolutions(accelerate(both), x, kernel) == left


# images, rows, columns, inputs, outputs, kernel, groups, strides, padding, convolutions left
GROUPED = {
    "winograd": (70, 3, 5, 16, 32, 3, 2, ONE, "SAME", 0),
    "winograd by lots": (96, 8, 6, 32, 32, 3, 4, ONE, [(0, 2), (1, 1)], 0),
    # Two by two are run apart, and what is left has no quicker form without groups either.
    "few tiles": (2, 6, 5, 16, 32, 3, 2, ONE, "SAME", 4),
    "two by two": (2, 2, 2, 16, 16, 3, 2, ONE, "SAME", 2),
    "strided": (2, 6, 5, 16, 24, 3, 2, (2, 1), "SAME", 6),
    "one tap": (2, 6, 5, 32, 16, 1, 2, ONE, "VALID", 6),
    "narrow": (2, 6, 5, 8, 8, 3, 2, ONE, "SAME", 3),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", GROUPED)
def test_groups_equal_the_plain_convolution(case, layout):
    *shape, groups, strides, padding, left = GROUPED[case]
    with jax.enable_x64(True):
        x, kernel = operands(*shape, layout=layout)
        reads = LAYOUTS[layout][0][1].index("I")
        kernel = lax.slice_in_dim(kernel, 0, shape[3] // groups, axis=reads)
        fn = functools.partial(
            lax.conv_general_dilated, window_strides=strides, padding=padding,
            dimension_numbers=LAYOUTS[layout][0], feature_group_count=groups,
        )  # fmt: skip
        both = with_gradients(fn)
        plain, quick = jax.jit(both)(x, kernel), jax.jit(accelerate(both))(x, kernel)
        for a, b in zip(plain, quick, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())
        assert convolutions(accelerate(both), x, kernel) == left


def test_groups_in_bfloat16_run_apart():
    x, kernel = (jnp.bfloat16(v) for v in operands(3, 6, 5, 24, 16, 3))
    fn = functools.partial(
        lax.conv_general_dilated, window_strides=ONE, padding="SAME",
        dimension_numbers=LAYOUTS["last"][0], feature_group_count=2,
    )  # fmt: skip
    kernel = kernel[:, :, :12]
    quick = with_gradients(fn)
    plain = jax.jit(quick)(jnp.float32(x), jnp.float32(kernel))
    for a, b in zip(plain, jax.jit(accelerate(quick))(x, kernel), strict=True):
        np.testing.assert_allclose(np.float32(b), a, rtol=0, atol=2**-6 * np.abs(a).max())
    assert convolutions(accelerate(quick), x, kernel) == 0


def test_lots_can_be_mapped_and_differentiated():
    x, kernel = operands(192, 8, 8, 32, 32, 3)
    with jax.enable_x64(True):
        padding = ((1, 1), (1, 1))
        quick = with_gradients(functools.partial(winograd, padding=padding))
        plain = with_gradients(
            functools.partial(
                lax.conv_general_dilated, window_strides=ONE, padding=padding,
                dimension_numbers=LAYOUTS["last"][0],
            )
        )  # fmt: skip
        pairs = x.reshape(2, 96, 8, 8, 32)
        assert "scan" in str(jax.make_jaxpr(quick)(pairs[0], kernel))
        for a, b in zip(
            *(jax.vmap(f, (0, None))(pairs, kernel) for f in (plain, quick)), strict=True
        ):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-12 * np.abs(a).max())


# images, rows, columns, inputs, outputs, kernel, strides, padding, layout
BFLOAT16 = {
    "windows of one output": (3, 6, 8, 64, 24, 3, ONE, "SAME", "last"),
    "windows of two": (3, 7, 5, 12, 20, 3, ONE, "SAME", "last"),
    "windows, channels first": (3, 5, 6, 12, 20, 3, ONE, "SAME", "first"),
    "uneven padding": (3, 9, 7, 12, 9, 3, ONE, [(0, 2), (2, 1)], "last"),
    "small map": (3, 2, 4, 16, 9, 3, ONE, "SAME", "first"),
    "one place": (3, 1, 1, 16, 9, 3, ONE, "SAME", "last"),
    "few channels": (3, 6, 5, 3, 16, 3, ONE, "SAME", "last"),
    "strided": (3, 8, 9, 16, 12, 3, (2, 2), [(1, 1), (1, 1)], "last"),
    "strided by two numbers": (3, 12, 10, 10, 12, 3, (3, 2), "VALID", "first"),
    "one tap, strided": (3, 8, 8, 16, 12, 1, (2, 2), "SAME", "last"),
    "stem": (2, 16, 16, 3, 8, 7, (2, 2), [(3, 3), (3, 3)], "last"),
}


@pytest.mark.parametrize("case", BFLOAT16)
def test_bfloat16_has_float32_sums(case):
    """Off by the rounding of the result, from a convolution in float32 of the same numbers."""
    *shape, strides, padding, layout = BFLOAT16[case]
    x, kernel = (jnp.bfloat16(v) for v in operands(*shape, layout=layout))
    numbers = LAYOUTS[layout][0]

    def both(x, kernel):
        def fn(x, kernel):
            return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

        y, pull = jax.vjp(fn, x, kernel)
        return y, *pull(
            jnp.cos(jnp.arange(y.size)).astype(jnp.bfloat16).reshape(y.shape).astype(y.dtype)
        )

    plain = jax.jit(both)(jnp.float32(x), jnp.float32(kernel))
    for a, b in zip(plain, jax.jit(accelerate(both))(x, kernel), strict=True):
        assert b.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.float32(b), a, rtol=2**-8, atol=1e-5 * np.abs(a).max())
    assert convolutions(accelerate(both), x, kernel) == 0


def test_other_bfloat16_convolutions_stay():
    x, kernel = (jnp.bfloat16(v) for v in operands(2, 8, 8, 12, 12, 3))
    numbers = LAYOUTS["last"][0]
    fn = functools.partial(
        lax.conv_general_dilated, window_strides=ONE, padding="SAME", dimension_numbers=numbers
    )
    assert convolutions(accelerate(functools.partial(fn, rhs_dilation=(2, 2))), x, kernel) == 1
    grouped = functools.partial(fn, feature_group_count=3)
    assert convolutions(accelerate(grouped), x, kernel[:, :, :4]) == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [(1, 2, 2, 1), (1, 3, 2, 1), (2, 1, 1, 3)])
def test_max_pooling_is_the_same_to_the_bit(window, dtype):
    """The first of several largest entries gets the gradient, and a rest that is left out none."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(-3, 3, (4, 7, 8, 6)), dtype)

    def both(x):
        pool = functools.partial(lax.reduce_window, init_value=-jnp.inf, computation=lax.max)
        y, pull = jax.vjp(
            lambda x: pool(x, window_dimensions=window, window_strides=window, padding="VALID"), x
        )
        return y, *pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(dtype))

    for a, b in zip(jax.jit(both)(x), jax.jit(accelerate(both))(x), strict=True):
        assert b.dtype == dtype
        np.testing.assert_array_equal(np.float32(a), np.float32(b))
    assert "window" not in str(jax.make_jaxpr(accelerate(both))(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_derivative_taken_afterwards_is_that_of_the_function(dtype):
    x = jnp.asarray(np.random.default_rng(0).integers(-2, 3, (2, 4, 6, 5)), dtype)
    kernel = jnp.asarray(operands(1, 1, 1, 5, 4, 3)[1], dtype)

    def loss(x, kernel):
        y = conv(x, lax.rev(kernel, (0, 1)))
        pool = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jnp.sum(jnp.sin(y.astype("float32"))) + jnp.sum(pool.astype("float32") ** 2)

    plain = jax.grad(loss, (0, 1))(x, kernel)
    for a, b in zip(plain, jax.grad(accelerate(loss), (0, 1))(x, kernel), strict=True):
        a, b = np.float32(a), np.float32(b)
        np.testing.assert_allclose(b, a, rtol=0, atol=0.02 * np.abs(a).max())


def test_overlapping_pooling_stays():
    x = jnp.zeros((2, 6, 6, 4))
    pool = functools.partial(
        lax.reduce_window, init_value=-jnp.inf, computation=lax.max,
        window_dimensions=(1, 3, 3, 1), window_strides=(1, 2, 2, 1), padding="VALID",
    )  # fmt: skip
    text = str(jax.make_jaxpr(accelerate(jax.grad(lambda x: pool(x).sum())))(x))
    assert "select_and_scatter_add" in text


def test_a_bfloat16_sum_is_taken_in_float32():
    x = jnp.full((4096, 3), 1.01, jnp.bfloat16)
    found = accelerate(lambda x: lax.reduce_sum(x, (0,)))(x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        np.float32(found), np.float32(jnp.float32(x).sum(0, dtype="float32").astype("bfloat16"))
    )


def test_float32_is_near():
    x, kernel = operands(64, 8, 8, 64, 64, 3)
    exact = lax.conv_general_dilated(x, kernel, ONE, "SAME", dimension_numbers=LAYOUTS["last"][0])
    found = winograd(jnp.float32(x), jnp.float32(kernel), ((1, 1), (1, 1)))
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5 * np.abs(exact).max())


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, ONE, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def test_reaches_into_loops_branches_and_jit():
    x, kernel = map(jnp.float32, operands(16, 8, 8, 32, 32, 3))
    kernel /= 17

    def fn(x, kernel):
        y, _ = lax.scan(lambda c, _: (jax.jit(conv)(c, kernel), None), x, length=2)
        y = lax.cond(y.sum() > 0, lambda y: conv(y, kernel), lambda y: y, y)
        return lax.fori_loop(0, 2, lambda _, y: conv(y, kernel), y)

    assert convolutions(fn, x, kernel) == 3
    assert convolutions(accelerate(fn), x, kernel) == 0
    np.testing.assert_allclose(jax.jit(accelerate(fn))(x, kernel), fn(x, kernel), atol=1e-4)


def test_custom_derivatives_stay():
    """A derivative taken afterwards still follows the rule of the user's."""
    x = jnp.zeros((64, 4, 4, 32))
    kernel = jnp.ones((3, 3, 32, 32))

    def total(x):
        return jnp.sum(jax.nn.relu(conv(x, kernel)))

    np.testing.assert_array_equal(jax.grad(accelerate(total))(x), 0.0)  # relu's slope at 0 is 0


def test_a_traced_call_of_a_pruned_network_keeps_its_convolutions():
    """They are its caller's to differentiate; an eager call has them in the quick form."""
    x, first = map(jnp.float32, operands(64, 8, 8, 3, 64, 3))
    second = jnp.float32(operands(1, 1, 1, 64, 64, 3)[1])
    variables = {"a": first, "b": second}

    def fn(variables, x):
        return conv(conv(x, variables["a"]), variables["b"])

    graph = trace(fn, variables, x)
    pruned = graph.slice(variables, graph.masks({"a": range(10)}))
    small = pruned.wrap(fn)
    assert convolutions(small, pruned.variables, x) == 2
    expected = jax.jit(lambda v, x: small(v, x))(pruned.variables, x)
    np.testing.assert_allclose(small(pruned.variables, x), expected, atol=1e-2)
    assert convolutions(accelerate(small), pruned.variables, x) == 1


def test_other_devices_keep_the_function(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    x, kernel = map(jnp.float32, operands(64, 8, 8, 32, 32, 3))
    assert convolutions(accelerate(conv), x, kernel) == 1
