"""The laws on random architectures, and again on those that once broke them.

`JAXPRUNE_RANDOM_NETWORKS` is the number of networks; more still: `scripts/random_laws.py`.
"""

import json
import os
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import jax
import pytest
from laws import assert_laws_of_network
from networks import BLOCKS, HEADS

REGRESSIONS = json.loads(Path(__file__).with_name("regressions.json").read_text())
PARTS = 4  # so that two cores share them
EXAMPLES = int(os.environ.get("JAXPRUNE_RANDOM_NETWORKS", "24")) // PARTS

NETWORKS = st.fixed_dictionaries(
    {
        "blocks": st.lists(st.sampled_from(sorted(BLOCKS)), min_size=1, max_size=12),
        "head": st.sampled_from(HEADS),
        "seed": st.integers(0, 10**6),
    }
)


@pytest.mark.parametrize("part", range(PARTS))
def test_masked_equals_sliced_and_full_masks_the_function(part):
    @hypothesis.seed(part)
    @hypothesis.settings(
        max_examples=EXAMPLES, deadline=None, database=None, print_blob=True,
        suppress_health_check=list(hypothesis.HealthCheck),
    )  # fmt: skip
    @hypothesis.given(network=NETWORKS)
    def laws_hold(network):
        with jax.enable_x64(True):
            assert_laws_of_network(network)

    laws_hold()


@pytest.mark.parametrize("network", REGRESSIONS, ids=lambda n: f"{n['head']}-{n['seed']}")
def test_networks_that_once_broke_the_laws(network):
    assert_laws_of_network(network)
