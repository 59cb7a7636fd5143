"""One multiplication a block beside the dense product: what unified weights could save in time.

    python -m benchmarks.unified                (in scripts/)

`y = x W`, where the blocks of 4 × 4 weights of W have one magnitude each. The form that is timed
does the least that there is to do: 4 inputs have but 8 sums under signs, up to the sign of the sum;
a product with the 8 patterns makes these for all blocks, each output takes that of its own pattern,
times its block's magnitude, and adds up over the blocks. It has a quarter of the multiplications.

Two cores of an AMD EPYC, JAX 0.10.2, float32; of two runs of at most 31 calls in turn the least
time, and in brackets the mean of the medians. Other work took both cores, which a product on two
threads waits for, so that the least counts:

| inputs, outputs, rows | dense          | sums in XLA   | sums in NumPy |
|-----------------------|----------------|---------------|---------------|
| 128, 128, 128         | 0.28 (8.1) ms  | 0.82 (4.9) ms | 1.3 (1.4) ms  |
| 256, 256, 128         | 0.59 (16) ms   | 9.4 (28) ms   | 19 (34) ms    |
| 512, 512, 128         | 1.2 (12) ms    | 116 (176) ms  | 110 (207) ms  |

3, 16 and 99 times as long as the dense product by the least times: a multiplication saves nothing
where a fused multiply-add does it beside the addition, and each chosen sum is a read from memory.
(By medians the sums are ahead at 128 channels, on this busy machine, and behind at all others.) So
no such form is shipped, and unified networks run as dense ones.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import machine, together

SIDE = 4
LAYERS = ((128, 128, 128), (256, 256, 128), (512, 512, 128))
"""Inputs, outputs, and rows: each small enough that the sums stay in memory."""


def main() -> None:
    """Prints the table."""
    print(machine(), "\n")
    print("| inputs, outputs, rows | dense | sums in XLA | sums in NumPy |")
    print("|---|---|---|---|")
    for read, written, rows in LAYERS:
        row(read, written, rows)


def row(read: int, written: int, rows: int) -> None:
    """Times one product."""
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (read, written)).astype(np.float32)
    magnitudes = rng.uniform(0.5, 1, (read // SIDE, written // SIDE)).astype(np.float32)
    kernel = signs * np.kron(magnitudes, np.ones((SIDE, SIDE), np.float32))
    x = rng.normal(size=(rows, read)).astype(np.float32)
    # Pattern of each column of a block, up to its sign: the first input counts as positive.
    blocks = signs.reshape(read // SIDE, SIDE, written)
    turned = blocks[:, 0]
    code = ((blocks[:, 1:] * turned[:, None] < 0) * (1 << np.arange(SIDE - 1))[:, None]).sum(1)
    patterns = np.array(
        [[1, *(-1 if n >> i & 1 else 1 for i in range(SIDE - 1))] for n in range(1 << (SIDE - 1))],
        np.float32,
    ).T
    scale = turned * np.repeat(magnitudes, SIDE, 1)

    def sums(x, scale):
        made = x.reshape(rows, -1, SIDE) @ patterns  # every sum of signed inputs of a block
        chosen = jnp.take_along_axis(made, jnp.asarray(code)[None], 2)
        return jnp.einsum("rbo,bo->ro", chosen, scale)

    def numpy_sums():
        made = x.reshape(rows, -1, SIDE) @ patterns
        y = np.zeros((rows, written), np.float32)
        for b in range(read // SIDE):
            y += made[:, b, code[b]] * scale[b]
        return y

    dense, fast = jax.jit(jnp.dot), jax.jit(sums)
    np.testing.assert_allclose(fast(x, scale), x @ kernel, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(numpy_sums(), x @ kernel, rtol=1e-3, atol=1e-3)
    times = together(
        {
            "dense": lambda: dense(x, kernel),
            "xla": lambda: fast(x, scale),
            "numpy": numpy_sums,
        },
        n=31,
    )
    cells = [
        f"{1e3 * t.median:.2f} ms ({1e3 * t.low:.2f} to {1e3 * t.high:.2f})" for t in times.values()
    ]
    print(f"| {read}, {written}, {rows} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
