"""Nothing here leaves it to JAX to add axes in front, or to find a common type."""

import jax
import pytest


@pytest.fixture(autouse=True)
def ranks_and_types_are_written_out():
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        yield
