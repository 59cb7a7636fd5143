"""Whether directional pruning ends in the flat valley that SGD ends in, on a small MLP.

    python scripts/same_valley.py --plot same_valley.png

SGD and sDprun (`jaxprune.methods.directional`) train one network from the same weights on the same
batches. Then:

- the loss along the straight line between their ends, beside the line from SGD's end to that of SGD
  from other weights: a valley of its own, over a barrier;
- what of the way from SGD's end lies in the leading directions of the Hessian there, where the
  valley is steep, for sDprun, for the same number of units cut by their norms, and for a way that
  is drawn at random.

"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from jaxprune import data, models
from jaxprune.data import Split, normalize
from jaxprune.masks import keep_top, zeroed
from jaxprune.methods.directional import grda, sdprun
from jaxprune.methods.units import unit_norms
from jaxprune.problem import Problem, accuracy, cross_entropy
from jaxprune.report import style
from jaxprune.statistics.curvature import Curvature, curvature

BATCH, RATE = 64, 0.1
ALONG = np.linspace(-0.25, 1.25, 31)
"""Places on a line: 0 is SGD's end, 1 the other one."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Directional pruning beside SGD.")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--c", type=float, default=0.02)
    parser.add_argument("--mu", type=float, default=0.6)
    parser.add_argument("--directions", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()

    digits = data.load("digits", heldout=200)
    train, test = (
        (
            normalize(jnp.asarray(split.images), mean=digits.mean, std=digits.std),
            jnp.asarray(split.labels),
        )
        for split in (digits.train, digits.test)
        if isinstance(split, Split)
    )
    shape = digits.input_shape
    module = models.build("mlp", num_classes=10, input_shape=shape, widths={"fc1": 64, "fc2": 32})

    def fn(variables: Any, images: jax.Array) -> Any:
        return module.apply(variables, images)

    def loss(params: Any, batch: Any = train) -> jax.Array:
        return cross_entropy(fn({"params": params}, batch[0]), batch)

    keys = jax.random.split(jax.random.key(options.seed))
    first, other = (models.init(module, shape, key)["params"] for key in keys)
    graph = jp.trace(fn, {"params": first}, train[0][:1])

    rate = optax.piecewise_constant_schedule(RATE, {options.steps // 2: 0.1})
    pruner = sdprun(graph, rate, options.c, options.mu)
    ends = {
        "SGD": trained(loss, first, grda(rate, 0.0, options.mu), train, options),
        "sDprun": trained(loss, first, pruner, train, options),
        "SGD, other weights": trained(loss, other, grda(rate, 0.0, options.mu), train, options),
    }
    norms = unit_norms(graph, ends["sDprun"], "writes")
    left = {name: int((np.asarray(norm) > 0).sum()) for name, norm in norms.items()}
    by_norm = {n: np.asarray(v) for n, v in unit_norms(graph, ends["SGD"], "writes").items()}
    cut = zeroed(graph, {"params": ends["SGD"]}, keep_top(by_norm, left))["params"]
    ends["SGD, cut by norms"] = cut

    problem = Problem(graph, fn, {"params": ends["SGD"]}, [train], jp.Budget("params/1"))
    steep = curvature(problem, options.directions)
    lines = {name: along(loss, ends["SGD"], ends[name]) for name in list(ends)[1:]}
    shown = table(ends, fn, train, test, left, graph, steep, lines)
    Console().print(shown)
    if options.plot:
        draw(options.plot, lines, steep, ways(ends))


def trained(
    loss: Callable[..., jax.Array], params: Any, optimizer: Any, train: Any, options: Any
) -> Any:
    """The parameters after all steps; the batches depend on seed and step alone."""

    def step(carry: Any, i: jax.Array) -> Any:
        params, state = carry
        key = jax.random.fold_in(jax.random.key(options.seed), i)
        at = jax.random.randint(key, (BATCH,), 0, len(train[1]))
        gradients = jax.grad(loss)(params, (train[0][at], train[1][at]))
        updates, state = optimizer.update(gradients, state, params)
        return (optax.apply_updates(params, updates), state), None

    @jax.jit
    def run(params: Any) -> Any:
        carry = params, optimizer.init(params)
        return jax.lax.scan(step, carry, jnp.arange(options.steps))[0][0]

    return run(params)


def along(loss: Callable[..., jax.Array], a: Any, b: Any) -> np.ndarray:
    """The training loss along the line through two networks."""

    def at(t: jax.Array) -> jax.Array:
        return loss(jax.tree.map(lambda x, y: (1 - t) * x + t * y, a, b))

    return np.asarray(jax.jit(lambda ts: jax.lax.map(at, ts))(jnp.asarray(ALONG)))


def ways(ends: dict[str, Any]) -> dict[str, np.ndarray]:
    """From SGD's end to each other one, and one that is drawn."""
    flat = {name: np.asarray(ravel_pytree(end)[0], np.float64) for name, end in ends.items()}
    start = flat.pop("SGD")
    drawn = np.random.default_rng(0).normal(size=start.shape)
    return {**{name: end - start for name, end in flat.items()}, "drawn": drawn}


def steep_part(way: np.ndarray, steep: Curvature) -> float:
    """The part of a way's squared length in the leading directions."""
    return float(1 - np.sum(steep.flat(way) ** 2) / np.sum(way**2))


def table(
    ends: dict[str, Any], fn: Any, train: Any, test: Any, left: dict[str, int],
    graph: jp.ChannelGraph, steep: Curvature, lines: dict[str, np.ndarray],
) -> Table:  # fmt: skip
    """All that is printed."""
    units = f"{sum(left.values())} of {int(graph.sizes.sum())}"
    shown = Table(
        title=f"{units} units left by sDprun; curvatures {steep.values[0]:.3g} to "
        f"{steep.values[-1]:.3g}"
    )
    for column in ("network", "loss", "test", "highest loss on the line", "steep part of the way"):
        shown.add_column(column)
    way = ways(ends)
    for name, params in ends.items():
        out, right = (fn({"params": params}, part[0]) for part in (train, test))
        between = (ALONG >= 0) & (ALONG <= 1)
        shown.add_row(
            name,
            f"{float(cross_entropy(out, train)):.4f}",
            f"{float(accuracy(right, test)):.1%}",
            f"{lines[name][between].max():.4f}" if name in lines else "",
            f"{steep_part(way[name], steep):.2%}" if name in way else "",
        )
    shown.add_row("drawn at random", "", "", "", f"{steep_part(way['drawn'], steep):.2%}")
    return shown


def draw(
    path: Path, lines: dict[str, np.ndarray], steep: Curvature, way: dict[str, np.ndarray]
) -> None:
    """The loss along the lines, and how the ways lie in the steep directions."""
    title = "Directional pruning stays in the valley of SGD"
    with style.figure(path, (8.4, 3.6), title, "small MLP on the digits") as figure:
        loss, part = figure.subplots(1, 2)
        for (name, line), (colour, _) in zip(lines.items(), style.SERIES, strict=False):
            loss.plot(ALONG, line, color=colour, label=name)
        loss.set(xlabel="from SGD's end (0) to the other one (1)", ylabel="training loss")
        loss.set_yscale("log")
        loss.set_ylim(top=100)
        loss.legend(frameon=False, loc="upper left")
        for (name, each), (colour, marker) in zip(way.items(), style.SERIES, strict=False):
            cosines = np.abs(steep.directions @ each) / np.linalg.norm(each)
            part.plot(steep.values, cosines, marker, color=colour, label=name)
        part.set(xlabel="curvature of the direction", ylabel="|cosine| with the way")
        part.set_ylim(top=1.6 * part.get_ylim()[1])
        part.legend(frameon=False, loc="upper left")


if __name__ == "__main__":
    main()
