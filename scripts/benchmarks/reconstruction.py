"""LASSO selection and compensation of a VGG-16, beside the scikit-learn path of He et al. 2017.

A layer at a time, on the same inputs and targets: `ours` is coordinate descent on the normal
equations and a Cholesky solve of the moments; `scikit-learn` is what the released code does, the
LASSO on the rows of 400 positions (`warm_start`, random coordinates, λ doubled and then bisected)
and `LinearRegression` over all rows. Taking the statistics, which both need, is timed apart. To
half of the channels. Below, the whole network by `jp.Lasso` and `jp.Compensation`, from the images
to the refitted variables, at widths that are given; and `jp.CACP`: its whole search on the digits,
and on VGG-16 the repair and evaluation of ten episodes in one batch, and of ten by one each; only
an accelerator runs them side by side, a CPU one after another. Seconds on the wall, and of the
processor in this process, on which other work has less of a hold.

On two cores of an AMD EPYC (AVX2), JAX 0.10.2, float32, `OPENBLAS_NUM_THREADS=1`, nothing beside
it, n = 1; select and refit of one layer in milliseconds, from 500 images:

| channels | ours     | scikit-learn   | times as fast | same channels |
|----------|----------|----------------|---------------|---------------|
| 64       | 17, 10   | 128, 98        | 8             | 75 %          |
| 128      | 28, 19   | 437, 258       | 15            | 100 %         |
| 256      | 137, 96  | 3,600, 1,240   | 21            | 100 %         |
| 512      | 567, 641 | 17,400, 5,190  | 19            | 98.8 %        |

| whole                                           | wall  | processor | episodes a minute |
|-------------------------------------------------|-------|-----------|-------------------|
| LASSO of VGG-16, 1,000 images, statistics too   | 128 s | 224 s     |                   |
| compensation of VGG-16, 1,000 images, the same  | 94 s  | 129 s     |                   |
| CACP, digits, 800 episodes, beams, compilation  | 40 s  | 53 s      | 1,214             |
| CACP, VGG-16, 100 images, 10 episodes together  | 18 s  | 20 s      | 34                |
| CACP, VGG-16, 100 images, 10 episodes one by one| 19 s  | 21 s      | 32                |

The statistics of the four layers, which both paths need, took 34 s with compilation. On another
machine, with AVX-512 and a load of 14, LASSO took 5 to 31 minutes on the wall.
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
from benchmarks.rows import timed
from jaxprune import data, models
from jaxprune.data.augment import normalize
from jaxprune.methods.cacp import Repair
from jaxprune.reconstruction import least_squares
from jaxprune.statistics.gram import layers_of
from jaxprune.statistics.moments import moments

READERS = ("conv1_2", "conv2_2", "conv3_2", "conv4_2")
ROWS = 400
WHOLE_IMAGES = 1000
AGENT_IMAGES = 100


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
    agent(table, short=short)
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
        with timed() as took:
            jax.block_until_ready(method.prune(problem).variables)
        table.notes.append(f"{name}, the whole VGG-16, {WHOLE_IMAGES} images: {told(took)}.")


def agent(table: Table, *, short: bool) -> None:
    """CACP's search on the digits, and its episodes on VGG-16 side by side and one by one."""
    digits: Any = data.load("digits", heldout=200)
    shape = digits.train.images.shape[1:]
    module = models.build("vgg_small", num_classes=10, input_shape=shape)
    fn, variables = jp.functional(module, models.init(module, shape, jax.random.key(0)))
    pixels: dict[str, Any] = {"mean": digits.mean, "std": digits.std}
    images, held = (normalize(s.images, **pixels) for s in (digits.train, digits.heldout))
    problem = jp.Problem(
        jp.trace(fn, variables, images[:1]), fn, variables,
        [(images[i : i + 64], digits.train.labels[i : i + 64]) for i in range(0, 512, 64)],
        jp.Budget("params/8,macs/3"), heldout=[(held, digits.heldout.labels)],
    )  # fmt: skip
    method = jp.CACP(warmup=10, episodes=10, beam_rounds=1) if short else jp.CACP()
    with timed() as took:
        jax.block_until_ready(method.prune(problem).variables)
    episodes = method.warmup + method.episodes
    pace = [60 * episodes / took[name] for name in ("seconds", "processor")]
    table.notes.append(
        f"cacp on the digits, {episodes} episodes, the beams and all compilation: {told(took)}; "
        f"{pace[0]:.0f} episodes a minute, {pace[1]:.0f} of the processor."
    )
    if short:
        return
    _, fn, variables, x = shipped("vgg16", AGENT_IMAGES)
    graph = jp.trace(fn, variables, x[:1])
    batch = (x, jax.random.randint(jax.random.key(2), (len(x),), 0, 10))
    problem = jp.Problem(graph, fn, variables, [batch], jp.Budget("macs/2"), heldout=[batch])
    repair = Repair(problem, problem.prunable(), 10)
    rng = np.random.default_rng(0)
    low = np.maximum(graph.sizes // 4, 1)

    def scored(together: int) -> dict[str, float]:
        """Ten networks of widths that are new, so many side by side; compiled before."""
        widths = rng.integers(low, graph.sizes, (10 + together, len(low)))
        repair.scores(widths[:together])
        with timed() as took:
            for i in range(together, together + 10, together):
                repair.scores(widths[i : i + together])
        return took

    for name, together in (("side by side", 10), ("one by one", 1)):
        took = scored(together)
        pace = [600 / took[name] for name in ("seconds", "processor")]
        table.notes.append(
            f"cacp on VGG-16, {AGENT_IMAGES} images, repair and evaluation of 10 networks {name}: "
            f"{told(took)}; {pace[0]:.0f} episodes a minute, {pace[1]:.0f} of the processor."
        )


def told(took: dict[str, float]) -> str:
    """Both kinds of seconds."""
    return f"{took['seconds']:.0f} s, {took['processor']:.0f} s of the processor"
