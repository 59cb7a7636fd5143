"""Nothing here leaves it to JAX to add axes in front, but for the algorithms of evosax."""

import jax
import pytest


@pytest.fixture(autouse=True)
def ranks_are_written_out(request):
    by_others = "any_evosax_algorithm" in request.node.name
    with jax.numpy_rank_promotion("allow" if by_others else "raise"):
        yield
