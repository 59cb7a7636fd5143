"""Block-diagonal convolutions beside dense ones: how much of the cut in coefficients is speed.

    python -m benchmarks.blocks                 (in scripts/; --quick for fewer layers)

3×3 convolutions with as many channels read as written, batch 128, forward in float32, as
`pruned.wrap` and `accelerate` run them: dense, and with G blocks on the diagonal, the channels read
in order or gathered first. The number behind a time is the speed-up, and in brackets what part of
the cut (G) that is. `bound` is the least time by this machine's own rates of a product and of a
copy, for the direct algorithm (Winograd's, which serves from 32 channels a block, may be below).
PyTorch, where it is installed, has `groups=G`, channels last. The last table is the sparse product
of unfolded patches with 8 × 8 tiles anywhere, in SciPy (BSR) and PyTorch (`to_sparse_bsr`), beside
the dense product in the same library.

Two cores of an AMD EPYC beside much other work, which took time of all alike, so that the ratios
count and even they to a third (times of one thing lie between 0.3 and 2.3 of their median); JAX
0.10.2, PyTorch 2.13, medians of at most 7 calls in turn in one run; the rows of 128 channels in
another run. A product ran at 53 GFLOP/s, a copy at 1.6 GB/s:

| layer      |       | bound  | ours                | gathered             | PyTorch             |
|------------|-------|--------|---------------------|----------------------|---------------------|
| 128, 16×16 | dense | 185 ms | 159 ms              |                      | 150 ms              |
|            | G = 2 | 92 ms  | 141 ms, 1.1× [0.56] | 187 ms, 0.8× [0.42]  | 72 ms, 2.1× [1.03]  |
|            | G = 4 | 46 ms  | 104 ms, 1.5× [0.38] | 152 ms, 1.0× [0.26]  | 47 ms, 3.2× [0.80]  |
|            | G = 8 | 23 ms  | 108 ms, 1.5× [0.18] | 144 ms, 1.1× [0.14]  | 42 ms, 3.5× [0.44]  |
| 256, 8×8   | dense | 182 ms | 262 ms              |                      | 242 ms              |
|            | G = 2 | 91 ms  | 170 ms, 1.5× [0.77] | 176 ms, 1.5× [0.75]  | 136 ms, 1.8× [0.89] |
|            | G = 4 | 45 ms  | 92 ms, 2.8× [0.71]  | 146 ms, 1.8× [0.45]  | 86 ms, 2.8× [0.70]  |
|            | G = 8 | 22 ms  | 76 ms, 3.5× [0.43]  | 152 ms, 1.7× [0.22]  | 54 ms, 4.5× [0.57]  |
| 256, 16×16 | dense | 730 ms | 1699 ms             |                      | 1214 ms             |
|            | G = 2 | 365 ms | 612 ms, 2.8× [1.39] | 1236 ms, 1.4× [0.69] | 643 ms, 1.9× [0.94] |
|            | G = 4 | 182 ms | 744 ms, 2.3× [0.57] | 836 ms, 2.0× [0.51]  | 311 ms, 3.9× [0.98] |
|            | G = 8 | 91 ms  | 468 ms, 3.6× [0.45] | 1096 ms, 1.6× [0.19] | 259 ms, 4.7× [0.59] |
| 512, 4×4   | dense | 182 ms | 170 ms              |                      | 235 ms              |
|            | G = 2 | 91 ms  | 90 ms, 1.9× [0.94]  | 109 ms, 1.6× [0.78]  | 109 ms, 2.2× [1.08] |
|            | G = 4 | 45 ms  | 57 ms, 3.0× [0.75]  | 76 ms, 2.2× [0.56]   | 76 ms, 3.1× [0.77]  |
|            | G = 8 | 22 ms  | 40 ms, 4.3× [0.54]  | 48 ms, 3.5× [0.44]   | 53 ms, 4.4× [0.55]  |
| 512, 8×8   | dense | 730 ms | 481 ms              |                      | 804 ms              |
|            | G = 2 | 365 ms | 368 ms, 1.3× [0.65] | 407 ms, 1.2× [0.59]  | 431 ms, 1.9× [0.93] |
|            | G = 4 | 182 ms | 260 ms, 1.8× [0.46] | 375 ms, 1.3× [0.32]  | 230 ms, 3.5× [0.88] |
|            | G = 8 | 91 ms  | 243 ms, 2.0× [0.25] | 343 ms, 1.4× [0.18]  | 122 ms, 6.6× [0.83] |

What was asked for, 0.8 of the cut from 256 channels on, is reached at G = 2 alone and in two of
four layers (0.94 and 1.39), and else not: 0.65 and 0.77 at G = 2, 0.46 to 0.75 at G = 4, 0.25 to
0.54 at G = 8. Winograd's transforms are those of the whole layer whatever G is, so that they are
most of the time where the products get few; slices and the joining of results move all activations
besides. Blocks below 32 channels are no quicker than those of 32, with which they are run together
(128 channels, G = 8). A gather costs 3 to 130 % on top. PyTorch's grouped convolution is nearer
to the cut: 0.55 to 1.08 from 256 channels on.

Tiles of 8 × 8 anywhere, by the unfolded patches of 256 channels on an 8×8 map, n = 3:

| density | SciPy                | PyTorch             |
|---------|----------------------|---------------------|
| dense   | 429 ms               | 513 ms              |
| 1/2     | 5201 ms, 0.1× [0.04] | 590 ms, 0.9× [0.43] |
| 1/4     | 2446 ms, 0.2× [0.04] | 335 ms, 1.5× [0.38] |
| 1/8     | 1209 ms, 0.4× [0.04] | 210 ms, 2.4× [0.31] |

There is no quicker form here for tiles by rows or anywhere: they run as a dense kernel with zeros.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax import lax

from benchmarks.common import Times, machine, together
from jaxprune.kernels import accelerate
from jaxprune.kernels.blocks import Blocks

BATCH = 128
LAYERS = ((128, 16), (256, 8), (256, 16), (512, 4), (512, 8))
"""Channels, and the side of the map."""
GROUPS = (2, 4, 8)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    layers = LAYERS[1::2] if parser.parse_args().quick else LAYERS
    print(machine(), "\n")
    rate, bandwidth = rates()
    print(f"a product runs at {rate / 1e9:.0f} GFLOP/s, a copy at {bandwidth / 1e9:.1f} GB/s\n")
    print("| channels, map |    | bound | ours | gathered | PyTorch |")
    print("|---|---|---|---|---|---|")
    for channels, side in layers:
        table(channels, side, rate, bandwidth)
    sparse(256, 8)


def rates() -> tuple[float, float]:
    """Floating-point operations and bytes a second."""
    n = 1536
    a = jnp.ones((n, n))
    long = jnp.ones(1 << 25)
    product, copy = jax.jit(jnp.dot), jax.jit(lambda x: x + 1)
    times = together({"product": lambda: product(a, a), "copy": lambda: copy(long)})
    return 2 * n**3 / times["product"].low, 2 * 4 * long.size / times["copy"].low


def table(channels: int, side: int, rate: float, bandwidth: float) -> None:
    """The rows of one layer."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(BATCH, side, side, channels)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, channels, channels)), jnp.float32)
    ours = {1: convolution(None), **{g: convolution(diagonal(channels, g)) for g in GROUPS}}
    gathered = {g: convolution(diagonal(channels, g, rng)) for g in GROUPS}
    runs: dict[str, Callable[[], Any]] = {f"ours {g}": bound(f, x, kernel) for g, f in ours.items()}
    runs |= {f"gathered {g}": bound(f, x, kernel) for g, f in gathered.items()}
    if find_spec("torch"):
        runs |= torch_convolutions(x, kernel)
    times = together(runs)
    for g in (1, *GROUPS):
        operations = 2 * x.size * 9 * channels / g
        moved = 4 * (2 * x.size + kernel.size / g)
        cells = [f"{1e3 * max(operations / rate, moved / bandwidth):.1f} ms"]
        for kind in ("ours", "gathered", "torch"):
            dense = times.get("ours 1" if kind == "gathered" else f"{kind} 1")
            cells.append(cell(times.get(f"{kind} {g}"), dense, g))
        name = f"{channels}, {side}×{side}" if g == 1 else ""
        print(f"| {name} | {'dense' if g == 1 else f'G = {g}'} | {' | '.join(cells)} |", flush=True)


def cell(taken: Times | None, dense: Times | None, g: int) -> str:
    """A time, its speed-up, and what part of the cut that is."""
    if taken is None or dense is None:
        return ""
    text = f"{1e3 * taken.median:.1f} ms ({1e3 * taken.low:.1f} to {1e3 * taken.high:.1f})"
    ratio = dense.median / taken.median
    return text if g == 1 else f"{text}, {ratio:.1f}× [{ratio / g:.2f}]"


def diagonal(channels: int, groups: int, rng: np.random.Generator | None = None) -> Blocks:
    """Blocks on the diagonal; with `rng` what is read has an order of its own."""
    side = channels // groups
    order = {} if rng is None else {2: rng.permutation(channels)}
    return Blocks((0, 0, side, side), np.eye(groups, dtype=bool)[None, None], None, order)


def convolution(blocks: Blocks | None) -> Callable[..., jax.Array]:
    """A convolution, as the engine runs one with these blocks."""

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def run(x: jax.Array, kernel: jax.Array) -> jax.Array:
        if blocks is None:
            return plain(x, kernel)
        (eqn,) = jax.make_jaxpr(plain)(x, kernel).jaxpr.eqns
        found = blocks.contract(eqn, (x, blocks.project(kernel)))
        assert found is not None
        return found

    return jax.jit(accelerate(run))


def bound(fn: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """The call with these arguments."""
    return lambda: fn(*args)


def torch_convolutions(x: jax.Array, kernel: jax.Array) -> dict[str, Callable[[], Any]]:
    """PyTorch's grouped convolutions of the same sizes."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.set_grad_enabled(False)
    images = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)  # channels last in memory
    whole = torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1).contiguous()
    runs = {}
    for g in (1, *GROUPS):
        weight = whole[:, : whole.shape[1] // g].contiguous(memory_format=torch.channels_last)
        runs[f"torch {g}"] = lambda weight=weight, g=g: torch.nn.functional.conv2d(
            images, weight, padding=1, groups=g
        )
    return runs


def sparse(channels: int, side: int, tile: int = 8) -> None:
    """Tiles anywhere, times unfolded patches."""
    rng = np.random.default_rng(0)
    patches = rng.normal(size=(9 * channels, BATCH * side * side)).astype(np.float32)
    shape = channels // tile, 9 * channels // tile
    runs: dict[str, Callable[[], Any]] = {}
    for g in (1, *GROUPS):
        kept = rng.uniform(size=shape) < 1 / g
        matrix = np.kron(kept, np.ones((tile, tile))).astype(np.float32)
        matrix *= rng.normal(size=matrix.shape).astype(np.float32)
        held = scipy.sparse.bsr_array(matrix, blocksize=(tile, tile))
        runs[f"SciPy {g}"] = bound(
            np.matmul if g == 1 else held.__matmul__, *_operands(g, matrix, patches)
        )
        if find_spec("torch"):
            runs[f"PyTorch {g}"] = torch_product(matrix, patches, tile, g)
    times = together(runs, n=3)
    print(f"\n{tile} × {tile} tiles anywhere, {channels} channels, {side}×{side}, unfolded\n")
    print("| density | SciPy | PyTorch |\n|---|---|---|")
    for g in (1, *GROUPS):
        cells = [
            cell(times.get(f"{lib} {g}"), times.get(f"{lib} 1"), g) for lib in ("SciPy", "PyTorch")
        ]
        print(f"| {'dense' if g == 1 else f'1/{g}'} | {' | '.join(cells)} |")


def _operands(g: int, matrix: np.ndarray, patches: np.ndarray) -> tuple[np.ndarray, ...]:
    return (matrix, patches) if g == 1 else (patches,)


def torch_product(matrix: np.ndarray, patches: np.ndarray, tile: int, g: int) -> Callable[[], Any]:
    """PyTorch's product with a matrix of tiles."""
    import torch  # pyright: ignore[reportMissingImports]

    left, right = torch.from_numpy(matrix), torch.from_numpy(patches)
    if g > 1:
        left = left.to_sparse_bsr((tile, tile))
    return lambda: left @ right


if __name__ == "__main__":
    sys.exit(main())
