"""The shipped models, each with a `widths` field so that a pruned one is an ordinary module."""

from jaxprune.models.alexnet import AlexNet
from jaxprune.models.forward import features, init, network
from jaxprune.models.mlp import MLP
from jaxprune.models.mobilenet import MobileNetV2
from jaxprune.models.rebuild import from_pruned, from_variables
from jaxprune.models.registry import NAMES, build
from jaxprune.models.regnet import RegNet
from jaxprune.models.resnet import ResNet
from jaxprune.models.vgg import VGG
from jaxprune.models.wide_resnet import WideResNet

__all__ = [
    "MLP", "NAMES", "VGG", "AlexNet", "MobileNetV2", "RegNet", "ResNet", "WideResNet",
    "build", "features", "from_pruned", "from_variables", "init", "network",
]  # fmt: skip
