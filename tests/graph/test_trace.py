"""What `trace` finds, fixes, explains and refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import mlir
from laws import assert_laws, near, random_masks
from networks import example

from jaxprune.graph import trace
from jaxprune.graph.check import check_laws

made_up = Primitive("made_up")
made_up.def_impl(lambda x: x[..., ::-1])
made_up.def_abstract_eval(lambda x: x)
mlir.register_lowering(made_up, mlir.lower_fun(lambda x: x[..., ::-1], multiple_results=False))


def two_layers(between):
    """x → a → `between` → b, beside x → c → d, which stays prunable."""

    def fn(variables, x):
        hidden = between(x @ variables["a"])
        return hidden @ variables["b"] + jnp.tanh(x @ variables["c"]) @ variables["d"]

    rng = np.random.default_rng(0)
    shapes = {"a": (3, 6), "b": (6, 2), "c": (3, 4), "d": (4, 2)}
    variables = {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}
    return fn, variables, jnp.asarray(rng.normal(size=(5, 3)))


def test_an_unknown_primitive_fixes_and_says_so():
    fn, variables, x = two_layers(lambda h: made_up.bind(h))
    graph = trace(fn, variables, x)
    assert list(graph.groups) == ["c[1]"]
    assert graph.fixed["a[1]"].startswith("made_up at ")
    assert "test_trace.py" in graph.fixed["a[1]"] and "no rule" in graph.fixed["a[1]"]
    assert "contracted with an axis that keeps its size" in graph.fixed["b[0]"]
    pruned = graph.slice(variables, graph.masks({"c": [1]}))
    near(
        pruned.wrap(fn)(pruned.variables, x),
        graph.masked(fn)(variables, graph.masks({"c": [1]}), x),
        1e-12,
    )


@pytest.mark.parametrize(
    ("between", "primitive"),
    [
        (lambda h: jnp.fft.fft(h).real, "fft"),
        (lambda h: jax.nn.softmax(h), "reduce_max"),
        (lambda h: h - h.max(-1, keepdims=True), "reduce_max"),
        (lambda h: jnp.sort(h, -1), "sort"),
        (lambda h: lax.top_k(h, 6)[0], "top_k"),
        (
            lambda h: lax.dynamic_slice_in_dim(jnp.tile(h, 2), jnp.int32(h.sum()), 6, 1),
            "dynamic_slice",
        ),
        (lambda h: h.at[:, jnp.array([1])].set(0.0), "scatter"),
        (lambda h: jnp.cumsum(h, -1), "cumsum"),
        (lambda h: h * jnp.prod(h, -1, keepdims=True), "reduce_prod"),
        (lambda h: h[:, (h.sum(0) > 0).astype(int)], "gather"),
        (lambda h: h * (1 + jnp.argmax(h, -1, keepdims=True)), "argmax"),
        (lambda h: h / jnp.linalg.norm(h, axis=-1, keepdims=True), "reduce_sum"),
        (lambda h: lax.pad(h, 0.0, ((0, 0, 0), (-1, 1, 0))), "pad"),
    ],
)
def test_what_mixes_channels_fixes_them_and_names_the_line(between, primitive):
    fn, variables, x = two_layers(between)
    graph = trace(fn, variables, x)
    assert list(graph.groups) == ["c[1]"]
    assert graph.fixed["a[1]"].split(" at ")[0] == primitive
    line = between.__code__.co_firstlineno
    assert f"test_trace.py:{line}" in graph.fixed["a[1]"]


def test_a_reason_names_the_users_line_not_the_frameworks():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(6, name="first")(x)
            x = nn.LayerNorm()(x)
            return nn.Dense(2, name="last")(nn.relu(nn.Dense(4, name="middle")(x)))

    module, x = Net(), jnp.ones((2, 3))
    variables = module.init(jax.random.key(0), x)
    graph = trace(module.apply, variables, x)
    line = Net.__call__.__wrapped__.__code__.co_firstlineno + 3
    reason = graph.fixed["params/first/kernel[1]"]
    assert f"test_trace.py:{line}" in reason and "normalisation" in reason
    assert list(graph.groups) == ["params/middle/kernel[1]"]


def layer_norm(h):
    mean = h.mean(-1, keepdims=True)
    return (h - mean) / jnp.sqrt(h.var(-1, keepdims=True) + 1e-6)


def test_layer_norm_opens_with_allow_inexact():
    fn, variables, x = two_layers(layer_norm)
    assert list(trace(fn, variables, x).groups) == ["c[1]"]
    graph = trace(fn, variables, x, allow_inexact=True)
    assert list(graph.groups) == ["a[1]", "c[1]"]
    pruned = assert_laws(graph, fn, variables, x, seed=3)
    # Both normalise over the channels that are left.
    small = {k: np.asarray(v) for k, v in pruned.variables.items()}
    assert small["a"].shape[1] < 6
    expected = layer_norm(x @ small["a"]) @ small["b"] + jnp.tanh(x @ small["c"]) @ small["d"]
    near(pruned.wrap(fn)(pruned.variables, x), expected, 1e-12)
    # In training mode BatchNorm sums over the batch, which keeps its size.
    fn, variables, x = example(("batch_norm_train", "layer_norm"))
    graph = trace(fn, variables, x, state=lambda out: out[1], allow_inexact=True)
    assert_laws(graph, fn, variables, x)
    with pytest.raises(ValueError, match="per sample"):
        masks = {n: np.ones((2, g.size)) for n, g in graph.groups.items()}
        graph.masked(fn)(variables, masks, x)


def test_explain_is_data_and_a_table():
    fn, variables, x = two_layers(lambda h: made_up.bind(h))
    graph = trace(fn, variables, x)
    found = graph.explain()
    (row,) = found.groups
    assert (row.name, row.size, row.writes, row.reads) == ("c[1]", 4, ("c[1]",), ("d[0]",))
    assert (row.params, row.macs) == (5, 25)
    assert found.fixed == graph.fixed and found.fixed["b[1]"].startswith("an output")
    assert "c[1]" in str(found) and "made_up" in str(found)


def test_members_say_where_each_unit_lies():
    fn, variables, x = example(("grouped", "multiplier"))
    graph = trace(fn, variables, x)
    block = graph.groups["params/block1/kernel[3]"]
    members = {f"{m.path}[{m.axis}]": m for m in block.members}
    # Two blocks of the grouped convolution; the depthwise one has two outputs for each input.
    assert block.size == 2
    assert members["params/block1/kernel[3]"].positions.tolist() == [[0, 1], [2, 3]]
    assert members["params/block3/kernel[3]"].positions.tolist() == [
        list(range(8)), list(range(8, 16))
    ]  # fmt: skip
    assert members["params/block4/kernel[2]"].role == "reads"
    flat = next(m for m in graph.groups["params/block4/kernel[3]"].members if m.role == "reads")
    assert flat.positions[1].tolist() == [4 * i + 1 for i in range(16)]


def test_group_names_do_not_depend_on_the_batch():
    names = []
    for batch in (1, 2, 3, 4, 8):
        fn, variables, x = example(("residual", "shuffle", "gate", "attention"), batch=batch)
        graph = trace(fn, variables, x)
        names.append((graph.names, tuple(graph.sizes.tolist()), tuple(graph.fixed)))
    assert len(set(names)) == 1


def test_protected_layers_stay_as_they_are():
    fn, variables, x = example(("relu", "residual"))
    whole = trace(fn, variables, x)
    graph = trace(fn, variables, x, protect=["block2"])
    assert len(graph.groups) < len(whole.groups)
    masks = {n: np.eye(g.size)[0] for n, g in graph.groups.items()}
    pruned = graph.slice(variables, masks)
    near(pruned.variables["params"]["block2"], variables["params"]["block2"], 0)
    assert graph.fixed["params/block2/kernel[3]"] == "protected"
    with pytest.raises(ValueError, match="matches nothing; the nearest names are params/block"):
        trace(fn, variables, x, protect=["blocks"])


def test_state_neither_fixes_nor_is_masked():
    fn, variables, x = example(("batch_norm_train", "relu"))
    name = "params/block1/kernel[3]"
    fixed = trace(fn, variables, x).fixed
    assert fixed[name].startswith("an output of the function: 1/stats/block2")
    graph = trace(fn, variables, x, state=lambda out: out[1])
    masks = graph.masks({name: [0, 1]})
    (_, state), (_, whole) = graph.masked(fn)(variables, masks, x), fn(variables, x)
    near(state, whole, 1e-12)
    with pytest.raises(ValueError, match="no variable of that shape"):
        trace(fn, variables, x, state=lambda out: out[0])


def test_state_that_does_not_follow_its_variable_fixes_it():
    def fn(variables, x):
        out = (x @ variables["a"] + variables["mean"]) @ variables["b"]
        return out, {"mean": jnp.sort((x @ variables["a"]).mean(0))}

    variables = {
        "a": jnp.ones((3, 6)),
        "b": jnp.ones((6, 2)),
        "mean": jnp.ones(6),
        "c": jnp.ones(4),
    }
    with pytest.raises(ValueError, match=r"nothing .* prunable.*sort at"):
        trace(fn, variables, jnp.ones((2, 3)), state=lambda out: out[1])


def test_variables_that_are_refused():
    fn, variables, x = two_layers(jnp.tanh)
    for bad in (np.nan, np.inf):
        broken = variables | {"a": variables["a"].at[0, 0].set(bad)}
        with pytest.raises(ValueError, match="a holds NaN or infinity"):
            trace(fn, broken, x)
    broken = variables | {"b": np.full((6, 2), np.nan)}
    with pytest.raises(ValueError, match="b holds NaN or infinity"):
        trace(fn, broken, x)
    with pytest.raises(ValueError, match=r"nothing .* prunable.*an output of the function"):
        trace(lambda v, x: x @ v["a"], variables, x)
    with pytest.raises(ValueError, match=r"nothing .* prunable. Fixed: no variables"):
        trace(lambda v, x: x, {}, x)
    single = {"a": variables["a"][:, :1], "b": variables["b"][:1]}
    with pytest.raises(ValueError, match=r"nothing .* prunable.*b\[1\]: an output"):
        trace(lambda v, x: x @ v["a"] @ v["b"], single, x)


def test_functions_that_cannot_be_traced():
    _, variables, x = two_layers(jnp.tanh)
    with pytest.raises(TypeError, match=r"dot_general.*Variables: a \(3, 6\), .*: \(5, 3\)"):
        trace(lambda v, x: x @ v["b"], variables, x)

    def branching(v, x):
        return x @ v["a"] @ v["b"] if x.sum() > 0 else x

    with pytest.raises(TypeError, match=r"cannot trace branching .*not at values"):
        trace(branching, variables, x)
    with pytest.raises(TypeError, match=r"cannot trace .*argument"):
        trace(branching, variables)
    with pytest.raises(TypeError, match="hold a str at 'name'"):
        trace(lambda v: v["a"].sum(), {"a": jnp.ones(3), "name": "net"})


def test_shapes_alone_are_enough():
    fn, variables, x = two_layers(jnp.tanh)
    structs = jax.tree.map(lambda v: jax.ShapeDtypeStruct(v.shape, v.dtype), (variables, x))
    graph = trace(fn, *structs)
    assert graph.names == trace(fn, variables, x).names == ("a[1]", "c[1]")
    assert "not used" in trace(fn, variables | {"e": jnp.ones((2, 2))}, x).fixed["e[0]"]


def test_the_check_on_a_users_network():
    fn, variables, x = example(("residual",))
    graph = trace(fn, variables, x, state=lambda out: out[1])
    report = graph.check(fn, variables, x)
    assert report.ok and report.tolerance == 1e-9 and str(report).startswith("holds")

    # A function that draws without a key breaks them: each trace has other numbers.
    rng = np.random.default_rng(0)

    def noisy(variables, x):
        hidden = x @ variables["a"]
        return (hidden + rng.normal(size=hidden.shape)) @ variables["b"]

    _, variables, x = two_layers(jnp.tanh)
    variables = {name: variables[name] for name in ("a", "b")}
    graph = trace(noisy, variables, x)
    report = check_laws(graph, noisy, variables, (x,))
    assert not report.ok and "DOES NOT HOLD" in str(report)
    out = graph.slice(variables, random_masks(graph)).wrap(noisy)
    assert out is not None


@pytest.mark.parametrize("cast", [False, True])
def test_rows_of_a_table_that_a_short_input_leaves_stay(cast):
    variables = {n: jnp.ones(s) for n, s in {"e": (7, 8), "p": (16, 8), "o": (8, 3)}.items()}

    def fn(v, x):
        table = v["p"].astype(jnp.bfloat16) if cast else v["p"]
        rows = table[: x.shape[1]] if x.ndim == 3 else table[jnp.arange(x.shape[0])]
        return jnp.tanh(x @ v["e"] + rows) @ v["o"]

    for x in (jnp.ones((2, 5, 7)), jnp.ones((5, 7))):
        graph = trace(fn, variables, x)
        assert list(graph.groups) == ["e[1]"]
        assert "p[0]" in graph.fixed
    pruned = graph.slice(variables, graph.masks({"e": [1, 2]}))
    assert pruned.wrap(fn)(pruned.variables, jnp.ones((9, 7))).shape == (9, 3)
