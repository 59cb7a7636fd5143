"""The shipped models' layers by the names that PyTorch's networks give them."""

from __future__ import annotations

from typing import Any

from jaxprune import models
from jaxprune.models import VGG, ResNet

Module = VGG | ResNet

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
"""A layer's variables, by their names in Flax and in PyTorch."""


def known() -> dict[str, Module]:
    """The shipped models that PyTorch's names are known for, of usual widths, by name."""
    shipped = {
        name: models.build(name, num_classes=1000, input_shape=(224, 224, 3))
        for name in models.NAMES
    }
    return {name: module for name, module in shipped.items() if isinstance(module, Module)}


def require(model: Any) -> Module:
    """A model by its name, or itself.

    Raises:
      ValueError: one that PyTorch's names are not known for.
    """
    module = known().get(model) if isinstance(model, str) else model
    if not isinstance(module, Module):
        name = repr(model) if isinstance(model, str) else f"a {type(model).__name__}"
        raise ValueError(
            f"PyTorch's names are not known for the model {name}, but for: {', '.join(known())}"
        )
    return module


def layers(module: Module, head: str, shortcut: str) -> dict[str, str]:
    """Every layer's path here and its name there, in the order of the forward pass.

    Args:
      module: a shipped model.
      head: what the last layer of a ResNet is called: `fc`, or `linear`.
      shortcut: what the shortcuts of a ResNet are called: `downsample`, or `shortcut`.
    """
    return _vgg(module) if isinstance(module, VGG) else _resnet(module, head, shortcut)


def _vgg(module: VGG) -> dict[str, str]:
    names, at = {}, 0
    for s, stage in enumerate(module.stages, start=1):
        for i in range(1, len(stage) + 1):
            names[f"conv{s}_{i}"] = f"features.{at}"
            names[f"bn{s}_{i}"] = f"features.{at + 1}"
            at += 3  # ReLU is a layer there
        at += s <= module.pools
    for i in range(len(module.hidden)):
        names[f"fc{i + 1}"] = f"classifier.{3 * i}"  # ReLU and dropout between them
    names["classifier"] = f"classifier.{3 * len(module.hidden)}" if module.hidden else "classifier"
    return names


def _resnet(module: ResNet, head: str, shortcut: str) -> dict[str, str]:
    names = {"conv1": "conv1", "bn1": "bn1"}
    for s, blocks in enumerate(module.block_names()):
        for b, block in enumerate(blocks):
            there = f"layer{s + 1}.{b}"
            for i in range(1, convolutions(module) + 1):
                names[f"{block}/conv{i}"] = f"{there}.conv{i}"
                names[f"{block}/bn{i}"] = f"{there}.bn{i}"
            if module.shortcut_of(s, b) == "B":
                names[f"{block}/shortcut_conv"] = f"{there}.{shortcut}.0"
                names[f"{block}/shortcut_bn"] = f"{there}.{shortcut}.1"
    return names | {"classifier": head}


def convolutions(module: ResNet) -> int:
    """How many convolutions a residual branch has."""
    return 3 if module.bottleneck else 2


def last_convolution(module: VGG) -> str:
    """The path of the convolution whose map is averaged or flattened."""
    return f"conv{len(module.stages)}_{len(module.stages[-1])}"


def norm_of(layer: str) -> str:
    """The path of the BatchNorm after a convolution."""
    return layer.replace("conv", "bn")


def tied(module: Module) -> list[list[str]]:
    """The layers of `module.layers()`, those together that residual sums make equally wide."""
    if isinstance(module, VGG):
        return [[layer] for layer in module.layers()]
    sums = [["conv1"]]
    for s, blocks in enumerate(module.block_names()):
        for b, block in enumerate(blocks):
            if module.shortcut_of(s, b) != "identity":
                sums.append([])
            sums[-1].append(f"{block}/conv{convolutions(module)}")
            if module.shortcut_of(s, b) == "B":
                sums[-1].append(f"{block}/shortcut_conv")
    alone = set(module.layers()).difference(*sums)
    return [*sums, *([layer] for layer in module.layers() if layer in alone)]
