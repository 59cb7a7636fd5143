"""Structured directional pruning, sDprun (Li et al. 2021, arXiv 2107.05328), by its optimizer gRDA.

Directional pruning (Chao et al. 2020, arXiv 2006.09358) moves weights to zero without leaving the
flat valley that SGD ends in, so that nothing has to be trained again. gRDA gets there without a
look at the Hessian: SGD without momentum and weight decay runs on `v`, and the weights are `v`
after a soft threshold that grows while it trains, n steps at learning rate γ:

    v_0 = w_0,    v_n = v_{n-1} − γ ∇L(w_{n-1}),    w_n = sign(v_n) max(|v_n| − τ_n, 0),
    τ_n = τ_{n-1} + c γ^(μ+1/2) (n^μ − (n−1)^μ)          (= c √γ (nγ)^μ at a constant γ)

sDprun is its structured form. Follow one array: `v_g` is all that writes unit g (its filters in all
coupled layers, biases, normalisation), |g| numbers, and falls as a whole,

    w_g = max(1 − τ_n √|g| / ‖v_g‖₂, 0) v_g.

That update is reconstructed: the paper's abstract names the projection onto the flat valley and a
fast solver on gRDA, and this is gRDA's proximal step for groups. Weights that write no prunable
unit, such as the last layer's, are trained as they are. With `curvature` the projection is taken to
the letter at the start: a unit's threshold is multiplied by the part of its shrinking that lies in
none of the so many leading directions of the Hessian (reconstructed, too).

A unit that is exactly zero falls, and the network computes what it did: there is no fine-tune. So
the paper decides how much falls, by c and μ. A budget is met with `budgeted`: then τ is raised (or
lowered) at the end until it is.

On the digits (one seed, `jaxprune run configs/digits_vgg.py --method sdprun --from runs/digits_vgg
--budget.targets params/1 --finetune.epochs 0`) 97.8 % of the unpruned network become 98.8 % at 7.1x
fewer parameters and 2.7x fewer MACs, and with `--method.c 0.04` 98.4 % at 10.7x and 3.4x; at 0.02
little falls yet, and from 0.06 on the network breaks down. The unpruned network was given none of
these 60 epochs; `scripts/same_valley.py` looks at the valley.

In a training loop of your own it stands in the place of the optimizer:

    >>> import jaxprune as jp
    >>> rng = np.random.default_rng(0)
    >>> x, labels = rng.normal(size=(64, 5)).astype("float32"), rng.integers(0, 3, 64)
    >>> params = {n: rng.normal(size=s).astype("float32") for n, s in
    ...           {"first": (5, 8), "second": (8, 8), "last": (8, 3)}.items()}
    >>> def fn(p, x):
    ...     return jax.nn.relu(jax.nn.relu(x @ p["first"]) @ p["second"]) @ p["last"]
    >>> graph = jp.trace(fn, params, x[:1])
    >>> optimizer = sdprun(graph, learning_rate=0.1, c=0.1, mu=0.6)
    >>> state = optimizer.init(params)
    >>> @jax.jit
    ... def step(params, state):
    ...     def loss(params):
    ...         return optax.softmax_cross_entropy_with_integer_labels(fn(params, x), labels).mean()
    ...     updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    ...     return optax.apply_updates(params, updates), state
    >>> for _ in range(3000):
    ...     params, state = step(params, state)
    >>> masks = {n: (norms > 0).astype("float32")
    ...          for n, norms in unit_norms(graph, params, "writes").items()}
    >>> pruned = graph.slice(params, masks)
    >>> sum(pruned.widths.values()) < 16, bool(
    ...     jnp.allclose(pruned.wrap(fn)(pruned.variables, x), fn(params, x), atol=1e-5))
    (True, True)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from jaxprune.graph import ChannelGraph
from jaxprune.methods.thresholds import Threshold
from jaxprune.methods.units import scale_units, unit_norms, unit_sizes, unit_sums
from jaxprune.problem import Problem, Retraining, Selection
from jaxprune.statistics.curvature import curvature
from jaxprune.wrappers import Wrapper, split_params

Shrink = Callable[[Any, jax.Array], Any]
"""(v, τ) → the weights."""


class DirectionalState(NamedTuple):
    """The state of gRDA.

    Attributes:
      accumulated: v, like the parameters.
      tau: the threshold τ.
      steps: steps done.
    """

    accumulated: Any
    tau: jax.Array
    steps: jax.Array


def grda(
    learning_rate: float | optax.Schedule,
    c: float,
    mu: float,
    shrink: Shrink | None = None,
) -> optax.GradientTransformation:
    """Generalised regularised dual averaging: SGD whose weights a growing threshold holds back.

    Chao et al. 2020, "Directional pruning of deep neural networks", arXiv 2006.09358. Published: c
    up to 0.005 and μ between 0.5 and 0.6, over 200 to 600 epochs. The updates need the parameters.

    Args:
      learning_rate: γ, or a schedule of the steps done.
      c: how large the threshold is; 0 is SGD.
      mu: how fast it grows with the steps.
      shrink: from v and τ to the weights; by default each number's own soft threshold.
    """
    shrink = shrink or _soft_threshold

    def init(params: Any) -> DirectionalState:
        wide = jax.tree.map(lambda p: jnp.array(p, jnp.promote_types(p.dtype, jnp.float32)), params)
        return DirectionalState(wide, jnp.zeros(()), jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        if params is None:
            raise ValueError("gRDA sets the weights: optimizer.update(..., params)")
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        steps = jnp.asarray(optax.safe_increment(state.steps))
        n = steps.astype(state.tau.dtype)
        # n^μ − (n−1)^μ, which in float32 would cancel after many steps.
        growth = -(n**mu) * jnp.expm1(mu * jnp.log1p(-1 / n))
        tau = state.tau + c * rate ** (mu + 0.5) * growth
        moved = jax.tree.map(
            lambda v, g: v - (rate * g).astype(v.dtype), state.accumulated, updates
        )
        change = jax.tree.map(lambda w, p: (w - p).astype(p.dtype), shrink(moved, tau), params)
        return change, DirectionalState(moved, tau, steps)

    return optax.GradientTransformation(init, update)


def sdprun(
    graph: ChannelGraph,
    learning_rate: float | optax.Schedule,
    c: float,
    mu: float,
    flatness: Mapping[str, Any] | None = None,
) -> optax.GradientTransformation:
    """gRDA under which whole units become zero.

    Args:
      graph: from `trace`.
      learning_rate: as for `grda`.
      c: as for `grda`.
      mu: as for `grda`.
      flatness: per group (units,), what a unit's threshold is multiplied by; 1 without.
    """

    def shrink(params: Any, tau: jax.Array) -> Any:
        factors = {
            name: jnp.where(at > tau, 1 - tau / at, 0.0)
            for name, at in falls_at(graph, params, flatness or {}).items()
        }
        return scale_units(graph, params, factors, "writes")

    return grda(learning_rate, c, mu, shrink)


def falls_at(graph: ChannelGraph, params: Any, flatness: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Per group (units,), the τ at which each unit becomes zero: `‖v_g‖ / (√|g| flatness)`."""
    sizes = unit_sizes(graph, params, "writes")
    return {
        name: norms / (sizes[name] ** 0.5 * flatness.get(name, 1.0))
        for name, norms in unit_norms(graph, params, "writes").items()
    }


@dataclass(frozen=True)
class SDprun(Threshold):
    """Trains by gRDA with a threshold for whole units; those that end at zero fall."""

    epochs: float = 60.0
    """Epochs of its training; 200 to 600 in the papers."""
    learning_rate: float = 0.1
    """Learning rate γ, as of SGD without momentum."""
    drops: tuple[float, ...] = (0.6, 0.8)
    """Parts of the training after which the learning rate falls tenfold, such as 0.5 and 0.75."""
    c: float = 0.03
    """How large the threshold is; by it the user decides how much falls.
    It fits some thousand steps; the threshold grows with their number, so that more take less."""
    mu: float = 0.6
    """How fast the threshold grows with the steps; above 0.5."""
    curvature: int = 0
    """From how many leading directions of the Hessian the pruning is kept away.
    They are those of the network that it starts from, so for one that is trained already."""

    def __post_init__(self):
        for name, allowed, wanted in (
            ("epochs", self.epochs > 0, "above 0"),
            ("learning_rate", self.learning_rate > 0, "above 0"),
            ("drops", all(0 < drop < 1 for drop in self.drops), "fractions between 0 and 1"),
            ("c", self.c >= 0, "at least 0"),
            ("mu", 0 < self.mu < 1, "between 0 and 1"),
            ("curvature", self.curvature >= 0, "at least 0"),
        ):
            if not allowed:
                raise ValueError(f"{name} has to be {wanted}, not {getattr(self, name)}")

    def prune(self, problem: Problem) -> Selection:
        """Trains, and drops what is zero.

        The figure `threshold` is the τ at which each unit would fall, in parts of the last one.

        Raises:
          ValueError: a budget where the paper decides, or nothing to train with.
        """
        self.require(problem.graph, problem.budget)
        graph, join = problem.graph, split_params(problem.variables)[2]
        config = Retraining(epochs=self.epochs, learning_rate=self.learning_rate)
        flatness = self.flatness(problem)
        end = problem.run.train(
            "sdprun",
            problem.variables,
            optimizer=self.optimizer(graph, problem.run.steps(config), flatness),
            config=config,
        )
        tau = max(float(optax.tree.get(end.opt_state, "tau")), 1e-30)
        at = falls_at(graph, optax.tree.get(end.opt_state, "accumulated"), flatness)
        ratios = {name: np.asarray(each, np.float64) / tau for name, each in at.items()}
        masks = self.keep(problem, ratios)
        return Selection(masks, join(end.params, end.state), {"threshold": ratios})

    def optimizer(
        self, graph: ChannelGraph, steps: int, flatness: Mapping[str, Any] | None = None
    ) -> Wrapper:
        """The wrapper that puts gRDA in the place of an optimizer, for a training of `steps`."""
        rate = optax.piecewise_constant_schedule(
            self.learning_rate, {round(drop * steps): 0.1 for drop in self.drops}
        )
        return lambda optimizer: sdprun(graph, rate, self.c, self.mu, flatness)

    def flatness(self, problem: Problem) -> dict[str, jax.Array]:
        """Per group (units,), the part of a unit's shrinking that keeps to the flat valley.

        `u_g = √|g| v_g / ‖v_g‖` is what one of τ takes from unit g, and `⟨u_g, (P u)_g⟩ / ‖u_g‖²`
        its part, P projecting out the leading directions. Where it is below 0, the projection would
        have the unit grow, and it is (all but) left alone.
        """
        if not self.curvature:
            return {}
        graph, params = problem.graph, split_params(problem.variables)[0]
        left = {
            name: 1 - 1 / jnp.where(at > 0, at, 1.0)
            for name, at in falls_at(graph, params, {}).items()
        }
        scaled = scale_units(graph, params, left, "writes")
        taken = jax.tree.map(jnp.subtract, params, scaled)
        flat, unravel = ravel_pytree(taken)
        projected = curvature(problem, self.curvature).flat(np.asarray(flat, np.float64))
        products = jax.tree.map(jnp.multiply, taken, unravel(jnp.asarray(projected, flat.dtype)))
        sizes = unit_sizes(graph, params, "writes")
        return {
            name: jnp.clip(product / sizes[name], 1e-6, 1.0)
            for name, product in unit_sums(graph, products, "writes").items()
        }


def _soft_threshold(params: Any, tau: jax.Array) -> Any:
    return jax.tree.map(lambda v: jnp.sign(v) * jnp.maximum(jnp.abs(v) - tau, 0.0), params)
