"""The search of orders against brute force, and against what it must never be worse than."""

import itertools

import numpy as np
import pytest

from jaxprune.search.orders import KEEP, Layer, gather, lost, natural, pivoted, tiles


def layers_of(seed, sizes, sides, count, names=("a", "b", "c")):
    """A chain of matrices: what one writes the next one reads."""
    rng = np.random.default_rng(seed)
    found = {}
    for i, shape in enumerate(itertools.pairwise(sizes)):
        mass = rng.exponential(size=shape) ** 2
        found[f"layer{i}"] = Layer(mass / mass.sum(), names[i], names[i + 1], sides, count)
    return found


def by_brute_force(layers, keep):
    """The least that is lost under any orders."""
    first = natural(layers.values())
    best = np.inf
    for orders in itertools.product(*(itertools.permutations(o) for o in first.values())):
        named = dict(zip(first, map(np.array, orders), strict=True))
        best = min(best, lost(layers.values(), named, keep))
    return best


@pytest.mark.parametrize("structure", KEEP)
def test_small_matrices_come_near_to_the_optimum(structure):
    keep, gaps = KEEP[structure], []
    for seed in range(6):
        layers = layers_of(seed, (4, 6), (2, 3) if structure == "diagonal" else (2, 2), 2)
        if structure == "rows":
            layers = {n: x._replace(count=1) for n, x in layers.items()}
        orders = gather(layers, keep)
        best, found = by_brute_force(layers, keep), lost(layers.values(), orders, keep)
        unpivoted = lost(layers.values(), natural(layers.values()), keep)
        assert best - 1e-9 <= found <= unpivoted + 1e-9
        gaps.append((found - best) / (unpivoted - best))
    assert np.mean(gaps) < 0.3, gaps
    assert np.median(gaps) < 1e-9


@pytest.mark.parametrize("structure", KEEP)
def test_never_more_is_lost_than_without_pivoting(structure):
    keep = KEEP[structure]
    for seed in range(5):
        layers = layers_of(seed, (12, 9, 12), (4, 3), 3 if structure == "diagonal" else 2)
        if structure == "diagonal":
            layers = {"one": layers["layer0"]}
        first = natural(layers.values())
        orders = gather(layers, keep, fixed=["b"] if seed == 4 else [])
        for name, order in orders.items():
            np.testing.assert_array_equal(np.sort(order), first[name])
        if seed == 4:
            np.testing.assert_array_equal(orders["b"], first["b"])
        assert lost(layers.values(), orders, keep) < lost(layers.values(), first, keep)
        # From where it ended it goes on, never back.
        again = gather(layers, keep, start=orders)
        assert lost(layers.values(), again, keep) <= lost(layers.values(), orders, keep) + 1e-12


def test_what_was_block_diagonal_is_found_again():
    rng = np.random.default_rng(0)
    mass = np.kron(np.eye(4), np.ones((4, 2))) * rng.uniform(0.5, 1, (16, 8))
    mass = mass[np.ix_(rng.permutation(16), rng.permutation(8))]
    layer = Layer(mass / mass.sum(), "a", "b", (4, 2), 4)
    for orders in (pivoted([layer]), gather({"x": layer}, KEEP["diagonal"])):
        assert lost([layer], orders, KEEP["diagonal"]) < 1e-9


def test_an_order_of_rows_and_columns_alike():
    rng = np.random.default_rng(1)
    mass = rng.exponential(size=(8, 8)) ** 2
    layers = {"x": Layer(mass / mass.sum(), "a", "a", (2, 2), 4)}
    orders = gather(layers, KEEP["free"])
    first = natural(layers.values())
    np.testing.assert_array_equal(np.sort(orders["a"]), first["a"])
    assert lost(layers.values(), orders, KEEP["free"]) <= lost(layers.values(), first, KEEP["free"])


def test_tiles_at_the_edge_are_shorter():
    mass = np.ones((5, 3)) / 15
    found = tiles(Layer(mass, "a", "b", (2, 2), 1), {"a": np.arange(5), "b": np.arange(3)})
    np.testing.assert_allclose(found * 15, [[4, 2], [4, 2], [2, 1]])
