"""What patterns name, and what is said of those that name nothing."""

import jax.numpy as jnp
import pytest

from jaxprune.graph import paths, trace

NAMES = (
    "batch_stats/stem/bn/mean",
    "params/stem/conv1/kernel",
    "params/stem/conv10/kernel",
    "params/stem/bn/scale",
    "params/stage3/block1/conv1/kernel",
    "params/backbone/stem/kernel",
    "params/head/kernel",
)
STEM = NAMES[:4]


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("stem", STEM),  # all below, in any collection
        ("params/stem", STEM[1:]),
        ("stem/conv1", STEM[1:2]),  # not conv10
        ("stem/conv?", STEM[1:2]),
        ("stem/conv*", STEM[1:3]),
        ("stem/bn", (STEM[0], STEM[3])),
        ("stage3/*", NAMES[4:5]),
        ("*/conv1", (NAMES[1], NAMES[4])),
        ("*/stem", (NAMES[0], *NAMES[1:4], NAMES[5])),
        ("params/head/kernel", NAMES[6:]),
        ("batch_stats", NAMES[:1]),
        ("*/kernel", tuple(n for n in NAMES if n.endswith("kernel"))),
    ],
)
def test_a_pattern_names_a_layer_and_all_below_it(pattern, named):
    assert paths.select([pattern], NAMES) == list(named)
    groups = [f"{name}[3]" for name in NAMES]
    assert paths.select([pattern], groups) == [f"{name}[3]" for name in named]


def test_what_is_said_to_the_letter_is_meant():
    # A layer at the top is not one below another, nor an axis in brackets a class of characters.
    assert paths.select(["conv1"], ["conv1/w", "block/conv1/w"]) == ["conv1/w"]
    assert paths.select(["a/w[1]"], ["a/w[1]", "a/w[1]#2", "a/w1[1]"]) == ["a/w[1]"]
    assert paths.select(["w[1]"], ["a/w[1]", "a/w[1]#2", "a/w1[1]"]) == ["a/w[1]"]
    assert paths.select(["a/w"], ["a/w[1]", "a/w[1]#2", "a/w1[1]"]) == ["a/w[1]", "a/w[1]#2"]


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("stme", "nearest names are params/stem, params/backbone/stem, .*batch_stats/stem"),
        ("conv1", "nearest names are params/stem/conv1, params/stage3/block1/conv1,"),
        ("stem.conv1", "nearest names are params/stem/conv1,"),
        ("Head", "nearest names are params/head"),
        ("xyzzy", "the names are params/stem/conv1/kernel, .*, batch_stats/stem/bn/mean$"),
    ],
)
def test_the_nearest_names_are_told(pattern, said):
    with pytest.raises(ValueError, match=f"^pattern {pattern!r} matches nothing; .*{said}"):
        paths.select([pattern], NAMES)


def test_a_long_list_is_cut_and_counted():
    names = [f"params/layers_{i}/kernel[1]" for i in range(40)]
    assert paths.listed(names[:2]) == "params/layers_0/kernel[1], params/layers_1/kernel[1]"
    assert paths.listed(names).endswith(" and 29 more")
    assert paths.listed(["a" * 500, "b"]) == "a" * 500 + " and 1 more"


def test_masks_say_where_the_channels_are_that_a_name_means():
    weights = {f"layer{i}": {"w": jnp.ones((4, 4)), "b": jnp.ones(4)} for i in range(20)}

    def fn(variables, x):
        for layer in variables["params"].values():
            x = x @ layer["w"] + layer["b"]
        return x

    graph = trace(fn, {"params": weights}, jnp.ones((2, 4)))
    assert float(graph.masks({"layer0/w": [1]})["params/layer0/w[1]"].sum()) == 3
    with pytest.raises(ValueError, match=r"'layer\*' names 19 groups.*layer0/w.* and \d+ more"):
        graph.masks({"layer*": [1]})
    with pytest.raises(ValueError, match=r"layer0/b\[0\] are in the group params/layer0/w\[1\]"):
        graph.masks({"layer0/b": [1]})
    with pytest.raises(ValueError, match=r"layer9/b\[0\] are fixed \(an output of the function"):
        graph.masks({"layer9": [1]})
    with pytest.raises(ValueError, match="matches nothing; the nearest names are params/layer"):
        graph.masks({"layer": [1]})
