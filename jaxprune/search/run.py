"""The search over all groups: one program per distinct width, K and Gram matrices as data.

evosax starts the accelerator's backend when it is imported; so it is imported when a search starts,
and who only reads a run can do that beside a process that holds the accelerator.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxprune.search import refit
from jaxprune.search.bound import lower_bounds
from jaxprune.search.constraint import Constraint
from jaxprune.search.fitness import block_diagonal, layer_error
from jaxprune.search.greedy import diagonal_ranking, greedy_elimination
from jaxprune.search.swaps import tabu_search


@dataclass(frozen=True)
class SearchConfig:
    """How the channels of every group are searched for."""

    algorithm: str = "genetic"
    """`genetic`, or the class name of any other evosax algorithm, read through a top-k decoder."""
    population: int = 128
    """Masks in a generation."""
    generations: int = 300
    """Generations at most."""
    elites: float = 0.1
    """Fraction of the population that is copied unchanged (genetic)."""
    crossover: float = 1.0
    """Probability that a child has two parents (genetic)."""
    swaps: int = 1
    """Mutation: exchanges of one kept and one dropped channel in every child (genetic)."""
    temperature: float = 0.3
    """Of the roulette wheel, in standard deviations of the population's error (genetic)."""
    patience: int | None = None
    """Stop after so many generations without a better mask; None runs them all (genetic)."""
    hessian: str = "full"
    """`full`, or `block_diagonal`: interactions between channels are left out of the fitness."""
    polish: bool = True
    """Local search from the best mask: swap descent, then on past local optima (tabu search)."""
    polish_steps: int = 512
    """Exchanges of two channels that `polish` makes."""
    seeds: str = "none"
    """`none`, or `heuristic`: greedy elimination and diagonal ranking join the first population."""
    reconstruction: bool = False
    """Choose among the finalists and exchange channels by the error after a least-squares refit."""
    reconstruction_swaps: int = 16
    """Exchanges at most for `reconstruction`; each costs a few Cholesky factors."""
    bound: bool = True
    """Prove for every group how far its mask can be from the best one (see `search.bound`)."""
    constraint: str | None = None
    """What all masks together keep on the held-out images, before any fine-tune.
    `class_accuracy>=-0.01` has every class within a point of the unpruned network.
    `accuracy>=-0.01` is that of all images."""
    constraint_generations: int = 20
    """Generations in which masks that keep it are looked for, of 32 masks of the whole network."""

    def __post_init__(self):
        """Refuses what cannot be searched with."""
        rules = {
            "population": (self.population >= 2, "at least 2"),
            "generations": (self.generations >= 1, "at least 1"),
            "elites": (0 <= self.elites < 1, "in [0, 1)"),
            "crossover": (0 <= self.crossover <= 1, "in [0, 1]"),
            "swaps": (self.swaps >= 0, "at least 0"),
            "temperature": (self.temperature > 0, "above 0"),
            "patience": (self.patience is None or self.patience >= 1, "None or at least 1"),
            "hessian": (self.hessian in ("full", "block_diagonal"), "full or block_diagonal"),
            "seeds": (self.seeds in ("none", "heuristic"), "none or heuristic"),
            "polish_steps": (self.polish_steps >= 1, "at least 1"),
            "reconstruction_swaps": (self.reconstruction_swaps >= 0, "at least 0"),
            "constraint_generations": (self.constraint_generations >= 1, "at least 1"),
        }
        for field, (holds, wanted) in rules.items():
            if not holds:
                raise ValueError(f"search.{field}: {getattr(self, field)!r}, must be {wanted}")
        if self.constraint is not None:
            Constraint.parse(self.constraint)
            if self.reconstruction:
                raise ValueError(
                    "search.constraint is held by kernels as they are, and search.reconstruction "
                    "refits them; leave one of them out"
                )
        if self.algorithm == "genetic":
            return
        from jaxprune.search.decoder import algorithm_names

        if self.algorithm not in algorithm_names():
            known = ", ".join(["genetic", *algorithm_names()])
            raise ValueError(f"search.algorithm: unknown {self.algorithm!r}; known are {known}")
        if self.seeds != "none":
            raise ValueError(f"search.seeds: {self.algorithm} takes none; set it to none")


@dataclass(frozen=True)
class SearchResult:
    """The masks, and what the plain search and each option after it reached, per group."""

    masks: dict[str, Array]
    """0/1 floats [C]."""
    errors: dict[str, float]
    """`pᵀ G p` of `masks`, in float64 on the full Gram matrix."""
    errors_plain: dict[str, float]
    """The same of the search's best mask, before polish and reconstruction."""
    errors_polished: dict[str, float]
    """The same after polish; empty without it."""
    refit_errors: dict[str, float]
    """Error of `masks` after the least-squares refit; empty without `reconstruction`."""
    refit_errors_before: dict[str, float]
    """Error after the refit of the mask that reconstruction started from; empty without it."""
    history: dict[str, np.ndarray]
    """Lowest error so far after each generation, [generations]; in the search's own fitness."""
    bounds: dict[str, float] = dataclasses.field(default_factory=dict)
    """What no mask of as many channels falls below, proven; empty without `bound`."""
    finalists: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    """The best mask and those of the last generation's elites, 0/1 [E + 1, C]."""

    @property
    def gaps(self) -> dict[str, float]:
        """How far the error can be above the lowest possible, as a fraction of the error.

        Of the mask before reconstruction, which then chooses by another error.
        """
        found = {**self.errors_plain, **self.errors_polished}
        return {name: gap(found[name], bound) for name, bound in self.bounds.items()}


def gap(error: float, bound: float) -> float:
    """`(error - bound) / error`; 0 where there is no error to lower."""
    return max(0.0, (error - bound) / error) if error > 0 else 0.0


def search_groups(
    grams: Mapping[str, Any],
    keep: Mapping[str, int],
    key: Array,
    config: SearchConfig | None = None,
    consumers: Mapping[str, Sequence[refit.Regression]] | None = None,
) -> SearchResult:
    """Finds, for every group, the `keep[group]` channels whose absence hurts the output least.

    All groups of one width run as one program, and a group's result depends on the key, its name
    and its Gram matrix alone, so that it is the same whichever other groups are searched beside it.

    Args:
      grams: group name -> [C, C], the (weighted sum of the) consumers' Gram matrices.
      keep: group name -> K, 1 <= K <= C.
      key: a PRNG key.
      config: the search; its defaults when None.
      consumers: group name -> its consumers with their Hessians, for `reconstruction`.

    Raises:
      ValueError: a Gram matrix that is not square, holds NaN or infinity, a K out of range, a group
        without K or, for `reconstruction`, without consumers; all name the group.
    """
    config = config or SearchConfig()
    matrices = {name: _checked(name, gram, keep) for name, gram in grams.items()}
    if config.reconstruction and (absent := set(grams) - set(consumers or {})):
        raise ValueError(f"search.reconstruction: no consumers given for {', '.join(absent)}")

    by_width: dict[int, list[str]] = defaultdict(list)
    for name, gram in matrices.items():
        by_width[len(gram)].append(name)
    found: dict[str, tuple[np.ndarray, ...]] = {}
    for channels, names in by_width.items():
        found |= _search_width(channels, names, matrices, keep, key, config)

    errors_plain, errors_polished, history = {}, {}, {}
    refit_after, refit_before, masks = {}, {}, {}
    for name, gram in matrices.items():
        plain, polished, finalists, course = found[name]
        errors_plain[name] = _exact_error(plain, gram)
        history[name] = course
        mask = plain
        if config.polish:
            errors_polished[name] = _exact_error(polished, gram)
            mask = polished
        if config.reconstruction and consumers is not None:
            mask, refit_before[name], refit_after[name] = _reconstruct(
                mask, finalists, list(consumers[name]), keep[name], config.reconstruction_swaps
            )
        masks[name] = mask
    return SearchResult(
        masks={name: jnp.asarray(mask, float) for name, mask in masks.items()},
        errors={name: _exact_error(mask, matrices[name]) for name, mask in masks.items()},
        errors_plain=errors_plain,
        errors_polished=errors_polished,
        refit_errors=refit_after,
        refit_errors_before=refit_before,
        history=history,
        bounds=lower_bounds(matrices, keep) if config.bound else {},
        finalists={n: np.concatenate([masks[n][None], found[n][2]]) for n in matrices},
    )


def _checked(name: str, gram: Any, keep: Mapping[str, int]) -> np.ndarray:
    """The Gram matrix in float64, symmetric, or an error that names the group."""
    matrix = np.asarray(gram, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"Gram matrix of {name}: shape {matrix.shape}, must be square")
    if not np.isfinite(matrix).all():
        raise ValueError(
            f"Gram matrix of {name} holds NaN or infinity: look for them in the weights and in the "
            "calibration data"
        )
    if name not in keep:
        raise ValueError(f"no number of channels to keep is given for {name}")
    if not 1 <= keep[name] <= len(matrix):
        raise ValueError(f"{name}: cannot keep {keep[name]} of {len(matrix)} channels")
    return (matrix + matrix.T) / 2


def _exact_error(mask: np.ndarray, gram: np.ndarray) -> float:
    dropped = 1.0 - mask
    return float(dropped @ gram @ dropped)


@lru_cache(maxsize=256)
def _algorithm(name: str, population: int, channels: int, elites: float, swaps: int) -> Any:
    """evosax jits its methods with `self` static: a new instance would compile anew."""
    from jaxprune.search import decoder, genetic

    if name == "genetic":
        solution = jnp.zeros(channels, bool)
        return genetic.GeneticAlgorithm(population, solution, elites=elites, swaps=swaps)
    return decoder.build(name, population, channels)


def _search_width(
    channels: int,
    names: list[str],
    grams: Mapping[str, np.ndarray],
    keep: Mapping[str, int],
    key: Array,
    config: SearchConfig,
) -> dict[str, tuple[np.ndarray, ...]]:
    """Per group of that width: best mask, polished mask, finalists, history."""
    algorithm = _algorithm(
        config.algorithm, config.population, channels, config.elites, config.swaps
    )
    # Of order one in float32, whatever the layer's units.
    scales = [float(np.abs(np.diagonal(grams[name])).sum()) or 1.0 for name in names]
    stacked = np.stack([grams[n] / s for n, s in zip(names, scales, strict=True)])
    results = _search(
        jnp.asarray(stacked, float),
        jnp.asarray([keep[name] for name in names]),
        jnp.stack([jax.random.fold_in(key, zlib.crc32(name.encode())) for name in names]),
        None if config.algorithm == "genetic" else algorithm.default_params,
        algorithm=algorithm,
        config=config,
    )
    plain, polished, finalists, history = (np.asarray(r) for r in results)
    return {
        name: (plain[i], polished[i], finalists[i], history[i] * scales[i])
        for i, name in enumerate(names)
    }


@partial(jax.jit, static_argnames=("algorithm", "config"))
def _search(
    grams: Array, keep: Array, keys: Array, params: Any, *, algorithm: Any, config: SearchConfig
) -> tuple[Array, Array, Array, Array]:
    """All groups of one width: [n, C, C], [n], [n] -> masks [n, C] twice, [n, E, C], [n, gens]."""
    from jaxprune.search import decoder, genetic

    def one_group(gram, keep, key):
        if config.hessian == "block_diagonal":
            gram = block_diagonal(gram)
        evaluate = partial(layer_error, gram=gram)
        if config.algorithm == "genetic":
            seeds = None
            if config.seeds == "heuristic":
                seeds = jnp.stack([greedy_elimination(gram, keep), diagonal_ranking(gram, keep)])
            evolved = genetic.evolve(
                algorithm,
                genetic.Params(keep, config.crossover, config.temperature),
                evaluate,
                key,
                generations=config.generations,
                patience=config.patience,
                seeds=seeds,
            )
        else:
            evolved = decoder.evolve(
                algorithm, params, keep, evaluate, key, generations=config.generations
            )
        best = evolved.best
        polished = tabu_search(gram, best, config.polish_steps) if config.polish else best
        return best, polished, evolved.finalists, evolved.history

    return jax.vmap(one_group)(grams, keep, keys)


def _reconstruct(
    mask: np.ndarray,
    finalists: np.ndarray,
    consumers: Sequence[refit.Regression],
    keep: int,
    max_swaps: int,
) -> tuple[np.ndarray, float, float]:
    """The mask that reconstruction chooses, and the errors after refit before and after."""
    before = refit.total_error(jnp.asarray(mask), consumers, keep)
    if keep == mask.size:
        return mask, float(before), float(before)
    candidates = jnp.asarray(np.concatenate([mask[None], finalists]))
    chosen = refit.best_of(candidates, consumers, keep)
    chosen, after = refit.refit_swaps(chosen, consumers, keep, max_swaps)
    return np.asarray(chosen), float(before), float(after)
