"""Structured channel pruning for JAX.

Masks are pytrees, the search is one jitted program, the result is a really smaller network:

    import jaxprune as jp

    fn, variables = jp.functional(module, variables)
    pruned = jp.prune(fn, variables, batches, budget="params/8,macs/3", key=jax.random.key(0))
    logits = pruned.wrap(fn)(pruned.variables, images)

A run is configured by `RunConfig` and the dataclasses within it. `load_config` reads the config
that a file defines, and `load` a saved network.
"""

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
from jaxprune.graph import ChannelGraph, Cost, Group, Member, Pruned, accelerate, cost, trace
from jaxprune.mesh import MeshConfig
from jaxprune.methods import (
    L1,
    L2,
    BatchNormScale,
    Criterion,
    Fisher,
    Genetic,
    GeometricMedian,
    Greedy,
    GroupFisher,
    Random,
    Taylor,
)
from jaxprune.methods import METHODS as methods
from jaxprune.methods.rounds import Schedule
from jaxprune.methods.sparse_training import SparsityConfig, batchnorm_l1, group_lasso
from jaxprune.problem import Method, Problem, Retraining, Run, Selection
from jaxprune.pruning import prune
from jaxprune.search import SearchConfig
from jaxprune.train.losses import DistillConfig
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

__version__ = "0.1.0"

__all__ = [
    "L1", "L2", "BatchNormScale", "Budget", "CalibrationConfig", "ChannelGraph", "Cost",
    "Criterion", "DataConfig", "DistillConfig", "EvaluationConfig", "FinetuneConfig", "Fisher",
    "Genetic", "GeometricMedian", "Greedy", "Group", "GroupFisher", "Member", "MeshConfig",
    "Method", "ModelConfig", "OptimizerConfig", "Problem", "Pruned", "Random",
    "RecalibrationConfig", "Retraining", "Run", "RunConfig", "Schedule", "SearchConfig",
    "Selection", "SparsityConfig", "Taylor", "TrainConfig", "ValidationConfig", "accelerate",
    "batchnorm_l1", "cost", "functional", "group_lasso", "interop", "load", "load_config",
    "methods", "models", "prune", "save", "trace",
]  # fmt: skip
