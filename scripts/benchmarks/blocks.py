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

Two cores of an AMD EPYC with AVX-512 beside other work, so that the ratios count and even they to a
third; JAX 0.10.2, PyTorch 2.13, 9 calls in turn in one run, milliseconds as median and range,
and the part of the cut alone. A product ran at 166 GFLOP/s, a copy of 134 MB at 26 GB/s:

| layer      | G | bound | ours                | gathered            | PyTorch              |
|------------|---|-------|---------------------|---------------------|----------------------|
| 128, 16×16 | 1 | 58.3  | 52 (36-66)          |                     | 58 (51-97)           |
|            | 2 | 29.1  | 29 (26-46) [0.89]   | 43 (27-62) [0.60]   | 29 (27-56) [1.00]    |
|            | 4 | 14.6  | 26 (21-40) [0.50]   | 29 (20-41) [0.44]   | 20 (17-32) [0.72]    |
|            | 8 | 7.3   | 23 (19-42) [0.28]   | 30 (23-42) [0.22]   | 12 (7.4-22) [0.64]   |
| 256, 8×8   | 1 | 58.3  | 52 (37-67)          |                     | 87 (46-107)          |
|            | 2 | 29.1  | 29 (26-37) [0.89]   | 30 (24-37) [0.85]   | 48 (24-60) [0.91]    |
|            | 4 | 14.6  | 19 (14-23) [0.69]   | 20 (14-22) [0.65]   | 28 (11-36) [0.77]    |
|            | 8 | 7.3   | 15 (9.9-21) [0.42]  | 15 (12-22) [0.43]   | 11 (6.4-24) [0.98]   |
| 256, 16×16 | 1 | 233.2 | 157 (130-203)       |                     | 232 (221-334)        |
|            | 2 | 116.6 | 108 (92-129) [0.73] | 104 (97-131) [0.75] | 117 (111-132) [0.99] |
|            | 4 | 58.3  | 71 (56-90) [0.55]   | 70 (63-98) [0.56]   | 64 (56-86) [0.91]    |
|            | 8 | 29.1  | 50 (41-64) [0.40]   | 56 (46-68) [0.35]   | 38 (29-45) [0.77]    |
| 512, 4×4   | 1 | 58.3  | 40 (31-56)          |                     | 59 (46-84)           |
|            | 2 | 29.1  | 30 (21-40) [0.67]   | 25 (22-36) [0.80]   | 29 (18-58) [1.02]    |
|            | 4 | 14.6  | 18 (15-25) [0.58]   | 21 (16-30) [0.48]   | 14 (10-21) [1.04]    |
|            | 8 | 7.3   | 10 (7.6-14) [0.50]  | 10 (8.4-16) [0.50]  | 11 (5.3-22) [0.67]   |
| 512, 8×8   | 1 | 233.2 | 111 (91-147)        |                     | 288 (224-314)        |
|            | 2 | 116.6 | 77 (62-88) [0.72]   | 72 (62-79) [0.77]   | 116 (108-124) [1.24] |
|            | 4 | 58.3  | 64 (59-73) [0.43]   | 59 (48-69) [0.47]   | 59 (51-75) [1.22]    |
|            | 8 | 29.1  | 30 (24-35) [0.46]   | 33 (29-51) [0.43]   | 33 (28-40) [1.10]    |

What was asked for, 0.8 of the cut from 256 channels on, is reached in one layer at G = 2 (0.89):
the others have 0.67 to 0.73 there, 0.43 to 0.69 at G = 4 and 0.40 to 0.50 at G = 8. The dense layer
is Winograd's, too, whose transforms are those of the whole layer whatever G is, so that they are
much of the time where the products get few: at 512 channels, 8×8 and G = 8 the transforms took 14
ms and the products 16, of 98 for the dense layer (least of 9, another run). And XLA runs products
of 64 channels on one of the two cores (78 GFLOP/s). What the caches hold counts as much: by lots of
images (`forms`) that layer took 25 ms, and 38 with all at once, as G convolutions apart did. A
gather of what is read takes 1 to 2 ms by itself. Blocks below 32 channels are run together (128
channels, G = 8). PyTorch's grouped convolution is nearer to the cut, 0.67 to 1.24 from 256 channels
on, of a dense one that is slower than ours.

Tiles of 8 × 8 anywhere, by the unfolded patches of 256 channels on an 8×8 map, n = 3, in another
run, when the machine was slower:

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
from jaxprune.memory import keep_freed_memory

BATCH = 128
LAYERS = ((128, 16), (256, 8), (256, 16), (512, 4), (512, 8))
"""Channels, and the side of the map."""
GROUPS = (2, 4, 8)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    layers = LAYERS[1::2] if parser.parse_args().quick else LAYERS
    keep_freed_memory()
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
    ours = {1: compiled(None), **{g: compiled(diagonal(channels, g)) for g in GROUPS}}
    gathered = {g: compiled(diagonal(channels, g, rng)) for g in GROUPS}
    runs: dict[str, Callable[[], Any]] = {f"ours {g}": bound(f, x, kernel) for g, f in ours.items()}
    runs |= {f"gathered {g}": bound(f, x, kernel) for g, f in gathered.items()}
    if find_spec("torch"):
        runs |= torch_convolutions(x, kernel)
    times = together(runs, n=9)
    for g in (1, *GROUPS):
        operations = 2 * x.size * 9 * channels / g
        moved = 4 * (2 * x.size + kernel.size / g)
        cells = [f"{1e3 * max(operations / rate, moved / bandwidth):.1f} ms"]
        for kind in ("ours", "gathered", "torch"):
            dense = times.get("ours 1" if kind == "gathered" else f"{kind} 1")
            cells.append(cell(times.get(f"{kind} {g}"), dense, g))
        name = f"{channels}, {side}×{side}" if g == 1 else ""
        print(f"| {name} | {'dense' if g == 1 else f'G = {g}'} | {' | '.join(cells)} |", flush=True)


def cell(taken: Times | None, dense: Times | None, cut: float) -> str:
    """A time with its range, its speed-up, and what part of the cut that is."""
    if taken is None or dense is None:
        return ""
    text = f"{1e3 * taken.median:.1f} ms ({1e3 * taken.low:.1f} to {1e3 * taken.high:.1f})"
    ratio = dense.median / taken.median
    return text if cut == 1 else f"{text}, {ratio:.2f}× [{ratio / cut:.2f}]"


def diagonal(channels: int, groups: int, rng: np.random.Generator | None = None) -> Blocks:
    """Blocks on the diagonal; with `rng` what is read has an order of its own."""
    side = channels // groups
    order = {} if rng is None else {2: rng.permutation(channels)}
    return Blocks((0, 0, side, side), np.eye(groups, dtype=bool)[None, None], None, order)


def convolution(blocks: Blocks | None) -> Callable[..., jax.Array]:
    """A convolution, as the engine runs one with these blocks; not compiled."""

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

    return run


def compiled(blocks: Blocks | None) -> Callable[..., jax.Array]:
    """The convolution, compiled in the forms of `accelerate`."""
    return jax.jit(accelerate(convolution(blocks)))


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
