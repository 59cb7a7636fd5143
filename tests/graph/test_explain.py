"""`explain` and `preview`: what they tell is what cutting does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from networks import example

from jaxprune.files import plain
from jaxprune.graph import cost, trace
from jaxprune.graph.cost import QUANTITIES
from jaxprune.kernels.blocks import Blocks


@pytest.fixture
def traced():
    fn, variables, x = example(("conv", "batch_norm_eval", "grouped", "residual"))
    return trace(fn, variables, x, state=lambda out: out[1]), fn, variables, x


def totals(of):
    return {q: getattr(of, q) for q in QUANTITIES}


def measured(fn, pruned, x):
    """The cost of the network that was really cut, counted from its own shapes."""
    return totals(cost(pruned.wrap(fn), pruned.variables, x))


def test_a_unit_costs_what_cutting_it_saves(traced):
    graph, fn, variables, x = traced
    found = graph.explain()
    whole = totals(cost(fn, variables, x))
    assert totals(found.cost) == whole
    assert [row.name for row in found.groups] == list(graph.groups)
    for row in found.groups:
        less = measured(fn, graph.slice(variables, graph.masks({row.name: [0]})), x)
        assert totals(row) == {q: whole[q] - less[q] for q in QUANTITIES}
        assert row.params > 0 and row.macs > 0


def test_explain_shows_every_group_and_every_fixed_axis_and_is_plain_data(traced):
    graph = traced[0]
    found = graph.explain()
    text = " ".join(str(found).split())
    for row in found.groups:
        assert row.name in text
        assert f"{row.params:,.0f} {row.macs:,.0f} {row.activations:,.0f}" in text
    for reason in found.fixed.values():
        assert " ".join(reason.split()) in text
    assert any("conv_general_dilated at " in reason for reason in found.fixed.values())
    assert any("networks.py:" in reason for reason in found.fixed.values())
    assert "\x1b" not in str(found)
    record = plain(found)
    assert record["groups"][0]["name"] == graph.names[0] and record["fixed"] == graph.fixed


def test_explain_shows_whose_order_counts():
    def fn(variables, x):
        return x @ variables["a"] * jnp.arange(4.0) @ variables["b"]

    variables = {"a": jnp.ones((3, 4)), "b": jnp.ones((4, 2))}
    graph = trace(fn, variables, jnp.ones((5, 3)))
    found = graph.explain()
    assert found.ordered == graph.ordered and list(found.ordered) == ["a[1]"]
    (reason,) = found.ordered.values()
    text = " ".join(str(found).split())
    assert f"units keep their order a[1] {' '.join(reason.split())}" in text
    free = trace(lambda v, x: x @ v["a"] @ v["b"], variables, jnp.ones((5, 3)))
    assert not free.ordered and "units keep" not in str(free.explain())


def test_a_pruned_network_tells_what_is_within_its_kernels():
    def fn(variables, x):
        return jnp.tanh(x @ variables["a"] * jnp.arange(8.0)) @ variables["b"] @ variables["c"]

    shapes = {"a": (4, 8), "b": (8, 4), "c": (4, 2)}
    variables = {n: jnp.ones(s) for n, s in shapes.items()}
    graph = trace(fn, variables, jnp.ones((5, 4)))
    order = np.roll(np.arange(8), 1)
    blocks = {
        "a": Blocks((2, 4), np.array([[True, False], [True, True]])),
        "b": Blocks((4, 2), np.eye(2, dtype=bool), None, {0: order}),
        "c": Blocks((2, 0), np.array([[True], [True]]), np.array([[True], [False]])),
    }
    pruned = graph.slice(variables, graph.full_masks(), blocks)
    found = pruned.explain(graph)
    assert [row.name for row in found.kernels] == ["a", "b", "c"]
    assert [row.density for row in found.kernels] == [0.75, 0.5, 1.0]
    assert [row.gathered for row in found.kernels] == [{}, {0: 8}, {}]
    assert [row.structure for row in found.kernels] == [
        "3 of 4 blocks of 2 × 4",
        "2 blocks of 4 × 2 on the diagonal",
        "all blocks, of 2 × 2, 1 with one magnitude each",
    ]
    assert found.ordered == graph.ordered and list(graph.ordered) == ["a[1]"]
    text = " ".join(str(found).split())
    assert "b 50.0% 8 on axis 0 2 blocks of 4 × 2 on the diagonal" in text
    assert "8 channels are gathered at run time, at 1 of 3 kernels: there the blocks" in text
    assert f"units keep their order a[1] {' '.join(graph.ordered['a[1]'].split())}" in text
    rows = Blocks((2, 4), np.array([[True, False], [False, True]])[::-1])
    assert rows.words((4, 8)) == "2 of 4 blocks of 2 × 4, 1 of 2 along axis 0 each"
    plain_text = str(graph.slice(variables, graph.full_masks(), {"a": rows}).explain())
    assert "kernels with structure: 1; no channels are gathered at run time" in plain_text
    assert "keep their order" not in plain_text


def test_explain_folds_what_lies_in_one_module():
    def fn(variables, x):
        bn = variables["bn"]
        return (x @ variables["a"] * bn["scale"] + bn["bias"]) @ variables["b"]

    shapes = {"a": (3, 4), "b": (4, 2)}
    variables = {n: jnp.ones(s) for n, s in shapes.items()} | {
        "bn": {"scale": jnp.ones(4), "bias": jnp.ones(4)}
    }
    text = str(trace(fn, variables, jnp.ones((5, 3))).explain())
    assert "→ a[1], bn/{bias,scale}[0]" in text and "← b[0]" in text


def test_preview_is_what_the_cut_network_costs(traced):
    graph, fn, variables, x = traced
    first, last = graph.names[0], graph.names[-1]
    masks = graph.masks({first: [0, 1], last: [1]})
    found = graph.preview(masks)
    before, after = (
        totals(cost(fn, variables, x)),
        measured(fn, graph.slice(variables, masks), x),
    )
    assert totals(found.before) == before and totals(found.after) == after
    assert found.saved == {q: before[q] - after[q] for q in QUANTITIES}
    for row in found.groups:
        dropped = np.flatnonzero(np.asarray(masks[row.name]) == 0)
        assert (row.before, row.before - row.after) == (graph.groups[row.name].size, len(dropped))
        alone = graph.preview(graph.masks({row.name: dropped.tolist()}))
        assert totals(row) == alone.saved
    text = " ".join(str(found).split())
    assert f"MACs {before['macs']:,} {after['macs']:,} {before['macs'] - after['macs']:,}" in text
    assert first in text and f"{len(graph.names) - 2} of {len(graph.names)} groups stay" in text


def test_preview_refuses_what_slice_refuses(traced):
    graph = traced[0]
    name, group = next(iter(graph.groups.items()))
    with pytest.raises(ValueError, match="keeps nothing"):
        graph.preview(graph.masks({name: range(group.size)}))
    with pytest.raises(ValueError, match="missing"):
        graph.preview({})


@pytest.mark.parametrize("flat", [True, False])
def test_scales_of_normalised_queries_and_keys_tell_the_normalisation(flat):
    def norm(h, scale):
        return h * (lax.rsqrt((h * h).mean(-1, keepdims=True)) * scale)

    def fn(v, x):
        if flat:
            q, k = ((x @ v[n]).reshape(2, 5, 4, 6) for n in "qk")
        else:
            q, k = (jnp.einsum("blf,fhd->blhd", x, v[n].reshape(7, 4, 6)) for n in "qk")
        q = norm(q, v["qs"])
        k = norm(k, v["ks"])
        return jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k)).sum(1) @ v["o"]

    shapes = {"q": (7, 24), "k": (7, 24), "qs": (6,), "ks": (6,), "o": (5, 3)}
    if not flat:
        shapes |= {"q": (7, 4, 6), "k": (7, 4, 6)}
    graph = trace(fn, {n: jnp.ones(s) for n, s in shapes.items()}, jnp.ones((2, 5, 7)))
    assert list(graph.groups) == ["q[1]"] and graph.groups["q[1]"].kind == "heads"
    lines = [graph.fixed[f"{n}[0]"] for n in ("qs", "ks")]
    inside = " inside of units that are pruned whole" if flat else ""
    assert all(line.endswith(f"a normalisation over the channels{inside}") for line in lines)
    assert all("reduce_sum at " in line for line in lines)
