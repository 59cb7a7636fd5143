"""Group Fisher pruning (Liu et al. 2021, arXiv 2108.00708): channels fall while training goes on.

Follow one array: a mask per group, all ones, multiplies the group's channels wherever they are
read, as one parameter for all of these places. Its "gradient" is the Fisher score: per sample n the
derivative dL_n/dm_i is summed over all coupled places first and then squared (Eq. 4-6 there),
`s_i = Σ_n (dL_n/dm_i)²`. The optimizer's wrapper adds the scores up, and every `interval` steps the
one unit of the whole network with the smallest `s_i / ΔC_i` falls: its mask becomes 0 for good.
ΔC_i is what the unit costs: the memory of the activations that go with it, or its multiply-
accumulates at the widths that are left, or nothing. That goes on until the budget is met.

`jaxprune run CONFIG --method group_fisher` and `jp.prune(..., method="group_fisher")` do all of it.
On the digits (`configs/digits_vgg.py`, one seed) 98.0 % of the unpruned network become 98.2 % as
cut and 97.8 % fine-tuned, at 8.01x fewer parameters and 3.60x fewer MACs; a step costs at most 1.1
plain ones (`scripts/benchmarks/training_methods.py`).
In a training loop of your own it is a wrapper of the network and one of the optimizer:

    >>> import jaxprune as jp
    >>> from jaxprune.methods.group_fisher import GroupFisher, met
    >>> from jaxprune.train.network import Network
    >>> rng = np.random.default_rng(0)
    >>> x, labels = rng.normal(size=(32, 5)).astype("float32"), rng.integers(0, 3, 32)
    >>> shapes = {"first": (5, 8), "second": (8, 8), "last": (8, 3)}
    >>> weights = {n: rng.normal(size=s).astype("float32") for n, s in shapes.items()}
    >>> def fn(variables, x):
    ...     p = variables["params"]
    ...     return jax.nn.relu(jax.nn.relu(x @ p["first"]) @ p["second"]) @ p["last"]
    >>> graph, budget = jp.trace(fn, {"params": weights}, x[:1]), jp.Budget("params/2")

    >>> fisher = GroupFisher(interval=5)
    >>> network = fisher.network(graph)(Network(train=fn, eval=fn))
    >>> optimizer = fisher.optimizer(graph, budget)(optax.sgd(0.01, momentum=0.9))
    >>> params = {"weights": weights, "masks": graph.full_masks()}
    >>> state = optimizer.init(params)
    >>> @jax.jit
    ... def step(params, state):
    ...     def loss(params):
    ...         logits = network.train({"params": params}, x)
    ...         return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    ...     return optax.apply_updates(params, updates), state
    >>> while not met(graph, budget, params["masks"]):
    ...     params, state = step(params, state)

    >>> pruned = graph.slice({"params": params["weights"]}, params["masks"])
    >>> sum(w.size for w in pruned.variables["params"].values()) <= graph.cost().params / 2
    True
    >>> momentum = pruned.cut(state.inner)  # trains on: pruned.wrap(fn)(pruned.variables, x)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxprune.budget import Budget
from jaxprune.graph import ChannelGraph
from jaxprune.problem import Method, Problem, Retraining, Selection
from jaxprune.wrappers import MASKS, WEIGHTS, Join, Until, Wrapper, join_params, split_params

Normaliser = Literal["memory", "macs", "none"]


class FisherState(NamedTuple):
    """The state of the wrapped optimizer.

    Attributes:
      inner: that of the optimizer itself, of the weights alone.
      scores: per group the scores (units,) since a unit fell last.
      steps: steps done.
    """

    inner: Any
    scores: dict[str, jax.Array]
    steps: jax.Array


@dataclass(frozen=True)
class GroupFisher(Method):
    """Prunes one unit every few steps of training, by the Fisher information of its mask."""

    interval: int = 25
    """Steps between two units that fall: 25 for classification, 10 for detection in the paper."""
    normaliser: Normaliser = "memory"
    """What a score is divided by: the activations that go with the unit, its multiply-accumulates
    at the widths that are left, or nothing."""
    learning_rate: float = 0.004
    """Learning rate of the training while it prunes, constant; a larger one may diverge."""

    def __post_init__(self):
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1, not {self.interval}")
        if self.normaliser not in ("memory", "macs", "none"):
            raise ValueError(f"normaliser is memory, macs or none, not {self.normaliser!r}")

    def prune(self, problem: Problem) -> Selection:
        """Trains and prunes until the budget is met.

        Raises:
          ValueError: a budget beyond reach, or nothing to train with.
        """
        graph, budget = problem.graph, problem.budget
        budget.require_feasible(graph)
        low = budget.bounds(graph)[0]
        weights, rest, join = split_params(problem.variables)
        begin = {"params": {WEIGHTS: weights, MASKS: graph.full_masks()}, **rest}
        if met(graph, budget, graph.full_masks()):
            return Selection(graph.full_masks(), problem.variables)
        # So many steps there are at most: all units that may fall, one each interval.
        steps = self.interval * int(np.sum(graph.sizes - low))
        end = problem.run.train(
            "fisher",
            begin,
            network=self.network(graph, join),
            optimizer=self.optimizer(graph, budget),
            config=Retraining(steps=steps, learning_rate=self.learning_rate),
            until=Until(lambda state: met(graph, budget, state.params[MASKS]), self.interval),
        )
        masks = {name: jnp.asarray(mask) for name, mask in end.params[MASKS].items()}
        return Selection(masks, join(end.params[WEIGHTS], end.state))

    def network(self, graph: ChannelGraph, join: Join = join_params) -> Wrapper:
        """The wrapper of a network whose parameters are `{"weights": ..., "masks": ...}`.

        In training the gradient of a mask is the sum over the samples of the squared derivative of
        each sample's loss, where the loss is a mean over the batch.
        """
        return _network(graph, join)

    def optimizer(self, graph: ChannelGraph, budget: Budget) -> Wrapper:
        """The wrapper of an optimizer that moves the weights as it does, and lets units fall."""
        low, high, step = (tuple(bound.tolist()) for bound in budget.bounds(graph))
        return _optimizer(self, graph, low, high, step)


def met(graph: ChannelGraph, budget: Budget, masks: Mapping[str, Any]) -> bool:
    """Whether what the masks leave keeps to the budget."""
    widths = np.array(list(graph.widths(masks).values()))
    return bool(budget.fits(graph, widths) and (widths <= budget.largest(graph)).all())


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def spread(mask: jax.Array, samples: int) -> jax.Array:
    """A mask (units,) for each sample (samples, units); backwards, the Fisher score.

    The cotangent of a mean loss is `1/B dL_n/dm`; what comes back is `Σ_n (dL_n/dm)²`.
    """
    return jnp.broadcast_to(mask, (samples, *mask.shape))


def _spread_forward(mask: jax.Array, samples: int) -> tuple[jax.Array, None]:
    return spread(mask, samples), None


def _spread_backward(samples: int, _: None, cotangent: jax.Array) -> tuple[jax.Array]:
    return (jnp.sum(jnp.square(samples * cotangent), axis=0),)


spread.defvjp(_spread_forward, _spread_backward)


@functools.lru_cache(maxsize=4)
def _network(graph: ChannelGraph, join: Join) -> Wrapper:
    def masked(fn: Any, *, per_sample: bool) -> Any:
        inner = graph.masked(fn)

        def call(variables: Any, images: Any, *more: Any) -> Any:
            params = variables["params"]
            rest = {name: tree for name, tree in variables.items() if name != "params"}
            dense = join(params[WEIGHTS], rest)
            masks = params[MASKS]
            if per_sample:
                samples = jax.tree.leaves(images)[0].shape[0]
                masks = {name: spread(mask, samples) for name, mask in masks.items()}
            return inner(dense, masks, images, *more)

        return call

    return functools.lru_cache(maxsize=4)(
        lambda network: network._replace(
            train=masked(network.train, per_sample=True),
            eval=masked(network.eval, per_sample=False),
        )
    )


@functools.lru_cache(maxsize=4)
def _optimizer(
    method: GroupFisher,
    graph: ChannelGraph,
    low: tuple[int, ...],
    high: tuple[int, ...],
    step: tuple[int, ...],
) -> Wrapper:
    def fallen(masks: dict[str, jax.Array], scores: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The masks with the cheapest unit gone, or as many of one group as it is rounded to."""
        # By name: what went through JAX has its keys sorted, not in the network's order.
        widths = jnp.stack([jnp.sum(masks[name]) for name in graph.names])
        price = _price(graph, method.normaliser, widths)
        offers, drops = [], []
        for g, name in enumerate(graph.names):
            width = widths[g].astype(int)
            # The next narrower width that is allowed: a multiple of the step, or the least.
            next_width = jnp.maximum((width - 1) // step[g] * step[g], low[g])
            score = jnp.where(masks[name] > 0, scores[name], jnp.inf)
            rank = jnp.argsort(jnp.argsort(score))
            drop = rank < width - next_width
            loss = jnp.sum(jnp.where(drop, score, 0.0)) / (
                price[g] * jnp.maximum(width - next_width, 1)
            )
            loss = jnp.where(width > high[g], -1.0, loss)  # too wide for the limits: first
            offers.append(jnp.where(width > low[g], loss, jnp.inf))
            drops.append(drop)
        chosen = jnp.argmin(jnp.stack(offers))
        possible = jnp.isfinite(jnp.min(jnp.stack(offers)))
        return {
            name: jnp.where((chosen == g) & possible & drops[g], 0.0, masks[name])
            for g, name in enumerate(graph.names)
        }

    def wrap(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
        def init(params: Any) -> FisherState:
            zeros = {name: jnp.zeros(m.shape, _wide(m)) for name, m in params[MASKS].items()}
            return FisherState(optimizer.init(params[WEIGHTS]), zeros, jnp.zeros((), jnp.int32))

        def update(updates: Any, state: Any, params: Any = None) -> Any:
            if params is None:
                raise ValueError("group_fisher reads the masks: optimizer.update(..., params)")
            moved, inner = optimizer.update(updates[WEIGHTS], state.inner, params[WEIGHTS])
            scores = {n: s + updates[MASKS][n].astype(s.dtype) for n, s in state.scores.items()}
            steps = jnp.asarray(optax.safe_increment(state.steps))
            masks = {name: params[MASKS][name] for name in graph.names}
            due = steps % method.interval == 0
            after, scores = jax.lax.cond(
                due,
                lambda m, s: (fallen(m, s), jax.tree.map(jnp.zeros_like, s)),
                lambda m, s: (m, s),
                masks,
                scores,
            )
            falls = {name: after[name] - masks[name] for name in masks}
            return {WEIGHTS: moved, MASKS: falls}, FisherState(inner, scores, steps)

        return optax.GradientTransformation(init, update)

    return wrap


def _wide(mask: jax.Array) -> Any:
    """The type in which scores are added up."""
    return jnp.promote_types(mask.dtype, jnp.float32)


def _price(graph: ChannelGraph, normaliser: Normaliser, widths: jax.Array) -> jax.Array:
    """What one unit of each group costs at these widths, (G,), at least a little."""
    if normaliser == "none":
        return jnp.ones_like(widths)
    quantity = "activations" if normaliser == "memory" else "macs"
    price = jax.grad(lambda w: graph.costs(w)[quantity])(widths)
    return jnp.maximum(price / jnp.max(price), 1e-12)
