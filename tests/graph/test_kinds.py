"""What is said of attention's groups, and that nothing is said of what only looks like them."""

import jax
import jax.numpy as jnp
import pytest
from test_attention import GROUPED, X
from test_attention import flat as flat_kernels

from jaxprune.graph import trace

HEADS, WIDTH = "heads", "head width"
KEYS = "key-value heads, each of 2 query heads"


def kinds(fn, **shapes):
    """Per group its name without the axis, and what its units are said to be."""
    variables = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    graph = trace(fn, variables, jax.ShapeDtypeStruct((2, 5, 7), jnp.float32))
    rows = {row.name: row.kind for row in graph.explain().groups}
    assert rows == {n: g.kind for n, g in graph.groups.items()}
    text = str(graph.explain())
    assert all(f"{n} · {kind}" in text for n, kind in rows.items() if kind)
    return rows


def attend(q, k, v):
    scores = jax.nn.softmax(jnp.einsum("blhd,bmhd->bhlm", q, k))
    return jnp.einsum("bhlm,bmhd->blhd", scores, v)


def heads(h, number):
    return h.reshape(*h.shape[:2], number, -1)


def flat(v, x):
    """(features, heads * width)."""
    out = attend(*(heads(x @ v[n], 4) for n in "qkv"))
    return out.reshape(2, 5, -1) @ v["o"]


def fused(v, x):
    """(features, heads * 3 * width)."""
    out = attend(*jnp.split(heads(x @ v["qkv"], 4), 3, axis=-1))
    return out.reshape(2, 5, -1) @ v["o"]


def apart(v, x):
    """(features, heads, width); two query heads read a key head."""
    q, k, w = (jnp.einsum("blf,fhd->blhd", x, v[n]) for n in "qkv")
    out = attend(q, jnp.repeat(k, q.shape[2] // k.shape[2], 2), jnp.repeat(w, 2, 2))
    return jnp.einsum("blhd,hdf->blf", out, v["o"])


def grouped(v, x):
    q, k, w = (jnp.einsum("blf,fhd->blhd", x, v[n]) for n in "qkv")
    q = q.reshape(2, 5, 2, 2, -1)
    scores = jax.nn.softmax(jnp.einsum("blkgd,bmkd->bkglm", q, k))
    out = jnp.einsum("bkglm,bmkd->blkgd", scores, w).reshape(2, 5, 4, -1)
    return jnp.einsum("blhd,hdf->blf", out, v["o"])


def one(v, x):
    """A single head is no more than channels."""
    scores = jax.nn.softmax((x @ v["q"]) @ (x @ v["k"]).mT)
    return scores @ (x @ v["v"]) @ v["o"]


FLAT = dict.fromkeys("qkv", (7, 24)) | {"o": (24, 3)}
WIDE = FLAT | {"v": (7, 48), "o": (48, 3)}
APART = {"q": (7, 4, 6), "k": (7, 2, 6), "v": (7, 2, 6), "o": (4, 6, 3)}


@pytest.mark.parametrize(
    ("fn", "shapes", "expected"),
    [
        (flat, FLAT, {"q[1]": HEADS}),
        (flat, WIDE, {"q[1]": HEADS}),  # values as wide as two keys are no second head
        (fused, {"qkv": (7, 72), "o": (24, 3)}, {"qkv[1]": HEADS}),
        (apart, APART, {"q[1]": KEYS, "q[2]": WIDTH, "v[2]": WIDTH}),
        (grouped, APART, {"q[1]": KEYS, "q[2]": WIDTH, "v[2]": WIDTH}),
        (one, FLAT, {"q[1]": "", "v[1]": ""}),
    ],
)
def test_attention_says_what_its_units_are(fn, shapes, expected):
    assert kinds(fn, **shapes) == expected


@pytest.mark.parametrize("name", GROUPED)
def test_every_form_of_grouped_attention_says_so(name):
    fn, shapes = flat_kernels(GROUPED[name])
    variables = {n: jax.ShapeDtypeStruct(s, jnp.float32) for n, s in shapes.items()}
    (group,) = trace(fn, variables, X).groups.values()
    # Without a product that has heads on an axis of its own nothing is sure.
    assert group.kind == ("" if name == "by_product_and_sum" else KEYS)


def weighted(v, x):
    """Channels that are weighted with an activation of their own, and have a width beside them."""
    h = x @ v["a"]
    return jnp.einsum("blc,blc->bc", h, x @ v["b"]) @ v["o"]


def in_groups(v, x):
    """Groups of channels are runs, but no product has them on a batch axis."""
    h = heads(x @ v["a"], 4)
    return (h / jnp.abs(h).sum(-1, keepdims=True)).reshape(2, 5, -1) @ v["o"]


def alike(v, x):
    return (x[:, 0] @ v["a"]) @ (x[:, 1] @ v["b"]).T


@pytest.mark.parametrize("fn", [weighted, in_groups, alike])
def test_nothing_is_said_of_other_groups(fn):
    shapes = {"a": (7, 12), "b": (7, 12), "o": (12, 3)}
    assert set(kinds(fn, **shapes).values()) == {""}
