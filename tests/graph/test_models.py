"""The laws, the groups and the costs of the shipped models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_laws, fill

from jaxprune import models
from jaxprune.graph import cost, trace


def small(name, input_shape, **options):
    """A shipped model with few channels: the same structure, quick to compile."""
    module = models.build(name, num_classes=4, input_shape=input_shape, **options)
    if isinstance(module, models.ResNet):
        return module.clone(parent=None, base_width=4)
    widths = {layer: max(3, width // 64) for layer, width in module.layers().items()}
    return module.clone(parent=None, widths=widths)


def variables_of(module, images, dtype=float):
    structs = jax.eval_shape(module.init, jax.random.key(0), images)
    return fill(jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), structs))


def images_of(shape, dtype=float, batch=3):
    return jnp.asarray(np.random.default_rng(1).normal(size=(batch, *shape)), dtype)


NETWORKS = {
    "vgg_small": lambda: small("vgg_small", (8, 8, 1), dtype=jnp.float64),
    "vgg16": lambda: small("vgg16", (16, 16, 1), dtype=jnp.float64).clone(
        parent=None, stages=((64,), (128, 128), (256,), (512,), (512, 512))
    ),
    # Without its dropout, under which the laws hold in distribution only.
    "vgg16_imagenet": lambda: small(
        "vgg16_imagenet", (32, 32, 1), dtype=jnp.float64, dropout=0.0
    ).clone(parent=None, stages=((64,), (128,), (256, 256), (512,), (512,))),
    "cifar_resnet_a": lambda: small("resnet20", (8, 8, 1), dtype=jnp.float64, shortcut="A").clone(
        parent=None, blocks=(2, 1, 2)
    ),
    "cifar_resnet_b": lambda: small("resnet20", (8, 8, 1), dtype=jnp.float64, shortcut="B").clone(
        parent=None, blocks=(2, 1, 1)
    ),
    "resnet18": lambda: small("resnet18", (16, 16, 1), dtype=jnp.float64).clone(
        parent=None, blocks=(2, 1, 1, 2)
    ),
    "resnet50": lambda: small("resnet50", (16, 16, 1), dtype=jnp.float64).clone(
        parent=None, blocks=(2, 1, 1, 1)
    ),
}


MODES = [(name, True) for name in NETWORKS]
MODES += [(name, False) for name in ("vgg_small", "vgg16_imagenet", "cifar_resnet_a", "resnet50")]


@pytest.mark.parametrize(("name", "train"), MODES)
def test_laws(name, train):
    module = NETWORKS[name]()
    sizes = {"vgg16_imagenet": 32, "vgg16": 16, "resnet18": 16, "resnet50": 16}
    images = images_of((sizes.get(name, 8), sizes.get(name, 8), 1))
    variables = variables_of(module, images)

    def evaluate(variables, x):
        return module.apply(variables, x, maps=True)

    def fit(variables, x):
        return module.apply(variables, x, train=True, mutable=["batch_stats"])

    graph = trace(evaluate, variables, images)
    pruned = assert_laws(graph, fit if train else evaluate, variables, images)
    if train:
        _, state = jax.eval_shape(pruned.wrap(fit), pruned.variables, images)
        kept = jax.tree.map(jnp.shape, pruned.variables["batch_stats"])
        assert jax.tree.map(jnp.shape, state["batch_stats"]) == kept


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.1)], ids=["float32", "bfloat16"]
)
def test_laws_in_lower_precision(dtype, tolerance):
    # In bfloat16, 8 bits of mantissa, each of 14 layers rounds its sums in another order.
    module = small("resnet20", (8, 8, 3), dtype=dtype).clone(parent=None, blocks=(2, 2, 2))
    images = images_of((8, 8, 3), jnp.float32)
    variables = variables_of(module, images, jnp.float32)

    def fn(variables, x):
        return module.apply(variables, x)

    assert_laws(trace(fn, variables, images), fn, variables, images, tolerance=tolerance)


def abstract(name, shape=(224, 224, 3), classes=1000, **options):
    module = models.build(name, num_classes=classes, input_shape=shape, **options)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    return lambda v, x: module.apply(v, x), variables, images


@pytest.mark.parametrize(
    ("name", "inner", "spanning"), [("resnet18", 8, 4), ("resnet34", 16, 4), ("resnet50", 32, 5)]
)
def test_groups_of_resnets(name, inner, spanning):
    groups = trace(*abstract(name)).groups
    residual = [g for g in groups.values() if g.summed]
    assert len(groups) == inner + spanning
    # The stem of ResNet-50 is no residual group; that of ResNet-18 is its first stage's.
    assert len(residual) == 4
    assert [g.size for g in residual] == [64 * 2**i * (4 if spanning == 5 else 1) for i in range(4)]
    assert next(iter(groups)) == "params/conv1/kernel[3]"


@pytest.mark.parametrize(("name", "stages"), [("resnext50", 4), ("mobilenetv2", 5)])
def test_a_grouped_or_depthwise_convolution_is_no_sum(name, stages):
    groups = trace(*abstract(name, (64, 64, 3), 10)).groups
    assert sum(g.summed for g in groups.values()) == stages


def test_what_is_a_sum_of_layers_and_what_is_not():
    def fn(v, x):
        h = x @ v["stem"] + v["bias"]
        h = h + jax.nn.gelu(h @ v["up"]) @ v["down"]
        gated = jax.nn.silu(h @ v["gate"]) * (h @ v["value"])  # a product: SwiGLU
        return gated @ v["out"], h @ v["head"]

    shapes = {"stem": (5, 8), "bias": (8,), "up": (8, 12), "down": (12, 8), "gate": (8, 10)}
    shapes |= {"value": (8, 10), "out": (10, 4), "head": (8, 2)}
    variables = {n: jnp.ones(s) for n, s in shapes.items()}
    groups = trace(fn, variables, jnp.ones((3, 5))).groups
    summed = {"stem[1]": True, "up[1]": False, "gate[1]": False}
    assert {n: g.summed for n, g in groups.items()} == summed


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "vgg16_imagenet"])
def test_every_layer_of_a_vgg_but_the_last_is_a_group(name):
    fn, variables, images = abstract(name, (32, 32, 3), 10)
    groups = trace(fn, variables, images).groups
    layers = [layer for layer in variables["params"] if layer.startswith(("conv", "fc"))]
    assert sorted(groups) == sorted(
        f"params/{layer}/kernel[{3 if layer.startswith('conv') else 1}]" for layer in layers
    )


def test_shortcut_a_ties_a_stage_to_a_part_of_the_next():
    groups = trace(*abstract("resnet20", (32, 32, 3), 10)).groups
    spanning = [g for g in groups.values() if g.summed]
    # 16 channels through all stages, the 16 that stage 2 adds, and the 32 that stage 3 adds.
    assert sorted(g.size for g in spanning) == [16, 16, 32]


def test_cost_of_one_convolution():
    def fn(variables, x):
        return jax.lax.conv_general_dilated(
            x, variables["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    kernel = jax.ShapeDtypeStruct((3, 3, 3, 64), jnp.float32)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    found = cost(fn, {"kernel": kernel}, image)
    assert (found.params, found.macs, found.activations) == (1_728, 1_769_472, 65_536)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("resnet18", 11_689_512, 1_814_073_344), ("resnet50", 25_557_032, 4_089_184_256),
     ("vgg16_imagenet", 138_365_992, 15_470_264_320)],
)  # fmt: skip
def test_cost_of_whole_networks(name, params, macs):
    found = cost(*abstract(name))
    assert (found.params, found.macs) == (params, macs)


def test_cost_at_widths_is_the_cost_of_the_sliced_network():
    module = small("resnet18", (16, 16, 3))
    images = images_of((16, 16, 3), batch=1)
    variables = variables_of(module, images)

    def fn(variables, x):
        return module.apply(variables, x)

    graph = trace(fn, variables, images)
    rng = np.random.default_rng(0)
    masks = {n: np.arange(g.size) < rng.integers(1, g.size) for n, g in graph.groups.items()}
    pruned = graph.slice(variables, masks)
    sliced = cost(pruned.wrap(fn), pruned.variables, images)
    assert graph.cost(masks) == graph.cost(pruned.widths) == sliced
    whole = graph.cost()
    assert sliced.macs < whole.macs
    table = graph.costs(np.array([graph.sizes, [pruned.widths[n] for n in graph.names]]))
    for quantity in ("params", "macs", "activations"):
        expected = [getattr(whole, quantity), getattr(sliced, quantity)]
        np.testing.assert_array_equal(table[quantity], expected)
