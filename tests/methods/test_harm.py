"""What a selection may destroy: floors, and the warnings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.methods.harm import PruningWarning
from jaxprune.methods.ranking import select

RNG = np.random.default_rng(0)
LAYERS = {"a": (6, 16), "b": (16, 16), "c": (16, 12), "head": (12, 3)}
WEIGHTS = {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in LAYERS.items()}


def network(v, x):
    for name in "abc":
        x = jax.nn.relu(x @ v[name])
    return x @ v["head"]


X = jnp.asarray(RNG.normal(size=(60, 6)), jnp.float32)
BATCHES = [(X, network(WEIGHTS, X).argmax(-1))]
GRAPH = jp.trace(network, WEIGHTS, X)
B = "b[1]"


def cut_at(widths):
    """Keeps the first units at these widths; all of the other groups."""
    kept = {n: widths.get(n, g.size) for n, g in GRAPH.groups.items()}
    masks = {
        n: jnp.asarray(np.arange(g.size) < kept[n], jnp.float32) for n, g in GRAPH.groups.items()
    }
    return lambda problem: jp.Selection(masks, problem.variables)


def prune(method, **options):
    key = jax.random.key(0)
    return jp.prune(
        network, WEIGHTS, BATCHES, budget="params/1.1", method=method, key=key, **options
    )


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_group_of_one_unit_and_a_network_at_chance_warn():
    with pytest.warns(
        PruningWarning, match=r"one unit alone is left of b\[1\]: raise budget\.floor"
    ):
        prune(cut_at({B: 1}))
    with pytest.warns(
        PruningWarning, match=r"at chance on the calibration batches \(\d+\.\d%, where"
    ):
        prune(
            lambda problem: jp.Selection(GRAPH.full_masks(), jax.tree.map(jnp.zeros_like, WEIGHTS))
        )


@pytest.mark.filterwarnings("error")
def test_neither_warns_without_reason():
    prune(cut_at({B: 14}))
    # Widths that were asked for; a score of which nobody knows what chance is.
    key = jax.random.key(0)
    widths = dict.fromkeys(GRAPH.groups, 1)
    score = lambda outputs, batch: -jnp.abs(outputs).mean()  # noqa: E731
    jp.prune(network, WEIGHTS, BATCHES, budget=widths, method="l1", score=score, key=key)


def test_scores_that_would_empty_a_group_stop_at_the_floor():
    scores = {n: np.full(g.size, 1e-6 if n == B else 1.0) for n, g in GRAPH.groups.items()}
    narrowest = {
        floor: GRAPH.widths(select(GRAPH, scores, jp.Budget("params/3", floor=floor), "none"))[B]
        for floor in (0.0, 0.5, 1.0)
    }
    # One fraction for all that leaves a third of this network's parameters is about 0.5.
    assert narrowest == {0.0: 2, 0.5: 4, 1.0: 8}


@pytest.mark.parametrize("targets", ["params/1.2", "params/4", "macs/9"])
@pytest.mark.parametrize("round_to", [1, 3])
def test_a_floor_is_always_within_reach(targets, round_to):
    for floor in (0.3, 1.0):
        budget = jp.Budget(targets, floor=floor, round_to=round_to)
        low, high, _ = budget.bounds(GRAPH)
        assert all(GRAPH.costs(low)[q] <= most for q, most in budget.limits_of(GRAPH).items())
        assert (low <= high).all()


def test_limits_stand_before_the_floor():
    low = jp.Budget("params/2", limits={B: (0.1, 1.0)}, floor=0.5).bounds(GRAPH)[0]
    widths = dict(zip(GRAPH.names, low.tolist(), strict=True))
    assert widths[B] == 2 and widths["a[1]"] == 5
    with pytest.raises(ValueError, match=r"budget\.floor: 2, must be a fraction"):
        jp.Budget("params/2", floor=2)


def test_sums_of_layers_stay_whole_where_that_is_asked_for():
    def residual(v, x):
        x = x @ v["stem"]
        return (x + jax.nn.relu(x @ v["up"]) @ v["down"]) @ v["head"]

    shapes = {"stem": (6, 8), "up": (8, 16), "down": (16, 8), "head": (8, 3)}
    weights = {n: jnp.asarray(RNG.normal(size=s), jnp.float32) for n, s in shapes.items()}
    graph = jp.trace(residual, weights, X)
    least = {
        groups: dict(
            zip(graph.names, jp.Budget("params/1.5", groups=groups).bounds(graph)[0], strict=True)
        )
        for groups in ("all", "inner")
    }
    assert least["inner"]["stem[1]"] == 8 > least["all"]["stem[1]"]
    assert least["inner"]["up[1]"] < 16
    with pytest.raises(ValueError, match=r"budget\.groups: 'some', must be 'all' or 'inner'"):
        jp.Budget("params/2", groups="some")
