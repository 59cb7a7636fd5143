from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pytorch_like import Weights, resnet, vgg

import jaxprune as jp
from jaxprune.graph import paths
from jaxprune.models import ResNet

VGG16 = ((3, 4), (5, 2), (3, 4, 6), (2, 5, 3), (4, 3, 5))

# Narrow networks of unequal widths, in the form of the named models.
NETWORKS = {
    "vgg_small": ("vgg_small", (12, 8), lambda w, x: vgg(w, x, ((3, 4), (5, 2), (6, 3)), 2)),
    "vgg16": ("vgg16", (16, 32), lambda w, x: vgg(w, x, VGG16, 4)),
    "vgg16_imagenet": (
        "vgg16_imagenet", (64, 96), lambda w, x: vgg(w, x, VGG16, 5, hidden=(7, 6), classes=4)
    ),
    "resnet20_A": (
        "resnet20", (9, 8),
        lambda w, x: resnet(w, x, (3, 3, 3), (3, 6, 13), inner=(2, 4, 5), shortcut=None,
                            head="linear"),
    ),
    "resnet20_B": (  # with biases, which the model here does not have
        "resnet20", (9, 8),
        lambda w, x: resnet(w, x, (3, 3, 3), (3, 6, 5), shortcut="shortcut", head="linear"),
    ),
    "resnet18": (
        "resnet18", (33, 40),
        lambda w, x: resnet(w, x, (2, 2, 2, 2), (4, 3, 5, 6), inner=(3, 4, 2, 5), imagenet=True,
                            classes=4),
    ),
    "resnet50": (
        "resnet50", (40, 33),
        lambda w, x: resnet(w, x, (3, 4, 6, 3), (4, 6, 5, 8), stem=5, inner=(3, 2, 4, 3),
                            imagenet=True, bottleneck=True),
    ),
}  # fmt: skip


BIASED = ("vgg_small", "vgg16", "vgg16_imagenet", "resnet20_B")


def drawn(case):
    """A network of PyTorch's, its images `[B, C, H, W]`, and their logits."""
    _, (height, width), forward = NETWORKS[case]
    weights = Weights(bias=case in BIASED)
    images = np.random.default_rng(1).normal(size=(2, 3, height, width))
    logits = forward(weights, images)
    return weights.state, images, logits


def module_of(model, variables, images):
    """The module of these variables."""
    projects = any("shortcut" in path for path, _ in paths.leaves(variables))
    options = {"shortcut": "B"} if projects else {}
    classes = variables["params"]["classifier"]["bias"].size
    _, channels, *size = images.shape
    module = jp.models.build(model, num_classes=classes, input_shape=(*size, channels), **options)
    return jp.models.from_variables(module, variables)


def ours(model, variables, images):
    """The logits here."""
    x = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    return apply(module_of(model, variables, images), variables, x)


@partial(jax.jit, static_argnums=0)
def apply(module, variables, x):
    return module.apply(variables, x)


def assert_close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize("case", [case for case in NETWORKS if case != "resnet50"])
def test_a_network_computes_here_what_it_computes_there(case):
    state, images, logits = drawn(case)
    variables = jp.interop.from_torch(state, NETWORKS[case][0])
    assert_close(ours(NETWORKS[case][0], variables, images), logits)


def test_a_bottleneck_has_its_stride_where_it_has_it_there():
    weights, images = Weights(), np.random.default_rng(1).normal(size=(2, 3, 40, 33))
    logits = resnet(
        weights, images, (1, 1), (8, 16), stem=2, inner=(2, 4), imagenet=True, bottleneck=True
    )
    module = ResNet(blocks=(1, 1), num_classes=10, base_width=2, bottleneck=True, imagenet=True)
    variables = jp.interop.from_torch(weights.state, module)
    x = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    assert_close(apply(module, variables, x), logits)


@pytest.mark.parametrize("case", [case for case in NETWORKS if case != "resnet20_B"])
def test_it_goes_back_as_it_came(case):
    state, _, _ = drawn(case)
    back, record = jp.interop.to_torch(jp.interop.from_torch(state, NETWORKS[case][0]))
    assert_same(back, state)
    weights = {n.removesuffix(".weight"): a for n, a in state.items() if n.endswith(".weight")}
    wide = {n: len(a) for n, a in weights.items() if a.ndim > 1}
    assert (record["model"], record["widths"]) == (NETWORKS[case][0], wide)
    zeros = {"layer2.0": (1, 2), "layer3.0": (3, 4)} if case == "resnet20_A" else None
    assert record.get("zeros") == zeros


def test_convolutions_without_a_bias_have_zeros_here_if_none_there_has_one():
    weights, images = Weights(), np.random.default_rng(1).normal(size=(2, 3, 32, 32))
    logits = vgg(weights, images, VGG16, 5, hidden=(7, 6))
    variables = jp.interop.from_torch(weights.state, "vgg16_imagenet")
    assert_close(ours("vgg16_imagenet", variables, images), logits)

    weights.state["features.0.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=r"features\.3\.bias: missing, expected \(4,\)"):
        jp.interop.from_torch(weights.state, "vgg16_imagenet")


def test_zeros_that_come_after_the_channels_are_an_option():
    weights, images = Weights(), np.random.default_rng(1).normal(size=(2, 3, 9, 8))
    logits = resnet(
        weights, images, (3, 3, 3), (3, 6, 13), inner=(2, 4, 5), shortcut=None,
        before=lambda missing: 0,
    )  # fmt: skip
    variables = jp.interop.from_torch(weights.state, "resnet20", zeros="after")
    assert_close(ours("resnet20", variables, images), logits)


def test_what_holds_the_state_and_what_type_it_has_does_not_matter():
    state, _, _ = drawn("vgg_small")
    half = {n: a.astype(np.float16) if a.ndim == 4 else a for n, a in state.items()}
    held = {"epoch": 3, "state_dict": {f"module.{n}": a for n, a in half.items()}}
    found, wanted = (jp.interop.from_torch(s, "vgg_small") for s in (held, state))
    assert {x.dtype for x in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    exact = jp.interop.from_torch({n: np.float64(a) for n, a in half.items()}, "vgg_small")
    assert jax.tree.all(jax.tree.map(np.array_equal, found, exact))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7), found, wanted)


def test_all_that_does_not_fit_is_in_one_error():
    state, _, _ = drawn("resnet18")
    del state["layer1.0.bn2.running_var"], state["fc.bias"]
    state |= {
        "layer3.0.conv1.weight": np.zeros((2, 5, 3, 3), np.float32),
        "layer4.1.bn2.weight": np.zeros(7, np.float32),
        "fc.weight": state["fc.weight"].astype(np.int8),
        "layer4.2.conv1.weight": np.zeros((5, 6, 3, 3), np.float32),
    }
    with pytest.raises(ValueError) as caught:
        jp.interop.from_torch(state, "resnet18")
    first, *lines, last = [line.strip(" ;") for line in str(caught.value).splitlines()]
    assert first == "these weights do not fit resnet18:"
    assert sorted(lines) == [
        "fc.bias: missing, expected (4,)",
        "fc.weight: found int8, expected floating-point numbers",
        "layer1.0.bn2.running_var: missing, expected (4,)",
        "layer3.0.conv1.weight: found (2, 5, 3, 3), expected (2, 3, 3, 3)",
        "layer4.1.bn2.weight: found (7,), expected (6,)",
        "layer4.2.conv1.weight: found (5, 6, 3, 3), no such name is expected",
    ]
    assert "name the model that they are of" in last and "resnet34" in last


def test_weights_have_to_fit_a_module_and_its_images():
    state, _, _ = drawn("vgg16_imagenet")
    module = jp.models.build(
        "vgg16_imagenet", num_classes=4, input_shape=(64, 64, 3),
        widths={"conv1_1": 3, "fc1": 7, "fc2": 6},
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"features\.3\.weight: found \(4, 3, 3, 3\), expected"):
        jp.interop.from_torch(state, module)
    module = jp.models.from_variables(module, jp.interop.from_torch(state, "vgg16_imagenet"))
    with pytest.raises(ValueError) as caught:
        jp.interop.from_torch(state, module, input_shape=(64, 64, 1))
    assert "features.0.weight: found (3, 3, 3, 3), expected (3, 1, 3, 3)" in str(caught.value)
    assert "classifier.0.weight: found (7, 30), expected (7, 20)" in str(caught.value)
    assert str(caught.value).count("expected") == 2


def test_a_shortcut_with_weights_does_not_fit_a_module_without():
    state, _, _ = drawn("resnet20_B")
    module = ResNet(blocks=(3, 3, 3), num_classes=10, base_width=3, shortcut="A")
    with pytest.raises(ValueError, match=r"layer2\.0\.shortcut\.0\.weight: found .* no such name"):
        jp.interop.from_torch(state, module)


def test_nan_and_infinity_are_refused_by_name():
    state, _, _ = drawn("vgg_small")
    state["features.3.weight"][0, 0, 0, 0] = np.nan
    state["classifier.bias"][0] = np.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in .*: take") as caught:
        jp.interop.from_torch(state, "vgg_small")
    assert "features.3.weight" in str(caught.value) and "classifier.bias" in str(caught.value)


@pytest.mark.parametrize("model", ["vgg17", "wrn28_10", jp.models.MobileNetV2(num_classes=10)])
def test_a_model_without_names_there_is_refused(model):
    with pytest.raises(ValueError, match=r"not known for the model .*: vgg_small, vgg16"):
        jp.interop.from_torch({}, model)


def test_variables_of_another_model_are_refused():
    state, _, _ = drawn("vgg_small")
    variables = jp.interop.from_torch(state, "vgg_small")
    with pytest.raises(ValueError, match="not the variables of 'vgg16'"):
        jp.interop.to_torch(variables, "vgg16")
    with pytest.raises(ValueError, match="not the variables of one, of the models"):
        jp.interop.to_torch({"params": {"dense": {"kernel": np.zeros((3, 3))}}})
    with pytest.raises(ValueError, match="no params/conv1_1/kernel"):
        jp.models.from_variables(
            jp.models.build("vgg_small", num_classes=10, input_shape=(8, 8, 1)),
            {"params": {}},
        )


@pytest.mark.parametrize("case", ["vgg_small", "vgg16_imagenet", "resnet20_A", "resnet18"])
def test_a_pruned_network_goes_out_and_comes_back(case, tmp_path):
    model, _, forward = NETWORKS[case]
    state, images, _ = drawn(case)
    variables = jp.interop.from_torch(state, model)
    module = module_of(model, variables, images)
    x = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    graph = jp.trace(module.apply, variables, x[:1])
    rng = np.random.default_rng(4)
    drops = {n: rng.permutation(g.size)[: g.size // 2].tolist() for n, g in graph.groups.items()}
    pruned = graph.slice(variables, graph.masks(drops))
    logits = np.asarray(pruned.wrap(module.apply)(pruned.variables, x))

    path = tmp_path / "small.safetensors"
    small, record = jp.interop.to_torch(pruned)
    jp.interop.write(path, small, record)
    weights = Weights(bias=case in BIASED, state=dict(jp.interop.read(path)))
    assert_close(forward(weights, images), logits)
    back = jp.interop.from_torch(path, model)
    assert jax.tree.all(jax.tree.map(np.array_equal, back, pruned.variables))


def test_kernels_with_blocks_go_out_projected():
    model, _, forward = NETWORKS["vgg_small"]
    state, images, _ = drawn("vgg_small")
    variables = jp.interop.from_torch(state, model)
    module = module_of(model, variables, images)
    x = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    graph = jp.trace(module.apply, variables, x[:1])
    path = next(p for p, leaf in paths.leaves(variables) if leaf.shape[2:] == (4, 5))
    sides = (0, 0, 2, 3)
    blocks = {path: jp.Blocks(sides, np.eye(2, dtype=bool)[None, None])}
    pruned = graph.slice(variables, graph.full_masks(), blocks)
    moved = dataclasses.replace(pruned, variables=variables)  # as a training of one's own may leave
    logits = np.asarray(pruned.wrap(module.apply)(variables, x))
    small, _ = jp.interop.to_torch(moved)
    assert_close(forward(Weights(bias="vgg_small" in BIASED, state=small), images), logits)


def even_vgg(w, x):
    return vgg(w, x, ((4, 4), (8, 6), (6, 4)), 2)


def even_resnet(w, x):
    options = {"shortcut": None, "head": "linear"}
    front = {"before": lambda missing: 0} if w.groups else {}
    return resnet(w, x, (3, 3, 3), (4, 8, 12), inner=(4, 4, 6), **options, **front)


@pytest.mark.parametrize(("model", "forward"), [("vgg_small", even_vgg), ("resnet20", even_resnet)])
def test_blocks_on_a_diagonal_go_out_as_groups_and_come_back(model, forward, tmp_path):
    images = np.random.default_rng(1).normal(size=(2, 3, 12, 8))
    weights = Weights()
    forward(weights, images)
    variables = jp.interop.from_torch(weights.state, model)
    module = module_of(model, variables, images)
    x = jnp.asarray(images.transpose(0, 2, 3, 1), jnp.float32)
    graph = jp.trace(module.apply, variables, x[:1])
    blocks = {}
    for path, leaf in paths.leaves(variables):
        if leaf.ndim == 4 and leaf.shape[2] > 3:
            sides, order = (0, 0, leaf.shape[2] // 2, leaf.shape[3] // 2), {}
            # Of the first all is in order, of the second as pivoting has it, then anything.
            for axis in [(), (2,), (2, 3)][min(len(blocks), 2)]:
                order[axis] = np.roll(np.arange(leaf.shape[axis]), 1)
            blocks[path] = jp.Blocks(sides, np.eye(2, dtype=bool)[None, None], None, order)
    # Tiles elsewhere than on a diagonal have no groups.
    blocks[path] = blocks[path]._replace(kept=~blocks[path].kept)
    pruned = graph.slice(variables, graph.full_masks(), blocks)
    logits = np.asarray(pruned.wrap(module.apply)(pruned.variables, x))

    file = tmp_path / "small.safetensors"
    jp.interop.write(file, *jp.interop.to_torch(pruned))
    record = jp.interop.read_record(file)
    state = dict(jp.interop.read(file))
    groups = list(record["groups"].values())
    assert len(groups) == len(blocks) - 1
    assert [sorted(said) for said in groups[:3]] == [
        ["groups"], ["groups", "reads"], ["groups", "reads", "writes"]
    ]  # fmt: skip
    assert_close(forward(Weights(state=state, groups=record["groups"]), images), logits)
    wide, narrow = (sum(a.size for a in s.values() if a.ndim == 4) for s in (weights.state, state))
    assert wide - narrow == sum(np.prod(graph.shapes[p]) // 2 for p in blocks if p != path)

    back = jp.interop.from_torch(file, model)
    jax.tree.map(np.testing.assert_array_equal, back, pruned.variables)
    again = jp.interop.unpruned(back, model, record)
    assert again.kept() == {p: 0.5 for p in blocks if p != path}
    first = next(iter(again.blocks))
    assert again.blocks[first].order == {}
    np.testing.assert_allclose(again.wrap(module.apply)(back, x), logits, rtol=1e-4, atol=1e-5)
    assert_same(jp.interop.to_torch(again)[0], state)


def test_groups_without_a_record_or_with_another_one_are_refused():
    images = np.random.default_rng(1).normal(size=(1, 3, 12, 8))
    weights = Weights(groups={"features.3": {"groups": 2}})
    even_vgg(weights, images)
    with pytest.raises(ValueError, match=r"features\.3\.weight: .* or record= with its groups"):
        jp.interop.from_torch(weights.state, "vgg_small")
    for groups, message in (
        ({"features.9": {"groups": 2}}, "groups of features.9: there is no such convolution"),
        ({"features.3": {"groups": 3}}, "3 do not divide the 4 channels that it reads and the 4"),
        ({"features.3": {"groups": 2, "reads": [0, 1, 1, 2]}}, "reads does not name each of 4"),
    ):
        with pytest.raises(ValueError, match=message):
            jp.interop.from_torch(weights.state, "vgg_small", record={"groups": groups})


def test_an_unpruned_network_has_its_groups_and_lacks_nothing():
    state, images, logits = drawn("vgg_small")
    whole = jp.interop.unpruned(jp.interop.from_torch(state, "vgg_small"))
    assert list(whole.widths.values()) == [3, 4, 5, 2, 6, 3]
    assert {n: leaf.shape for n, leaf in paths.leaves(whole.variables)} == {
        n: shape for n, (shape, _) in whole.dense.items()
    }
    assert_close(ours("vgg_small", whole.variables, images), logits)
