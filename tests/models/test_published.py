"""Published networks: their costs, their groups, and one call that prunes their small relatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from laws import assert_laws, fill

import jaxprune as jp
from jaxprune import models
from jaxprune.graph import trace
from jaxprune.methods import Genetic
from jaxprune.search import SearchConfig


@functools.cache
def traced(name):
    side, classes = (32, 10) if name == "wrn28_10" else (224, 1000)
    module = models.build(name, num_classes=classes, input_shape=(side, side, 3))
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return trace(module.apply, jax.eval_shape(module.init, jax.random.key(0), images), images)


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [
        ("alexnet", 61_100_840, 714_188_480),
        ("mobilenetv2", 3_504_872, 300_774_272),
        ("resnext50", 25_028_904, 4_230_479_872),
        ("wrn28_10", 36_479_194, 5_243_328_768),
        ("regnetx_200mf", 2_684_792, 199_039_872),
        ("regnetx_400mf", 5_157_512, 397_677_568),
        ("regnetx_3_2gf", 15_296_552, 3_176_621_952),
    ],
)
def test_costs_are_the_published_ones(name, params, macs):
    # torchvision gives 0.71, 0.30 and 4.23 G multiply-accumulates; WRN-28-10 is given 5.2 G, and
    # the RegNets are 2.7, 5.2 and 15.3 million parameters and 0.2, 0.4 and 3.2 G.
    whole = traced(name).cost()
    assert (whole.params, whole.macs) == (params, macs)


def units(name, pattern):
    """The sizes of the groups whose kernel's path ends so, in the network's order."""
    groups = traced(name).groups.values()
    return [g.size for g in groups if g.name.endswith(f"{pattern}/kernel[3]")]


def test_every_layer_of_alexnet_but_the_last_is_a_group():
    assert traced("alexnet").sizes.tolist() == [64, 192, 384, 256, 256, 4096, 4096]


def test_groups_of_mobilenetv2():
    # A depthwise convolution ties what it reads to what it writes, so it adds no group. The blocks
    # of a stage share its linear bottleneck; the first block widens nothing: its depthwise
    # convolution reads the stem. 7 stages + 16 widened blocks + stem + head.
    assert len(traced("mobilenetv2").groups) == 7 + 16 + 2
    assert units("mobilenetv2", "project_conv") == [16, 24, 32, 64, 96, 160, 320]
    # Six times the channels that go in: of each stage's first block, those of the stage before.
    widened = [96, *[144] * 2, *[192] * 3, *[384] * 4, *[576] * 3, *[960] * 3]
    assert units("mobilenetv2", "expand_conv") == widened
    assert [units("mobilenetv2", f"params/conv{i}") for i in (1, 2)] == [[32], [1280]]


def test_groups_of_resnext50():
    # One group per block: 32 blocks of a convolution's channels each, 4 to 32 channels by stage,
    # which conv1 and conv2 share. One per stage's sum, and the stem.
    graph = traced("resnext50")
    assert len(graph.groups) == 16 + 4 + 1
    assert units("resnext50", "_block0/conv3") == [256, 512, 1024, 2048]
    assert units("resnext50", "/conv1") == [64, *[32] * 16]
    for stage, width in enumerate((4, 8, 16, 32), start=1):
        group = graph.groups[f"params/stage{stage}_block1/conv1/kernel[3]"]
        (first,) = (m for m in group.members if m.path.endswith("block1/conv1/kernel"))
        assert first.positions.tolist() == np.arange(32 * width).reshape(32, width).tolist()


def test_groups_of_regnetx_400mf():
    # As in ResNeXt-50: blocks of 16 channels that conv1 and conv2 share, the sums, the stem.
    assert units("regnetx_400mf", "_block0/conv3") == [32, 64, 160, 384]
    stages = {2: 1, 4: 2, 10: 7, 24: 12}  # blocks of 16 channels: how many blocks of a stage
    inner = [blocks for blocks, count in stages.items() for _ in range(count)]
    assert units("regnetx_400mf", "/conv1") == [32, *inner]
    assert len(traced("regnetx_400mf").groups) == 22 + 4 + 1


def test_groups_of_wrn28_10():
    # 4 blocks in each of 3 stages; the sum of each stage; the stem, which is no part of a sum,
    # since the first block's shortcut is a convolution.
    graph = traced("wrn28_10")
    assert len(graph.groups) == 12 + 3 + 1
    assert units("wrn28_10", "/conv1") == [16, *[160] * 4, *[320] * 4, *[640] * 4]
    sums = [g.size for g in graph.groups.values() if not g.name.endswith("/conv1/kernel[3]")]
    assert sums == [160, 320, 640]


# Groups of few different sizes, since the search is compiled for each.
RELATIVES = {
    "resnext": models.ResNet(
        blocks=(2,), num_classes=5, base_width=4, bottleneck=True, imagenet=True, grouped=(4, 2)
    ),
    "mobilenet": models.MobileNetV2(
        num_classes=5, stages=((1, 8, 1, 1), (2, 8, 2, 2)), stem=8, head=8
    ),
}


@pytest.mark.parametrize("name", RELATIVES)
def test_one_call_prunes_grouped_convolutions(name):
    module = RELATIVES[name]
    variables = models.init(module, (8, 8, 3), jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (8, 8, 8, 3))
    batches = [(images, jnp.arange(8) % 5)]
    graph = trace(module.apply, variables, images[:1])
    widths = {g: size // 2 for g, size in zip(graph.names, graph.sizes.tolist(), strict=True)}
    method = Genetic(SearchConfig(population=8, generations=4))
    pruned = jp.prune(
        module.apply, variables, batches, budget=widths, method=method, key=jax.random.key(2)
    )
    assert pruned.widths == widths
    small = models.from_pruned(module, pruned)
    logits = jax.jit(small.apply)(pruned.variables, images)
    wrapped = jax.jit(pruned.wrap(module.apply))(pruned.variables, images)
    np.testing.assert_allclose(logits, wrapped, rtol=1e-4, atol=1e-5)
    left = sum(leaf.size for leaf in jax.tree.leaves(pruned.variables["params"]))
    assert left == graph.cost(widths).params < graph.cost().params / 2


LAWFUL = RELATIVES | {
    "wide_resnet": models.WideResNet(blocks=(1, 2), num_classes=5, base_width=6, stem=4),
    "alexnet": models.AlexNet(
        num_classes=5,
        widths={"conv1": 4, "conv2": 5, "conv3": 6, "conv4": 7, "conv5": 8, "fc1": 9, "fc2": 10},
    ),
}


@pytest.mark.parametrize("name", LAWFUL)
def test_masked_equals_sliced(name):
    module, side = LAWFUL[name], 63 if name == "alexnet" else 8
    images = jax.random.normal(jax.random.key(1), (2, side, side, 3))
    variables = fill(jax.eval_shape(module.init, jax.random.key(0), images))
    graph = trace(module.apply, variables, images)
    assert_laws(graph, module.apply, variables, images, tolerance=1e-4)


def test_a_part_of_a_convolution_group_is_refused():
    module = RELATIVES["resnext"].clone(parent=None, widths={"stage1_block0/conv1": 7})
    with pytest.raises(ValueError, match=r"stage1_block0.*7 channels.*no multiple of the 2"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


def test_a_residual_sum_of_unequal_widths_is_refused():
    module = RELATIVES["mobilenet"].clone(parent=None, widths={"stage2_block1/project_conv": 1})
    with pytest.raises(ValueError, match=r"stage2_block1.*8 channels.* 1"):
        jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 16, 16, 3)))


@pytest.mark.parametrize(
    ("module", "side", "sides"),
    [
        (models.AlexNet(num_classes=3), 224, (55, 27, 13)),
        (models.MobileNetV2(num_classes=3), 224, (112, 56, 28, 14, 14, 7, 7)),
        (models.WideResNet(blocks=(1, 1, 1), num_classes=3, base_width=8), 32, (32, 16, 8)),
    ],
    ids=["alexnet", "mobilenet", "wide_resnet"],
)
def test_output_of_both_modes(module, side, sides):
    images = jax.ShapeDtypeStruct((2, side, side, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    network = models.network(module)
    for out in (
        jax.eval_shape(network.train, variables, images, jax.random.key(1)),
        jax.eval_shape(network.eval, variables, images, None),
    ):
        assert out.logits.shape == (2, 3)
        assert [m.shape for m in out.maps] == [(2, s * s) for s in sides]
        assert set(out.state) == set(variables) - {"params"}
