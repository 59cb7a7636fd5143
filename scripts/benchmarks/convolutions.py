"""Whole networks on the CPU: ours, the same with `lax.conv` alone, and PyTorch.

CIFAR forms of VGG-16 and ResNet-56 with BatchNorm, batch 128, and a pruned ResNet-56 whose blocks
are half as wide inside: the forward pass in evaluation mode, a training step (cross-entropy,
gradients, SGD with momentum and weight decay), and for VGG-16 a distillation step (a teacher of its
own size in evaluation mode, and the attention loss of its five stages beside the cross-entropy).
In float32, and in bfloat16 with float32 weights: ours is what `--train.precision bfloat16` runs,
PyTorch's is `autocast`. (`lax.conv` takes minutes a step in bfloat16 and is left out there.)
PyTorch has the layout that is its fastest on a CPU (channels last) and as many threads as there are
cores. All run in this process, whose allocator keeps freed memory (`jaxprune.memory`): PyTorch
gains from that, too. Ours is `jit(accelerate(step))`.

An Intel Xeon with AMX, 2 cores, beside much other work, which took time of all alike: the rates
count, not the seconds. JAX 0.10.2, PyTorch 2.14, in turn in one run; median and range, n = 9
(forward: n = 7, in another run under more of that work):

|              | ours, float32    | PyTorch          | ours, bfloat16   | PyTorch          |
|--------------|------------------|------------------|------------------|------------------|
| VGG-16       |                  |                  |                  |                  |
| forward      | 0.32 (0.30-0.34) | 0.51 (0.46-0.54) | 0.23 (0.21-0.24) | 0.17 (0.16-0.23) |
| training     | 0.93 (0.89-1.08) | 1.15 (1.10-1.18) | 0.58 (0.55-0.64) | 0.61 (0.57-0.64) |
| distillation | 1.14 (1.07-1.25) | 1.55 (1.48-1.64) | 0.78 (0.74-0.81) | 0.79 (0.75-0.83) |
| ResNet-56    |                  |                  |                  |                  |
| forward      | 0.48 (0.44-0.58) | 0.47 (0.27-0.74) | 0.50 (0.36-0.56) | 0.24 (0.18-0.49) |
| training     | 1.76 (1.58-3.37) | 0.73 (0.69-0.76) | 0.84 (0.80-0.96) | 0.45 (0.43-0.69) |

The same in float32 on two quiet cores of an AMD EPYC with AVX-512, JAX 0.10.2, PyTorch 2.15 (n = 6
or 7), with XLA's own convolutions beside it. Winograd's algorithm serves where there are channels
enough, unfolding where maps are tiny or channels few. ResNet-56 is behind PyTorch: its 16 channels
are too few for Winograd's transforms to pay, and XLA computes chains of residual sums more than
once.

|                       | ours                | `lax.conv` alone | PyTorch          | of its rate |
|-----------------------|---------------------|------------------|------------------|-------------|
| VGG-16, forward       | 237 ms (236-242)    | 3.54 s           | 326 ms (325-329) | 1.37        |
| training step         | 942 ms (940-1,080)  | 8.06 s           | 1.07 s           | 1.13        |
| ResNet-56, forward    | 292 ms (290-302)    | 332 ms           | 174 ms (173-183) | 0.60        |
| training step         | 1.05 s (1.04-1.05)  | 2.06 s           | 567 ms (561-578) | 0.54        |
| half as wide, forward | 211 ms (209-212)    | 214 ms           | 118 ms           | 0.56        |
| training step         | 800 ms (793-965)    | 1.70 s           | 415 ms (404-528) | 0.52        |
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
from jaxprune.train.losses import DistillConfig, objective
from jaxprune.train.state import TrainConfig
from jaxprune.train.step import cast

BATCH, SHAPE, CLASSES = 128, (32, 32, 3), 10
VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
ATTENTION = 10.0
FORWARD, TRAINING, DISTILLATION = "forward", "training step", "distillation step"

Calls = dict[str, Callable[[], Any]]


def measure(*, short: bool) -> Table:
    """Seconds of the forward pass and of the steps."""
    table = Table(f"VGG-16 and ResNet-56 on {BATCH} CIFAR images")
    torch_there = find_spec("torch") is not None
    networks = (("vgg16", 1), ("resnet56", 1), ("resnet56", 2))
    for name, cut in (("resnet20", 2),) if short else networks:
        batch = 8 if short else BATCH
        for precision in ("float32", "bfloat16"):
            peers = {"ours": jax_calls(name, cut, batch, jp.accelerate, precision)}
            if precision == "float32":
                peers["lax.conv"] = jax_calls(name, cut, batch, lambda fn: fn, precision)
            if torch_there:
                peers["PyTorch"] = torch_calls(name, cut, batch, precision)
            shown = name if cut == 1 else f"{name}, blocks ÷ {cut} inside"
            for what in peers["ours"]:
                times = together(
                    {peer: calls[what] for peer, calls in peers.items()},
                    n=2 if short else 7,
                    seconds=60,
                )
                row: dict[str, Any] = {"network": shown, "what": what, "in": precision, **times}
                if "lax.conv" in times:
                    row["of lax.conv's rate"] = rate(times, "lax.conv")
                if "PyTorch" in times:
                    row["of PyTorch's rate"] = rate(times, "PyTorch")
                table.rows.append(row)
    if not torch_there:
        table.notes.append("PyTorch is not installed: skipped.")
    return table


def rate(times: dict[str, Times], peer: str) -> float:
    """How many times as fast ours is."""
    return times[peer].median / times["ours"].median


def jax_calls(name: str, cut: int, batch: int, form: Callable[..., Any], precision: Any) -> Calls:
    """All as calls without arguments; blocks are `cut` times as narrow inside."""
    whole: Any = models.build(name, num_classes=CLASSES, input_shape=SHAPE)
    inner = {n: size // cut for n, size in whole.layers().items() if n.endswith("/conv1")}
    module = whole.clone(widths=inner)
    network = models.network(module)
    config = TrainConfig(precision=precision)
    variables = models.init(module, SHAPE, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (batch, *SHAPE), jnp.dtype(precision))
    labels = jnp.zeros(batch, int)
    optimizer = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.01, momentum=0.9))
    frozen = cast(models.init(module, SHAPE, jax.random.key(2)), config)

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return network.eval(cast(variables, config), images, None).logits

    def step(variables: Any, state: Any, images: jax.Array, teacher: Any) -> Any:
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}
        taught = network.eval(teacher, images, None) if teacher else None

        def loss(params: Any) -> Any:
            given = cast({"params": params, **rest}, config)
            out = network.train(given, images, jax.random.key(0))
            return objective(out, labels, taught, DistillConfig(ATTENTION))[0], out.state

        gradients, rest = jax.grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates), **rest}, state

    run_forward, run_step = jax.jit(form(forward)), jax.jit(form(step), donate_argnums=(0, 1))

    def stepping(teacher: Any) -> Callable[[], Any]:
        copy = jax.tree.map(jnp.copy, variables)
        current = [copy, optimizer.init(copy["params"])]

        def one_step() -> Any:
            current[:] = run_step(*current, images, teacher)
            return current[0]

        return one_step

    calls = {FORWARD: lambda: run_forward(variables, images), TRAINING: stepping({})}
    return calls | ({DISTILLATION: stepping(frozen)} if name == "vgg16" else {})


def torch_calls(name: str, cut: int, batch: int, precision: str) -> Calls:
    """The same in PyTorch."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    blocks = 9 if name == "resnet56" else 3
    net, teacher = (
        (torch_vgg16() if name == "vgg16" else torch_resnet(blocks, cut)).to(
            memory_format=torch.channels_last  # pyright: ignore
        )
        for _ in range(2)
    )
    images = torch.randn(batch, SHAPE[2], *SHAPE[:2]).to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    low = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def forward() -> None:
        net.eval()
        with torch.no_grad(), low:
            net(images)

    def step() -> None:
        net.train()
        optimizer.zero_grad()
        with low:
            loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()

    def maps(net: Any) -> tuple[Any, list[Any]]:
        """Logits, and the normalised attention map of each stage."""
        x, found = images, []
        for layer in net:
            if isinstance(layer, nn.MaxPool2d):
                found.append(nn.functional.normalize(x.float().square().sum(1).flatten(1), dim=1))
            x = layer(x)
        return x, found

    def distillation() -> None:
        net.train()
        teacher.eval()
        optimizer.zero_grad()
        with low:
            with torch.no_grad():
                _, guides = maps(teacher)
            logits, found = maps(net)
            loss = nn.functional.cross_entropy(logits, labels)
        for a, b in zip(found, guides, strict=True):
            loss = loss + ATTENTION / 2 * (a - b).square().mean()
        loss.backward()
        optimizer.step()

    calls = {FORWARD: forward, TRAINING: step}
    return calls | ({DISTILLATION: distillation} if name == "vgg16" else {})


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
