"""A population of masks through a whole network, beside what a user would write.

`evaluate_masks` multiplies activations by masks, several masks side by side on an accelerator and
one after another on a CPU, in one program. Beside it: the same masked pass, jitted and called once
a mask; `vmap` over networks whose kernels were masked; and the dense network's forward pass, whose
images per second a mask cannot beat by much. Memory is what the compiled program asks for beside
its arguments.

64 masks on 64 images through ResNet-20, 2 cores of an AMD EPYC, JAX 0.10.2: 3.05 s (2.96-3.25, n =
5), 0.96 of the dense network's images per second and mask and 4.1 times the rate of `vmap` over
masked kernels, in 20 MB of memory beside the weights for 4 masks as for 64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxprune as jp
from benchmarks.common import Table, together
from benchmarks.networks import shipped
from jaxprune.statistics.population import chunk_size, evaluate_masks

ASKED = 0.9


def measure(*, short: bool) -> Table:
    """Images per second and mask."""
    name, images, masks = ("vgg_small", 8, 4) if short else ("resnet20", 64, 64)
    _, fn, variables, x = shipped(name, images)
    labels = jnp.zeros(images, int)

    def score(outputs: jax.Array, batch: Any) -> jax.Array:
        return jnp.mean(jnp.argmax(outputs, -1) == batch[1])

    graph = jp.trace(fn, variables, x[:1])
    rng = np.random.default_rng(0)
    population = {
        group: jnp.asarray(rng.random((masks, size)) < 0.5, jnp.float32)
        for group, size in zip(graph.names, graph.sizes.tolist(), strict=True)
    }
    each = [jax.tree.map(lambda m, i=i: m[i], population) for i in range(masks)]
    masked = graph.masked(fn)
    one = jax.jit(jp.accelerate(lambda v, m, x: score(masked(v, m, x), (x, labels))))
    dense = jax.jit(jp.accelerate(lambda v, x: score(fn(v, x), (x, labels))))

    def over_kernels(variables: Any, population: Any, x: jax.Array) -> jax.Array:
        def network(masks: Any) -> jax.Array:
            return score(fn(with_masked_kernels(graph, variables, masks), x), (x, labels))

        return jax.vmap(network)(population)

    problem = jp.Problem(graph, fn, variables, [(x, labels)], jp.Budget(), score=score)
    few = min(masks, 8)
    side_by_side = jax.jit(over_kernels)
    some = jax.tree.map(lambda m: m[:few], population)
    runs: dict[str, Callable[[], Any]] = {
        "evaluate_masks": lambda: evaluate_masks(problem, population),
        "one call a mask": lambda: [one(variables, m, x) for m in each],
        f"vmap over masked kernels (of {few})": lambda: side_by_side(variables, some, x),
        "dense network": lambda: dense(variables, x),
    }
    counts = [masks, masks, few, 1]
    times = together(runs, n=2 if short else 5, seconds=90)
    table = Table(f"{masks} masks on {images} images, {name}, chunks of {chunk_size(masks)}")
    rates = {n: images * c / t.median for (n, t), c in zip(times.items(), counts, strict=True)}
    for run, taken in times.items():
        share = rates[run] / rates["dense network"]
        table.rows.append(
            {"what": run, "seconds": taken, "images/s a mask": rates[run], "of the dense": share}
        )
    ours, _, kernels, whole = rates.values()
    table.notes.append(
        f"{ours / whole:.2f} of the dense network's images per second and mask (asked: {ASKED}); "
        f"{ours / kernels:.1f} times the rate of vmap over masked kernels."
    )
    sizes = [2, 4] if short else [4, 16, 64]
    memory = [in_megabytes(graph, fn, variables, (x, labels), score, size) for size in sizes]
    table.data.update(population=sizes, megabytes=memory)
    table.notes.append(
        "Memory of the program: "
        + ", ".join(f"{m:.0f} MB for {s} masks" for s, m in zip(sizes, memory, strict=True))
        + "."
    )
    return table


def with_masked_kernels(graph: jp.ChannelGraph, variables: Any, masks: Any) -> Any:
    """The variables with every kernel that reads a group times its mask."""
    readers = {}
    for name, group in graph.groups.items():
        for member in group.members:
            if member.role == "reads":
                readers.setdefault(member.path, []).append((member, name))

    def masked(path: Any, leaf: jax.Array) -> jax.Array:
        for member, name in readers.get(jax.tree_util.keystr(path, simple=True, separator="/"), []):
            mask = (
                jnp.ones(leaf.shape[member.axis])
                .at[member.positions.ravel()]
                .set(jnp.repeat(masks[name], member.positions.shape[1]))
            )
            leaf = leaf * jnp.expand_dims(mask, [a for a in range(leaf.ndim) if a != member.axis])
        return leaf

    return jax.tree_util.tree_map_with_path(masked, variables)


def in_megabytes(
    graph: jp.ChannelGraph, fn: Any, variables: Any, batch: Any, score: Any, size: int
) -> float:
    """Temporary memory of the loop over a population."""
    masked = graph.masked(fn)
    population = {name: jnp.ones((size, group.size)) for name, group in graph.groups.items()}

    def evaluate(population: Any) -> jax.Array:
        def one(masks: Any) -> jax.Array:
            return score(masked(variables, masks, batch[0]), batch)

        return jax.lax.map(one, population, batch_size=chunk_size(size))

    compiled = jax.jit(jp.accelerate(evaluate)).lower(population).compile()
    analysis = compiled.memory_analysis()
    return np.nan if analysis is None else analysis.temp_size_in_bytes / 1e6
