"""The laws on random architectures."""

import hypothesis
import hypothesis.strategies as st
import jax
import pytest
from laws import assert_laws
from networks import CONVOLUTIONS, RESHAPES, example

from jaxprune.graph import trace


@pytest.mark.parametrize("table", [CONVOLUTIONS, RESHAPES], ids=["convolutions", "reshapes"])
@hypothesis.settings(
    max_examples=22, deadline=None, derandomize=True, print_blob=True,
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
@hypothesis.given(data=st.data())
def test_masked_equals_sliced_and_full_masks_the_function(table, data):
    names = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=4))
    head = data.draw(st.sampled_from(["flatten", "mean"]))
    seed = data.draw(st.integers(0, 10**6))
    with jax.enable_x64(True):
        fn, variables, x = example(names, head, seed)
        graph = trace(fn, variables, x, state=lambda out: out[1])
        assert_laws(graph, fn, variables, x, seed=seed)
