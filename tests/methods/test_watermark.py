"""The structural watermark: what is embedded is read, by widths alone, with the key alone."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.marks import Key
from jaxprune.methods import watermark as marks
from jaxprune.methods.watermark import Scheme, Watermark, capacity, counts, read, segments
from jaxprune.problem import Problem

KEY = Key(b"a key of sixteen")
FILE = str(Path(__file__).with_name("test.key"))
SIZES = {f"g{i}": size for i, size in enumerate((16, 16, 32, 32, 128, 128))}
VGG16 = {f"v{i}": s for i, s in enumerate((64, 64, 128, 128, *[256] * 3, *[512] * 6))}
SCHEMES = [
    Scheme(16),
    Scheme(8, "reed_solomon", 1, 4),
    Scheme(8, "repetition", 1, 0),
    Scheme(8, check=4, step=3),
]


def base(sizes, rate=0.3):
    return {name: int(rate * size) for name, size in sizes.items()}


def left(sizes, pruned):
    return {name: sizes[name] - pruned[name] for name in sizes}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_message_is_read_back_from_the_widths(scheme):
    for seed in range(40):
        message = np.random.default_rng(seed).bytes(scheme.bits // 8)
        key = Key(bytes([seed]) * 16)
        pruned = counts(SIZES, base(SIZES), message, key, scheme)
        assert all(0 <= pruned[name] < SIZES[name] for name in SIZES)
        # The order in which groups come is not a part of it.
        widths = dict(reversed(left(SIZES, pruned).items()))
        found = read(SIZES, widths, key, scheme)
        assert np.packbits(found.message).tobytes() == message
        assert found.fits is (True if scheme.check else None)


def test_counts_are_the_nearest_that_bear_the_bits_by_brute_force():
    scheme = Scheme(8, check=4, step=2)
    message, sizes = b"\xa5", {"a": 16, "b": 24, "c": 40, "d": 64}
    pruned = counts(sizes, base(sizes, 0.4), message, KEY, scheme)
    values = [range(size) for size in sizes.values()]
    bearing = []
    for drawn in itertools.product(*(v[::1] for v in values[:2])):
        widths = left(sizes, {**pruned, "a": drawn[0], "b": drawn[1]})
        found = read(sizes, widths, KEY, scheme)
        if found.fits and np.packbits(found.message).tobytes() == message:
            bearing.append(drawn)
    assert (pruned["a"], pruned["b"]) in bearing
    # A count that is read alike is as near only within the slack of the step.
    for place, name in enumerate(("a", "b")):
        wanted = base(sizes, 0.4)[name]
        nearest = min(abs(drawn[place] - wanted) for drawn in bearing)
        assert abs(pruned[name] - wanted) <= nearest + scheme.step - 1


@pytest.mark.parametrize("step", [3, 5])
def test_a_step_bears_counts_that_are_off_by_less_than_half_of_it(step):
    scheme, slack = Scheme(8, check=0, step=step), step // 2
    rng = np.random.default_rng(0)
    for seed in range(50):
        message = rng.bytes(1)
        key = Key(bytes([seed]) * 16)
        pruned = counts(SIZES, base(SIZES), message, key, scheme)
        moved = {n: q + int(rng.integers(-slack, slack + 1)) for n, q in pruned.items()}
        moved = {n: min(max(q, 0), SIZES[n] - 1) for n, q in moved.items()}
        assert (
            np.packbits(read(SIZES, left(SIZES, moved), key, scheme).message).tobytes() == message
        )


def test_a_value_that_is_off_by_one_is_one_wrong_bit():
    """Gray code, of any layer; Reed-Solomon then has one symbol to correct, or two."""
    scheme = Scheme(16, check=0)
    for seed in range(20):
        message = np.random.default_rng(seed).bytes(2)
        pruned = counts(SIZES, base(SIZES), message, KEY, scheme)
        for name in SIZES:
            moved = {**pruned, name: pruned[name] + (1 if pruned[name] + 1 < SIZES[name] else -1)}
            found = read(SIZES, left(SIZES, moved), KEY, scheme).message
            whole = read(SIZES, left(SIZES, pruned), KEY, scheme).message
            assert np.sum(found != whole) <= 1


def test_reed_solomon_corrects_a_layer_that_was_pruned_again():
    scheme = Scheme(8, "reed_solomon", 2, 0)
    for name in SIZES:
        pruned = counts(SIZES, base(SIZES), b"\x5a", KEY, scheme)
        changed = {**pruned, name: (pruned[name] + 7) % SIZES[name]}
        found = read(SIZES, left(SIZES, changed), KEY, scheme)
        assert np.packbits(found.message).tobytes() == b"\x5a"


def test_another_key_reads_noise_and_the_check_says_so():
    scheme = Scheme(16)
    pruned = counts(SIZES, base(SIZES), b"\xc0\xff", KEY, scheme)
    claimed = np.unpackbits(np.frombuffer(b"\xc0\xff", np.uint8))
    found = [read(SIZES, left(SIZES, pruned), Key(i.to_bytes(16)), scheme) for i in range(600)]
    agreeing = np.array([np.mean(of.message == claimed) for of in found])
    assert abs(agreeing.mean() - 0.5) < 0.02
    assert sum(bool(of.fits) for of in found) <= 10  # 600 / 256 in the mean
    p = np.array([marks.chance(of.message, claimed) for of in found])
    assert np.mean(p < 1e-3) <= 0.005 and np.mean(p < 0.1) <= 0.15


def test_counts_do_not_show_that_there_is_a_mark():
    """Over keys, the counts of a layer are spread over its period: no value is preferred."""
    scheme = Scheme(8, check=4, step=3)
    bits = segments(SIZES, scheme)["g4"]
    period = scheme.step << bits
    seen = [
        counts(SIZES, base(SIZES), b"\x00", Key(i.to_bytes(16)), scheme)["g4"] % period
        for i in range(1200)
    ]
    expected = 1200 / period
    chi = np.sum((np.bincount(seen, minlength=period) - expected) ** 2 / expected)
    assert chi < period + 4 * math.sqrt(2 * period)


def test_capacity_is_what_there_are_architectures_for():
    assert capacity(SIZES) == 32 == sum(int(math.log2(size)) for size in SIZES.values())
    assert capacity(SIZES, 3) == sum(int(math.log2(size // 3)) for size in SIZES.values())
    assert capacity(VGG16) == 104
    with pytest.raises(ValueError, match=r"136 bits \(128 of the message, 8 of the check, none\)"):
        segments(VGG16, Scheme(128))
    bits = segments(VGG16, Scheme(96))
    assert sum(bits.values()) == 104 and all(2 ** bits[name] == VGG16[name] for name in VGG16)
    few = segments(VGG16, Scheme(16))
    assert max(2 ** few[name] / VGG16[name] for name in VGG16) <= 2**-5  # where it moves least


@pytest.fixture(scope="module")
def resnet56():
    return traced("resnet56", (32, 32, 3))


def traced(name, shape):
    module = jp.models.build(name, num_classes=10, input_shape=shape)
    shapes = jax.eval_shape(lambda key: jp.models.init(module, shape, key), jax.random.key(0))
    fn = jp.functional(module, shapes)[0]
    graph = jp.trace(fn, shapes, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return graph, shapes


def test_128_bits_go_into_a_resnet56_and_come_out_of_its_shapes(resnet56):
    graph, shapes = resnet56
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
    message = bytes(range(16))
    method = Watermark(FILE, message.hex(), rate=0.5)
    selection = method.prune(Problem(graph, None, variables, [], jp.Budget("params/1.1")))  # pyright: ignore
    pruned = graph.slice(selection.variables, selection.masks)
    cut = jax.eval_shape(lambda tree: tree, pruned.variables)
    sizes = {name: group.size for name, group in graph.groups.items()}
    widths = marks.widths_of(graph, shapes, cut)
    assert widths == pruned.widths
    found = read(sizes, widths, marks.read_key(FILE), method.scheme)
    assert np.packbits(found.message).tobytes() == message and found.fits


@pytest.fixture(scope="module")
def small():
    """A tiny network with its graph and variables."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            for width in (16, 16, 32):
                x = nn.relu(nn.Dense(width)(x))
            return nn.Dense(4)(x)

    fn, variables = jp.functional(Net(), Net().init(jax.random.key(0), jnp.zeros((1, 6))))
    return fn, variables, jp.trace(fn, variables, jnp.zeros((1, 6)))


@pytest.mark.parametrize("first", ["key", "importance"])
@pytest.mark.parametrize("pool", [1.0, 2.0, 1e9])
def test_which_channels_fall_is_up_to_the_key_or_to_importance_or_both(small, first, pool):
    fn, variables, graph = small
    problem = Problem(graph, fn, variables, [], jp.Budget("params/1.1"))
    masks = Watermark(FILE, "0f", check=0, rate=0.3, first=first, pool=pool).prune(problem).masks
    key = marks.read_key(FILE)
    for name, mask in masks.items():
        kernel = variables["params"][name.split("/")[1]]["kernel"]
        norms = np.abs(kernel).sum(0)
        gone, count = set(np.flatnonzero(np.asarray(mask) == 0)), int(np.sum(mask == 0))
        drawn = key.order(f"channels {name}", len(norms))
        ranked = np.argsort(norms).tolist()
        size = min(len(norms), math.ceil(pool * count))
        if first == "key":
            candidates = set(drawn[:size])
            expected = [c for c in ranked if c in candidates][:count]
        else:
            candidates = set(ranked[:size])
            expected = [c for c in drawn if c in candidates][:count]
        assert gone == set(expected)


def test_jp_prune_marks_too_and_the_order_of_channels_is_no_part_of_it(small):
    fn, variables, graph = small
    batches = [(jnp.ones((8, 6)), jnp.zeros(8, int))]
    method = Watermark(FILE, "3c", check=0, rate=0.4)
    pruned = jp.prune(
        fn, variables, batches, budget="params/1.1", method=method, key=jax.random.key(0)
    )
    small_graph = jp.trace(pruned.wrap(fn), pruned.variables, jnp.zeros((1, 6)))
    orders = {n: np.arange(g.size)[::-1] for n, g in small_graph.groups.items()}
    permuted = small_graph.permute(pruned.variables, orders)
    for network in (pruned.variables, permuted, jax.tree.map(jnp.zeros_like, permuted)):
        widths = marks.widths_of(graph, variables, network)
        sizes = {name: group.size for name, group in graph.groups.items()}
        found = read(sizes, widths, marks.read_key(FILE), method.scheme)
        assert np.packbits(found.message).tobytes() == b"\x3c"


def test_a_network_of_another_family_is_one_sentence(small):
    _, variables, graph = small
    params = variables["params"]
    for other, words in (
        ({"params": {"Dense_0": params["Dense_0"]}}, "it is not there"),
        (jax.tree.map(lambda x: jnp.concatenate([x, x], -1), variables), "here it is"),
        (jax.tree.map(lambda x: x[None], variables), "here it is"),
    ):
        with pytest.raises(ValueError, match="no pruned form of the network") as error:
            marks.widths_of(graph, variables, other)
        assert words in str(error.value)


@pytest.mark.parametrize(
    "options, budget, words",
    [
        ({"key_file": ""}, "params/1.1", "takes a key file"),
        ({"message": ""}, "params/1.1", "takes a message"),
        ({"message": "00" * 20}, "params/1.1", "use a shorter message"),
        ({}, {"widths": {}}, "the watermark decides how wide"),
    ],
)
def test_what_cannot_be_embedded_is_refused_before_any_work(small, options, budget, words):
    _, _, graph = small
    if isinstance(budget, dict):
        budget = {"widths": graph.widths(graph.full_masks())}
        budget = jp.Budget(**budget)
    else:
        budget = jp.Budget(budget)
    with pytest.raises(ValueError, match=words):
        Watermark(**{"key_file": FILE, "message": "0f", **options}).require(graph, budget)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"message": "xyz"}, "hexadecimal"),
        ({"code": "turbo"}, "code must be one of none"),
        ({"step": 0}, "step must be at least 1"),
        ({"rate": 1.0}, r"rate must be in \[0, 1\)"),
        ({"check": 65}, "check must be 0 to 64"),
        ({"pool": 0.5}, "pool must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        Watermark(**options)
