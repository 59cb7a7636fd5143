"""Nothing here leaves it to JAX to add axes in front."""

import jax
import pytest


@pytest.fixture(autouse=True)
def ranks_are_written_out():
    with jax.numpy_rank_promotion("raise"):
        yield
