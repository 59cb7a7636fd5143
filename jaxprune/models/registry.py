"""The shipped models by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn

from jaxprune.models import vgg
from jaxprune.models.alexnet import AlexNet
from jaxprune.models.mlp import MLP
from jaxprune.models.mobilenet import MobileNetV2
from jaxprune.models.regnet import RegNet, stages_of
from jaxprune.models.resnet import ResNet
from jaxprune.models.vgg import VGG
from jaxprune.models.wide_resnet import WideResNet

_CIFAR_RESNET = partial(ResNet, base_width=16, shortcut="A")
_IMAGENET_RESNET = partial(ResNet, base_width=64, imagenet=True)
_IMAGENET_VGG = partial(VGG, pools=5, hidden=(4096, 4096))

# Depth, w0, wa, wm and the channels of a convolution group, as published.
_REGNETX = {
    "200mf": (13, 24, 36.44, 2.49, 8),
    "400mf": (22, 24, 24.48, 2.54, 16),
    "800mf": (16, 56, 35.73, 2.28, 16),
    "1_6gf": (18, 80, 34.01, 2.25, 24),
    "3_2gf": (25, 88, 26.31, 2.25, 48),
    "6_4gf": (17, 184, 60.83, 2.07, 56),
}

_BUILDERS: dict[str, Callable[..., Any]] = {
    "mlp": partial(MLP, hidden=(300, 100)),
    "vgg_small": partial(VGG, stages=vgg.SMALL, pools=2),
    "vgg16": partial(VGG, stages=vgg.VGG16, pools=4),
    "vgg19": partial(VGG, stages=vgg.VGG19, pools=4),
    "vgg16_imagenet": partial(_IMAGENET_VGG, stages=vgg.VGG16),
    "vgg19_imagenet": partial(_IMAGENET_VGG, stages=vgg.VGG19),
    "resnet20": partial(_CIFAR_RESNET, blocks=(3, 3, 3)),
    "resnet56": partial(_CIFAR_RESNET, blocks=(9, 9, 9)),
    "resnet110": partial(_CIFAR_RESNET, blocks=(18, 18, 18)),
    "wrn28_10": partial(WideResNet, blocks=(4, 4, 4), base_width=160),
    "resnet18": partial(_IMAGENET_RESNET, blocks=(2, 2, 2, 2)),
    "resnet34": partial(_IMAGENET_RESNET, blocks=(3, 4, 6, 3)),
    "resnet50": partial(_IMAGENET_RESNET, blocks=(3, 4, 6, 3), bottleneck=True),
    "resnet101": partial(_IMAGENET_RESNET, blocks=(3, 4, 23, 3), bottleneck=True),
    "resnext50": partial(_IMAGENET_RESNET, blocks=(3, 4, 6, 3), bottleneck=True, grouped=(32, 4)),
    "alexnet": AlexNet,
    "mobilenetv2": MobileNetV2,
    **{
        f"regnetx_{name}": partial(RegNet, stages=stages_of(*numbers), group_width=numbers[-1])
        for name, numbers in _REGNETX.items()
    },
}

NAMES = tuple(_BUILDERS)
"""The names that `build` knows."""

_OPTIONS = {
    VGG: ("dropout",),
    ResNet: ("shortcut",),
    WideResNet: (),
    MLP: (),
    AlexNet: ("dropout",),
    MobileNetV2: ("dropout",),
    RegNet: (),
}


def build(
    name: str,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    widths: Mapping[str, int] | None = None,
    dtype: Any = None,
    **options: Any,
) -> nn.Module:
    """A shipped model by its name.

    Args:
      name: one of `NAMES`. `mlp`, `vgg16`, `vgg19`, `resnet20/56/110` and `wrn28_10` are for small
        images, `vgg16_imagenet`, `vgg19_imagenet`, `resnet18/34/50/101`, `resnext50`, `alexnet` and
        `mobilenetv2` are torchvision's for ImageNet, and `regnetx_200mf` (`400mf`, `800mf`,
        `1_6gf`, `3_2gf`, `6_4gf`) the paper's.
      num_classes: the size of the output.
      input_shape: of one image, (height, width, channels).
      widths: channels of layers by path, where they are not the usual ones.
      dtype: what the model computes in; None follows the parameters and the input.
      **options: `shortcut` ("A" or "B") of a ResNet, `dropout` of a VGG, AlexNet or
        MobileNetV2.

    Raises:
      ValueError: an unknown name, option or layer, or an image too small for the poolings.
    """
    if name not in _BUILDERS:
        raise ValueError(f"unknown model {name!r}; there are: {', '.join(NAMES)}")
    builder = _BUILDERS[name]
    module = builder(num_classes=num_classes, dtype=dtype, widths=dict(widths or {}))
    allowed = _OPTIONS[type(module)]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise ValueError(f"model {name!r} has no option {unknown[0]!r}; it takes: {allowed}")
    if options.get("shortcut", "A") not in ("A", "B"):
        raise ValueError(f'shortcut {options["shortcut"]!r} is none of: "A", "B"')
    module = module.clone(parent=None, **options)
    _check_widths(name, module, widths or {})
    smallest = getattr(module, "smallest_side", 1)
    if len(input_shape) != 3 or min(input_shape[:2]) < smallest or input_shape[2] < 1:
        raise ValueError(
            f"model {name!r} takes images (height, width, channels) of at least "
            f"{smallest}x{smallest} pixels; input_shape is {tuple(input_shape)}"
        )
    return module


def _check_widths(name: str, module: Any, widths: Mapping[str, int]) -> None:
    layers = module.clone(parent=None, widths={}).layers()
    for layer, width in widths.items():
        if layer not in layers:
            raise ValueError(
                f"widths name {layer!r}, no layer of model {name!r}; there are: {', '.join(layers)}"
            )
        if width < 1:
            raise ValueError(f"widths[{layer!r}] is {width}; a layer keeps at least one channel")
