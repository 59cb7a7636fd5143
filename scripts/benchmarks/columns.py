"""Kernels that keep some columns beside dense ones: how much quicker the smaller product is.

    python -m benchmarks.columns                (in scripts/; --batch N)

3×3 convolutions with as many channels read as written, in float32, as `pruned.wrap` and
`accelerate` run them: the forward pass, and with both gradients. Columns are kept at random. The
number is how many times quicker than the dense kernel, medians of 4 calls in turn (batch 32), and
in brackets the ratio of the least times. Two cores of an AMD EPYC with several times as much other
work on them, so that a single ratio may be off by half; JAX 0.10.2:

| channels, map | dense, and gradients | kept | forward     | with gradients |
|---------------|----------------------|------|-------------|----------------|
| 64, 32×32     | 177 ms, 489 ms       | 1/3  | 0.9× (0.6)  | 1.1× (1.2)     |
|               |                      | 1/4  | 1.4× (1.9)  | 1.2× (1.3)     |
|               |                      | 1/8  | 3.3× (3.7)  | 1.5× (1.6)     |
|               |                      | 1/16 | 6.1× (5.3)  | 1.7× (1.7)     |
| 128, 16×16    | 50 ms, 228 ms        | 1/3  | 0.7× (0.3)  | 1.0× (1.6)     |
|               |                      | 1/4  | 1.0× (1.5)  | 1.1× (1.4)     |
|               |                      | 1/8  | 1.5× (0.8)  | 1.6× (1.8)     |
|               |                      | 1/16 | 2.9× (2.6)  | 2.7× (2.5)     |
| 256, 8×8      | 18 ms, 54 ms         | 1/3  | 1.6× (1.2)  | 1.0× (1.1)     |
|               |                      | 1/4  | 1.5× (1.6)  | 1.4× (1.4)     |
|               |                      | 1/8  | 4.2× (2.9)  | 1.8× (1.8)     |
|               |                      | 1/16 | 7.1× (5.4)  | 1.9× (2.1)     |
| 512, 4×4      | 46 ms, 153 ms        | 1/3  | 2.0× (3.7)  | 1.3× (1.3)     |
|               |                      | 1/4  | 3.4× (4.4)  | 1.5× (1.6)     |
|               |                      | 1/8  | 11.9× (15)  | 1.9× (2.1)     |
|               |                      | 1/16 | 11.2× (13)  | 2.3× (2.0)     |
| 512, 2×2      | 39 ms, 161 ms        | 1/3  | 4.2× (1.2)  | 2.1× (1.2)     |
|               |                      | 1/4  | 4.7× (1.6)  | 1.5× (1.1)     |
|               |                      | 1/8  | 4.7× (1.8)  | 2.2× (1.1)     |
|               |                      | 1/16 | 4.1× (2.2)  | 2.6× (3.9)     |

From a quarter on it is as quick or quicker in every layer, and so it runs there and below; at a
half, in another run, it took 1.3 to 1.5 times as long from 64 to 256 channels. The dense kernel has
Winograd's form, with a quarter of the products, on maps above 2×2. What the gradient with respect
to the images costs does not fall.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.blocks import convolution
from benchmarks.common import machine, together
from jaxprune.kernels import accelerate, columns
from jaxprune.kernels.blocks import Blocks

LAYERS = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 2))
"""Channels, and the side of the map: those of a VGG-16 on 32×32 images."""
PARTS = (3, 4, 5, 8, 16)
"""One column of so many is kept."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--calls", type=int, default=5)
    options = parser.parse_args()
    columns._DENSEST = 1.0
    print(machine(), "\n")
    print("| channels, map | dense | kept | forward | with gradients |")
    print("|---|---|---|---|---|")
    for channels, side in LAYERS:
        rows(channels, side, options.batch, options.calls)


def rows(channels: int, side: int, batch: int, calls: int) -> None:
    """Those of one layer: how many times quicker than the dense kernel."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(batch, side, side, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)
    runs: dict[str, Callable[[], Any]] = {}
    for part in (1, *PARTS):
        kept = rng.permutation(9 * channels) < 9 * channels // part
        blocks = Blocks((1, 1, 1, 0), kept.reshape(3, 3, channels, 1))
        forward, gradient = compiled(blocks if part > 1 else None)
        runs[f"{part} forward"] = lambda f=forward: f(x, kernel)
        runs[f"{part} gradient"] = lambda f=gradient: f(x, kernel)
    times = together(runs, n=calls, seconds=60)
    for part in PARTS:
        ratios = []
        for what in ("forward", "gradient"):
            dense, sparse = times[f"1 {what}"], times[f"{part} {what}"]
            ratios.append(
                f"{dense.median / sparse.median:.1f}× ({dense.low / sparse.low:.1f}× the least)"
            )
        first = part == PARTS[0]
        dense = " and ".join(f"{1e3 * times[f'1 {w}'].median:.0f} ms" for w in WHAT)
        name = f"{channels}, {side}×{side} | {dense}" if first else " | "
        print(f"| {name} | 1/{part} | {' | '.join(ratios)} |", flush=True)


WHAT = ("forward", "gradient")


def compiled(blocks: Blocks | None) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A convolution as the engine runs one with these blocks, and the gradients of its sum."""
    run = convolution(blocks)

    def total(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(run(x, kernel)))

    return jax.jit(accelerate(run)), jax.jit(accelerate(jax.value_and_grad(total, (0, 1))))


if __name__ == "__main__":
    sys.exit(main())
