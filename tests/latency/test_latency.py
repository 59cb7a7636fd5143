from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import latency
from jaxprune.latency.table import LatencyTable, LayerTimes, choose_rounding


def dense(variables, x):
    """Two hidden layers, the first in a `jit` of its own."""
    h = jax.jit(lambda v, x: jnp.tanh(x @ v["kernel"] + v["bias"]))(variables["a"], x)
    return jnp.tanh(h @ variables["b"]["kernel"]) @ variables["c"]["kernel"]


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)

    def array(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    variables = {
        "a": {"kernel": array(6, 32), "bias": array(32)},
        "b": {"kernel": array(32, 24)},
        "c": {"kernel": array(24, 3)},
    }
    batches = [(array(20, 6), jnp.asarray(rng.integers(0, 3, 20)))]
    return variables, batches, jp.trace(dense, variables, batches[0][0][:1])


class Clock:
    """Counts what a compiled program computes, so that no test depends on the machine."""

    def __init__(self, slow_odd=0.0):
        self.timed, self.slow_odd = 0, slow_odd

    def __call__(self, calls):
        self.timed += len(calls)
        return [self.seconds(call) for call in calls]

    def seconds(self, call):
        odd = any(n % 8 for x in jax.tree.leaves(call.args) for n in np.shape(x)[-1:])
        return call.program.cost_analysis()["flops"] * (1 + self.slow_odd * odd) * 1e-6 + 1e-5


def test_the_table_predicts_what_the_networks_take(case):
    variables, batches, graph = case
    x, clock = batches[0][0], Clock()
    steps = []
    table = latency.measure(
        graph, dense, variables, x, timer=clock, on_layer=lambda *step: steps.append(step)
    )
    assert [layer.name for layer in table.layers] == ["a/kernel", "b/kernel", "c/kernel"]
    assert [(layer.reads, layer.writes) for layer in table.layers] == [
        ((), ("a/kernel[1]",)), (("a/kernel[1]",), ("b/kernel[1]",)), (("b/kernel[1]",), ()),
    ]  # fmt: skip
    assert steps == [(1, 3), (2, 3), (3, 3)]
    rng = np.random.default_rng(1)
    for widths in rng.integers(4, graph.sizes + 1, size=(6, 2)):
        call = latency.network_of(graph, dense, variables, (x,), widths)
        assert float(table(widths)) == pytest.approx(clock.seconds(call), rel=0.05)
    assert float(table(graph.sizes)) == pytest.approx(
        clock.seconds(latency.network_of(graph, dense, variables, (x,), graph.sizes))
    )


def test_layers_that_compile_alike_are_timed_once():
    def deep(variables, x):
        for kernel in variables["inner"]:
            x = jnp.tanh(x @ kernel)
        return x @ variables["last"]

    variables = {"inner": [jnp.ones((8, 8))] * 5, "last": jnp.ones((8, 2))}
    graph, clock = jp.trace(deep, variables, jnp.ones((1, 8))), Clock()
    table = latency.measure(graph, deep, variables, jnp.ones((4, 8)), kept=(0.5,), timer=clock)
    # 2 x 2 pairs of widths in the middle, two of which the first layer shares; the last layer's 2,
    # and 2 whole networks.
    assert len(table.layers) == 6 and clock.timed == 4 + 2 + 2


def test_interpolation_is_exact_for_products_of_widths():
    grid = np.array([0.1, 0.5, 1.0])
    layer = LayerTimes("k", ("a",), ("b",), grid, grid, 1 + np.outer(2 * grid, 3 * grid))
    read, written = np.random.default_rng(0).uniform(0.1, 1, size=(2, 5))
    np.testing.assert_allclose(layer(read, written), 1 + 6 * read * written)
    table = LatencyTable(
        {"a": 10, "b": 20}, "d", "x", (layer,), np.array([1.0, 7.0]), np.array([2.0, 14.0])
    )
    widths = np.array([[10, 20], [5, 10], [1, 1]])
    np.testing.assert_allclose(table(widths)[:2], [14, 5])
    assert table(widths).shape == (3,) and table(widths)[2] == table(np.array([1, 2]))


@pytest.mark.parametrize("method", ["greedy", "l1"])
def test_prune_to_a_latency(case, method):
    variables, batches, graph = case
    clock = Clock()
    pruned = jp.prune(
        dense, variables, batches, budget="latency/2,params/2.2", method=method,
        key=jax.random.key(0), timer=clock,
    )  # fmt: skip
    found = pruned.latency
    assert found is not None and found.target is not None
    assert found.target == pytest.approx(found.dense / 2)
    assert found.predicted <= found.target * (1 + 1e-9)
    x = batches[0][0]
    wrapped = jax.jit(pruned.wrap(dense)).lower(pruned.variables, x)
    assert found.measured == clock.seconds(latency.Call(wrapped, (pruned.variables, x)))
    assert not found.missed and "asked for at most" in str(found)
    assert graph.cost(pruned.widths).params <= graph.cost().params / 2.2
    # Neither target leaves room for another channel.
    assert found.predicted > 0.8 * found.target


def test_a_missed_target_is_told(case):
    variables, batches, _ = case

    class Wrong(Clock):
        """At the end, when the dense network and the pruned one are timed, the latter is slow."""

        def __call__(self, calls):
            first, *others = super().__call__(calls)
            return [first, *(1.5 * s if self.timed > 10 and len(calls) == 2 else s for s in others)]

    clock = Wrong()
    with pytest.warns(UserWarning, match="latency target was missed: latency .* asked for at most"):
        jp.prune(
            dense, variables, batches, budget="latency/2", method="l1", key=jax.random.key(0),
            timer=clock,
        )  # fmt: skip


def test_a_latency_beyond_reach_is_told_before_the_table(case):
    variables, batches, graph = case
    clock = Clock()
    budget = jp.Budget("latency/50", limits={"*": (0.5, 1.0)})
    with pytest.raises(ValueError, match=r"beyond reach for latency: .* the best is 'latency/[23]"):
        latency.prepare(graph, budget, dense, variables, batches[0][0], timer=clock)
    assert clock.timed == 2


def test_what_was_not_measured_is_told(case):
    _, _, graph = case
    with pytest.raises(ValueError, match=r"needs the network's latency.*latency\.prepare"):
        jp.Budget("latency/2").require_feasible(graph)
    with pytest.raises(ValueError, match=r"budget\.round_to: 'measured'.*latency\.prepare"):
        jp.Budget("params/2", round_to="measured").bounds(graph)
    with pytest.raises(ValueError, match=r"budget\.round_to: 'auto', must be .*'measured'"):
        jp.Budget("params/2", round_to="auto")  # pyright: ignore[reportArgumentType]


def test_measurements_are_kept_for_the_same_network_inputs_and_device(case, tmp_path):
    variables, batches, graph = case
    x, clock = batches[0][0], Clock()
    budget = jp.Budget("latency/2", round_to="measured")

    def timed(graph, budget, x):
        before = clock.timed
        found = latency.prepare(
            graph, budget, dense, variables, x, path=tmp_path / "latency.json", timer=clock
        )
        return *found, clock.timed - before

    first, fixed, some = timed(graph, budget, x)
    again, same, none = timed(graph, budget, x)
    assert some > 0 and none == 0 and same == fixed
    widths = np.array([[5, 7], [32, 24]])
    np.testing.assert_array_equal(first.costs(widths)["latency"], again.costs(widths)["latency"])
    assert again.rounding == first.rounding
    assert timed(graph, jp.Budget("latency/2"), x[:10])[2] > 0  # another batch size


def test_round_to_is_chosen_from_measurements(case):
    variables, batches, graph = case
    x = batches[0][0]
    for slow_odd, chosen in ((0.0, 1), (0.5, 8)):
        clock = Clock(slow_odd)
        measured, budget = latency.prepare(
            graph, jp.Budget("params/2", round_to="measured"), dense, variables, x, timer=clock
        )
        assert budget.round_to == chosen
        text = " ".join(str(measured.explain()).split())
        assert f"round_to {chosen} on" in text and "the least multiple within 3%" in text


def test_rounding_is_judged_against_the_line_through_all_widths():
    widths = np.arange(33, 65)
    stairs = 1e-3 * np.ceil(widths / 16) * 16
    found = choose_rounding([(widths, stairs), (widths, 2 * stairs)], "d")
    assert found.multiple == 16 and max(found.relative) == 16
    assert choose_rounding([(widths, 1e-3 * widths)], "d").multiple == 1


def test_explain_shows_the_latency_of_groups(case):
    variables, batches, graph = case
    table = latency.measure(graph, dense, variables, batches[0][0], timer=Clock())
    found = latency.measured(graph, latency=table).explain()
    whole, half = float(table(np.array([32, 24]))), float(table(np.array([16, 24])))
    assert found.groups[0].latency == pytest.approx((whole - half) / 16)
    text = " ".join(str(found).split())
    assert f"latency: {1e3 * whole:,.3g} ms for float32[20,6] on" in text
    assert f"{1e6 * (whole - half) / 16:,.2f}" in text
