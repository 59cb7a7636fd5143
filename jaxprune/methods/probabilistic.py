"""Structured probabilistic pruning, SPP (Wang et al. 2017, arXiv 1709.06994): chance, not verdict.

Follow one array: the kernel of a convolution as a matrix, one column for each tap of each input
channel, over all filters. Every column has a probability p of being masked, 0 at first. In every
step of training a mask is drawn from the p of all columns; forward and backward pass see the masked
kernel, while the weights behind a mask stay and come back. Every t steps the columns of a layer are
ranked by their L1 norm, ascending, and p moves by

    Δ(r) = A e^(−αr)                  where r ≤ N,
    Δ(r) = 2uA − A e^(−α(2N − r))     where r > N,

with `N = −log(u)/α` and `α = log(2/u)/n`, for n columns that are still to be pruned: A at r = 0, uA
at N, 0 at n, and below it after that, so that a column which was ranked wrongly recovers. Where p
reaches 1 the column is gone for good and its weights are zero. That ends when every layer has lost
what is asked for; the network then trains on with these zeros (the fine-tune). The first update is
before the first step; a masked column is not moved in its step; norms are not decayed; n counts
what is left to prune, as in the authors' code at the time.

Reconstructed: one ratio for all layers, the least that meets the budget (theirs are by PCA, layer
by layer), and what falls where the training ends before all is decided: the highest p first.

`columns` leaves all channels and answers `Blocks`; where a quarter of a kernel's columns or fewer
stay, a smaller product runs on a CPU (`kernels.columns`), else the dense kernel with its zeros.
`channels` is an adaptation: the same with a probability for each unit of the coupled groups, ranked
by the L1 norm of all that writes it; it answers masks, and the network gets smaller.

On the digits (one seed, `jaxprune run configs/digits_vgg.py --method spp --method.interval 20
--from runs/digits_vgg`) 97.8 % of the unpruned network become 96.4 % after 200 updates, with
BatchNorm statistics taken anew, and 97.4 % fine-tuned, at 8.0x fewer parameters and 8.7x fewer
MACs; the genetic system beside it has 97.4 % at 8.0x and 3.7x. 0.8 % of the columns of one layer
were not decided by then. A step costs about a plain one (`scripts/benchmarks/training_methods.py`).

In a training loop of your own it is a wrapper of the network and one of the optimizer:

    >>> import jaxprune as jp
    >>> import optax
    >>> from jaxprune.train.network import Network
    >>> rng = np.random.default_rng(0)
    >>> x, labels = rng.normal(size=(32, 6, 6, 3)).astype("float32"), rng.integers(0, 4, 32)
    >>> weights = {"a": rng.normal(size=(3, 3, 3, 8)).astype("float32") / 5,
    ...            "b": rng.normal(size=(3, 3, 8, 8)).astype("float32") / 8,
    ...            "out": rng.normal(size=(8, 4)).astype("float32")}
    >>> def fn(variables, x):
    ...     p = variables["params"]
    ...     for name in ("a", "b"):
    ...         x = jax.nn.relu(jax.lax.conv_general_dilated(
    ...             x, p[name], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    ...     return x.mean((1, 2)) @ p["out"]
    >>> graph = jp.trace(fn, {"params": weights}, x[:1])

    >>> spp = SPP(interval=2)
    >>> columns = spp.units(graph)
    >>> asked = {"params/a": 9, "params/b": 36}                 # of 27 and 72 columns
    >>> network = spp.network(columns)(Network(train=fn, eval=fn))
    >>> optimizer = spp.optimizer(columns, asked, jax.random.key(0))(optax.sgd(0.1, momentum=0.9))
    >>> params = {"weights": weights, "masks": columns.ones(weights)}
    >>> state = optimizer.init(params)
    >>> @jax.jit
    ... def step(params, state):
    ...     def loss(params):
    ...         logits = network.train({"params": params}, x)
    ...         return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    ...     return optax.apply_updates(params, updates), state
    >>> while not reached(asked, state.probabilities):
    ...     params, state = step(params, state)
    >>> [int((np.abs(params["weights"][n]).sum(-1) == 0).sum()) for n in ("a", "b")]
    [9, 36]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.budget import Budget, CostModel, allocate
from jaxprune.graph import ChannelGraph
from jaxprune.kernels.blocks import Blocks
from jaxprune.methods.columns import (
    Arrays,
    Channels,
    Columns,
    Units,
    columns_of,
    kept_columns,
    require_columns,
    sides_of,
)
from jaxprune.problem import Method, Problem, Retraining, Selection
from jaxprune.wrappers import MASKS, WEIGHTS, Join, Until, Wrapper, join_params, split_params


class SPPState(NamedTuple):
    """The state of the wrapped optimizer.

    Attributes:
      inner: that of the optimizer itself, of the weights alone.
      probabilities: of being masked, by kernel or group, of the shape of its mask.
      key: of the masks, two words of a Threefry key: as a checkpoint takes it.
      steps: steps done.
    """

    inner: Any
    probabilities: dict[str, jax.Array]
    key: jax.Array
    steps: jax.Array


def delta(rank: jax.Array, left: jax.Array, amplitude: float, u: float) -> jax.Array:
    """Δ(r): by how much the probability of the column of each rank moves.

    Args:
      rank: ascending from 0.
      left: n, how many columns are still to be pruned; above 0.
      amplitude: A.
      u: where Δ changes its side, as a part of A.
    """
    alpha = math.log(2 / u) / left
    turn = -math.log(u) / alpha
    before = amplitude * jnp.exp(-alpha * rank)
    after = 2 * u * amplitude - amplitude * jnp.exp(-alpha * (2 * turn - rank))
    return jnp.where(rank <= turn, before, after)


def moved(
    probabilities: jax.Array, norms: jax.Array, asked: int, amplitude: float, u: float
) -> jax.Array:
    """The probabilities of one layer after an update; those at 1 stay there, and are not ranked.

    Args:
      probabilities: of any shape.
      norms: of that shape.
      asked: how many are to reach 1 in all.
      amplitude: A.
      u: as for `delta`.
    """
    gone = probabilities >= 1
    left = asked - jnp.sum(gone)
    score = jnp.where(gone, jnp.inf, norms).ravel()
    rank = jnp.argsort(jnp.argsort(score)).reshape(norms.shape)
    change = delta(rank, jnp.maximum(left, 1), amplitude, u)
    # 0 at rank n but for rounding, by which one too many could fall.
    change = jnp.where(rank < left, change, jnp.minimum(change, 0.0))
    after = jnp.clip(probabilities + jnp.where(left > 0, change, 0.0), 0.0, 1.0)
    return jnp.where(gone, 1.0, after)


def reached(asked: Mapping[str, int], probabilities: Arrays) -> bool:
    """Whether every layer has lost what is asked for."""
    return all(np.sum(np.asarray(probabilities[name]) >= 1) >= n for name, n in asked.items())


@dataclass(frozen=True)
class SPP(Method):
    """Masks columns by chance in every step; what ranks low for long falls for good."""

    within_kernels: ClassVar[bool] = True

    unit: Literal["columns", "channels"] = "columns"
    """What falls: columns of convolutions, as in the paper, or channels, an adaptation."""
    amplitude: float = 0.05
    """A: by how much the probability of the lowest rank rises in an update."""
    u: float = 0.25
    """The part of A at which the curve of the updates turns."""
    interval: int = 180
    """Steps between two updates of the probabilities."""
    updates: int = 200
    """After how many updates it ends at the latest; what is left then falls by probability."""
    learning_rate: float = 0.01
    """Learning rate of the training while it prunes, constant."""

    def __post_init__(self):
        for name, allowed, wanted in (
            ("unit", self.unit in ("columns", "channels"), "columns or channels"),
            ("amplitude", 0 < self.amplitude <= 1, "in (0, 1]"),
            ("u", 0 < self.u < 1, "between 0 and 1"),
            ("interval", self.interval >= 1, "at least 1"),
            ("updates", self.updates >= 1, "at least 1"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
        ):
            if not allowed:
                raise ValueError(f"{name} has to be {wanted}, not {getattr(self, name)!r}")

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses, before any work, a budget that it cannot meet.

        Raises:
          ValueError: as `Method.require`; with columns also widths and limits of channels, targets
            that columns are no part of or that are beyond their reach, and no convolutions.
        """
        super().require(model, budget)
        if self.unit == "columns":
            assert isinstance(model, ChannelGraph)
            require_columns(model, budget, columns_of(model))

    def units(self, graph: ChannelGraph) -> Units:
        """What is masked."""
        if self.unit == "channels":
            return Channels(graph)
        return Columns(tuple((path, axis) for path, (_, axis) in columns_of(graph).items()))

    def asked(self, graph: ChannelGraph, budget: Budget) -> dict[str, int]:
        """Kernel or group → how many of its units have to fall."""
        if self.unit == "channels":
            widths = budget.widths or allocate(None, graph, budget, "proportional").widths
            return {name: group.size - widths[name] for name, group in graph.groups.items()}
        columns = columns_of(graph)
        kept = kept_columns(graph, budget, {path: n for path, (n, _) in columns.items()})
        return {path: n - kept[path] for path, (n, _) in columns.items()}

    def prune(self, problem: Problem) -> Selection:
        """Trains under drawn masks until every layer has lost what is asked for.

        The figure `undecided` is the part of what falls of each layer that was not at 1 in the end.

        Raises:
          ValueError: a budget beyond reach, or nothing to train with.
        """
        self.require(problem.graph, problem.budget)
        graph, (weights, rest, join) = problem.graph, split_params(problem.variables)
        units, asked = self.units(graph), self.asked(graph, problem.budget)
        optimizer = self.optimizer(units, asked, problem.key)
        first = optimizer(optax.identity()).init({WEIGHTS: weights})
        begin = {WEIGHTS: weights, MASKS: drawn(first.probabilities, first.key, first.steps)}
        end = problem.run.train(
            "spp",
            {"params": begin, **rest},
            network=self.network(units, join),
            optimizer=optimizer,
            config=Retraining(steps=self.interval * self.updates, learning_rate=self.learning_rate),
            until=Until(lambda state: reached(asked, _probabilities(state)), self.interval),
        )
        weights, p = end.params[WEIGHTS], _probabilities(end)
        keep = {
            name: _falling(p[name], norms, asked[name])
            for name, norms in units.norms(weights).items()
        }
        undecided = {
            name: float(np.mean(np.asarray(p[name])[mask == 0] < 1)) if asked[name] else 0.0
            for name, mask in keep.items()
        }
        variables = join(units.scale(weights, jax.tree.map(jnp.asarray, keep)), end.state)
        figures = {"undecided": undecided}
        if self.unit == "channels":
            masks = {name: jnp.asarray(mask) for name, mask in keep.items()}
            return Selection(masks, variables, figures)
        blocks = {
            path: Blocks(sides_of(keep[path].ndim, axis), keep[path] > 0)
            for path, (_, axis) in columns_of(graph).items()
        }
        return Selection(graph.full_masks(), variables, figures, blocks)

    def network(self, units: Units, join: Join = join_params) -> Wrapper:
        """The wrapper of a network whose parameters are `{"weights": ..., "masks": ...}`."""

        return _network(units, join)

    def optimizer(self, units: Units, asked: Mapping[str, int], key: jax.Array) -> Wrapper:
        """The wrapper of an optimizer that moves the weights as it does, and draws the masks."""

        def update_of(probabilities: Arrays, weights: Any) -> dict[str, jax.Array]:
            return {
                name: moved(probabilities[name], norms, asked[name], self.amplitude, self.u)
                for name, norms in units.norms(weights).items()
            }

        def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
            def init(params: Any) -> SPPState:
                weights = jax.tree.map(jnp.asarray, params[WEIGHTS])
                zeros = jax.tree.map(jnp.zeros_like, units.ones(weights))
                return SPPState(
                    optimizer.init(weights),
                    update_of(zeros, weights),
                    jax.random.bits(key, (2,), jnp.uint32),
                    jnp.zeros((), jnp.int32),
                )

            def update(updates: Any, state: Any, params: Any = None) -> Any:
                if params is None:
                    raise ValueError("spp reads weights and masks: optimizer.update(..., params)")
                weights, masks = params[WEIGHTS], params[MASKS]
                change, inner = optimizer.update(updates[WEIGHTS], state.inner, weights)
                change = units.scale(change, masks)
                steps = jnp.asarray(optax.safe_increment(state.steps))
                probabilities = jax.lax.cond(
                    steps % self.interval == 0,
                    lambda p: update_of(p, optax.apply_updates(weights, change)),
                    lambda p: p,
                    state.probabilities,
                )
                # What is gone becomes zero exactly: w + (0 − w).
                stays = {name: (p < 1).astype(p.dtype) for name, p in probabilities.items()}
                lost = jax.tree.map(jnp.subtract, weights, units.scale(weights, stays))
                change = jax.tree.map(jnp.subtract, units.scale(change, stays), lost)
                after = drawn(probabilities, state.key, steps)
                redrawn = {name: after[name] - mask for name, mask in masks.items()}
                new = SPPState(inner, probabilities, state.key, steps)
                return {WEIGHTS: change, MASKS: redrawn}, new

            return optax.GradientTransformation(init, update)

        return wrap


@functools.lru_cache(maxsize=4)
def _network(units: Units, join: Join) -> Wrapper:
    def split(variables: Any) -> tuple[Any, Any, Any]:
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        return variables["params"][WEIGHTS], rest, variables["params"][MASKS]

    @functools.lru_cache(maxsize=4)
    def wrap(network: Any) -> Any:
        inner = units.masked(network.train, join)

        def train(variables: Any, *args: Any) -> Any:
            return inner(*split(variables), *args)

        def evaluate(variables: Any, *args: Any) -> Any:
            weights, rest, _ = split(variables)
            return network.eval(join(weights, rest), *args)

        return network._replace(train=train, eval=evaluate)

    return wrap


def drawn(probabilities: Arrays, key: jax.Array, steps: jax.Array) -> dict[str, jax.Array]:
    """The masks of a step: 0 with these probabilities, else 1."""
    key = jax.random.fold_in(jax.random.wrap_key_data(key, impl="threefry2x32"), steps)
    # By name: what went through JAX has its keys sorted.
    return {
        name: (
            jax.random.uniform(jax.random.fold_in(key, i), probabilities[name].shape)
            >= probabilities[name]
        ).astype(jnp.float32)
        for i, name in enumerate(sorted(probabilities))
    }


def _probabilities(state: Any) -> Arrays:
    return optax.tree.get(state.opt_state, "probabilities")


def _falling(probabilities: Any, norms: Any, asked: int) -> np.ndarray:
    """The mask of one layer in the end: those of the highest p are gone, of these the smallest."""
    p, norm = np.asarray(probabilities), np.asarray(norms)
    order = np.lexsort((norm.ravel(), -p.ravel()))
    mask = np.ones(p.size, np.float32)
    mask[order[:asked]] = 0
    return mask.reshape(p.shape)
