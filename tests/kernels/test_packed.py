"""The small form of a kernel gives the kernel back, to the bit, in as many bytes as are counted."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.kernels.blocks import Blocks, grid
from jaxprune.kernels.packed import pack, packed_shapes, unpack


@pytest.mark.parametrize("sides", [(1, 1, 1, 4), (0, 0, 3, 2), (3, 1, 4, 4)])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_it_gives_the_kernel_back(sides, dtype):
    rng, shape = np.random.default_rng(0), (3, 3, 6, 10)
    cells = grid(shape, sides)
    for shared in (None, rng.uniform(size=cells) < 0.6, np.ones(cells, bool)):
        blocks = Blocks(sides, rng.uniform(size=cells) < 0.7, shared, {3: rng.permutation(10)})
        kernel = np.asarray(blocks.project(jnp.asarray(rng.normal(size=shape), dtype)))
        numbers, signs = pack(kernel, blocks)
        assert ((len(numbers),), (len(signs),)) == packed_shapes(shape, blocks)
        assert numbers.dtype == kernel.dtype
        np.testing.assert_array_equal(unpack(numbers, signs, shape, blocks), kernel)
        # With the blocks' own bits it is as large as `storage` says, but for ends of bytes.
        bits = blocks.kept.size + 10 * 4 + (0 if shared is None else int(blocks.kept.sum()))
        held = numbers.nbytes + signs.nbytes + bits / 8
        assert abs(held - blocks.storage(shape, 8 * numbers.itemsize)) < 2
