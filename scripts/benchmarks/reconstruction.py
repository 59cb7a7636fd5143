"""LASSO selection and compensation of a VGG-16, beside the scikit-learn path of He et al. 2017.

A layer at a time, on the same inputs and targets: `ours` is coordinate descent on the normal
equations and a Cholesky solve of the moments; `scikit-learn` is what the released code does, the
LASSO on the rows of 400 positions (`warm_start`, random coordinates, λ doubled and then bisected)
and `LinearRegression` over all rows. Taking the statistics, which both need, is timed apart. To
half of the channels. The last rows are the whole network by `jp.Lasso` and `jp.Compensation`, from
the images to the refitted variables, at widths that are given.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, LinearRegression

import jaxprune as jp
from benchmarks.common import Table, Times
from benchmarks.networks import shipped
from jaxprune.reconstruction import least_squares
from jaxprune.statistics.gram import layers_of
from jaxprune.statistics.moments import moments

READERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
ROWS = 400
WHOLE_IMAGES = 1000


def measure(*, short: bool) -> Table:
    """Seconds of one layer each, and of the whole network."""
    name, images = ("vgg_small", 64) if short else ("vgg16", 500)
    readers = ("conv1_2",) if short else READERS
    _, fn, variables, x = shipped(name, images)
    graph = jp.trace(fn, variables, x[:1])
    problem = jp.Problem(graph, fn, variables, [x], jp.Budget())
    groups = {f"params/{r[:-1]}1/kernel[3]": f"params/{r}/kernel" for r in readers}

    began = time.perf_counter()
    found = moments(problem, groups=list(groups), positions=10)
    table = Table(f"LASSO and least squares of one layer to half its channels, {images} images")
    seconds = time.perf_counter() - began
    table.notes.append(f"Statistics of all these layers, compilation included: {seconds:.1f} s.")

    @jax.jit
    def rows_of(variables: Any, x: Any, key: Any) -> Any:
        layers = layers_of(graph, fn, variables, x, key, positions=10)
        return {group: (layers[group][0].inputs, layers[group][0].kernel) for group in groups}

    read = rows_of(variables, x, jax.random.fold_in(problem.key, 0))
    for group in groups:
        (layer,) = found[group]
        inputs, kernel = map(np.asarray, read[group])
        keep = graph.groups[group].size // 2
        jp.Lasso().select([layer], keep, 1e-3)  # compiled
        began = time.perf_counter()
        chosen, _ = jp.Lasso().select([layer], keep, 1e-3)
        selected = time.perf_counter() - began
        least_squares(layer, chosen)
        ours = time.perf_counter() - began
        theirs, chose, kept = scikit_learn(inputs, kernel, keep)
        table.rows.append(
            {
                "channels": len(kernel), "ours, select": once(selected), "ours, refit":
                once(ours - selected), "scikit-learn, select": once(chose),
                "scikit-learn, refit": once(theirs - chose), "ratio": theirs / ours,
                "chosen alike": len(np.intersect1d(chosen, kept)) / keep,
            }
        )  # fmt: skip
    if not short:
        whole(table)
    return table


def once(seconds: float) -> Times:
    """One run: the large ones take long."""
    return Times(1, seconds, seconds, seconds)


def scikit_learn(
    inputs: np.ndarray, kernel: np.ndarray, keep: int
) -> tuple[float, float, np.ndarray]:
    """Seconds of the whole path and of its selection, and the channels that it keeps."""
    outputs = np.einsum("rct,cto->ro", inputs, kernel)
    began = time.perf_counter()
    rng = np.random.default_rng(0)
    drawn = rng.choice(len(inputs), min(ROWS, len(inputs)), replace=False)
    design = np.einsum("rct,cto->roc", inputs[drawn], kernel).reshape(-1, len(kernel))
    target = outputs[drawn].ravel()
    solver = Lasso(warm_start=True, selection="random", random_state=0)

    def left(alpha: float) -> np.ndarray:
        solver.alpha = alpha
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solver.fit(design, target)
        return np.flatnonzero(solver.coef_)

    low, high = 0.0, 1e-3
    while len(left(high)) > keep:
        low, high = high, 2 * high
    kept = left(high)
    for _ in range(20):
        if keep <= len(kept) <= 1.1 * keep:
            break
        middle = (low + high) / 2
        kept = left(middle)
        low, high = (middle, high) if len(kept) > keep else (low, middle)
    selected = time.perf_counter() - began
    LinearRegression(copy_X=False).fit(inputs[:, kept].reshape(len(inputs), -1), outputs)
    return time.perf_counter() - began, selected, kept


def whole(table: Table) -> None:
    """Both methods on the whole network, half of each group kept."""
    _, fn, variables, x = shipped("vgg16", WHOLE_IMAGES)
    graph = jp.trace(fn, variables, x[:1])
    widths = {name: group.size // 2 for name, group in graph.groups.items()}
    batches = [x[i : i + 250] for i in range(0, WHOLE_IMAGES, 250)]
    methods: dict[str, Any] = {"lasso": jp.Lasso(), "compensation": jp.Compensation()}
    for name, method in methods.items():
        problem = jp.Problem(graph, fn, variables, batches, jp.Budget(widths=widths))
        began = time.perf_counter()
        jax.block_until_ready(method.prune(problem).variables)
        seconds = time.perf_counter() - began
        table.notes.append(f"{name}, the whole VGG-16, {WHOLE_IMAGES} images: {seconds:.0f} s.")
