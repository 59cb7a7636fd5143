"""One agent for every rate, on a toy whose best policy is known; the constraint, the repair."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxprune as jp
from jaxprune.methods.cacp import CACP, Repair, _evaluator, transitions
from jaxprune.problem import accuracy
from jaxprune.search import ddpg
from jaxprune.search.ddpg import DDPGConfig
from jaxprune.search.episodes import environment, rate_of, rollouts

QUICK = DDPGConfig(hidden=32, actor_rate=1e-3, critic_rate=5e-3, tracking=0.05, batch=64)


@pytest.fixture(scope="module")
def problem():
    """Three hidden layers of equal size."""
    rng = np.random.default_rng(0)
    shapes = {"a": (6, 20), "b": (20, 20), "c": (20, 20), "d": (20, 3)}
    p = {n: jnp.asarray(rng.normal(size=s) / 3, jnp.float32) for n, s in shapes.items()}

    def fn(p, x):
        for name in "abc":
            x = jax.nn.relu(x @ p[name])
        return x @ p["d"]

    x = jnp.asarray(rng.normal(size=(64, 6)), jnp.float32)
    labels = jnp.argmax(fn(p, x), axis=-1)
    graph = jp.trace(fn, p, x[:1])
    return jp.Problem(graph, fn, p, [(x, labels)], jp.Budget("macs/2", floor=0.0))


@pytest.fixture(scope="module")
def env(problem):
    repair = Repair(problem, problem.prunable(), None)
    return environment(problem.graph, problem.budget, problem.prunable(), repair.readers)


def test_every_episode_keeps_to_its_rate(problem, env):
    graph, rng = problem.graph, np.random.default_rng(0)
    agent = ddpg.init(jax.random.key(0), 12, QUICK)
    rates = jnp.asarray(rng.uniform(0.2, 1.0, 40), jnp.float32)
    given = jnp.asarray(
        np.where(rng.uniform(size=(40, 3)) < 0.5, rng.uniform(size=(40, 3)), np.nan)
    )
    done = rollouts(env, agent.actor, rates, given, jnp.zeros((40, 3)))
    widths = np.asarray(done.widths, int)
    cost = graph.costs(widths)["macs"] / graph.costs(graph.sizes)["macs"]
    assert (cost <= np.asarray(rates) * (1 + 1e-6)).all()
    assert done.states.shape == (40, 3, 12)
    assert ((done.states >= -1e-6) & (done.states <= 1 + 1e-6)).all()
    # Asked for everything, it keeps as much as may be: the first layers whole.
    greedy = rollouts(env, agent.actor, jnp.ones(2) / 2, jnp.ones((2, 3)), jnp.zeros((2, 3)))
    first, *_, last = greedy.widths[0].tolist()
    assert first == 20 and last < 20
    assert rollouts._cache_size() <= 3


def test_each_step_gets_its_share_of_the_reward(env):
    agent = ddpg.init(jax.random.key(0), 12, QUICK)
    done = rollouts(env, agent.actor, jnp.ones(2), jnp.ones((2, 3)), jnp.zeros((2, 3)))
    found = transitions(done, jnp.asarray([0.9, 0.3]))
    np.testing.assert_allclose(found.reward, [0.3] * 3 + [0.1] * 3, rtol=1e-6)
    np.testing.assert_array_equal(found.end, [0, 0, 1] * 2)
    np.testing.assert_array_equal(found.after[:2], found.state[1:3])


def target_of(rates):
    """What the toy wants of the first two layers: the wider the rate, the wider the first."""
    return np.stack([0.2 + 0.6 * rates, 0.9 - 0.6 * rates], axis=-1)


def toy(widths, rates):
    return 1 - np.square(widths[:, :2] / 20 - target_of(rates)).sum(-1)


@pytest.fixture(scope="module")
def trained(problem, env):
    """One agent over {0.7, 0.85, 1}, and one for 0.775 alone, equally long in all."""

    def train(rates):
        method = CACP(rates=rates, warmup=200, episodes=1200, batch=20, decay=0.997, ddpg=QUICK)
        return method.learn(problem, env, toy)

    return train((0.7, 0.85, 1.0)), train((0.775,))


def policy(env, agent, rate):
    done = rollouts(
        env, agent.actor, jnp.full((1,), rate), jnp.full((1, 3), jnp.nan), jnp.zeros((1, 3))
    )
    return toy(np.asarray(done.widths), np.array([rate]))[0]


def test_one_agent_serves_rates_that_it_was_not_trained_on(problem, env, trained):
    agent, alone = trained
    untrained = ddpg.init(jax.random.key(9), 12, QUICK)
    for rate in (0.775, 0.925):
        assert policy(env, agent, rate) > 0.93
        assert policy(env, agent, rate) > policy(env, untrained, rate)
    assert policy(env, agent, 0.775) > policy(env, alone, 0.775) - 0.05


def test_the_beam_ends_no_lower_than_the_policy(problem, env, trained):
    agent, _ = trained
    method = CACP(batch=12, beam_rounds=3)

    found = method.ask(problem, env, toy, agent, (0.85,))
    assert found.rewards[0].max() >= policy(env, agent, 0.85)
    assert (np.diff(found.rewards[0]) <= 0).all()


def test_a_rate_is_that_of_the_macs_and_others_are_its_powers(problem, env):
    budget = dataclasses.replace(problem.budget, targets="params/8,macs/3")
    assert rate_of(budget) == pytest.approx(1 / 3)
    repair = Repair(problem, problem.prunable(), None)
    found = environment(
        problem.graph, jp.Budget("params/8,macs/3"), problem.prunable(), repair.readers
    )
    assert rate_of(budget) ** found.exponents["params"] == pytest.approx(1 / 8)
    assert found.exponents["macs"] == 1


def test_the_scores_are_those_of_the_sliced_networks_by_one_program(problem):
    repair = Repair(problem, problem.prunable(), None)
    rng = np.random.default_rng(0)
    x, labels = problem.batches[0]
    evaluate = _evaluator(problem.graph, problem.fn, accuracy)
    before = evaluate._cache_size()
    for _ in range(3):
        widths = rng.integers(4, 20, (4, 3))
        scores = repair.scores(widths)
        for row, score in zip(widths, scores, strict=True):
            variables, masks = repair.network(row)
            pruned = problem.graph.slice(variables, masks)
            assert list(pruned.widths.values()) == row.tolist()
            logits = pruned.wrap(problem.fn)(pruned.variables, x)
            assert score == pytest.approx(float(jnp.mean(logits.argmax(-1) == labels)))
    assert evaluate._cache_size() <= before + 1


def test_one_search_gives_the_widths_of_every_rate(problem):
    method = CACP(rates=(0.4, 0.8), warmup=6, episodes=6, batch=6, beam_rounds=1, ddpg=QUICK)
    found = method.prune(problem)
    graph = problem.graph
    whole = graph.costs(graph.sizes)["macs"]
    assert graph.cost(found.masks).macs <= whole / 2
    for rate in method.rates:
        widths = np.array(list(found.figures[f"width_at_{rate:g}"].values()))
        assert graph.costs(widths)["macs"] <= whole * rate * (1 + 1e-6)


def test_rates_are_drawn_from_points_or_an_interval():
    key = jax.random.key(0)
    points = CACP(rates=(0.3, 0.7), batch=50)._drawn(key)
    assert {f"{point:.4f}" for point in np.asarray(points)} == {"0.3000", "0.7000"}
    between = np.asarray(CACP(rates=(0.3, 0.7), batch=50, continuous=True)._drawn(key))
    assert len(np.unique(between)) > 40 and (between >= 0.3).all() and (between <= 0.7).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": ()}, "rates must hold fractions"), ({"rates": (0.0,)}, "rates must hold"),
        ({"warmup": 0}, "warmup must be at least 1"), ({"beam": 20}, "beam must be at most batch"),
        ({"positions": 0}, "positions must be at least 1"),
    ],
)  # fmt: skip
def test_bad_settings_of_the_method_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        CACP(**change)
