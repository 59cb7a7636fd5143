import jax
import jax.numpy as jnp
import pytest

from jaxprune import models

# As torchvision counts its own (the BatchNorm forms of VGG), and He et al. 2015, Zagoruyko and
# Komodakis 2016 and Radosavovic et al. 2020 theirs.
PARAMS = {
    "mlp": 3072 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "vgg16": 14_728_266,
    "vgg19": 20_040_522,
    "vgg16_imagenet": 138_365_992,
    "vgg19_imagenet": 143_678_248,
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnext50": 25_028_904,
    "alexnet": 61_100_840,
    "mobilenetv2": 3_504_872,
    "wrn28_10": 36_479_194,
    "regnetx_200mf": 2_684_792,
    "regnetx_400mf": 5_157_512,
    "regnetx_800mf": 7_259_656,
    "regnetx_1_6gf": 9_190_136,
    "regnetx_3_2gf": 15_296_552,
    "regnetx_6_4gf": 26_209_256,
}
SMALL = {"mlp", "vgg16", "vgg19", "resnet20", "resnet56", "resnet110", "wrn28_10"}


def build(name, **options):
    if name in SMALL:
        return models.build(name, num_classes=10, input_shape=(32, 32, 3), **options)
    return models.build(name, num_classes=1000, input_shape=(224, 224, 3), **options)


@pytest.mark.parametrize("name", PARAMS)
def test_number_of_parameters(name):
    shape = (1, 32, 32, 3) if name in SMALL else (1, 224, 224, 3)
    params = jax.eval_shape(build(name).init, jax.random.key(0), jnp.zeros(shape))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMS[name]


def test_a_module_can_be_a_static_argument():
    a, b = build("vgg16", widths={"conv1_1": 24}), build("vgg16", widths={"conv1_1": 24})
    assert a == b and hash(a) == hash(b)
    assert a != build("vgg16")


def test_widths_are_the_layers_channels():
    module = models.build(
        "vgg_small", num_classes=10, input_shape=(8, 8, 1), widths={"conv2_1": 5, "conv3_2": 7}
    )
    params = models.init(module, (8, 8, 1), jax.random.key(0))["params"]
    assert params["conv2_1"]["kernel"].shape == (3, 3, 16, 5)
    assert params["conv2_2"]["kernel"].shape == (3, 3, 5, 32)
    assert params["classifier"]["kernel"].shape == (7, 10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg17", {}, "unknown model 'vgg17'.*vgg16"),
        ("vgg16", {"shortcut": "A"}, "no option 'shortcut'"),
        ("resnet20", {"shortcut": "C"}, "shortcut 'C'"),
        ("vgg16", {"widths": {"conv9_9": 4}}, "no layer.*conv1_1"),
        ("vgg16", {"widths": {"conv1_1": 0}}, "at least one channel"),
        ("vgg16", {"input_shape": (8, 8, 1)}, "at least 16x16 pixels"),
        ("alexnet", {"input_shape": (62, 63, 3)}, "at least 63x63 pixels"),
        ("wrn28_10", {"dropout": 0.3}, "no option 'dropout'"),
        ("resnext50", {"widths": {"stage1_block0/conv2": 64}}, "no layer"),
    ],
)
def test_bad_input_is_named(name, options, message):
    options = {"num_classes": 10, "input_shape": (32, 32, 3)} | options
    with pytest.raises(ValueError, match=message):
        models.build(name, **options)
