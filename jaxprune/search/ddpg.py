"""DDPG (Lillicrap et al. 2015, arXiv 1509.02971): one actor, one critic, in optax, for one action.

Actor and critic are three dense layers with ReLU between them; a sigmoid gives the action, in
(0, 1). Replay buffer and agents are pytrees on the device, so that a search that is killed goes on
from them. Pure functions; axes: `N` transitions, `S` features of a state.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Params = list[dict[str, jax.Array]]


@dataclass(frozen=True)
class DDPGConfig:
    """How an agent learns."""

    hidden: int = 300
    """Units of its two hidden layers."""
    actor_rate: float = 1e-4
    """Learning rate of the actor, by Adam."""
    critic_rate: float = 1e-3
    """Learning rate of the critic, by Adam."""
    tracking: float = 0.01
    """How far the slow copies of both move towards them at each step."""
    batch: int = 64
    """Transitions of a step."""
    discount: float = 1.0
    """Of the next state's value."""

    def __post_init__(self):
        rules = {
            "hidden": self.hidden >= 1, "batch": self.batch >= 1,
            "actor_rate": self.actor_rate > 0, "critic_rate": self.critic_rate > 0,
            "tracking": 0 < self.tracking <= 1, "discount": 0 <= self.discount <= 1,
        }  # fmt: skip
        for name, holds in rules.items():
            if not holds:
                raise ValueError(f"ddpg.{name}: {getattr(self, name)} is out of range")


class Agent(NamedTuple):
    """Actor and critic, their slow copies, and the states of their optimizers."""

    actor: Params
    critic: Params
    slow_actor: Params
    slow_critic: Params
    actor_state: Any
    critic_state: Any


class Transition(NamedTuple):
    """Steps of episodes, float32: states (N, S), actions, rewards, next states, 1 at an end."""

    state: jax.Array
    action: jax.Array
    reward: jax.Array
    after: jax.Array
    end: jax.Array


class Replay(NamedTuple):
    """The newest transitions, in a ring; `count` of all that ever came."""

    held: Transition
    count: jax.Array


def init(key: jax.Array, features: int, config: DDPGConfig) -> Agent:
    """A fresh agent for states of so many features."""
    first, second = jax.random.split(key)
    actor = _mlp(first, (features, config.hidden, config.hidden, 1))
    critic = _mlp(second, (features + 1, config.hidden, config.hidden, 1))
    optimizers = _optimizers(config)
    return Agent(
        actor, critic, actor, critic, optimizers[0].init(actor), optimizers[1].init(critic)
    )


def empty(capacity: int, features: int) -> Replay:
    """A buffer of so many transitions."""
    wide, flat = jnp.zeros((capacity, features)), jnp.zeros((capacity,))
    return Replay(Transition(wide, flat, flat, wide, flat), jnp.zeros((), jnp.int32))


def act(actor: Params, state: jax.Array) -> jax.Array:
    """The policy: (..., S) → (...), in (0, 1)."""
    return jax.nn.sigmoid(_apply(actor, state))


def value(critic: Params, state: jax.Array, action: jax.Array) -> jax.Array:
    """What the critic expects to come, (...)."""
    return _apply(critic, jnp.concatenate([state, action[..., None]], axis=-1))


@jax.jit
def store(replay: Replay, new: Transition) -> Replay:
    """The buffer with transitions (N, ...) in place of its oldest."""
    capacity = len(replay.held.action)
    places = (replay.count + jnp.arange(len(new.action))) % capacity
    held = jax.tree.map(lambda old, fresh: old.at[places].set(fresh), replay.held, new)
    return Replay(held, replay.count + len(new.action))


@functools.partial(jax.jit, static_argnames=("steps", "config"))
def learn(agent: Agent, replay: Replay, key: jax.Array, steps: int, config: DDPGConfig) -> Agent:
    """The agent after so many steps, each on a minibatch drawn from the buffer."""
    optimizers = _optimizers(config)

    def step(agent: Agent, key: jax.Array) -> tuple[Agent, None]:
        capacity = len(replay.held.action)
        there = jnp.minimum(replay.count, capacity)
        at = jax.random.randint(key, (config.batch,), 0, there)
        batch = jax.tree.map(lambda held: held[at], replay.held)
        ahead = value(agent.slow_critic, batch.after, act(agent.slow_actor, batch.after))
        target = batch.reward + config.discount * (1 - batch.end) * ahead

        def surprise(critic: Params) -> jax.Array:
            return jnp.mean(jnp.square(value(critic, batch.state, batch.action) - target))

        updates, critic_state = optimizers[1].update(
            jax.grad(surprise)(agent.critic), agent.critic_state
        )
        critic: Any = optax.apply_updates(agent.critic, updates)

        def regret(actor: Params) -> jax.Array:
            return -jnp.mean(value(critic, batch.state, act(actor, batch.state)))

        updates, actor_state = optimizers[0].update(
            jax.grad(regret)(agent.actor), agent.actor_state
        )
        actor: Any = optax.apply_updates(agent.actor, updates)
        slow: Any = optax.incremental_update(
            (actor, critic), (agent.slow_actor, agent.slow_critic), config.tracking
        )
        return Agent(actor, critic, slow[0], slow[1], actor_state, critic_state), None

    return jax.lax.scan(step, agent, jax.random.split(key, steps))[0]


def _optimizers(config: DDPGConfig) -> tuple[optax.GradientTransformation, ...]:
    return optax.adam(config.actor_rate), optax.adam(config.critic_rate)


def _mlp(key: jax.Array, sizes: tuple[int, ...]) -> Params:
    draw = jax.nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    keys = jax.random.split(key, len(sizes) - 1)
    layers = [
        {"kernel": draw(k, (a, b)), "bias": jnp.zeros((b,))}
        for k, a, b in zip(keys, sizes[:-1], sizes[1:], strict=True)
    ]
    layers[-1]["kernel"] *= 0.1  # the first actions lie near 1/2, where the sigmoid is steep
    return layers


def _apply(params: Params, x: jax.Array) -> jax.Array:
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["kernel"] + jnp.expand_dims(layer["bias"], range(x.ndim - 1)))
    last = params[-1]
    x = x @ last["kernel"] + jnp.expand_dims(last["bias"], range(x.ndim - 1))
    return x[..., 0]
