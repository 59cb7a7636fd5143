"""`prune`: the whole thing in one call, on any model."""

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
      there is a warning where that is more than the target allows.

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
    inputs = inputs_of(first(batches))
    example = jax.tree.map(lambda x: x[:1], inputs)
    graph = trace(fn, variables, example, protect=protect, allow_inexact=allow_inexact)
    graph, budget = latency.prepare(graph, budget, fn, variables, inputs, timer=timer)
    chosen.require(graph, budget)
    selection = chosen.prune(
        Problem(
            graph, fn, variables, batches, budget,
            loss=loss or cross_entropy, score=score or accuracy, key=key,
            run=MemoryRun(fn, batches, loss or cross_entropy),
        )
    )  # fmt: skip
    pruned = graph.slice(selection.variables, selection.masks)
    if "latency" not in budget.factors:
        return pruned
    reached = latency.check(graph, budget, fn, variables, pruned, inputs, timer=timer)
    if reached.missed:
        warnings.warn(f"the latency target was missed: {reached}", stacklevel=2)
    return dataclasses.replace(pruned, latency=reached)
