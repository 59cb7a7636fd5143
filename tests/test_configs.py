"""Every shipped config: it fits its data, its budget can be met, and its network trains and is cut.

The data need not be here: random images of its shape do.
"""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune import config as configs
from jaxprune import models
from jaxprune.budget import Budget, allocate
from jaxprune.data import Split
from jaxprune.graph import trace
from jaxprune.methods import get
from jaxprune.problem import Problem
from jaxprune.train.loop import fit

CONFIGS = {
    path.stem: configs.load(path)
    for path in sorted((Path(__file__).parents[1] / "configs").glob("*.py"))
}
DATA = {
    "digits": ((8, 8, 1), 10),
    "scenes": ((32, 32, 3), 6),
    "cifar10": ((32, 32, 3), 10),
    "fashion_mnist": ((28, 28, 1), 10),
    "cifar100": ((32, 32, 3), 100),
    "svhn_cropped": ((32, 32, 3), 10),
    "imagenet2012": ((224, 224, 3), 1000),
}


def data_of(config):
    """Images (height, width, channels) as the network gets them, and how many classes."""
    shape, classes = DATA[config.data.name]
    return config.data.shape or shape, classes


# Smaller images for the steps of two networks: at 224 pixels the first linear layer of VGG-16 makes
# a training step of 3 GB, and XLA's CPU backend takes seconds for each kernel gradient of ResNeXt's
# grouped convolutions.
STEP_SIDES = {"vgg16_imagenet": 64, "resnext50": 64}
# Configs that share a model share the test of its steps. ResNet-110 and VGG-19 have nothing but
# more of the blocks of ResNet-56 and VGG-16, and would be compiled for long.
STEPS = {config.model.name: name for name, config in reversed(CONFIGS.items())}
for deeper in ("resnet110", "vgg19"):
    STEPS.pop(deeper)


@functools.lru_cache(maxsize=2)
def built(name, side=None):
    """Module, functions, shapes of the variables, and graph; for images of `side` pixels."""
    config = CONFIGS[name]
    (height, width, channels), classes = data_of(config)
    shape = (side or height, side or width, channels)
    module = models.build(
        config.model.name,
        num_classes=classes,
        input_shape=shape,
        widths=config.model.widths or None,
        **config.model.options(),
    )
    network = models.network(module)
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), images)
    graph = trace(
        lambda v, x: network.eval(v, x, None).logits, variables, images, protect=config.protect
    )
    return module, network, variables, graph


@pytest.mark.parametrize("name", CONFIGS)
def test_the_model_fits_the_data_and_the_budget_can_be_met(name):
    config = CONFIGS[name]
    assert config.data.image_size == (224 if config.data.name == "imagenet2012" else None)
    _, _, variables, graph = built(name)
    params = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert graph.cost().params == params
    config.budget.require_feasible(graph)


@pytest.mark.parametrize("name", sorted(STEPS.values()))
def test_a_few_steps_the_cut_and_a_step_after_it(name, quick_compilation):
    config = CONFIGS[name]
    module, network, shapes, graph = built(name)
    allocation = allocate(None, graph, config.budget, "proportional")
    whole = graph.cost()
    for quantity, factor in config.budget.factors.items():
        assert allocation.costs[quantity] <= getattr(whole, quantity) / factor
    if side := STEP_SIDES.get(config.model.name):
        module, network, shapes, graph = built(name, side)
    rng = np.random.default_rng(0)
    (height, width, channels), classes = data_of(config)
    images = (4, side or height, side or width, channels)
    split = Split(
        rng.integers(0, 256, images, dtype=np.uint8), rng.integers(0, classes, 4), np.arange(4)
    )
    losses = []
    step = functools.partial(
        fit,
        seed=0,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        on_chunk=lambda _, chunk: losses.extend(chunk.metrics["loss"]),
    )
    before = filled(shapes, rng)
    after = step(network, before, split, short(config.train, epochs=1)).variables
    for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert old.ndim == 1 or np.any(old != np.asarray(new))

    budget = Budget(widths=allocation.widths)
    selection = get("l1")().prune(Problem(graph, module.apply, after, [], budget))
    pruned = graph.slice(selection.variables, selection.masks)
    assert pruned.widths == allocation.widths
    small = models.network(models.from_pruned(module, pruned))
    tuned = step(small, pruned.variables, split, short(config.finetune, epochs=0.5)).variables
    assert jax.tree.map(jnp.shape, tuned) == jax.tree.map(jnp.shape, pruned.variables)
    assert len(losses) == 3 and np.isfinite(losses).all()


def short(config, epochs):
    """Batches of 2; in float32, since bfloat16 is emulated on a CPU."""
    return dataclasses.replace(config, epochs=epochs, batch_size=2, precision="float32")


def filled(shapes, rng):
    """Fresh variables, without compiling the initialisers."""

    def fill(path, leaf):
        if leaf.ndim > 1:
            scale = np.float32(np.sqrt(2 / np.prod(leaf.shape[:-1])))
            return scale * rng.standard_normal(leaf.shape, np.float32)
        ones = path[-1].key in ("scale", "var")
        return np.full(leaf.shape, 1.0 if ones else 0.0, np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture
def quick_compilation():
    """Each program runs once or twice, so that compiling it well would not pay."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
