"""A method's trainings in memory, on the user's own batches: what `jaxprune.prune` trains with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxprune.batches import Batches, inputs_of
from jaxprune.kernels import accelerate
from jaxprune.problem import Fn, Metric, Retraining, Run
from jaxprune.train.network import Network
from jaxprune.train.state import TrainState
from jaxprune.wrappers import Until, Wrapper, same, split_params, steps_after


class MemoryRun(Run):
    """Trains `fn`, in evaluation mode, by SGD with momentum on the calibration batches in turn.

    What is trained is the collection `params`, or a tree without it whole. Running statistics stay
    as they are, and a teacher is not asked: the loss alone trains.
    """

    def __init__(self, fn: Fn, batches: Batches, loss: Metric):
        self._fn, self._batches, self._loss = fn, batches, loss
        self._steps: dict[Any, Callable[..., TrainState]] = {}

        def forward(variables: Any, inputs: Any, key: Any = None) -> Any:
            return fn(variables, inputs)

        self._network = Network(forward, forward)

    def steps(self, config: Retraining) -> int:
        """How many steps a training of this config has."""
        return config.steps or max(1, round(config.epochs * len(list(self._batches))))

    def train(
        self,
        name: str,
        variables: Any,
        *,
        network: Wrapper = same,
        optimizer: Wrapper = same,
        config: Retraining | None = None,
        rounds: int = 1,
        teacher: Any = None,
        until: Until | int | None = None,
        state: Any = None,
    ) -> TrainState:
        """As `Run.train`; without a `config` for one epoch."""
        config = config or Retraining()
        batches = list(self._batches)
        total = config.steps or max(1, round(config.epochs * len(batches) * rounds))
        stop = steps_after(until, rounds, total) if isinstance(until, int) else total
        condition = until if isinstance(until, Until) else None
        wrapped = optimizer(optax.sgd(config.learning_rate, momentum=0.9))
        params, rest, join = split_params(variables)
        if state is None:
            state = TrainState(jnp.zeros((), jnp.int32), params, rest, wrapped.init(params))
        key = network, optimizer, config, join
        if key not in self._steps:
            self._steps[key] = self._step(network(self._network), wrapped, join)
        step = self._steps[key]
        done = int(state.step)
        while done < stop and not (condition and condition.holds(state, done)):
            state = step(state, batches[done % len(batches)])
            done += 1
        return state

    def _step(
        self,
        network: Network,
        optimizer: optax.GradientTransformation,
        join: Callable[[Any, Any], Any],
    ) -> Callable[..., TrainState]:
        @jax.jit
        @accelerate
        def step(state: TrainState, batch: Any) -> TrainState:
            def loss_of(params: Any) -> jax.Array:
                out = network.train(join(params, state.state), inputs_of(batch), None)
                return self._loss(out, batch)

            gradients = jax.grad(loss_of)(state.params)
            updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(state.step + 1, params, state.state, opt_state)

        return step
