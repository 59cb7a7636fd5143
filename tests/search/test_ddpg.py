"""The agent learns an action that depends on the state; its buffer and settings."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.search import ddpg
from jaxprune.search.ddpg import DDPGConfig, Transition

QUICK = DDPGConfig(hidden=32, actor_rate=1e-3, critic_rate=5e-3, tracking=0.05, batch=64)


def test_the_agent_learns_an_action_that_depends_on_the_state():
    """One step an episode, reward `−(a − s)²`: the best action is the state itself."""
    rng = np.random.default_rng(0)
    state = jnp.asarray(rng.uniform(0.1, 0.9, (512, 1)), jnp.float32)
    action = jnp.asarray(rng.uniform(0, 1, 512), jnp.float32)
    reward = -jnp.square(action - state[:, 0])
    replay = ddpg.store(ddpg.empty(512, 1), Transition(state, action, reward, state, jnp.ones(512)))
    agent = ddpg.learn(
        ddpg.init(jax.random.key(0), 1, QUICK), replay, jax.random.key(1), 1500, QUICK
    )
    found = ddpg.act(agent.actor, jnp.asarray([[0.2], [0.5], [0.8]]))
    np.testing.assert_allclose(found, [0.2, 0.5, 0.8], atol=0.08)


def test_the_buffer_is_a_ring():
    replay = ddpg.empty(4, 2)
    for i in range(3):
        part = jnp.full((2,), float(i))
        replay = ddpg.store(
            replay, Transition(jnp.full((2, 2), i), part, part, part[:, None], part)
        )
    assert int(replay.count) == 6
    np.testing.assert_array_equal(replay.held.action, [2, 2, 1, 1])


@pytest.mark.parametrize("change", [{"hidden": 0}, {"tracking": 0.0}, {"discount": 1.5}])
def test_bad_settings_are_named(change):
    with pytest.raises(ValueError, match=f"ddpg.{next(iter(change))}"):
        DDPGConfig(**change)
