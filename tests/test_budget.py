from __future__ import annotations

import itertools

import numpy as np
import pytest

from jaxprune.budget import ALLOCATIONS, Budget, Curves, allocate


class Chain:
    """Layers in a row: layer l costs `k_{l-1} k_l taps` parameters, times its positions in MACs."""

    def __init__(self, sizes, positions, first=3, last=10):
        self.names = tuple(f"params/conv{i}/kernel[3]" for i in range(len(sizes)))
        self.sizes = np.array(sizes)
        self.positions, self.first, self.last = positions, first, last

    def costs(self, widths):
        w = np.asarray(widths, np.float64)
        ends = [np.full((*w.shape[:-1], 1), v) for v in (self.first, self.last)]
        k = np.concatenate([ends[0], w, ends[1]], axis=-1)
        params = 9 * k[..., :-1] * k[..., 1:]
        positions = np.append(self.positions, 1.0)
        activations = (k[..., 1:] * positions).sum(-1)
        macs = (params * positions).sum(-1)
        return {"params": params.sum(-1), "macs": macs, "activations": activations}


def curves_for(model, seed=0, noise=0.0, grid=(0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)):
    rng = np.random.default_rng(seed)
    grid = np.array(grid)
    loss, accuracy = {}, {}
    for name in model.names:
        harm = rng.uniform(0.2, 3) * (1 - grid) ** rng.uniform(1, 6)
        harm = np.maximum(harm + noise * rng.normal(size=grid.size) * (grid < 1), -0.1)
        loss[name] = 0.3 + harm
        accuracy[name] = 0.9 - 0.8 * (1 - np.exp(-harm))
    return Curves(grid, loss, accuracy)


VGG = Chain(
    [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
    [1024, 1024, 256, 256, 64, 64, 64, 16, 16, 16, 4, 4, 4],
)


def assert_kept(model, budget, allocation):
    """No target exceeded, and not one group could be a step wider."""
    limits = budget.limits_of(model)
    widths = np.array([allocation.widths[n] for n in model.names])
    allowed = budget.widths_of(model)
    assert all(w in a for w, a in zip(widths, allowed, strict=True))
    costs = model.costs(widths)
    assert all(costs[q] <= m * (1 + 1e-9) for q, m in limits.items())
    for g, a in enumerate(allowed):
        if widths[g] < a[-1]:
            wider = widths.copy()
            wider[g] = a[np.searchsorted(a, widths[g]) + 1]
            assert any(model.costs(wider)[q] > m for q, m in limits.items())


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("targets", ["params/8,macs/3", "params/4", "macs/2,activations/1.5"])
def test_targets_are_met_and_never_exceeded(allocation, targets):
    budget = Budget(targets)
    found = allocate(curves_for(VGG, noise=0.05), VGG, budget, allocation)
    assert_kept(VGG, budget, found)
    assert min(found.slack.values()) < 0.02
    assert set(found.slack) == set(budget.factors)


@pytest.mark.parametrize("seed", range(8))
def test_sensitivity_is_near_the_exhaustive_optimum(seed):
    rng = np.random.default_rng(seed)
    model = Chain(rng.integers(5, 11, size=4), rng.choice([1, 4, 16, 64], size=4))
    curves = curves_for(model, seed, noise=0.2 * (seed % 2))
    budget = Budget("params/3,macs/2.5" if seed % 2 else "params/4")
    found = allocate(curves, model, budget)
    assert_kept(model, budget, found)

    allowed = budget.widths_of(model)
    every = np.array(list(itertools.product(*allowed)))
    costs, limits = model.costs(every), budget.limits_of(model)
    fits = np.all([costs[q] <= m for q, m in limits.items()], axis=0)
    loss = sum(
        curves.added_loss(n, every[:, g] / model.sizes[g]) for g, n in enumerate(model.names)
    )
    best = loss[fits].min()
    assert found.added_loss is not None
    assert found.added_loss <= best * 1.02 + 1e-9


def test_sensitivity_beats_the_simple_rules():
    curves, budget = curves_for(VGG, 3), Budget()
    losses = {a: allocate(curves, VGG, budget, a).added_loss for a in ALLOCATIONS}
    assert losses["sensitivity"] <= min(losses["tolerance"], losses["proportional"])


def test_tolerance_gives_every_group_one_drop():
    curves = curves_for(VGG, 1)
    widths = allocate(curves, VGG, Budget("params/6", floor=0), "tolerance").widths
    sizes = dict(zip(VGG.names, VGG.sizes.tolist(), strict=True))

    drops = np.array([curves.accuracy_drop(n, w / sizes[n]) for n, w in widths.items()])
    # What the last step of the tolerance leaves over goes to groups that cost less than it.
    wide = np.array([w > 1 and sizes[n] >= 128 for n, w in widths.items()])
    assert wide.sum() >= 8
    assert np.ptp(drops[wide]) < 0.01
    assert drops.max() == drops[wide].max() > 0.02


def test_proportional_keeps_one_fraction():
    widths = allocate(None, VGG, Budget("params/4"), "proportional").widths
    kept = np.array([widths[n] for n in VGG.names]) / VGG.sizes
    assert np.ptp(kept[2:]) < 0.01
    assert kept.min() > 0.49 and kept.max() < 0.56


def test_rounding_limits_and_least_channels_combine():
    budget = Budget(
        "params/4", round_to=8, limits={"conv[01]": (0.5, 1.0), "*": (0.0, 0.8)}, min_channels=20
    )
    found = allocate(curves_for(VGG), VGG, budget)
    widths = np.array([found.widths[n] for n in VGG.names])
    assert_kept(VGG, budget, found)
    assert np.all(widths % 8 == 0) and np.all(widths >= 24)
    assert np.all(widths <= 0.8 * VGG.sizes)
    assert np.all(widths[:2] >= 32)


def test_full_size_is_allowed_beside_the_multiples():
    model = Chain([20, 6], [1, 1])
    assert [a.tolist() for a in Budget(round_to=8).widths_of(model)] == [[8, 16, 20], [6]]


def test_largest_widths_may_leave_slack():
    found = allocate(curves_for(VGG), VGG, Budget("params/2", limits={"*": (0.0, 0.3)}))
    assert [found.widths[n] for n in VGG.names] == np.floor(0.3 * VGG.sizes).tolist()
    assert found.slack["params"] > 0.5


def test_a_cost_of_higher_degree_is_not_exceeded():
    class Cubic(Chain):
        def costs(self, widths):
            w = np.asarray(widths, np.float64)
            return {"params": (w[..., 0] * w[..., 1] * w[..., 2]) + w[..., 3] ** 3}

    model, budget = Cubic([12, 16, 9, 14], [1] * 4), Budget("params/5")
    assert_kept(model, budget, allocate(curves_for(model), model, budget))


@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_targets_beyond_reach_name_the_best_that_is(allocation):
    limited = Budget("params/50,macs/3", limits={"*": (0.25, 1.0)})
    with pytest.raises(ValueError, match=r"beyond reach for params; .*'params/1[45].*,macs/1") as e:
        allocate(curves_for(VGG), VGG, limited, allocation)
    reachable = str(e.value).rsplit("'", 2)[1]
    best = Budget(reachable, limits=limited.limits)
    assert_kept(VGG, best, allocate(curves_for(VGG), VGG, best, allocation))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": "params/0.5"}, "at least 1"),
        ({"targets": "params"}, "at least 1"),
        ({"targets": "params/nan"}, "at least 1"),
        ({"targets": "flops/2"}, "unknown quantity 'flops'"),
        ({"targets": "params/2,params/3"}, "named twice"),
        ({"round_to": 0}, "budget.round_to"),
        ({"min_channels": 0}, "budget.min_channels"),
        ({"limits": {"conv1": (0.9, 0.1)}}, r"limits\['conv1'\]"),
    ],
)
def test_bad_fields_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Budget(**arguments)


def test_limits_are_checked_against_the_groups():
    with pytest.raises(ValueError, match=r"budget.limits: pattern 'stage9/\*'"):
        Budget("params/2", limits={"stage9/*": (0.1, 0.9)}).bounds(VGG)
    with pytest.raises(ValueError, match=r"group params/conv0/kernel\[3\] of 64 channels"):
        Budget("params/2", round_to=64, limits={"conv0": (0.1, 0.9)}).bounds(VGG)


def test_parse_takes_both_forms():
    budget = Budget("macs/2", round_to=4)
    assert Budget.parse(budget) is budget
    assert Budget.parse("macs/2").factors == {"macs": 2.0}


def test_curves_read_noise_and_the_unmeasured_end_with_care():
    grid = np.array([0.2, 0.5, 1.0])
    loss = {"a": np.array([1.0, 1.4, 1.0]), "b": np.array([3.0, 1.5, 1.0])}
    curves = Curves(grid, loss, loss)
    np.testing.assert_allclose(curves.added_loss("a", np.array([0.2, 0.5, 0.75])), [0.4, 0.4, 0.2])
    assert curves.added_loss("a", np.array(0.0)) == 2.0  # the worst of all groups
    assert curves.added_loss("b", np.array(0.1)) == pytest.approx(2.5)  # the slope goes on
    with pytest.raises(ValueError, match=r"curves.grid"):
        Curves(np.array([0.5, 0.9]), {}, {})
    with pytest.raises(ValueError, match="the curve of a"):
        Curves(grid, {"a": np.array([1.0, np.nan, 0.0])}, {})


def test_missing_curves_are_named():
    with pytest.raises(ValueError, match="sensitivity needs sensitivity curves"):
        allocate(None, VGG, Budget())
    curves = curves_for(VGG)
    del curves.loss["params/conv4/kernel[3]"]
    with pytest.raises(ValueError, match=r"none is given for group params/conv4/kernel\[3\]"):
        allocate(curves, VGG, Budget())
    with pytest.raises(ValueError, match="unknown 'best'"):
        allocate(curves_for(VGG), VGG, Budget(), "best")
