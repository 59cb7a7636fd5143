"""The shipped models, each with a `widths` field so that a pruned one is an ordinary module."""

from jaxprune.models.forward import init, network
from jaxprune.models.rebuild import from_pruned
from jaxprune.models.registry import NAMES, build
from jaxprune.models.resnet import ResNet
from jaxprune.models.vgg import VGG

__all__ = ["NAMES", "VGG", "ResNet", "build", "from_pruned", "init", "network"]
