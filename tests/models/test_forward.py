import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import models


def small(name, shape, **options):
    module = models.build(name, num_classes=10, input_shape=shape, **options)
    variables = models.init(module, shape, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, *shape))
    return models.network(module), variables, images


@pytest.mark.parametrize(
    ("name", "shape", "sides"),
    [
        ("vgg_small", (8, 8, 1), (8, 4, 2)),
        ("resnet20", (8, 8, 3), (8, 4, 2)),
    ],
)
def test_output_of_both_modes(name, shape, sides):
    net, variables, images = small(name, shape)
    trained = jax.jit(net.train)(variables, images, jax.random.key(2))
    evaluated = jax.jit(net.eval)(variables, images, None)
    for out in (trained, evaluated):
        assert out.logits.shape == (4, 10)
        assert [m.shape for m in out.maps] == [(4, side**2) for side in sides]
        assert jax.tree.map(jnp.shape, out.state) == jax.tree.map(
            jnp.shape, {"batch_stats": variables["batch_stats"]}
        )
    np.testing.assert_array_equal(
        evaluated.state["batch_stats"]["bn1" if "resnet" in name else "bn1_1"]["mean"], 0
    )
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), trained.state, evaluated.state)
    assert all(jax.tree.leaves(moved))


def test_running_statistics_move_by_a_tenth():
    net, variables, images = small("vgg_small", (8, 8, 1))
    kernel, bias = (variables["params"]["conv1_1"][name] for name in ("kernel", "bias"))
    z = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    state = jax.jit(net.train)(variables, images, None).state["batch_stats"]["bn1_1"]
    np.testing.assert_allclose(state["mean"], 0.1 * (z + bias).mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(state["var"], 0.9 + 0.1 * z.var((0, 1, 2)), rtol=1e-5)


def test_maps_sum_squared_channels():
    module = models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1))
    variables = models.init(module, (8, 8, 1), jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
    (_, maps), seen = module.apply(
        variables, images, maps=True, capture_intermediates=True, mutable=["intermediates"]
    )
    stage = jax.nn.relu(seen["intermediates"]["bn1_2"]["__call__"][0])
    np.testing.assert_allclose(maps[0], (stage**2).sum(-1).reshape(4, 64), rtol=1e-6)


def test_key_drives_dropout_in_training_only():
    module = models.VGG(stages=((4,),), num_classes=10, pools=1, hidden=(64, 64))
    variables = models.init(module, (8, 8, 3), jax.random.key(0))
    net = models.network(module)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    run = jax.jit(net.train)
    first, same, other = (run(variables, images, jax.random.key(k)).logits for k in (0, 0, 1))
    np.testing.assert_array_equal(first, same)
    assert np.any(first != other)
    evaluated = [net.eval(variables, images, key).logits for key in (None, jax.random.key(0))]
    np.testing.assert_array_equal(*evaluated)


def test_bfloat16_keeps_state_and_logits_in_float32():
    net, variables, images = small("vgg_small", (8, 8, 1))
    half, _, _ = small("vgg_small", (8, 8, 1), dtype=jnp.bfloat16)
    out = jax.jit(half.eval)(variables, images.astype(jnp.bfloat16), None)
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    full = jax.jit(net.eval)(variables, images, None).logits
    np.testing.assert_allclose(out.logits, full, atol=0.05 * float(jnp.abs(full).max()))
    state = jax.eval_shape(half.train, variables, images.astype(jnp.bfloat16), None).state
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} == {jnp.dtype("float32")}


def test_same_key_same_variables():
    module = models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1))
    first, same, other = (models.init(module, (8, 8, 1), jax.random.key(k)) for k in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, first, same)
    kernel = first["params"]["conv3_2"]["kernel"]
    assert np.any(kernel != other["params"]["conv3_2"]["kernel"])
    # He's variance over the fan out: 9 taps of 128 channels.
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / (9 * 128)), rtol=0.02)


def test_precision_follows_the_parameters():
    module = models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1))
    variables = jax.eval_shape(lambda k: models.init(module, (8, 8, 1), k), jax.random.key(0))
    half = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.bfloat16), variables["params"])
    image = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.bfloat16)
    text = str(jax.make_jaxpr(module.apply)({**variables, "params": half}, image))
    convolutions = [line for line in text.splitlines() if "= conv_general_dilated" in line]
    assert len(convolutions) == 6
    assert all(":bf16[" in line for line in convolutions)
    logits = jax.eval_shape(module.apply, {**variables, "params": half}, image)
    assert logits.dtype == jnp.float32
