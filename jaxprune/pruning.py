"""`prune`: the whole thing in one call, on any model.

In a training loop of your own nothing has to change. Here it has a Flax `TrainState` of its own,
with momentum, a schedule, and an average of the weights; after 100 of 200 steps the network is
cut, the optimizer state and the average with it, and the same `train_step` goes on where the
schedule was:

>>> from typing import Any
>>> import flax.linen as nn
>>> import jax
>>> import jax.numpy as jnp
>>> import jaxprune as jp
>>> import optax
>>> from flax.training import train_state
>>> from sklearn.datasets import load_digits
>>> class CNN(nn.Module):
...     @nn.compact
...     def __call__(self, x, train=False):
...         for width in (16, 32):
...             x = nn.Conv(width, (3, 3), use_bias=False)(x)
...             x = nn.max_pool(nn.relu(nn.BatchNorm(not train)(x)), (2, 2), (2, 2))
...         return nn.Dense(10)(x.reshape(len(x), -1))
>>> class TrainState(train_state.TrainState):
...     batch_stats: Any
...     average: Any                                 # of the weights, over the steps
>>> @jax.jit
... def train_step(state, images, labels):
...     def loss(params):
...         variables = {"params": params, "batch_stats": state.batch_stats}
...         logits, new = state.apply_fn(variables, images, train=True, mutable=["batch_stats"])
...         return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean(), new
...
...     gradients, new = jax.grad(loss, has_aux=True)(state.params)
...     state = state.apply_gradients(grads=gradients, **new)
...     return state.replace(average=optax.incremental_update(state.params, state.average, 0.1))
>>> def train(state, steps):
...     for _ in range(steps):
...         at = jax.random.randint(jax.random.key(state.step), (64,), 0, 1500)
...         state = train_step(state, images[at], labels[at])
...     return state
>>> images, labels = load_digits(return_X_y=True)
>>> images, labels = jnp.float32(images.reshape(-1, 8, 8, 1) / 8 - 1), jnp.asarray(labels)
>>> module = CNN()
>>> variables = module.init(jax.random.key(0), images[:1])
>>> schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=20, decay_steps=200)
>>> optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(schedule, momentum=0.9))
>>> state = TrainState.create(
...     apply_fn=module.apply, tx=optimizer, average=variables["params"], **variables
... )
>>> state = train(state, 100)
>>> variables = {"params": state.params, "batch_stats": state.batch_stats}
>>> batches = [(images[:256], labels[:256])]
>>> pruned = jp.prune(module.apply, variables, batches, budget="params/4", method="l1",
...                   key=jax.random.key(1))
>>> state = state.replace(
...     apply_fn=pruned.wrap(module.apply),
...     opt_state=pruned.cut(state.opt_state),       # the momentum; its count of steps goes on
...     average=pruned.cut(state.average),
...     **pruned.variables,                          # params and batch_stats
... )
>>> state = train(state, 100)
>>> variables = {"params": state.average, "batch_stats": state.batch_stats}
>>> logits = state.apply_fn(variables, images[1500:])
>>> bool(jnp.mean(logits.argmax(-1) == labels[1500:]) > 0.85)
True

On a CPU, `jax.jit(jp.accelerate(train_step))` trains several times as fast as
`jax.jit(train_step)`: it runs the function's convolutions, those of its gradients included, as
matrix products (`scripts/benchmarks/convolutions.py`). Runs, statistics and eager calls of pruned
networks do so by themselves.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from jaxprune import latency
from jaxprune.batches import Batches, first, inputs_of
from jaxprune.budget import Budget
from jaxprune.graph import Pruned, trace
from jaxprune.methods import as_method
from jaxprune.methods.harm import narrow_groups, network_at_chance, warn
from jaxprune.problem import Method, Metric, Problem, Selection, accuracy, cross_entropy
from jaxprune.train.memory import MemoryRun


def prune(
    fn: Callable[..., Any],
    variables: Any,
    batches: Batches,
    *,
    budget: Budget | Mapping[str, int] | str,
    method: str | Method | Callable[[Problem], Selection] = "genetic",
    loss: Metric | None = None,
    score: Metric | None = None,
    key: jax.Array,
    protect: Sequence[str] = (),
    allow_inexact: bool = False,
    timer: latency.Timer = latency.time_in_turn,
) -> Pruned:
    """Traces a model, chooses its channels by a method, and cuts the rest away.

    Args:
      fn: `fn(variables, inputs)`, in evaluation mode.
      variables: its pytree of arrays.
      batches: a re-iterable of calibration batches: `(inputs, labels)`, or mappings with `image`
        and `label`. A pytree of another kind goes to `fn` as it is, with your own loss and score.
      budget: targets such as `"params/8,macs/3"`, a `Budget`, or the width of every group. What
        is asked of this device (`"latency/2"`, `round_to="measured"`) is measured before all
        else, on inputs like the first batch.
      method: a name in `jaxprune.methods`, one of these with its hyper-parameters
        (`Genetic(rates="tolerance")`), or your own function of a `Problem` that gives a
        `Selection`.
      loss: `loss(outputs, batch)`; cross-entropy by default.
      score: `score(outputs, batch)`; accuracy by default.
      key: of all that the method draws.
      protect: patterns of variables whose channels stay.
      allow_inexact: open normalisations over channels; see `trace`.
      timer: what times compiled calls, where the budget asks for measurements.

    Returns:
      The pruned network, not fine-tuned: train `pruned.wrap(fn)` on `pruned.variables`. With a
      latency target `pruned.latency` says what was predicted and what the pruned network takes;
      there is a warning where that is more than the target allows. There is one, too, where a group
      is left with one unit, or the network at chance on the calibration batches.

    Raises:
      TypeError: a budget or a key that is none, a function that cannot be traced.
      ValueError: an unknown method, a target that cannot be met, no batches, nothing prunable, NaN
        or infinity in the variables.
    """
    if not isinstance(budget, (Budget, str, Mapping)):
        raise TypeError(
            f"budget={budget!r} is no budget: pass a string such as 'params/8,macs/3', a Budget, "
            "or the width of every group"
        )
    if isinstance(key, int):
        raise TypeError(f"key={key} is a number: pass jax.random.key({key})")
    chosen = as_method(method)
    if isinstance(budget, str):
        budget = Budget(budget)
    elif not isinstance(budget, Budget):
        budget = Budget(widths=dict(budget))
    chosen.require_counted(budget)
    inputs = inputs_of(first(batches))
    example = jax.tree.map(lambda x: x[:1], inputs)
    graph = trace(fn, variables, example, protect=protect, allow_inexact=allow_inexact)
    graph, budget = latency.prepare(graph, budget, fn, variables, inputs, timer=timer)
    chosen.require(graph, budget)
    problem = Problem(
        graph, fn, variables, batches, budget,
        loss=loss or cross_entropy, score=score or accuracy, key=key,
        run=MemoryRun(fn, batches, loss or cross_entropy),
    )  # fmt: skip
    selection = chosen.prune(problem)
    warn([*narrow_groups(problem, selection), *network_at_chance(problem, selection)])
    pruned = graph.slice(selection.variables, selection.masks, selection.blocks)
    if "latency" not in budget.factors:
        return pruned
    reached = latency.check(graph, budget, fn, variables, pruned, inputs, timer=timer)
    if reached.missed:
        warnings.warn(f"the latency target was missed: {reached}", stacklevel=2)
    return dataclasses.replace(pruned, latency=reached)
