"""Whole networks on the CPU: ours, the same with `lax.conv` alone, and PyTorch.

CIFAR forms of VGG-16 and ResNet-56 with BatchNorm, float32, batch 128, and of a pruned ResNet-56
whose blocks are half as wide inside: the forward pass in evaluation mode, and a training step
(cross-entropy, gradients, SGD with momentum and weight decay).
PyTorch has the layout that is its fastest on a CPU (channels last) and as many threads as there are
cores. All run in this process, whose allocator keeps freed memory (`jaxprune.memory`): PyTorch
gains from that, too. Ours is `jit(accelerate(step))`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import optax

import jaxprune as jp
from benchmarks.common import Table, Times, together
from jaxprune import models

BATCH, SHAPE, CLASSES = 128, (32, 32, 3), 10
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)


def measure(*, short: bool) -> Table:
    """Seconds of the forward pass and of the training step."""
    table = Table(f"VGG-16 and ResNet-56 on {BATCH} CIFAR images, float32")
    torch_there = find_spec("torch") is not None
    networks = (("vgg16", 1), ("resnet56", 1), ("resnet56", 2))
    for name, cut in (("resnet20", 2),) if short else networks:
        batch = 8 if short else BATCH
        ours = jax_calls(name, cut, batch, jp.accelerate)
        stock = jax_calls(name, cut, batch, lambda fn: fn)
        theirs = torch_calls(name, cut, batch) if torch_there else {}
        for what, asked in (("forward", 1.0), ("training step", 0.8)):
            times = together(
                {"ours": ours[what], "lax.conv": stock[what]}
                | ({"PyTorch": theirs[what]} if what in theirs else {}),
                n=2 if short else 7,
                seconds=60,
            )
            shown = name if cut == 1 else f"{name}, blocks ÷ {cut} inside"
            row: dict[str, Any] = {"network": shown, "what": what, **times}
            row["of lax.conv's rate"] = rate(times, "lax.conv")
            if "PyTorch" in times:
                row["of PyTorch's rate"] = rate(times, "PyTorch")
                row["asked"] = asked
            table.rows.append(row)
    if not torch_there:
        table.notes.append("PyTorch is not installed: skipped.")
    return table


def rate(times: dict[str, Times], peer: str) -> float:
    """How many times as fast ours is."""
    return times[peer].median / times["ours"].median


def jax_calls(
    name: str, cut: int, batch: int, form: Callable[..., Any]
) -> dict[str, Callable[[], Any]]:
    """Both as calls without arguments; blocks are `cut` times as narrow inside."""
    whole: Any = models.build(name, num_classes=CLASSES, input_shape=SHAPE)
    inner = {n: size // cut for n, size in whole.layers().items() if n.endswith("/conv1")}
    module = whole.clone(widths=inner)
    network = models.network(module)
    variables = models.init(module, SHAPE, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (batch, *SHAPE))
    labels = jnp.zeros(batch, int)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.01, momentum=0.9))

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return network.eval(variables, images, None).logits

    def step(variables: Any, state: Any, images: jax.Array) -> Any:
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def loss(params: Any) -> Any:
            out = network.train({"params": params, **rest}, images, jax.random.key(0))
            losses = optax.softmax_cross_entropy_with_integer_labels(out.logits, labels)
            return losses.mean(), out.state

        gradients, rest = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates), **rest}, state

    run_forward, run_step = jax.jit(form(forward)), jax.jit(form(step), donate_argnums=(0, 1))
    copy = jax.tree.map(jnp.copy, variables)
    current = [copy, optimizer.init(copy["params"])]

    def one_step() -> Any:
        current[:] = run_step(*current, images)
        return current[0]

    return {"forward": lambda: run_forward(variables, images), "training step": one_step}


def torch_calls(name: str, cut: int, batch: int) -> dict[str, Callable[[], Any]]:
    """The same in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    net = torch_vgg16() if name == "vgg16" else torch_resnet(9 if name == "resnet56" else 3, cut)
    net = net.to(memory_format=torch.channels_last)  # pyright: ignore
    images = torch.randn(batch, SHAPE[2], *SHAPE[:2]).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)

    def forward() -> None:
        net.eval()
        with torch.no_grad():
            net(images)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images), labels).backward()
        optimizer.step()

    return {"forward": forward, "training step": step}


def torch_vgg16() -> Any:
    """VGG-16 with BatchNorm and one linear layer."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    layers: list[Any] = []
    channels = SHAPE[2]
    for width in VGG16:
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(channels, width, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        channels = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, CLASSES))


def torch_resnet(blocks: int, cut: int) -> Any:
    """The CIFAR ResNet of 6 · blocks + 2 layers, with projections where the size changes."""
    from torch import nn  # pyright: ignore[reportMissingImports]

    class Block(nn.Module):
        def __init__(self, channels: int, width: int, stride: int):
            super().__init__()
            inner = width // cut
            self.body = nn.Sequential(
                nn.Conv2d(channels, inner, 3, stride, 1, bias=False),
                nn.BatchNorm2d(inner),
                nn.ReLU(inplace=True),
                nn.Conv2d(inner, width, 3, 1, 1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.shortcut = nn.Sequential()
            if stride > 1:
                conv = nn.Conv2d(channels, width, 1, stride, bias=False)
                self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(width))

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.body(x) + self.shortcut(x))

    layers: list[Any] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for width in (16, 32, 64):
        for _ in range(blocks):
            layers.append(Block(channels, width, 1 if width == channels else 2))
            channels = width
    pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *pool, nn.Linear(channels, CLASSES))
