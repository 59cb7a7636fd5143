"""`graph.check`: it denies nothing that is exact, and passes nothing that it has not looked at."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxprune.graph import interpret, trace
from jaxprune.graph.held import Entry
from jaxprune.graph.rules import RULES

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32)


def weights(*, dtype=jnp.float32, **shapes):
    return {
        n: jnp.asarray(RNG.normal(size=s), jnp.float32).astype(dtype) for n, s in shapes.items()
    }


LAYERS = {"a": (3, 6), "b": (6, 4)}


def layers(v, x):
    return jnp.tanh(x @ v["a"]) @ v["b"]


def told(report):
    """The report's text on one line."""
    return " ".join(str(report).split())


def checked(fn, variables, *args, **options):
    report = trace(fn, variables, *args, **options).check(fn, variables, *args)
    text = str(report)
    assert text.startswith("holds" if report.ok else "DOES NOT HOLD")
    assert max(len(line) for line in text.splitlines()) <= 80, text
    return report


# What is exact holds.


def test_one_of_two_outputs_has_a_gradient_and_the_report_names_them():
    def fn(v, x):
        logits = layers(v, x)
        return {"cls": logits.argmax(-1), "logits": logits, "sure": logits.max(-1) > 0}

    report = checked(fn, weights(**LAYERS), X)
    assert report.ok and report.precision == "float32" and report.tolerance == 1e-4
    assert report.outputs == ("cls", "logits", "sure") and report.differentiated == ("logits",)
    assert report.variables == ("a", "b") and 0 < report.gradients < 1e-5
    assert "not differentiated: cls, sure" in told(report)


def test_what_is_exactly_zero_masked_and_rounding_when_sliced():
    """As the gradient through a normalisation of one unit: a rounding of 1e-9, times 1e6."""
    assert Entry("sliced", "gradient", 6e-4, scale=0.0, moved=0.0).relative(1e-4) == np.inf
    assert Entry("sliced", "gradient", 6e-4, scale=0.0, moved=3e-4).relative(1e-4) <= 1e-4


def test_nothing_to_differentiate_is_told():
    report = checked(lambda v, x: layers(v, x).argmax(-1), weights(**LAYERS), X)
    assert report.ok and report.differentiated == () and "nothing to differentiate" in told(report)
    whole = {n: (10 * v).astype(jnp.int32) for n, v in weights(**LAYERS).items()}
    report = checked(lambda v, x: x @ v["a"] @ v["b"], whole, (3 * X).astype(jnp.int32))
    assert report.ok and "the variables are whole numbers" in told(report)


def test_an_output_that_cannot_be_differentiated_is_compared_and_named():
    def fn(v, x):
        out = layers(v, x)
        steps = lax.while_loop(lambda c: c.sum() < 3, lambda c: c + 1 + 0 * out.sum(), out * 0)
        return out, steps

    report = checked(fn, weights(**LAYERS), X)
    assert report.ok and report.differentiated == ("output 0",)
    assert "not differentiated: output 1" in told(report)


@pytest.mark.parametrize("dtype", [jnp.complex64, jnp.complex128])
def test_complex_numbers(dtype):
    with jax.enable_x64(dtype == jnp.complex128):
        variables = {n: (v * (1 + 0.5j)).astype(dtype) for n, v in weights(**LAYERS).items()}
        report = checked(lambda v, x: (x @ v["a"]) ** 2 @ v["b"], variables, X)
    assert report.ok and report.differentiated == ("the result",)
    assert report.precision == ("float32" if dtype == jnp.complex64 else "float64")


@pytest.mark.parametrize("hard", [True, False], ids=["cast within", "parameters"])
def test_bfloat16(hard):
    variables = weights(a=(3, 64), b=(64, 64), c=(64, 4))

    def fn(v, x):
        if hard:
            v, x = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), (v, x))
        return (jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["c"]).astype(jnp.float32)

    if not hard:
        variables = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), variables)
    report = checked(fn, variables, X if hard else X.astype(jnp.bfloat16))
    assert report.ok and report.precision in ("bfloat16", "float64")


def equal_sums(v, x):
    """Sums of as many 0.1 as -0.1: zero or a rounding, before a ReLU."""
    return jax.nn.relu(jax.nn.relu(x @ v["a"]) @ v["b"]) @ v["c"]


def of_one_size():
    signs = RNG.choice([-0.1, 0.1], (32, 64)).astype(np.float32)
    variables = {"a": jnp.full((3, 32), 0.3, jnp.float32), "b": jnp.asarray(signs)}
    return variables | weights(c=(64, 4)), jnp.abs(X)


def test_a_relu_at_zero_is_no_false_alarm():
    variables, x = of_one_size()
    report = checked(equal_sums, variables, x)
    assert report.ok

    def hard(v, x):  # float64 is out of reach
        return equal_sums(*jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (v, x)))

    assert checked(hard, variables, x).ok


def test_a_gradient_that_is_nothing_but_rounding():
    def fn(v, x):
        h = x @ v["a"] + v["bias"]
        return jnp.tanh((h - h.mean(0)) * lax.rsqrt(h.var(0) + 1e-5)) @ v["b"]

    assert checked(fn, weights(**LAYERS, bias=(6,)), X).ok


def test_an_output_that_is_nothing_but_rounding():
    def fn(v, x):
        v, x = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), (v, x))
        h = jnp.tanh(x @ v["a"])
        return {"noise": h @ v["b"] - h[:, ::-1] @ v["b"][::-1], "out": h @ v["b"]}

    report = checked(fn, weights(a=(3, 100), b=(100, 4)), X)
    assert report.ok and "only rounding, NaN or infinity is seen of noise" in told(report)


def test_random_numbers_from_a_key():
    def fn(v, x, key):
        keep = jax.random.bernoulli(key, 0.5, (1, 4))
        return jnp.where(keep, layers(v, x), 0)

    assert checked(fn, weights(**LAYERS), X, jax.random.key(1)).ok


def test_values_that_are_not_finite():
    def fn(v, x):
        out = layers(v, x)
        # The log of half of them is NaN.
        return jnp.where(out > 0, out, -jnp.inf), jnp.log(out), jnp.sqrt(-1 - out * out)

    report = checked(fn, weights(**LAYERS), X)
    assert report.ok and "infinity is seen of output 2" in told(report)
    variables = weights(**LAYERS)
    graph = trace(layers, variables, X)
    with pytest.raises(ValueError, match="every output is NaN or infinite"):
        graph.check(layers, variables, X + jnp.nan)


def test_a_function_that_takes_no_float64():
    def fn(v, x):
        assert x.dtype == jnp.float32, "float32 alone"
        return jnp.cumsum(jax.nn.relu(1e4 * layers(v, x)), 0) % 1.0

    report = checked(fn, weights(**LAYERS), X)
    if report.tolerance > 1e-4:  # what is rounded differs from one machine to another
        assert "float64 was tried, which fails: AssertionError: float32 alone" in told(report)
    assert report.ok


def test_a_network_that_was_pruned_before():
    fn = lambda v, x: (layers(v, x)[:, :2].reshape(4, 2), v["b"].shape[0] * x)  # noqa: E731
    variables = weights(**LAYERS)
    graph = trace(fn, variables, X)
    pruned = graph.slice(variables, graph.masks({"a": [1, 4]}))
    again = trace(pruned.wrap(fn), pruned.variables, X)
    assert again.check(fn, pruned.variables, X).ok
    assert again.check(pruned.wrap(fn), pruned.variables, X).ok


# What is broken does not. An emission is broken on purpose.


def broken(monkeypatch, primitive, change):
    rule = RULES[primitive]

    def emit(*given):
        return [change(out) for out in rule.emit(*given)]

    monkeypatch.setitem(RULES, primitive, rule._replace(emit=emit))


def more(out):
    return 1.01 * out


def other_gradient(out):
    return out + lax.stop_gradient(0.01 * out) - 0.01 * out


@pytest.mark.parametrize("change", [more, other_gradient])
def test_a_value_or_a_gradient_that_is_off(monkeypatch, change):
    broken(monkeypatch, "tanh", change)
    report = checked(layers, weights(**LAYERS), X)
    assert (
        not report.ok and report.precision == "float64" and "in float32 it came to" in told(report)
    )
    assert report.gradients > 1e-3 and (report.sliced > 1e-3) == (change is more)


@pytest.mark.parametrize("change", [more, other_gradient])
def test_small_numbers_are_looked_at(monkeypatch, change):
    broken(monkeypatch, "tanh", change)
    assert not checked(lambda v, x: 1e-6 * layers(v, x), weights(**LAYERS), X).ok


def test_one_output_of_several(monkeypatch):
    broken(monkeypatch, "sin", more)

    def fn(v, x):
        hidden = x @ v["a"]
        return jnp.tanh(hidden) @ v["b"], (jnp.sin(hidden) @ v["b"]).astype(jnp.int32)

    def second(v, x):
        hidden = x @ v["a"]
        return {"a": jnp.tanh(hidden) @ v["b"], "b": 1e-3 * (jnp.sin(hidden) @ v["b"])}

    variables = weights(**LAYERS)
    assert not checked(fn, variables | {"b": 100 * variables["b"]}, X).ok
    assert not checked(second, variables, X).ok
    broken(monkeypatch, "sin", lambda out: other_gradient(out / 1.01))
    report = checked(second, variables, X)
    assert not report.ok and report.sliced < 1e-9 < report.gradients


def test_an_imaginary_part(monkeypatch):
    broken(monkeypatch, "tanh", lambda out: out.real + 0j)
    variables = {n: (v * (1 + 0.5j)).astype(jnp.complex64) for n, v in weights(**LAYERS).items()}
    assert not checked(layers, variables, X).ok


def test_behind_a_layer_that_starts_at_zero(monkeypatch):
    broken(monkeypatch, "tanh", more)
    variables = weights(**LAYERS)
    assert not checked(layers, variables | {"b": 0 * variables["b"]}, X).ok
    assert not checked(layers, variables, 0 * X).ok


def test_an_order_that_counts():
    def fn(v, x):
        return x @ v["a"] * jnp.arange(6.0) @ v["b"]

    graph = trace(fn, weights(**LAYERS), X)
    report = graph.check(fn, weights(**LAYERS), X)
    assert report.ok and report.reordered == 0 and "of 0 groups" in told(report)
    report = dataclasses.replace(graph, ordered={}).check(fn, weights(**LAYERS), X)
    assert not report.ok and report.permuted > 0.1 and report.reordered == 1
    assert max(report.sliced, report.gradients, report.full) < 1e-9


def test_a_truth_value(monkeypatch):
    broken(monkeypatch, "tanh", jnp.negative)
    assert not checked(lambda v, x: layers(v, x) > 0, weights(**LAYERS), X).ok


def test_a_gradient_that_is_off_masked_and_sliced(monkeypatch):
    broken(monkeypatch, "tanh", other_gradient)
    whole = interpret.bind

    def bind(eqn, values, **changed):
        outs = whole(eqn, values, **changed)
        return [other_gradient(o) for o in outs] if eqn.primitive.name == "tanh" else outs

    monkeypatch.setattr(interpret, "bind", bind)
    report = checked(layers, weights(**LAYERS), X)
    assert not report.ok and report.gradients < 1e-9 < report.full


def test_a_broken_network_with_a_relu_at_zero(monkeypatch):
    broken(monkeypatch, "max", more)
    variables, x = of_one_size()
    assert not checked(equal_sums, variables, x).ok
