"""The search on the Gram matrices of a trained VGG: against greedy elimination and L1 ranking."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import data, models
from jaxprune.budget import Budget
from jaxprune.data import normalize
from jaxprune.graph import trace
from jaxprune.masks import keep_top
from jaxprune.methods.ranking import filter_norms
from jaxprune.problem import Problem
from jaxprune.search import SearchConfig, greedy_elimination, search_groups
from jaxprune.statistics import grams
from jaxprune.train.loop import fit
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

WIDTHS = {"conv1_1": 16, "conv1_2": 16, "conv2_1": 32, "conv2_2": 32, "conv3_1": 32, "conv3_2": 64}


@pytest.fixture(scope="module")
def trained():
    digits = data.load("digits")
    shape = digits.input_shape
    module = models.build("vgg_small", num_classes=10, input_shape=shape, widths=WIDTHS)
    network = models.network(module)
    config = TrainConfig(
        epochs=6, batch_size=64, optimizer=OptimizerConfig(learning_rate=0.05), crop_padding=1,
        flip=False,
    )  # fmt: skip
    pixels = {"mean": digits.mean, "std": digits.std}
    start = models.init(module, shape, jax.random.key(0))
    variables = fit(network, start, digits.train, config, seed=0, **pixels).variables

    def forward(variables, images):
        return network.eval(variables, images, None).logits

    images = normalize(jnp.asarray(digits.train.images[:256]), **pixels)
    graph = trace(forward, variables, images[:1])
    batches = [images[:128], images[128:]]
    key = jax.random.key(1)
    matrices = grams(Problem(graph, forward, variables, batches, Budget(), key=key))
    return graph, variables, matrices


def error(mask, gram):
    dropped = 1.0 - np.asarray(mask, np.float64)
    return dropped @ gram @ dropped


@pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
def test_unseeded_search_beats_greedy_which_beats_l1(trained, fraction):
    graph, variables, matrices = trained
    widths = {name: round(fraction * group.size) for name, group in graph.groups.items()}
    found = search_groups(matrices, widths, jax.random.key(2), SearchConfig())
    ranked = keep_top(filter_norms(graph, variables, 1), widths)
    greedy, by_norm = {}, {}
    for name, gram in matrices.items():
        mask = greedy_elimination(jnp.asarray(gram, jnp.float32), widths[name])
        greedy[name] = error(mask, gram)
        by_norm[name] = error(ranked[name], gram)
        assert found.errors[name] <= greedy[name] * (1 + 1e-6)
    assert np.mean(list(greedy.values())) <= np.mean(list(by_norm.values()))
    assert np.mean([found.errors[n] / by_norm[n] for n in matrices]) < 0.9
