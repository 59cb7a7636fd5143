"""CACP: one agent finds the rates for many compressions (Liu et al. 2020, arXiv 2009.09724; 2021).

"Conditional automated channel pruning for deep neural networks", IEEE Signal Processing Letters.
A DDPG agent walks through the network, and its action at a layer is the fraction `a_t` of the
channels that stay, `c'_t = ⌈a_t c_t⌉`. What it sees are 12 features: of the layer its place,
multiply-accumulates, outputs, inputs, height, width, stride and taps; the rate β that is asked
for; how much has been cut so far, how much still can be, and the action before. β, the fraction of
cost that is left, is drawn anew for each episode, so that one search learns

    max over θ of E_{β ~ p} [accuracy of the network that the policy θ leaves]
    subject to cost(pruned) ≤ β cost(full),

which holds by construction: an action is lifted to cut at least what the layers after it cannot.
At the end of an episode the network, repaired by least squares, is measured on held-out images
without any training, and every step of it gets `r_T / T` of that accuracy. 300 episodes act at
random, 500 learn, one minibatch an episode; the exploration noise fades. Then, for each rate,
small noise on the policy and a beam search around the best of it.

On the digits (`configs/digits_vgg.py --method cacp`, one seed) the unpruned network's 97.8 % become
97.2 % as cut, with nothing trained, and 97.6 % fine-tuned (its control: 98.0 %), at 8.00x fewer
parameters and 3.05x fewer MACs. The 800 episodes, the beams and all compilation took 35 s of the
processor, 170 s on two cores that other work shared some six times over.

Reconstructed: within a layer the highest L1 norms stay, and the repair of a layer is that on the
statistics of the unpruned network, so that it depends on the width alone and is done once (the
paper refits on inputs of the pruned one). A budget of several targets is one rate: at the rate of
its MACs (or first target) all are met, and at other rates each is limited by a power of it.
Episodes run in batches side by side, which learn after each batch; what the best one leaves over
widens the group that keeps the smallest part. What the eight features of a layer are is in part the
code's word.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.batches import count_of, first, inputs_of
from jaxprune.graph import ChannelGraph
from jaxprune.kernels import accelerate
from jaxprune.methods.ranking import filter_norms
from jaxprune.methods.widths import adjusted
from jaxprune.problem import Fn, Method, Metric, Problem, Selection
from jaxprune.reconstruction import Ranked
from jaxprune.search import ddpg
from jaxprune.search.ddpg import Agent, DDPGConfig, Replay, Transition
from jaxprune.search.episodes import (
    FEATURES,
    Environment,
    Episodes,
    environment,
    rate_of,
    rollouts,
)
from jaxprune.statistics.moments import moments
from jaxprune.statistics.population import chunk_size

Reward = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Widths int (E, G) and the rates (E,) that were asked for → the reward of each network, (E,)."""


class Learning(NamedTuple):
    """What goes from one batch of episodes to the next."""

    agent: Agent
    replay: Replay


class Best(NamedTuple):
    """For each rate the beam: actions (R, K, T), rewards (R, K) and widths (R, K, G)."""

    actions: np.ndarray
    rewards: np.ndarray
    widths: np.ndarray


@dataclass(frozen=True)
class CACP(Method):
    """Trains one agent over a distribution of rates, and asks it for the budget's."""

    rates: tuple[float, ...] = (0.3, 0.5, 0.7)
    """Fractions of cost that are left, from which each episode draws; two ends if `continuous`."""
    continuous: bool = False
    """Draw the rate uniformly between the least and the largest of `rates`."""
    warmup: int = 300
    """Episodes that act at random."""
    episodes: int = 500
    """Episodes that learn."""
    batch: int = 10
    """Episodes that run side by side."""
    noise: float = 0.5
    """Standard deviation of the exploration noise at first."""
    decay: float = 0.95
    """By which it is multiplied after each episode."""
    beam: int = 3
    """Widths that a round of the search at the end goes on from."""
    beam_rounds: int = 5
    """Rounds of that search; 0 takes the best of the policy with small noise."""
    beam_noise: float = 0.05
    """Its noise."""
    positions: int | None = 16
    """Output positions of a consumer that are drawn from each image; None takes all of them."""
    ddpg: DDPGConfig = field(default_factory=DDPGConfig)
    """The agent."""

    def __post_init__(self):
        if not self.rates or not all(0 < rate <= 1 for rate in self.rates):
            raise ValueError(f"rates must hold fractions in (0, 1], not {list(self.rates)}")
        for name, least in (
            ("warmup", 1), ("episodes", 0), ("batch", 1), ("noise", 0), ("decay", 0),
            ("beam", 1), ("beam_rounds", 0), ("beam_noise", 0),
        ):  # fmt: skip
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.positions is not None and self.positions < 1:
            raise ValueError(f"positions must be at least 1, not {self.positions}")
        if self.beam > self.batch:
            raise ValueError(f"beam must be at most batch, {self.batch}, not {self.beam}")

    def prune(self, problem: Problem) -> Selection:
        """Statistics once; the agent; its answer at the budget's rate.

        The figures are the widths that the one agent finds at the rates that it was trained on, and
        what of the repair's shifts no variable takes up.
        """
        graph, budget, groups = problem.graph, problem.budget, problem.prunable()
        budget.require_feasible(graph)
        if not groups:
            return Selection(graph.full_masks(), problem.variables)
        if budget.widths:
            groups = [n for n in groups if budget.widths[n] < graph.groups[n].size]
        repair = Repair(problem, groups, self.positions)
        if budget.widths:
            widths = np.array([budget.widths[name] for name in graph.names])
            variables, masks = repair.network(widths)
            return Selection(masks, variables, {"left": repair.network.unplaced(widths)})
        env = environment(graph, budget, groups, repair.readers)
        own = rate_of(budget)

        def reward(widths: np.ndarray, rates: np.ndarray) -> np.ndarray:
            return repair.scores(widths)

        agent = self.learn(problem, env, reward)
        asked = (own, *self.rates)
        found = self.ask(problem, env, reward, agent, asked)
        best = found.widths[np.arange(len(asked)), np.argmax(found.rewards, axis=1)]
        widths = adjusted(graph, budget, best[0])
        variables, masks = repair.network(widths)
        figures: dict[str, Any] = {
            f"width_at_{rate:g}": dict(zip(graph.names, row.tolist(), strict=True))
            for rate, row in zip(self.rates, best[1:], strict=True)
        }
        figures["left"] = repair.network.unplaced(widths)
        return Selection(masks, variables, figures)

    def learn(self, problem: Problem, env: Environment, reward: Reward) -> Agent:
        """The agent after all episodes; the work is a loop of `problem.run`."""
        size, length = self.batch, len(env.steps)
        warm, rest = -(-self.warmup // size), -(-self.episodes // size)
        key = jax.random.fold_in(problem.key, 0xCAC)

        def batch_of_episodes(carry: Learning, i: int) -> Learning:
            agent, replay = carry
            keys = jax.random.split(jax.random.fold_in(key, i), 4)
            rates = self._drawn(keys[0])
            shape = (size, length)
            if i < warm:
                given, noise = jax.random.uniform(keys[1], shape), jnp.zeros(shape)
            else:
                # The noise of each of these episodes, which come one after another in the paper.
                episode = (i - warm) * size + jnp.arange(size)
                spread = self.noise * self.decay ** episode.astype(float)
                drawn = jax.random.truncated_normal(keys[1], -2.0, 2.0, shape)
                given, noise = jnp.full(shape, jnp.nan), spread[:, None] * drawn
            done = rollouts(env, agent.actor, rates, given, noise)
            rewards = reward(np.asarray(done.widths, int), np.asarray(rates))
            replay = ddpg.store(replay, transitions(done, jnp.asarray(rewards, float)))
            if i >= warm:
                agent = ddpg.learn(agent, replay, keys[2], size, self.ddpg)
            return Learning(agent, replay)

        capacity = (warm + rest) * size * length
        fresh = ddpg.init(jax.random.fold_in(problem.key, 0xA6E), FEATURES, self.ddpg)
        start = Learning(fresh, ddpg.empty(capacity, FEATURES))
        return problem.run.loop("episodes", batch_of_episodes, start, warm + rest).agent

    def ask(
        self, problem: Problem, env: Environment, reward: Reward, agent: Agent,
        rates: tuple[float, ...],
    ) -> Best:  # fmt: skip
        """The best widths that the policy and a beam search around it find, for each rate."""
        size, length = self.batch, len(env.steps)
        key = jax.random.fold_in(problem.key, 0xBEA)

        def searched(carry: Best, i: int) -> Best:
            found = Best(*map(np.array, carry))
            r, turn = divmod(i, self.beam_rounds + 1)
            noise = self.beam_noise * jax.random.normal(jax.random.fold_in(key, i), (size, length))
            if turn == 0:
                noise = noise.at[0].set(0.0)  # the policy itself is among them
                given = np.full((size, length), np.nan, np.float32)
            else:
                given = np.resize(found.actions[r], (size, length))
            asked = jnp.full((size,), rates[r])
            done = rollouts(env, agent.actor, asked, jnp.asarray(given), noise)
            rewards = reward(np.asarray(done.widths, int), np.asarray(asked))
            before = self.beam if turn else 0
            pools = [
                np.concatenate([old[r][:before], np.asarray(new)])
                for old, new in zip(found, (done.actions, rewards, done.widths), strict=True)
            ]
            best = np.argsort(-pools[1], kind="stable")[: self.beam]
            for whole, pool in zip(found, pools, strict=True):
                whole[r] = pool[best]
            return found

        blank = Best(
            np.zeros((len(rates), self.beam, length), np.float32),
            np.zeros((len(rates), self.beam)),
            np.zeros((len(rates), self.beam, len(env.sizes)), np.int32),
        )
        turns = len(rates) * (self.beam_rounds + 1)
        return Best(*map(np.asarray, problem.run.loop("beam", searched, blank, turns)))

    def _drawn(self, key: jax.Array) -> jax.Array:
        """The rate of each episode of a batch, (E,)."""
        if self.continuous:
            return jax.random.uniform(
                key, (self.batch,), minval=min(self.rates), maxval=max(self.rates)
            )
        return jax.random.choice(key, jnp.asarray(self.rates, float), (self.batch,))


def transitions(done: Episodes, rewards: jax.Array) -> Transition:
    """The steps of episodes with their shaped reward, `r_T / T` each, (E · T, ...)."""
    episodes, steps = done.actions.shape
    after = jnp.concatenate([done.states[:, 1:], done.states[:, -1:]], axis=1)
    shaped = jnp.broadcast_to(rewards[:, None] / steps, (episodes, steps))
    end = jnp.broadcast_to((jnp.arange(steps) == steps - 1)[None], (episodes, steps))
    parts = (done.states, done.actions, shaped, after, end.astype(jnp.float32))
    return Transition(*(part.reshape(-1, *part.shape[2:]) for part in parts))


class Repair:
    """Widths → the network of these widths, and its score, each measured once.

    The highest L1 norms stay.
    """

    def __init__(self, problem: Problem, groups: list[str], positions: int | None):
        self.problem = problem
        layers = moments(problem, groups=groups, positions=positions)
        norms = filter_norms(problem.graph, problem.variables, 1)
        orders = {name: np.argsort(-norms[name], kind="stable") for name in groups}
        self.network = Ranked(problem.graph, problem.variables, layers, orders)
        shapes = _shapes(problem)
        self.readers = {
            name: (found[0].consumer, shapes[found[0].consumer.name])
            for name, found in layers.items()
        }
        self._scores: dict[bytes, float] = {}

    def scores(self, widths: np.ndarray) -> np.ndarray:
        """The scores (E,) of networks of widths (E, G), all through one program."""
        rows = [np.asarray(row, np.int32) for row in widths]
        new = {row.tobytes(): row for row in rows if row.tobytes() not in self._scores}
        # Side by side what the device takes at a time, and no more networks in memory: always as
        # many, so that one program serves.
        size = chunk_size(len(rows))
        asked = list(new.values())
        for i in range(0, len(asked), size):
            part = asked[i : i + size]
            part += part[-1:] * (size - len(part))
            for row, score in zip(part, self._measured(part), strict=True):
                self._scores[row.tobytes()] = float(score)
        return np.array([self._scores[row.tobytes()] for row in rows])

    def _measured(self, rows: list[np.ndarray]) -> np.ndarray:
        networks = [self.network(row) for row in rows]
        stacked = jax.device_put(jax.tree.map(lambda *leaves: np.stack(leaves), *networks))
        problem = self.problem
        evaluate = _evaluator(problem.graph, problem.fn, problem.score)
        total, count = np.zeros(len(rows)), 0
        for batch in problem.validation:
            images = count_of(inputs_of(batch))
            total = total + images * np.asarray(evaluate(*stacked, batch), np.float64)
            count += images
        return total / count


def _shapes(problem: Problem) -> Mapping[str, tuple[int, ...]]:
    """Of each consumer the shape of what it reads, for one image."""
    inputs = jax.tree.map(lambda x: x[:1], inputs_of(first(problem.batches)))
    shapes: dict[str, tuple[int, ...]] = {}

    def read(variables: Any, inputs: Any) -> Any:
        out, tapped = problem.graph.tap(problem.fn, variables, inputs)
        shapes.update({name: value.shape for name, value in tapped.reads.items()})
        return out

    jax.eval_shape(read, problem.variables, inputs)
    return shapes


@functools.lru_cache(maxsize=4)
def _evaluator(graph: ChannelGraph, fn: Fn, score: Metric) -> Callable[..., jax.Array]:
    """The scores of networks side by side, each with weights and masks of its own."""
    masked = graph.masked(fn)

    def evaluate(variables: Any, masks: Any, batch: Any) -> jax.Array:
        def one(network: Any) -> jax.Array:
            return score(masked(*network, inputs_of(batch)), batch)

        size = len(jax.tree.leaves(masks)[0])
        return jax.lax.map(one, (variables, masks), batch_size=size)

    return jax.jit(accelerate(evaluate))
