"""Uniform channel pruning, UCP (Chang et al. 2020, arXiv 2010.01251): attention tells what to keep.

Follow one array: each convolution of the prunable groups is followed, before its BatchNorm, by a
squeeze-and-excitation block, without a change to the model: `graph.gated` multiplies what the
convolution writes by

    y = sigmoid(W₂ relu(W₁ GAP(x))),    W₁: C → C/16, W₂: C/16 → C, without biases

(a hidden width of 1 and biases where C ≤ 16). Network and blocks are trained together. The
importance of a channel is the mean of its y over the data, and what lies below (1 ± λ) times the
mean of its layer falls. So the paper decides how much falls, by λ and by the layers that it leaves
whole (`budget.limits`); a budget is met with `budgeted`: then the threshold is moved for all layers
at once until it is. In residual networks

- all basic blocks of a stage get one width, each keeping its most important channels (top-K);
- of a bottleneck the middle convolution alone is pruned;
- sums of layers stay whole, or fall last where a budget asks for them.

The small network is trained **from scratch**, with the same schedule (`finetune.start fresh` in a
run), so that no weights are kept. Those that are answered are the gated network's, each kernel with
the mean y of its channels multiplied in. Which width a stage gets is reconstructed (the k-th
largest ratios to the threshold of all its blocks are averaged, for each k), as are the blocks'
initial weights (PyTorch's) and that sums stay whole.

On the digits (one seed, `jaxprune run configs/digits_vgg.py --method ucp --budget.targets params/1
--finetune.start fresh --distill.attention 0 --distill.kl 0 --controls scratch`) 97.8 % of the
unpruned network become 97.8 % at 3.3x fewer parameters and MACs after 40 epochs from random
weights; the same widths after 110 have 98.4 %. A step of the gated training costs 1.1 plain ones
(`scripts/benchmarks/training_methods.py`).

In a training loop of your own the blocks are a wrapper of the network:

    >>> import jaxprune as jp
    >>> import optax
    >>> from jaxprune.train.network import Network
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(32, 6, 6, 3)).astype("float32")
    >>> labels = rng.integers(0, 4, 32)
    >>> params = {"conv": rng.normal(size=(3, 3, 3, 32)).astype("float32") / 5,
    ...           "out": rng.normal(size=(32, 4)).astype("float32") / 5}
    >>> def fn(variables, x):
    ...     p = variables["params"]
    ...     x = jax.lax.conv_general_dilated(
    ...         x, p["conv"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    ...     return jax.nn.relu(x).mean((1, 2)) @ p["out"]
    >>> graph = jp.trace(fn, {"params": params}, x[:1])
    >>> network = gated(graph)(Network(train=fn, eval=fn))
    >>> params = {"weights": params, "gates": fresh_gates(graph, params, jax.random.key(0))}
    >>> @jax.jit
    ... def step(params):
    ...     def loss(params):
    ...         logits = network.train({"params": params}, x)
    ...         return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    ...     return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params))
    >>> for _ in range(20):
    ...     params = step(params)
    >>> mean_gates = importances(graph, fn, {"params": params}, [(x, labels)])
    >>> {kernel: each[group].shape for kernel, each in mean_gates.items() for group in each}
    {'params/conv': (32,)}
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.batches import Batches, count_of, inputs_of
from jaxprune.graph import ChannelGraph, Member, paths
from jaxprune.masks import Masks, keep_top
from jaxprune.methods.thresholds import Threshold
from jaxprune.problem import Problem, Selection
from jaxprune.wrappers import WEIGHTS, Join, Wrapper, join_params, split_params

GATES = "gates"
"""Where the parameters hold the blocks, beside the weights."""

_REDUCTION = 16
_LAST = 1e6
"""What the ratio of a channel is multiplied by that is to fall last."""

Gates = dict[str, dict[str, Any]]
"""Kernel path → group that it writes, one nearly always → the weights of the block behind it."""
Means = Mapping[str, Mapping[str, np.ndarray]]
"""Kernel path → group → the mean gate (channels,) of what the kernel writes of it."""


@dataclass(frozen=True)
class UCP(Threshold):
    """Channels whose trained attention lies below the mean of their layer fall."""

    margin: float = 0.001
    """λ: the threshold is 1 − λ times the mean of the layer; below 0 it lies above the mean."""

    def __post_init__(self):
        if not -1 < self.margin < 1:
            raise ValueError(f"margin has to be between -1 and 1, not {self.margin}")

    def prune(self, problem: Problem) -> Selection:
        """Trains the gated network, as long as the fine-tune, and drops what it attends to least.

        The figure `importance` is the mean gate of each unit.

        Raises:
          ValueError: a budget where the paper decides, nothing to train with, no steps to train.
        """
        self.require(problem.graph, problem.budget)
        graph, (weights, rest, join) = problem.graph, split_params(problem.variables)
        gates = fresh_gates(graph, weights, problem.key)
        begin = {"params": {WEIGHTS: weights, GATES: gates}, **rest}
        end = problem.run.train("gated", begin, network=gated(graph, join))
        if not int(end.step):
            raise ValueError(
                "ucp trains its gates as long as the small network, and finetune.epochs is 0"
            )
        variables = {"params": end.params, **end.state}
        means = importances(graph, problem.fn, variables, problem.batches, join)
        found = by_unit(graph, means)
        ratios = {name: m / ((1 - self.margin) * m.mean()) for name, m in found.items()}
        masks = self.keep(problem, ratios)
        return Selection(
            masks,
            join(_folded(graph, end.params[WEIGHTS], means), end.state),
            {"importance": found},
        )

    def keep(self, problem: Problem, ratios: Mapping[str, np.ndarray]) -> Masks:
        """As `Threshold.keep`; one width for the blocks of a stage, unless widths are given."""
        graph = problem.graph
        if problem.budget.widths:
            return super().keep(problem, ratios)
        stages, whole = structure(graph)
        alike = {name: np.asarray(ratio) for name, ratio in ratios.items()}
        for name in whole:
            alike[name] = alike[name] * _LAST
        for stage in stages:
            ranks = np.mean([np.sort(alike[name]) for name in stage], axis=0)
            for name in stage:
                alike[name] = ranks[np.argsort(np.argsort(alike[name], kind="stable"))]
        widths = graph.widths(super().keep(problem, alike))
        if self.budgeted:  # the last units to fall may have come from some blocks alone
            low = dict(zip(graph.names, problem.budget.bounds(graph)[0].tolist(), strict=True))
            for stage in stages:
                narrowest = min(widths[name] for name in stage)
                widths |= {name: max(narrowest, low[name]) for name in stage}
        return keep_top(alike, widths)


def gated(graph: ChannelGraph, join: Join = join_params) -> Wrapper:
    """The wrapper of a network whose parameters are `{"weights": ..., "gates": ...}`."""
    return _gated(graph, join)


def fresh_gates(graph: ChannelGraph, params: Any, key: jax.Array) -> Gates:
    """The blocks of all convolutions and products that write a group, before any training.

    Uniform within ± 1/√inputs, PyTorch's default.
    """
    leaves = dict(paths.leaves(params))
    gates: Gates = {}
    for name, member in _written(graph):
        dtype = leaves[_own(member, leaves)].dtype
        channels = member.positions.size
        hidden = channels // _REDUCTION if channels > _REDUCTION else 1
        shapes = {"in": (channels, hidden), "out": (hidden, channels)}
        if channels <= _REDUCTION:
            shapes |= {"in_bias": (hidden,), "out_bias": (channels,)}
        key, *keys = jax.random.split(key, 1 + len(shapes))
        inputs = {"in": channels, "in_bias": channels, "out": hidden, "out_bias": hidden}
        gates.setdefault(member.path, {})[name] = {
            part: jax.random.uniform(k, shape, dtype, -1, 1) / inputs[part] ** 0.5
            for k, (part, shape) in zip(keys, shapes.items(), strict=True)
        }
    return gates


def importances(
    graph: ChannelGraph,
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    join: Join = join_params,
) -> Means:
    """The mean of every gate, over all samples.

    Args:
      graph: from `trace`.
      fn: the network without gates, in evaluation mode.
      variables: `{"params": {"weights": ..., "gates": ...}, ...}`.
      batches: the data.
      join: of the weights and the rest of the variables.
    """
    params, rest, _ = split_params(variables)
    inner = graph.gated(fn, excitation)

    @jax.jit
    def told(seen: Any, batch: Any) -> Any:
        def out(seen: Any) -> jax.Array:
            gates = {
                kernel: {name: {**gate, _SEEN: seen[kernel][name]} for name, gate in each.items()}
                for kernel, each in params[GATES].items()
            }
            outputs = inner(join(params[WEIGHTS], rest), gates, inputs_of(batch))
            return jnp.sum(jnp.stack([jnp.sum(leaf) for leaf in jax.tree.leaves(outputs)]))

        return jax.grad(out)(seen)

    blank: dict[str, dict[str, jax.Array]] = {}
    for name, member in _written(graph):
        blank.setdefault(member.path, {})[name] = jnp.zeros(member.positions.size)
    totals = jax.tree.map(lambda zeros: np.zeros(zeros.shape), blank)
    count = 0
    for batch in batches:
        totals = jax.tree.map(
            lambda t, n: t + np.asarray(n, np.float64), totals, told(blank, batch)
        )
        count += count_of(inputs_of(batch))
    return jax.tree.map(lambda total: total / count, totals)


def excitation(group: str, values: jax.Array, gates: Mapping[str, Any]) -> jax.Array:
    """A factor for each sample and channel of values [B, ..., C], broadcast over the rest."""
    gate = gates[group]
    squeezed = jnp.mean(values, axis=tuple(range(1, values.ndim - 1)), keepdims=True)
    hidden = jax.nn.relu(squeezed @ gate["in"] + gate.get("in_bias", 0.0))
    factors = jax.nn.sigmoid(hidden @ gate["out"] + gate.get("out_bias", 0.0))
    return _witnessed(factors, gate[_SEEN]) if _SEEN in gate else factors


_SEEN = "seen"


@jax.custom_vjp
def _witnessed(factors: jax.Array, seen: jax.Array) -> jax.Array:
    """The factors; the "gradient" of `seen` (channels,) is their sum over the samples."""
    return factors


def _witnessed_forward(factors: jax.Array, seen: jax.Array) -> tuple[jax.Array, jax.Array]:
    return factors, factors


def _witnessed_backward(factors: jax.Array, cotangent: jax.Array) -> tuple[jax.Array, jax.Array]:
    return cotangent, jnp.sum(factors, axis=tuple(range(factors.ndim - 1))).astype(jnp.float32)


_witnessed.defvjp(_witnessed_forward, _witnessed_backward)


def by_unit(graph: ChannelGraph, means: Means) -> dict[str, np.ndarray]:
    """Group → the mean (units,) of the gates of its channels, over all that write it."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in graph.groups}
    for name, member in _written(graph):
        # The gated channels are in the order of the units, repeats side by side.
        found[name].append(means[member.path][name].reshape(len(member.positions), -1))
    for name, each in found.items():
        if not each:
            raise ValueError(f"group {name} is written by no convolution or product; protect it")
    return {name: np.mean(each, axis=(0, 2)) for name, each in found.items()}


def structure(graph: ChannelGraph) -> tuple[list[list[str]], set[str]]:
    """What is residual: the groups that get one width, stage by stage, and those that stay whole.

    A group that a kernel reads to write a sum lies within a block. It is a bottleneck's middle one
    where the kernel that writes it reads a group that is no sum; else its block is a basic one.
    """
    writes: dict[str, set[str]] = {}
    reads: dict[str, set[str]] = {}
    for name, group in graph.groups.items():
        for member in group.members:
            side = writes if member.role == "writes" else reads
            side.setdefault(member.path, set()).add(name)
    summed = {name for name, group in graph.groups.items() if group.summed}
    last: dict[str, frozenset[str]] = {}
    for kernel, read in reads.items():
        sums = frozenset(writes.get(kernel, set()) & summed)
        last |= dict.fromkeys(read - summed if sums else (), sums)
    stages: dict[tuple[frozenset[str], int], list[str]] = {}
    whole = set(summed)
    for name, sums in last.items():
        group = graph.groups[name]
        before = {r for kernel in group.writers for r in reads.get(kernel, set())}
        first = before - summed - last.keys()
        whole |= first
        if not first:
            stages.setdefault((sums, group.size), []).append(name)
    return [stage for stage in stages.values() if len(stage) > 1], whole


def _written(graph: ChannelGraph) -> list[tuple[str, Member]]:
    """Each group, and the axis of each kernel that writes it."""
    return [
        (name, member)
        for name, group in graph.groups.items()
        for member in group.members
        if member.path in group.writers and member.role == "writes"
    ]


def _own(member: Member, leaves: Mapping[str, Any]) -> str:
    """The name of a traced variable among the parameters."""
    return member.path if member.path in leaves else paths.bare(member.path)


def _folded(graph: ChannelGraph, params: Any, means: Means) -> Any:
    """The weights with each kernel's mean gates multiplied in."""
    leaves = dict(paths.leaves(params))
    for name, member in _written(graph):
        own = _own(member, leaves)
        leaf = leaves[own]
        along = np.ones(leaf.shape[member.axis])
        along[member.positions.ravel()] = means[member.path][name]
        shape = [-1 if axis == member.axis else 1 for axis in range(leaf.ndim)]
        leaves[own] = leaf * jnp.asarray(along.reshape(shape), leaf.dtype)
    return jax.tree.structure(params).unflatten(list(leaves.values()))


@functools.lru_cache(maxsize=4)
def _gated(graph: ChannelGraph, join: Join) -> Wrapper:
    def wrap(fn: Any) -> Any:
        inner = graph.gated(fn, excitation)

        def call(variables: Any, images: Any, *more: Any) -> Any:
            params = variables["params"]
            rest = {name: tree for name, tree in variables.items() if name != "params"}
            return inner(join(params[WEIGHTS], rest), params[GATES], images, *more)

        return call

    return functools.lru_cache(maxsize=4)(
        lambda network: network._replace(train=wrap(network.train), eval=wrap(network.eval))
    )
