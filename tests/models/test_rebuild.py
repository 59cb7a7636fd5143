import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import models
from jaxprune.graph import trace

# Small ones, since each is compiled four times; their forms are those of the registry's.
MODELS = {
    "vgg": models.VGG(stages=((6, 6), (8,)), num_classes=10, pools=1),
    "vgg_imagenet": models.VGG(stages=((6, 6), (8,)), num_classes=10, pools=2, hidden=(12, 10)),
    "resnet_A": models.ResNet(blocks=(1, 2, 1), num_classes=10, base_width=6, shortcut="A"),
    "resnet_B": models.ResNet(blocks=(2, 1), num_classes=10, base_width=6, shortcut="B"),
    "bottleneck": models.ResNet(
        blocks=(2, 1), num_classes=10, base_width=4, bottleneck=True, imagenet=True
    ),
    "resnext": models.ResNet(
        blocks=(2, 1), num_classes=10, base_width=4, bottleneck=True, imagenet=True, grouped=(5, 2)
    ),
    "regnet": models.RegNet(num_classes=10, stages=((4, 1), (6, 2)), group_width=2, stem=3),
    "wide_resnet": models.WideResNet(blocks=(2, 1), num_classes=10, base_width=6, stem=4),
    "alexnet": models.AlexNet(
        num_classes=10,
        widths={"conv1": 4, "conv2": 5, "conv3": 6, "conv4": 7, "conv5": 8, "fc1": 9, "fc2": 10},
    ),
    "mobilenet": models.MobileNetV2(
        num_classes=10, stages=((1, 4, 1, 1), (3, 5, 2, 2)), stem=6, head=12
    ),
}
SHAPES = dict.fromkeys(MODELS, (8, 8, 3)) | {"alexnet": (63, 63, 3)}
DROPOUT = ("vgg_imagenet", "alexnet", "mobilenet")  # Under it both networks draw other random bits.


def lively(variables, key):
    """Variables whose BatchNorm is not the identity that it is at first."""
    leaves, tree = jax.tree.flatten(variables)
    keys = jax.random.split(key, len(leaves))
    shift = [
        0.2 * jnp.abs(jax.random.normal(k, x.shape)) for k, x in zip(keys, leaves, strict=True)
    ]
    return tree.unflatten([x + s if x.ndim == 1 else x for x, s in zip(leaves, shift, strict=True)])


def random_masks(graph, rng):
    """Half of each group, at least one unit."""
    masks = {}
    for name, group in graph.groups.items():
        keep = rng.random(group.size) < 0.5
        keep[rng.integers(group.size)] = True
        masks[name] = jnp.asarray(keep, jnp.float32)
    return masks


def assert_close(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4 * float(jnp.abs(y).max()))


@pytest.mark.parametrize("case", MODELS)
def test_equals_wrap(case):
    module, shape = MODELS[case], SHAPES[case]
    variables = lively(models.init(module, shape, jax.random.key(0)), jax.random.key(1))
    images = jax.random.normal(jax.random.key(2), (3, *shape))
    net = models.network(module)
    graph = trace(net.eval, variables, images, None, state=lambda out: out.state)
    pruned = graph.slice(variables, random_masks(graph, np.random.default_rng(3)))
    rebuilt = models.from_pruned(module, pruned)
    assert jax.tree.map(jnp.shape, pruned.variables) == jax.tree.map(
        jnp.shape, jax.eval_shape(rebuilt.init, jax.random.key(0), images)
    )
    small = models.network(rebuilt)
    wrapped = jax.jit(pruned.wrap(net.eval))(pruned.variables, images, None)
    assert_close(jax.jit(small.eval)(pruned.variables, images, None), wrapped)
    if case not in DROPOUT:
        wrapped = jax.jit(pruned.wrap(net.train))(pruned.variables, images, None)
        assert_close(jax.jit(small.train)(pruned.variables, images, None), wrapped)


def test_another_module_is_refused():
    module, shape = MODELS["vgg"], SHAPES["vgg"]
    variables = models.init(module, shape, jax.random.key(0))
    graph = trace(module.apply, variables, jnp.zeros((1, *shape)))
    pruned = graph.slice(variables, graph.full_masks())
    with pytest.raises(ValueError, match=r"pruned\.wrap"):
        models.from_pruned(nn.Dense(3), pruned)
