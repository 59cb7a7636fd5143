"""Group Fisher pruning where channels are coupled: sums, convolution groups, a pyramid."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from detector import Detector, detection_loss
from laws import compiled, fill, near, value_and_grad

import jaxprune as jp
from jaxprune import models
from jaxprune.methods import GroupFisher
from jaxprune.methods.group_fisher import met
from jaxprune.train.network import Network
from jaxprune.wrappers import MASKS, WEIGHTS

CLASSES, IMAGES, SHAPE = 3, 3, (8, 8, 3)
GROUPED = {"bottleneck": True, "imagenet": True, "base_width": 3, "grouped": (3, 2)}
FISHER = GroupFisher(interval=2)


class Case(NamedTuple):
    """A network and one of its groups whose unit is more than a channel of one convolution."""

    module: Any
    coupled: str
    members: int
    """How many axes of variables a unit of that group is cut from."""


CASES = {
    # The sum of a stage: its blocks and the stem, all with their BatchNorms, and who reads them.
    "resnet": Case(
        models.ResNet(blocks=(2, 1), num_classes=CLASSES, base_width=4, shortcut="B"),
        "params/conv1/kernel[3]", 19,
    ),
    # Two channels of a convolution group each, in conv1 and conv2.
    "resnext": Case(
        models.ResNet(blocks=(1,), num_classes=CLASSES, **GROUPED),
        "params/stage1_block0/conv1/kernel[3]", 11,
    ),
    # The depthwise convolution's channels are those of the convolution that widens.
    "mobilenet": Case(
        models.MobileNetV2(
            num_classes=CLASSES, stages=((2, 4, 2, 1),), stem=3, head=5, dropout=0.0
        ),
        "params/stage1_block1/expand_conv/kernel[3]", 11,
    ),
    "regnet": Case(
        models.RegNet(num_classes=CLASSES, stages=((4, 2),), group_width=2, stem=3),
        "params/stage1_block1/conv1/kernel[3]", 11,
    ),
    # Every level of the pyramid is one sum after the other.
    "detector": Case(
        Detector(CLASSES, stages=(3, 4, 5), pyramid=4), "params/lateral2/kernel[3]", 9
    ),
}  # fmt: skip


def batch_of(name):
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(IMAGES, *SHAPE)))
    labels = jnp.asarray(rng.integers(0, CLASSES, IMAGES))
    if name != "detector":
        return images, labels
    corners = np.sort(rng.uniform(0, SHAPE[0], (IMAGES, 2, 2, 2)), axis=2)
    return images, (jnp.asarray(corners.reshape(IMAGES, 2, 4)), labels[:, None].repeat(2, 1))


def functions(name):
    """The network, its logits and its loss."""
    module = CASES[name].module
    if name == "detector":
        forward = lambda variables, images, key=None: module.apply(variables, images)  # noqa: E731
        return Network(forward, forward), forward, detection_loss
    network = models.network(module)

    def logits(variables, images):
        return network.eval(variables, images, None).logits

    return network, logits, cross_entropy


def cross_entropy(outputs, batch):
    """In float64, unlike that of the library."""
    losses = optax.softmax_cross_entropy_with_integer_labels
    return losses(outputs.logits, batch[1]).mean()


@pytest.mark.parametrize("name", CASES)
def test_the_score_is_exact_and_the_pruned_network_what_the_masked_one_was(name):
    with jax.enable_x64(True):
        holds(name)


def holds(name):
    case, batch = CASES[name], batch_of(name)
    network, forward, loss = functions(name)
    structs = jax.eval_shape(case.module.init, jax.random.key(0), batch[0])
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), fill(structs))
    graph = jp.trace(forward, variables, batch[0][:1])
    coupled = graph.groups[case.coupled]
    assert len(coupled.members) == case.members

    # So that units of the coupled group fall, whatever their score.
    budget = jp.Budget("params/1.5", limits={case.coupled: (0.0, 0.75)})
    wrapped = FISHER.network(graph)(network)
    optimizer = FISHER.optimizer(graph, budget)(optax.sgd(1e-3, momentum=0.9))
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    masks = {name: jnp.ones(group.size) for name, group in graph.groups.items()}
    params = {WEIGHTS: variables["params"], MASKS: masks}
    state = optimizer.init(params)

    def loss_of(params, rest):
        out = wrapped.train({"params": params, **rest}, batch[0], None)
        return loss(out, batch), getattr(out, "state", {})

    def step(params, rest, state):
        gradients, rest = jax.grad(loss_of, has_aux=True)(params, rest)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), rest, state, gradients[MASKS]

    step = compiled(step, params, rest, state)
    params, rest, state, scores = step(params, rest, state)
    assert_scores(scores, graph, network, loss, variables, batch)

    steps = 1
    while not met(graph, budget, params[MASKS]):
        params, rest, state, _ = step(params, rest, state)
        steps += 1
        gone = sum(int(jnp.sum(m == 0)) for m in params[MASKS].values())
        assert gone == steps // FISHER.interval

    masks = params[MASKS]
    dense = {"params": params[WEIGHTS], **rest}
    assert int(jnp.sum(masks[case.coupled])) <= 0.75 * coupled.size
    pruned = graph.slice(dense, masks)
    masked = value_and_grad(lambda v, x: graph.masked(forward)(v, masks, x))
    sliced = value_and_grad(pruned.wrap(forward))
    (_, out), gradient = compiled(masked, dense, batch[0])(dense, batch[0])
    (_, small), narrow = compiled(sliced, pruned.variables, batch[0])(pruned.variables, batch[0])
    near(out, small, 1e-9)
    near(pruned.cut(gradient), narrow, 1e-9)
    assert graph.cost(masks).params <= graph.cost().params / 1.5


def assert_scores(scores, graph, network, loss, variables, batch, small=3e-7):
    """Central differences of the loss in the mask of one sample, of a unit of each group."""
    ones = {n: jnp.ones((IMAGES, g.size)) for n, g in graph.groups.items()}
    masked = graph.masked(network.train)

    def number(masks):
        return IMAGES * loss(masked(variables, masks, batch[0], None), batch)

    number = compiled(number, ones)
    for name, group in graph.groups.items():
        unit = group.size // 2
        sides = [
            [number({**ones, name: ones[name].at[n, unit].add(sign * small)}) for sign in (1, -1)]
            for n in range(IMAGES)
        ]
        expected = sum(((up - down) / (2 * small)) ** 2 for up, down in sides)
        np.testing.assert_allclose(scores[name][unit], expected, rtol=1e-4, atol=1e-8, err_msg=name)
