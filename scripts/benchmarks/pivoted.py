"""Whole networks with blocks on the diagonal beside dense ones, in XLA and in PyTorch.

    python -m benchmarks.pivoted                (in scripts/; --quick for batch 1 of ResNet-56)

VGG-16 and ResNet-56 for CIFAR, forward in evaluation mode and float32, batch 1 and 128: dense, and
with every 3×3 convolution from the second on in G blocks, as pivoting leaves them: what each layer
reads has an order of its own, so that its channels are gathered. Ours is `accelerate` around
`pruned.wrap`; PyTorch has `groups=G` behind an index of the channels, channels last, which is what
`export --to torch` writes. The cut is that in multiply-accumulates of the whole network, the bound
the least time by this machine's rates of a product and of a copy, for the direct algorithm; in
brackets is what part of the cut the speed-up is.

Two cores of an AMD EPYC with AVX-512 beside other work, JAX 0.10.2, PyTorch 2.13, up to 9 calls in
turn in one run until 30 s had passed, milliseconds as median and range. That other work also took
memory, which the ranges at 128 images show. A product ran at 141 GFLOP/s, a copy at 30 GB/s:

| network        | G | cut   | bound | ours                        | PyTorch                      |
|----------------|---|-------|-------|-----------------------------|------------------------------|
| VGG-16, 1      | 1 | 1.00× | 4.4   | 18 (8.8-31)                 | 19 (14-22)                   |
|                | 2 | 1.99× | 2.2   | 14 (6.6-46) 1.34× [0.67]    | 16 (8.1-27) 1.15× [0.58]     |
|                | 4 | 3.93× | 1.1   | 11 (4.7-16) 1.71× [0.44]    | 10 (5.2-16) 1.88× [0.48]     |
|                | 8 | 7.69× | 0.6   | 6.3 (4.4-12) 2.93× [0.38]   | 8.4 (3.9-25) 2.23× [0.29]    |
| VGG-16, 128    | 1 | 1.00× | 567.6 | 408 (324-843)               | 554 (454-1160)               |
|                | 2 | 1.99× | 285.4 | 365 (276-5976) 1.12× [0.56] | 379 (334-747) 1.46× [0.73]   |
|                | 4 | 3.93× | 144.3 | 244 (204-757) 1.67× [0.42]  | 258 (232-345) 2.15× [0.55]   |
|                | 8 | 7.69× | 73.8  | 200 (171-316) 2.05× [0.27]  | 233 (180-254) 2.38× [0.31]   |
| ResNet-56, 1   | 1 | 1.00× | 1.8   | 12 (6.5-14)                 | 11 (6.8-19)                  |
|                | 2 | 1.99× | 0.9   | 8.3 (6.7-13) 1.46× [0.73]   | 14 (9.9-18) 0.78× [0.39]     |
|                | 4 | 3.96× | 0.4   | 9.1 (6.3-17) 1.33× [0.34]   | 13 (8.7-17) 0.86× [0.22]     |
|                | 8 | 7.81× | 0.2   | 8.3 (6.4-10) 1.45× [0.19]   | 14 (11-22) 0.81× [0.10]      |
| ResNet-56, 128 | 1 | 1.00× | 227.4 | 471 (429-1070)              | 1686 (339-2544)              |
|                | 2 | 1.99× | 114.1 | 532 (423-1278) 0.88× [0.44] | 2038 (452-4119) 0.83× [0.42] |
|                | 4 | 3.96× | 57.5  | 431 (424-1156) 1.09× [0.28] | 2185 (391-2955) 0.77× [0.19] |
|                | 8 | 7.81× | 29.1  | 910 (494-1064) 0.52× [0.07] | 1912 (441-4677) 0.88× [0.11] |

The goal, 0.8 of the cut, is reached by neither: VGG-16 has 0.56 to 0.67 at G = 2, 0.42 to 0.44
at 4 and 0.27 to 0.38 at 8, and in PyTorch 0.58 to 0.73, 0.48 to 0.55 and 0.29 to 0.31. Its first
layers, of 64 channels on 32×32, are mostly transforms and what moves through memory, and the stem,
BatchNorm and pooling stay as they are. By its least times ResNet-56 gains nothing: blocks of less
than 32 channels are run together, which of 16, 32 and 64 channels leaves two blocks in the last
stage alone; PyTorch's groups of 2 to 32 channels are slower than its dense convolutions.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.blocks import GROUPS, bound, cell, diagonal, rates
from benchmarks.common import machine, together
from benchmarks.convolutions import SHAPE, torch_resnet, torch_vgg16
from jaxprune import models
from jaxprune.graph import paths
from jaxprune.memory import keep_freed_memory

NETWORKS = ("vgg16", "resnet56")
BATCHES = (1, 128)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    keep_freed_memory()
    print(machine(), "\n")
    rate, bandwidth = rates()
    print(f"a product runs at {rate / 1e9:.0f} GFLOP/s, a copy at {bandwidth / 1e9:.1f} GB/s\n")
    print("| network, batch | | cut | bound | ours | PyTorch |\n|---|---|---|---|---|---|")
    for name in NETWORKS[quick:]:
        for batch in BATCHES[: 1 if quick else 2]:
            table(name, batch, rate, bandwidth)


def table(name: str, batch: int, rate: float, bandwidth: float) -> None:
    """The rows of one network and batch."""
    module: Any = models.build(name, num_classes=10, input_shape=SHAPE)
    network, rng = models.network(module), np.random.default_rng(0)
    variables = models.init(module, SHAPE, jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (batch, *SHAPE))

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        return network.eval(variables, images, None).logits

    graph = jp.trace(forward, variables, images[:1])
    costs, runs = {1: graph.cost()}, {"ours 1": compiled(forward, variables, images)}
    for g in GROUPS:
        blocks = {
            path: diagonal(leaf.shape[2], g, rng)._replace(
                sides=(0, 0, leaf.shape[2] // g, leaf.shape[3] // g)
            )
            for path, leaf in paths.leaves(variables)
            if jnp.ndim(leaf) == 4 and leaf.shape[:2] == (3, 3) and leaf.shape[2] % 8 == 0
        }
        pruned = graph.slice(variables, graph.full_masks(), blocks)
        costs[g] = graph.cost(None, pruned.kept())
        runs[f"ours {g}"] = compiled(pruned.wrap(forward), pruned.variables, images)
    if find_spec("torch"):
        runs |= torch_networks(name, np.array(images), rng)
    times = together(runs, n=9, seconds=30)
    moved = moved_bytes(forward, variables, images)
    for g in (1, *GROUPS):
        cost, cut = costs[g], costs[1].macs / costs[g].macs
        least = max(2 * batch * cost.macs / rate, (moved + 4 * cost.params) / bandwidth)
        cells = [f"{cut:.2f}×", f"{1e3 * least:.1f} ms"]
        cells += [
            cell(times.get(f"{kind} {g}"), times.get(f"{kind} 1"), cut)
            for kind in ("ours", "torch")
        ]
        first = f"{name}, {batch}" if g == 1 else ""
        print(
            f"| {first} | {'dense' if g == 1 else f'G = {g}'} | {' | '.join(cells)} |", flush=True
        )


def moved_bytes(forward: Callable[..., Any], variables: Any, images: jax.Array) -> int:
    """What the convolutions read and write, kernels apart, where nothing stays in a cache."""
    jaxpr = jax.make_jaxpr(forward)(variables, images).jaxpr
    return sum(
        4 * (eqn.invars[0].aval.size + eqn.outvars[0].aval.size)
        for eqn in equations(jaxpr)
        if eqn.primitive.name == "conv_general_dilated"
    )


def equations(jaxpr: Any) -> Iterator[Any]:
    """All, those of inner functions included."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in eqn.params.values():
            if hasattr(inner, "jaxpr"):
                yield from equations(inner.jaxpr)


def compiled(fn: Callable[..., Any], variables: Any, images: jax.Array) -> Callable[[], Any]:
    """The call, as the engine runs it."""
    return bound(jax.jit(jp.accelerate(fn)), variables, images)


def torch_networks(name: str, images: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """PyTorch's networks, dense and in groups."""
    import torch  # pyright: ignore[reportMissingImports]
    from torch import nn  # pyright: ignore[reportMissingImports]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.set_grad_enabled(False)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory

    class Gathered(nn.Module):
        def __init__(self, conv: Any, groups: int):
            super().__init__()
            given = conv.kernel_size, conv.stride, conv.padding
            self.reads = torch.from_numpy(rng.permutation(conv.in_channels))
            self.conv = nn.Conv2d(
                conv.in_channels, conv.out_channels, *given, groups=groups,
                bias=conv.bias is not None,
            )  # fmt: skip

        def forward(self, x: Any) -> Any:
            return self.conv(x.index_select(1, self.reads))

    def build(groups: int) -> Any:
        net = torch_vgg16() if name == "vgg16" else torch_resnet(9, 1)
        for parent in list(net.modules()) if groups > 1 else ():
            for key, child in list(parent.named_children()):
                if isinstance(child, nn.Conv2d) and child.in_channels % 8 == 0 and (
                    child.kernel_size == (3, 3)
                ):  # fmt: skip
                    setattr(parent, key, Gathered(child, groups))
        return net.eval().to(memory_format=torch.channels_last)  # pyright: ignore

    return {f"torch {g}": functools.partial(build(g), x) for g in (1, *GROUPS)}


if __name__ == "__main__":
    sys.exit(main())
