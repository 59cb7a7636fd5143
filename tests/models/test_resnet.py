import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import models
from jaxprune.models.resnet import pad_shortcut


def test_pad_shortcut_takes_every_second_pixel_and_adds_zeros():
    x = jnp.arange(2 * 4 * 4 * 3, dtype=jnp.float32).reshape(2, 4, 4, 3)
    y = pad_shortcut(x, 5, 2)
    np.testing.assert_array_equal(y[..., :3], x[:, ::2, ::2])
    np.testing.assert_array_equal(y[..., 3:], 0)


def test_pad_shortcut_cannot_drop_channels():
    with pytest.raises(ValueError, match="can only add channels"):
        pad_shortcut(jnp.zeros((1, 2, 2, 4)), 3, 1)


def test_unequal_widths_of_a_sum_are_refused():
    # Width 1 would broadcast.
    module = models.build(
        "resnet20", num_classes=10, input_shape=(8, 8, 3), widths={"stage1_block1/conv2": 1}
    )
    with pytest.raises(ValueError, match=r"stage1_block1.*16 channels.* 1"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


def test_strided_convolutions_pad_alike_on_both_sides():
    # A flipped image gives the flipped map only if the padding is symmetric and the size odd.
    module = models.ResNet(blocks=(1, 1), num_classes=3, base_width=4, imagenet=True)
    variables = models.init(module, (33, 33, 3), jax.random.key(0))
    flipped_kernels = jax.tree.map(lambda x: x[:, ::-1] if x.ndim == 4 else x, variables)
    images = jax.random.normal(jax.random.key(1), (2, 33, 33, 3))
    run = jax.jit(lambda variables, images: module.apply(variables, images, maps=True))
    _, maps = run(variables, images)
    _, mirrored = run(flipped_kernels, images[:, :, ::-1])
    np.testing.assert_allclose(
        mirrored[-1].reshape(2, 5, 5), maps[-1].reshape(2, 5, 5)[:, :, ::-1], rtol=1e-4, atol=1e-5
    )
