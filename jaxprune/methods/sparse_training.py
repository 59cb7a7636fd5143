"""Sparse training: penalties that drive whole channels towards zero before they are pruned.

Each wraps an optimizer and adds `λ(t) ∇R(w)` to the gradient before the optimizer's own momentum
and weight decay see it:

    graph = jp.trace(fn, variables, images)
    strength = optax.linear_schedule(0.0, 1e-4, transition_steps=1000)
    optimizer = group_lasso(graph, strength)(optax.sgd(0.1, momentum=0.9))

The published strengths are for SGD; Adam scales what is added as it scales the loss's gradient.

`λ(t)`, the growing factor, is any optax schedule of the steps done. That a penalty grows while the
network trains, so that the network can give way, is Wang et al. 2021 ("Neural pruning via growing
regularization", arXiv 2012.09243), who raise an L2 factor by a fixed amount every few steps up to a
ceiling and then hold it; `SparsityConfig` does so in a straight line, a step at a time, and for
these penalties: that much is reconstructed.

The parameters are those of `TrainState.params`, or of the whole traced pytree; the state beside
them (running statistics) is never penalised.

In a training loop:

>>> import jax
>>> import jax.numpy as jnp
>>> import jaxprune as jp
>>> import optax
>>> from sklearn.datasets import load_digits
>>> def fn(params, x):
...     x = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"])
...     return x @ params["out"]["kernel"] + params["out"]["bias"]
>>> def loss(params, images, labels):
...     logits = fn(params, images)
...     return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
>>> images, labels = load_digits(return_X_y=True)
>>> images, labels = jnp.float32(images / 8 - 1), jnp.asarray(labels)
>>> keys = jax.random.split(jax.random.key(0))
>>> params = {
...     "hidden": {"kernel": jax.random.normal(keys[0], (64, 128)) / 8, "bias": jnp.zeros(128)},
...     "out": {"kernel": jax.random.normal(keys[1], (128, 10)) / 8, "bias": jnp.zeros(10)},
... }
>>> graph = jp.trace(fn, params, images[:1])
>>> strength = optax.linear_schedule(0.0, 3e-4, transition_steps=300)
>>> optimizer = jp.group_lasso(graph, strength)(optax.sgd(0.05, momentum=0.9))
>>> @jax.jit
... def train_step(params, opt_state, images, labels):
...     gradients = jax.grad(loss)(params, images, labels)
...     updates, opt_state = optimizer.update(gradients, opt_state, params)
...     return optax.apply_updates(params, updates), opt_state
>>> opt_state = optimizer.init(params)
>>> for step in range(600):
...     at = jax.random.randint(jax.random.key(step), (64,), 0, 1500)
...     params, opt_state = train_step(params, opt_state, images[at], labels[at])
>>> batches = [(images[:256], labels[:256])]
>>> pruned = jp.prune(fn, params, batches, budget={"hidden/kernel[1]": 32}, method="l1",
...                   key=jax.random.key(1))
>>> logits = pruned.wrap(fn)(pruned.variables, images[1500:])
>>> bool(jnp.mean(logits.argmax(-1) == labels[1500:]) > 0.85)     # a quarter, not fine-tuned
True
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import optax

from jaxprune.graph import ChannelGraph
from jaxprune.methods.criteria import is_scale
from jaxprune.methods.units import holders, places, unit_norms, unit_sizes
from jaxprune.wrappers import Wrapper, same

Kind = Literal["none", "batchnorm", "group"]
Strength = float | optax.Schedule


@dataclass(frozen=True)
class SparsityConfig:
    """A sparsity penalty during training, which drives unimportant channels towards zero."""

    kind: Kind = "none"
    """`none`; `batchnorm`, the L1 norm of the BatchNorm scales, which goes with the method
    `batchnorm_scale`; or `group`, the group lasso over all that is cut with a channel."""

    strength: float = 1e-4
    """What the penalty is multiplied by, once it has grown.
    How far it gets goes with the sum of the learning rates: a short training needs more."""

    grow: float = 0.5
    """Fraction of all steps in which the strength rises linearly from 0; 0 starts with all."""

    contrast: float = 4.0
    """`group`: a group's weakest channel is pushed 2 to this power times as hard as its strongest.
    0 is the plain group lasso."""

    def __post_init__(self):
        for field, allowed, wanted in (
            ("kind", self.kind in get_args(Kind), f"one of {', '.join(get_args(Kind))}"),
            ("strength", 0 < self.strength < float("inf"), "positive"),
            ("grow", 0 <= self.grow <= 1, "a fraction in [0, 1]"),
            ("contrast", 0 <= self.contrast < float("inf"), "at least 0"),
        ):
            if not allowed:
                raise ValueError(
                    f"SparsityConfig.{field} has to be {wanted}, got {getattr(self, field)!r}"
                )


def build(config: SparsityConfig, graph: ChannelGraph, total_steps: int) -> Wrapper:
    """The penalty for a training of `total_steps` steps; `same` where there is none.

    Raises (when initialised with parameters):
      ValueError: parameters that hold nothing to penalise, or of another network's shapes.
    """
    if config.kind == "none":
        return same
    growing = round(config.grow * total_steps)
    # optax takes no steps at all to mean that nothing ever moves.
    strength = optax.linear_schedule(0.0, config.strength, growing) if growing else config.strength
    if config.kind == "batchnorm":
        return batchnorm_l1(graph, strength)
    return group_lasso(graph, strength, config.contrast)


def batchnorm_l1(graph: ChannelGraph, strength: Strength) -> Wrapper:
    """`R = Σ |γ|` over the BatchNorm scales γ of all prunable channels.

    Liu et al. 2017, "Learning efficient convolutional networks through network slimming", arXiv
    1708.06519: λ = 1e-4 for VGG and 1e-5 for residual networks, constant. The gradient is their
    subgradient `λ sign(γ)`, 0 at 0.

    Args:
      graph: from `trace`.
      strength: λ, or a schedule of the steps done.

    Raises (when initialised or called):
      ValueError: no such scale among the parameters, or parameters of another network's shapes.
    """

    def penalty(params: Any) -> jax.Array:
        scales = [
            leaf[places(member)]
            for held in holders(graph, params).values()
            for member, leaf in held
            if is_scale(member.path, leaf)
        ]
        if not scales:
            raise ValueError("no prunable channel has a BatchNorm scale; use group_lasso")
        # Not jnp.abs, whose gradient at 0 is 1: a scale that is gone would be pushed off.
        return sum(
            (jnp.sum(jax.lax.stop_gradient(jnp.sign(s)) * s) for s in scales), start=jnp.zeros(())
        )

    return _added_gradient(penalty, strength)


def group_lasso(graph: ChannelGraph, strength: Strength, contrast: float = 4.0) -> Wrapper:
    """`R = Σ_g √p_g Σ_k c_k ‖w_k‖₂`: a norm, so whole channels go to zero, not single weights.

    `w_k` is all that falls with unit k of group g, `p_g` numbers: the filters that write it, its
    biases and normalisation, and the slices of the kernels that read it. `√p_g` makes groups of
    unequal sizes alike (Yuan and Lin 2006, "Model selection and estimation in regression with
    grouped variables").

    `c_k = 2^(contrast (I_max − I_k) / (I_max − I_min))` with `I_k = ‖w_k‖₂` pushes weak units
    harder; it is held constant in the gradient. It is that of DepGraph (Fang et al. 2023, arXiv
    2301.12900, contrast 4), as is the norm over coupled parameters. DepGraph sums the *squares*
    of the norms, whose pull fades as a unit gets weak; the norm itself, at which the pull stays,
    is the group lasso. Its gradient `√p_g c_k w_k / ‖w_k‖` is 0 where the norm is 0.

    Args:
      graph: from `trace`.
      strength: λ, or a schedule of the steps done.
      contrast: the exponent; 0 pushes all units of a group alike.

    Raises (when initialised or called):
      ValueError: parameters that hold nothing of any group, or of another network's shapes.
    """

    def penalty(params: Any) -> jax.Array:
        total = jnp.zeros(())
        for name, norms in unit_norms(graph, params).items():
            fixed = jax.lax.stop_gradient(norms)
            above = jnp.max(fixed) - fixed
            spread = jnp.max(above)
            push = 2.0 ** (contrast * above / jnp.where(spread > 0, spread, 1.0))
            total += unit_sizes(graph, params)[name] ** 0.5 * jnp.sum(push * norms)
        return total

    return _added_gradient(penalty, strength)


def _added_gradient(penalty: Callable[[Any], jax.Array], strength: Strength) -> Wrapper:
    """Adds `strength ∇penalty(params)` to the gradient; the state counts the steps."""

    def init(params: Any) -> optax.ScaleByScheduleState:
        jax.eval_shape(penalty, params)
        return optax.ScaleByScheduleState(jnp.zeros((), jnp.int32))

    def update(
        updates: Any, state: Any, params: Any = None
    ) -> tuple[Any, optax.ScaleByScheduleState]:
        if params is None:
            raise ValueError("a penalty on the weights needs them: optimizer.update(..., params)")
        factor = strength(state.count) if callable(strength) else strength
        gradient = jax.grad(penalty)(params)
        added = jax.tree.map(lambda u, g: u + jnp.asarray(factor, g.dtype) * g, updates, gradient)
        return added, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return lambda optimizer: optax.chain(optax.GradientTransformation(init, update), optimizer)
