"""PyTorch's VGGs and ResNets in NumPy and float64, after torchvision and `pytorch_resnet_cifar10`.

A network draws its weights as it first reads them, so that names and shapes are those of its code.
"""

from __future__ import annotations

import numpy as np


class Weights:
    """A `state_dict` whose arrays are drawn as they are first read.

    Attributes:
      state: what there is, by name; its own shapes count.
      bias: whether convolutions have a bias.
      groups: what a record says of convolutions in groups, by their names.
    """

    def __init__(self, seed=0, bias=False, state=None, groups=None):
        self.state: dict[str, np.ndarray] = {} if state is None else state
        self.bias = bias
        self.groups = groups or {}
        self._rng = np.random.default_rng(seed)

    def draw(self, name, *shape, positive=False):
        if name not in self.state:
            drawn = self._rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
            self.state[name] = np.float32(np.exp(drawn / 4) if positive else drawn)
        return self.state[name].astype(np.float64)

    def conv(self, x, name, out, size, stride=1, padding=0):
        """`torch.nn.Conv2d` of `[B, C, H, W]`."""
        said = self.groups.get(name, {"groups": 1})
        count = said["groups"]
        x = x[:, said["reads"]] if "reads" in said else x
        w = self.draw(f"{name}.weight", out, x.shape[1] // count, size, size)
        parts = zip(np.split(x, count, 1), np.split(w, count), strict=True)
        y = np.concatenate([
            np.einsum("bchwij,ocij->bohw", windows(part, size, stride, padding), v, optimize=True)
            for part, v in parts
        ], 1)  # fmt: skip
        y = y + self.draw(f"{name}.bias", out)[:, None, None] if self.bias else y
        return y[:, said["writes"]] if "writes" in said else y

    def norm(self, x, name):
        """`torch.nn.BatchNorm2d` in evaluation mode."""
        scale, bias, mean = (
            self.draw(f"{name}.{leaf}", x.shape[1])[:, None, None]
            for leaf in ("weight", "bias", "running_mean")
        )
        var = self.draw(f"{name}.running_var", x.shape[1], positive=True)[:, None, None]
        self.state[f"{name}.num_batches_tracked"] = np.array(3)
        return (x - mean) / np.sqrt(var + 1e-5) * scale + bias

    def linear(self, x, name, out):
        """`torch.nn.Linear`."""
        return x @ self.draw(f"{name}.weight", out, x.shape[1]).T + self.draw(f"{name}.bias", out)


def windows(x, size, stride, padding, fill=0.0):
    """`[B, C, H', W', size, size]` of `[B, C, H, W]`, padded alike on all sides."""
    around = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    x = np.pad(x, around, constant_values=fill)
    return np.lib.stride_tricks.sliding_window_view(x, (size, size), axis=(2, 3))[
        :, :, ::stride, ::stride
    ]


def max_pool(x, size, stride, padding=0):
    return windows(x, size, stride, padding, fill=-np.inf).max(axis=(-2, -1))


def relu(x):
    return np.maximum(x, 0)


def vgg(weights, x, stages, pools, hidden=(), classes=10):
    """`features.N`, then `classifier` of the average or `classifier.0/3/6` of the flattened map."""
    at = 0
    for s, stage in enumerate(stages, start=1):
        for width in stage:
            x = weights.conv(x, f"features.{at}", width, 3, padding=1)
            x = relu(weights.norm(x, f"features.{at + 1}"))
            at += 3
        if s <= pools:
            x = max_pool(x, 2, 2)
            at += 1
    if not hidden:
        return weights.linear(x.mean(axis=(2, 3)), "classifier", classes)
    x = x.reshape(len(x), -1)
    for i, width in enumerate(hidden):
        x = relu(weights.linear(x, f"classifier.{3 * i}", width))
    return weights.linear(x, f"classifier.{3 * len(hidden)}", classes)


def resnet(
    weights, x, blocks, widths, *, stem=None, inner=None, imagenet=False, bottleneck=False,
    shortcut: str | None = "downsample", head="fc", classes=10, before=lambda missing: missing // 2,
):  # fmt: skip
    """`layerN.M`; the shortcut "A" of CIFAR where `shortcut` is None."""
    inner = inner or widths
    if imagenet:
        x = weights.conv(x, "conv1", stem or widths[0], 7, 2, 3)
        x = max_pool(relu(weights.norm(x, "bn1")), 3, 2, 1)
    else:
        x = relu(weights.norm(weights.conv(x, "conv1", widths[0], 3, 1, 1), "bn1"))
    for s, count in enumerate(blocks):
        for b in range(count):
            name, stride = f"layer{s + 1}.{b}", 2 if s and not b else 1
            plan = [(inner[s], 3, stride), (widths[s], 3, 1)]
            if bottleneck:
                plan = [(inner[s], 1, 1), (inner[s], 3, stride), (widths[s], 1, 1)]
            y = x
            for i, (width, size, step) in enumerate(plan, start=1):
                y = weights.conv(y, f"{name}.conv{i}", width, size, step, size // 2)
                y = weights.norm(y, f"{name}.bn{i}")
                y = relu(y) if i < len(plan) else y
            if not b and (s or bottleneck):
                if shortcut is None:
                    x, missing = x[:, :, ::2, ::2], y.shape[1] - x.shape[1]
                    front = before(missing)
                    x = np.pad(x, ((0, 0), (front, missing - front), (0, 0), (0, 0)))
                else:
                    x = weights.conv(x, f"{name}.{shortcut}.0", widths[s], 1, stride)
                    x = weights.norm(x, f"{name}.{shortcut}.1")
            x = relu(x + y)
    return weights.linear(x.mean(axis=(2, 3)), head, classes)
