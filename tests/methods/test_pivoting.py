"""Pivoting: what it leaves computes the same, never keeps less than without, and is regular."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxprune as jp
from jaxprune.graph import paths
from jaxprune.methods import Pivoting, pivoting, quickest
from jaxprune.methods.tiled import counts, fitting, kernels, lightest
from jaxprune.problem import Problem
from jaxprune.train.memory import MemoryRun

KEY = jax.random.key(0)
STRUCTURES = ("diagonal", "rows", "free")
WIDTHS = (8, 8, 12, 12)


def conv(x, kernel):
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def fn(variables, x):
    """A stem, a residual block whose sum has two writers, a wider layer, and a classifier."""
    p = variables["params"]
    x = jnp.tanh(conv(x, p["stem"]))
    x = x + conv(jnp.tanh(conv(x, p["inner"])), p["outer"])
    x = jnp.tanh(conv(x, p["wide"]))
    x = jnp.tanh(conv(x, p["last"]))
    return x.mean((1, 2)) @ p["classifier"]


SHAPES = {
    "stem": (3, 3, 3, 8), "inner": (3, 3, 8, 8), "outer": (3, 3, 8, 8), "wide": (1, 1, 8, 12),
    "last": (3, 3, 12, 12), "classifier": (12, 5),
}  # fmt: skip
CUT = {f"params/{name}" for name in ("inner", "outer", "wide", "last")}


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    params = {n: jnp.asarray(rng.normal(size=s) / np.prod(s[:-1]) ** 0.5, jnp.float32)
              for n, s in SHAPES.items()}  # fmt: skip
    variables = {"params": params}
    batches = [
        (
            jnp.asarray(rng.normal(size=(8, 5, 5, 3)), jnp.float32),
            jnp.asarray(rng.integers(0, 5, 8)),
        )
        for _ in range(2)
    ]
    graph = jp.trace(fn, variables, batches[0][0][:1])
    run = MemoryRun(fn, batches, jp.problem.cross_entropy)
    return Problem(graph, fn, variables, batches, jp.Budget("params/2"), key=KEY, run=run)


def test_kernels_between_two_groups_are_cut_and_their_axes_known(problem):
    found = {kernel.path: kernel for kernel in kernels(problem.graph)}
    assert found.keys() == CUT
    wide = found["params/wide"]
    assert (wide.reads, wide.writes, wide.sizes) == (2, 3, (8, 12))
    assert (wide.source, wide.target) == ("params/stem[3]", "params/wide[3]")
    weights = np.asarray(problem.variables["params"]["last"])
    mass = found["params/last"].mass(weights)
    np.testing.assert_allclose(mass[3, 5], np.abs(weights[:, :, 3, 5]).sum(), rtol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_what_is_kept_is_regular_heavier_than_unpivoted_and_folded(problem, structure):
    found = Pivoting(structure, tile=2, rounds=1).prune(problem)
    graph, blocks = problem.graph, found.blocks
    assert blocks.keys() == CUT
    pruned = graph.slice(found.variables, found.masks, blocks)
    cost = graph.cost(found.masks, pruned.kept())
    assert cost.params <= graph.cost().params / 2
    # The blocks are what the variables say.
    leaves = dict(paths.leaves(found.variables))
    for path, structured in blocks.items():
        kernel = np.asarray(leaves[path])
        zero = np.broadcast_to(~structured.mask(kernel.shape), kernel.shape)
        np.testing.assert_array_equal(kernel == 0, zero)
        kept = structured.kept.reshape(structured.kept.shape[-2:])
        if structure == "diagonal":
            np.testing.assert_array_equal(kept, np.eye(len(kept)))
        if structure == "rows":
            assert len(set(kept.sum(0).tolist())) == 1
        assert structure == "diagonal" or not structured.order
        assert found.figures["gathered"][path] == sum(map(len, structured.order.values()))
    mass, before = (sum(found.figures[f].values()) for f in ("mass", "mass_unpivoted"))
    assert mass > before
    x = problem.batches[0][0]
    np.testing.assert_allclose(
        pruned.wrap(fn)(pruned.variables, x), fn(found.variables, x), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("orders", ["pivoted", "random"])
def test_where_all_tiles_stay_the_network_is_the_same_in_another_order(problem, orders):

    whole = dataclasses.replace(problem, budget=jp.Budget("params/1"))
    found = Pivoting("free", tile=2, rounds=1, orders=orders).prune(whole)
    assert all(b.kept.all() for b in found.blocks.values())
    if orders == "random":
        moved, first = (v["params"]["last"] for v in (found.variables, problem.variables))
        assert not np.array_equal(moved, first)
    x = problem.batches[0][0]
    np.testing.assert_allclose(
        fn(found.variables, x), fn(problem.variables, x), rtol=1e-4, atol=1e-5
    )


def test_a_folded_network_is_the_one_that_was_pruned_in_place(problem):
    """Each kept weight stays where it was, but for the orders: held by the network's outputs."""
    found = Pivoting("diagonal", tile=2, rounds=1, orders="natural").prune(problem)
    masked = {
        name: w * np.asarray(found.blocks[f"params/{name}"].mask(w.shape))
        if f"params/{name}" in found.blocks else w
        for name, w in problem.variables["params"].items()
    }  # fmt: skip
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"], masked)
    assert not any(found.figures["gathered"].values())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_rounds_train_with_the_zeros_kept_and_compile_once(problem, structure):
    run = MemoryRun(fn, problem.batches, jp.problem.cross_entropy)

    own = dataclasses.replace(problem, run=run)
    method = Pivoting(structure, tile=2, rounds=3, training=jp.Retraining(learning_rate=0.02))
    found = method.prune(own)
    (step,) = run._steps.values()
    assert step._cache_size() == 1
    for path, structured in found.blocks.items():
        kernel = dict(paths.leaves(found.variables))[path]
        assert not np.asarray(kernel)[
            np.broadcast_to(~structured.mask(kernel.shape), kernel.shape)
        ].any()
    stems = (v["params"]["classifier"] for v in (found.variables, problem.variables))
    assert not np.array_equal(*(np.sort(np.asarray(s), None) for s in stems))  # it was trained


def test_a_budget_is_met_to_the_level(problem):
    graph = problem.graph
    levels = Pivoting("free", tile=2).levels(kernels(graph))
    limit = {"macs": graph.cost().macs / 2}
    sizes = dict.fromkeys(levels, 1)
    chosen = fitting(counts(graph), limit, levels, sizes)

    def macs(numbers):
        return graph.cost(None, {p: levels[p][i] for p, i in numbers.items()}).macs

    assert macs(chosen) <= limit["macs"]
    for path in chosen:
        assert macs({**chosen, path: chosen[path] + 1}) > limit["macs"]
    densities = [levels[p][i] for p, i in chosen.items()]
    assert max(densities) - min(densities) < 0.2


def test_the_lightest_levels_are_within_a_step_of_the_best_by_brute_force():
    rng = np.random.default_rng(3)
    levels = {name: np.array([0.25, 0.5, 1.0]) for name in "abc"}
    limits = {"params": 6.0}

    def measure(kept):
        return {"params": sum(4 * fraction for fraction in kept.values())}

    for _ in range(20):
        half, rest = rng.uniform(0.1, 1, (2, 3))
        # The second step loses as much a parameter as the first, or more.
        losses = {
            n: np.array([h + h / 2 + r, h, 0]) for n, h, r in zip("abc", half, rest, strict=True)
        }
        chosen = lightest(measure, limits, levels, losses)
        best = min(
            sum(losses[n][i] for n, i in zip("abc", at, strict=True))
            for at in itertools.product(range(3), repeat=3)
            if sum(4 * levels[n][i] for n, i in zip("abc", at, strict=True)) <= 6
        )
        assert measure({n: levels[n][i] for n, i in chosen.items()})["params"] <= 6
        assert sum(losses[n][i] for n, i in chosen.items()) <= best + max(half + rest)
    flat = {n: np.array([0.3, 0.1, 0.0]) if n == "a" else np.array([9.0, 5.0, 0.0]) for n in "abc"}
    assert lightest(measure, {"params": 9.0}, levels, flat) == {"a": 0, "b": 2, "c": 2}


@pytest.mark.parametrize("structure", STRUCTURES)
def test_by_mass_kernels_are_unlike_and_the_budget_is_met(problem, structure):
    """One kernel's weight lies on a diagonal already: it is cut, and another one stays dense."""
    inner = problem.variables["params"]["inner"]
    size = inner.shape[-1]
    lies = np.kron(np.eye(2), np.ones((size // 2, size // 2))) + 1e-3
    variables = {"params": {**problem.variables["params"], "inner": inner * lies}}
    own = dataclasses.replace(problem, variables=variables, budget=jp.Budget("params/1.3"))
    alike, unlike = (
        Pivoting(structure, tile=2, rounds=1, densities=densities).prune(own)
        for densities in ("alike", "mass")
    )
    for found in (alike, unlike):
        pruned = own.graph.slice(found.variables, found.masks, found.blocks)
        assert own.graph.cost(None, pruned.kept()).params <= own.graph.cost().params / 1.3
    density = unlike.figures["density"]
    assert density["params/inner"] == min(density.values()) < max(density.values()) == 1
    kept, before = (sum(found.figures["mass"].values()) for found in (unlike, alike))
    assert kept > before


class KeptRun(MemoryRun):
    """Keeps what its loops ended in, as a folder does."""

    def __init__(self, *args):
        super().__init__(*args)
        self.ends = {}

    def loop(self, name, body, carry, length):
        if name not in self.ends:
            self.ends[name] = super().loop(name, body, carry, length)
        return self.ends[name]


def test_the_largest_tile_that_is_quick_is_taken_and_stays(problem, monkeypatch):
    examples = {
        tile: Pivoting(tile=2)._example(dataclasses.replace(problem, budget=jp.Budget(budget)))
        for tile, budget in ((1, "params/1.2"), (2, "params/1.2"), (4, "params/1.7"), (8, "macs/2"))
    }
    for times, wanted in (([9, 5, 4, 4.1], 8), ([9, 4, 4.1, 5], 4), ([9, 4, 5, 6], 2)):
        monkeypatch.setattr(quickest, "time_in_turn", lambda calls, times=times: times)
        tile, seconds = quickest.quickest(problem, examples)
        assert tile == wanted  # 1 and 2 are one network, and timed once
        assert seconds == dict(zip(["dense", "tile 2", "tile 4", "tile 8"], times, strict=True))

    run = KeptRun(fn, problem.batches, jp.problem.cross_entropy)
    own = dataclasses.replace(problem, budget=jp.Budget("params/1.5"), run=run)
    monkeypatch.setattr(pivoting, "_TILES", (1, 2, 4))
    monkeypatch.setattr(quickest, "time_in_turn", lambda calls: list(range(1, 1 + len(calls))))
    found = Pivoting(tile="measured", rounds=1).prune(own)
    tile = found.figures["tile"]["params/inner"]
    assert f"tile {tile}" in found.figures["seconds"]
    fixed = Pivoting(tile=tile, rounds=1).prune(own)
    jax.tree.map(np.testing.assert_array_equal, found.variables, fixed.variables)

    def never(calls):
        raise AssertionError("a process that goes on asks the clock again")

    monkeypatch.setattr(quickest, "time_in_turn", never)
    assert Pivoting(tile="measured", rounds=1).prune(own).figures["tile"] == found.figures["tile"]


def test_a_tile_is_measured_by_the_clock(problem):
    own = dataclasses.replace(problem, budget=jp.Budget("params/1.5"))
    method = Pivoting(tile=2, rounds=1)
    tile, seconds = quickest.quickest(own, {2: method._example(own), 4: {}})
    assert tile in (2, 4) and list(seconds) == ["dense", "tile 2", "tile 4"]
    assert min(seconds.values()) > 0


def test_channels_first_then_tiles_and_the_cuts_multiply(problem, tmp_path):
    x, macs = problem.batches[0][0], [problem.graph.cost().macs]
    budget = jp.Budget("macs/1.5", round_to=4)
    narrow = jp.prune(fn, problem.variables, problem.batches, budget=budget, method="l1", key=KEY)
    macs.append(jp.cost(narrow.wrap(fn), narrow.variables, x[:1]).macs)
    both = jp.prune(
        narrow.wrap(fn), narrow.variables, problem.batches, budget="macs/1.5",
        method=Pivoting(tile=2, rounds=1), key=KEY,
    )  # fmt: skip
    graph = jp.trace(narrow.wrap(fn), narrow.variables, x[:1])
    macs.append(graph.cost(None, both.kept()).macs)
    assert macs[1] <= macs[0] / 1.5 and macs[2] <= macs[1] / 1.5
    jp.save(tmp_path / "both", both)
    back = jp.load(tmp_path / "both")
    assert back.blocks.keys() == both.blocks.keys() == CUT and min(back.kept().values()) < 1
    wanted = narrow.wrap(fn)(both.variables, x)
    for pruned in (both, back):
        np.testing.assert_allclose(
            pruned.wrap(fn)(pruned.variables, x), wanted, rtol=1e-5, atol=1e-6
        )


def test_bad_input_gets_one_sentence(problem):

    with pytest.raises(ValueError, match="structure is diagonal, rows, free, not 'x'"):
        Pivoting(structure="x")
    with pytest.raises(ValueError, match="tile must be at least 1 or 'measured', not 0"):
        Pivoting(tile=0)
    with pytest.raises(ValueError, match="tile='measured' is for structure='diagonal'"):
        Pivoting("free", tile="measured")
    with pytest.raises(ValueError, match="densities is alike, mass, not 'x'"):
        Pivoting(densities="x")
    with pytest.raises(
        ValueError, match=r"asks for latency, which is .* and Pivoting prunes within"
    ):
        jp.prune(
            fn, problem.variables, problem.batches, budget="latency/2", method=Pivoting(), key=KEY
        )
    with pytest.raises(ValueError, match="round_to: 'measured' tells widths that suit the device"):
        Pivoting().require_counted(jp.Budget("macs/2", round_to="measured"))
    for budget, method, message in (
        ("params/6", Pivoting(tile=4), "beyond reach for params by tiles of at least 4 × 4"),
        ("params/2", Pivoting("free", tile=64), "no kernel of this network can be cut into tiles"),
        (
            "activations/2",
            Pivoting(),
            "tiles of at least 8 × 8 channels are no part of activations",
        ),
    ):
        asked = jp.Budget(budget)
        with pytest.raises(ValueError, match=message):
            method.require(problem.graph, asked)
        with pytest.raises(ValueError, match=message):
            method.prune(dataclasses.replace(problem, budget=asked))


def products(shapes, fn, budget):
    """The problem of a network of products."""
    rng = np.random.default_rng(0)
    variables = {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
    x = jnp.asarray(rng.normal(size=(4, shapes["a"][0])), jnp.float32)
    graph = jp.trace(fn, variables, x)
    return Problem(graph, fn, variables, [x], jp.Budget(budget), key=KEY)


def test_an_order_that_cannot_be_folded_is_named():
    def counted(variables, x):
        h = jnp.tanh(x @ variables["a"] * jnp.arange(8.0))
        return jnp.tanh(h @ variables["b"]) @ variables["c"]

    problem = products({"a": (5, 8), "b": (8, 8), "c": (8, 3)}, counted, "params/1.5")
    assert list(problem.graph.ordered) == ["a[1]"]
    with pytest.warns(UserWarning, match=r"the order of a\[1\] cannot be folded, so .* where they"):
        found = Pivoting("free", tile=2, rounds=1).prune(problem)
    np.testing.assert_array_equal(found.variables["a"], problem.variables["a"])
    assert not np.array_equal(np.abs(found.variables["c"]), np.abs(problem.variables["c"]))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_axis_of_two_groups_moves_with_both(structure):
    """As where a shortcut adds zeros: the wider sum has the channels before, and others."""

    def widened(variables, x):
        h = jnp.tanh(x @ variables["a"])
        h = jnp.pad(h, ((0, 0), (0, 4))) + jnp.tanh(h @ variables["b"])
        return jnp.tanh(h @ variables["c"]) @ variables["d"]

    shapes = {"a": (5, 4), "b": (4, 8), "c": (8, 8), "d": (8, 3)}
    problem = products(shapes, widened, "params/1.4")
    assert {k.path: k.source for k in kernels(problem.graph)}["c"] == ""
    found = Pivoting(structure, tile=2, rounds=1).prune(problem)
    pruned = problem.graph.slice(found.variables, found.masks, found.blocks)
    (x,) = problem.batches
    np.testing.assert_allclose(
        pruned.wrap(widened)(pruned.variables, x), widened(found.variables, x), rtol=1e-5, atol=1e-6
    )
    whole = dataclasses.replace(problem, budget=jp.Budget("params/1"))
    moved = Pivoting(structure, tile=2, rounds=1, orders="random").prune(whole)
    np.testing.assert_allclose(
        widened(moved.variables, x), widened(problem.variables, x), rtol=1e-4, atol=1e-5
    )
