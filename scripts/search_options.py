"""The plain genetic algorithm and each option of it apart, on the trained network of a run.

    python scripts/search_options.py runs/digits_vgg

All at the run's widths, from the same calibration images. The error is what the readers' outputs
lose (a fraction of their energy), the mean over the pruned groups, on the full Gram matrices of
calibration images that no row has chosen on; it is that of the old weights, which reconstruction
replaces. The accuracies are on the held-out images, as cut and
with BatchNorm statistics taken anew; nothing is fine-tuned.

On the digits (`jaxprune run configs/digits_vgg.py`, seed 0), one network, n = 1, accuracies on 200
held-out images: differences of a few points are noise.

| choice                                    | layer error | as cut | recalibrated |
|-------------------------------------------|-------------|--------|--------------|
| plain genetic search                      | 0.2647      | 28.0 % | 85.0 %       |
| + heuristic seeds                         | 0.2647      | 28.0 % | 85.0 %       |
| + polish (the default)                    | 0.2647      | 28.0 % | 85.0 %       |
| + polish + reconstruction                 | 0.3138      | 98.5 % | 98.0 %       |
| plain, block-diagonal Hessian             | 0.2978      | 21.5 % | 72.0 %       |
| another evosax algorithm, SimpleGA        | 0.2687      | 31.5 % | 79.0 %       |
| + polish, 32 calibration images           | 0.2717      | 16.0 % | 76.5 %       |
| + polish, 128 calibration images          | 0.2644      | 10.0 % | 90.0 %       |
| greedy elimination                        | 0.2673      | 29.5 % | 87.0 %       |
| L1                                        | 0.3641      | 14.0 % | 58.5 %       |
| random                                    | 0.3909      | 11.0 % | 58.0 %       |

Reconstruction chooses by the error after the readers' kernels are refitted to the kept channels,
which is what makes its network work as cut (`--method.search.reconstruction`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprune import pipeline
from jaxprune.budget import Budget
from jaxprune.methods import Genetic, get
from jaxprune.pipeline import stages
from jaxprune.problem import Method, Problem
from jaxprune.search import SearchConfig
from jaxprune.statistics import grams
from jaxprune.train.batchnorm import recalibrate

PLAIN = SearchConfig(polish=False)
SEARCHES = {
    "plain": PLAIN,
    "+ heuristic seeds": dataclasses.replace(PLAIN, seeds="heuristic"),
    "+ polish (the default)": SearchConfig(),
    "+ polish + reconstruction": SearchConfig(reconstruction=True),
    "plain, block-diagonal": dataclasses.replace(PLAIN, hessian="block_diagonal"),
    "another algorithm: SimpleGA": dataclasses.replace(PLAIN, algorithm="SimpleGA"),
}
CALIBRATION = (32, 128)
RIVALS = ("greedy", "l1", "random")


def main() -> None:
    parser = argparse.ArgumentParser(description="The search's options apart, on a finished run.")
    parser.add_argument("run", type=Path)
    arguments = parser.parse_args()
    run = pipeline.open_run(arguments.run)
    trained = pipeline.train(run)
    widths = run.graph.widths(pipeline.prune(run).masks)
    statistics = run.config.calibration
    images = statistics.images
    every = run.calibration(len(run.data.train), statistics.batch_size)
    unseen = every[images // statistics.batch_size :][: images // statistics.batch_size]
    budget = Budget(widths=widths)
    problem = Problem(run.graph, run.forward, trained, unseen, budget, key=jax.random.key(99))
    judge = grams(problem, positions=None)

    table = Table("choice", "layer error", "as cut", "recalibrated", "seconds")
    rows = []

    def judged(label: str, method: Method, count: int = images) -> None:
        batches = run.calibration(count, min(count, statistics.batch_size))
        began = time.perf_counter()
        selection = method.prune(dataclasses.replace(problem, batches=batches, key=run.key))
        seconds = time.perf_counter() - began
        errors = []
        for name in run.prunable():
            dropped = 1 - np.asarray(selection.masks[name], np.float64)
            if dropped.any():
                errors.append(dropped @ judge[name] @ dropped)
        pruned = run.graph.slice(selection.variables, selection.masks)
        network = stages.student(run, pruned)
        raw = float(run.correct(network, pruned.variables, run.data.heldout).mean())
        fresh = recalibrate(
            network,
            pruned.variables,
            run.data.train.take(np.arange(1000)).images,
            mean=run.data.mean,
            std=run.data.std,
        )
        again = float(run.correct(network, fresh, run.data.heldout).mean())
        rows.append(
            {"choice": label, "error": float(np.mean(errors)), "cut": raw, "recalibrated": again}
        )
        table.add_row(
            label, f"{np.mean(errors):.4f}", f"{raw:.1%}", f"{again:.1%}", f"{seconds:.1f}"
        )

    for label, config in SEARCHES.items():
        judged(label, Genetic(config))
    for count in CALIBRATION:
        judged(f"+ polish, {count} images", Genetic(), count)
    for name in RIVALS:
        judged(name, get(name)())
    console = Console(highlight=False)
    console.print(f"{run.config.name}, {images} calibration images, {jax.devices()[0].device_kind}")
    console.print(table)
    (arguments.run / "search_options.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
