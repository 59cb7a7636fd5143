"""Structured channel pruning for JAX.

Masks are pytrees, the search is one jitted program, the result is a really smaller network:

    import jaxprune as jp

    fn, variables = jp.functional(module, variables)
    pruned = jp.prune(fn, variables, batches, budget="params/8,macs/3", key=jax.random.key(0))
    logits = pruned.wrap(fn)(pruned.variables, images)

Or step by step, here on a function of one's own:

>>> import jax
>>> import jax.numpy as jnp
>>> import jaxprune as jp
>>> def fn(variables, x):
...     return jnp.tanh(x @ variables["hidden"]) @ variables["out"]
>>> variables = {"hidden": jnp.ones((4, 8)), "out": jnp.ones((8, 2))}
>>> x = jnp.ones((3, 4))
>>> graph = jp.trace(fn, variables, x)          # the coupled channels, by name
>>> list(graph.groups)                          # graph.explain() says more, and what is fixed why
['hidden[1]']
>>> masks = graph.masks({"hidden": [3, 5]})     # drops two units by hand
>>> out = graph.masked(fn)(variables, masks, x)            # differentiable in the masks
>>> pruned = graph.slice(variables, masks)
>>> small = pruned.wrap(fn)(pruned.variables, x)           # equal to `out`
>>> bool(jnp.allclose(out, small)), pruned.widths
(True, {'hidden[1]': 6})
>>> graph.cost().params, graph.cost(masks).params          # graph.preview(masks) group by group
(48, 36)
>>> jax.tree.map(jnp.shape, pruned.cut({"momentum": variables}))     # an optimizer's state, too
{'momentum': {'hidden': (4, 6), 'out': (6, 2)}}

`graph.check(fn, variables, x)` holds this on a network of yours. A budget can say more than a
string: `jp.Budget("params/8,macs/3", round_to=8, limits={"stage3/*": (0.1, 0.9)}, min_channels=4)`,
or `jp.Budget("latency/2", round_to="measured")` on the device at hand.

A run is configured by `RunConfig` and the dataclasses within it. `load_config` reads the config
that a file defines, and `load` a saved network.
"""

import jaxprune.interrupts  # noqa: F401 (before JAX is imported)
from jaxprune import interop, models
from jaxprune.budget import Budget
from jaxprune.checkpoint import load, save
from jaxprune.config import (
    CalibrationConfig,
    DataConfig,
    EvaluationConfig,
    FinetuneConfig,
    ModelConfig,
    RecalibrationConfig,
    RunConfig,
    ValidationConfig,
)
from jaxprune.config import load as load_config
from jaxprune.frontends import functional
from jaxprune.graph import ChannelGraph, Cost, Group, Member, Pruned, cost, outside, trace
from jaxprune.kernels import accelerate
from jaxprune.kernels.blocks import Blocks
from jaxprune.mesh import MeshConfig
from jaxprune.methods import (
    CACP,
    L1,
    L2,
    SPP,
    UCP,
    BatchNormScale,
    Compensation,
    Criterion,
    Fisher,
    Genetic,
    GeometricMedian,
    Greedy,
    GroupFisher,
    Lasso,
    Pivoting,
    Random,
    SDprun,
    Taylor,
    Unification,
    Watermark,
)
from jaxprune.methods import METHODS as methods
from jaxprune.methods.rounds import Schedule
from jaxprune.methods.sparse_training import SparsityConfig, batchnorm_l1, group_lasso
from jaxprune.problem import Method, Problem, Retraining, Run, Selection
from jaxprune.pruning import prune
from jaxprune.report import found
from jaxprune.search import SearchConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

outside.accelerated, outside.drawn, outside.text = accelerate, found.drawn, found.text

__version__ = "0.1.0"

__all__ = [
    "CACP", "L1", "L2", "SPP", "UCP", "BatchNormScale", "Blocks", "Budget", "CalibrationConfig",
    "ChannelGraph", "Compensation", "Cost", "Criterion", "DataConfig", "DistillConfig",
    "EvaluationConfig", "FinetuneConfig", "Fisher", "Genetic", "GeometricMedian", "Greedy",
    "Group", "GroupFisher", "Lasso", "Member", "MeshConfig", "Method", "ModelConfig",
    "OptimizerConfig", "Pivoting", "Problem", "Pruned", "Random", "RecalibrationConfig",
    "Retraining", "Run", "RunConfig", "SDprun", "Schedule", "SearchConfig", "Selection",
    "SparsityConfig", "Taylor", "TrainConfig", "Unification", "ValidationConfig", "Watermark",
    "accelerate", "batchnorm_l1", "cost", "functional", "group_lasso", "interop", "load",
    "load_config", "methods", "models", "prune", "save", "trace",
]  # fmt: skip
