"""Normalisers and floors of the criteria that rank units over the whole network, on a trained run.

    python scripts/ranking_options.py runs/digits_vgg --targets params/4 macs/2

Accuracy on the held-out images with BatchNorm statistics taken anew and nothing fine-tuned, for
every criterion, normaliser, floor and target; everything runs under masks, so that one program
serves all of it. One seed. VGG-16 on CIFAR-10 (91.0 % held out, 512 calibration images, 500 held
out), params/4 and macs/2, in percent at floors 0, 0.25, 0.5, 0.75:

    normaliser    l1              taylor          fisher          batchnorm_scale random
    none          14 50 65 63     10 25 48 59     10 40 53 58     11 12 16 23     42 42 42 42
    mean          37 37 37 37     54 54 54 52     55 55 54 53     36 36 36 36     42 42 42 42
    max           27 51 55 55     26 59 56 60     47 59 57 55     11 12 14 19     42 42 42 42
    sum           13 48 65 70     34 34 50 56     59 59 60 59     10 47 61 62     83 83 83 83
    l2            35 50 65 71     51 53 53 59     60 60 59 59     10 47 61 62     69 69 69 69

The small VGG on the digits (98.0 %, 200 held out), params/6 and macs/4, the same floors:

    none          38 54 26 34     17 21 36 41     18 20 33 38     40 40 39 37     19 19 28 34
    mean          55 55 55 55     39 39 39 39     30 30 30 33     54 54 54 54     40 40 40 40
    max           22 27 34 34     32 32 42 46     35 35 34 41     26 31 30 39     39 39 39 39
    sum           18 31 44 55     13 22 39 41     31 31 31 41     20 53 70 67     65 65 61 64
    l2            18 31 44 60     28 28 38 46     34 34 34 41     20 53 70 67     61 61 61 58

By these the defaults are `l2` (that of the paper for `taylor`; no other is as good everywhere)
and a floor of 0.5: with it no criterion takes a network to chance, and it is the highest that
leaves the widths as they are which sensitivity finds in the digits' main job. At random widths of
`sum` a VGG-16 keeps more than by any criterion: before a fine-tune, widths matter more than which
units stay.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
from pathlib import Path
from typing import get_args

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprune import pipeline
from jaxprune.masks import Masks
from jaxprune.methods import METHODS, Criterion
from jaxprune.methods.ranking import Normaliser, select
from jaxprune.methods.rounds import under_masks, with_masks
from jaxprune.pipeline.folder import problem_of
from jaxprune.train.batchnorm import recalibrate

FLOORS = (0.0, 0.125, 0.25, 0.5, 0.75)


def main() -> None:
    parser = argparse.ArgumentParser(description="Normalisers and floors of the criteria.")
    parser.add_argument("run", type=Path)
    parser.add_argument("--targets", nargs="+", default=["params/4", "macs/2"])
    parser.add_argument("--criteria", nargs="+", default=None)
    parser.add_argument("--images", type=int, default=2000, help="held-out images at most")
    arguments = parser.parse_args()
    run = pipeline.open_run(arguments.run)
    problem = problem_of(run, pipeline.train(run))
    network = under_masks(run.graph)(run.network)
    images = run.draw(512, purpose=0xF1008).images
    heldout = run.data.heldout.take(np.arange(min(arguments.images, len(run.data.heldout))))

    def accuracy(masks: Masks) -> float:
        fresh = recalibrate(
            network, with_masks(problem.variables, masks), images,
            mean=run.data.mean, std=run.data.std,
        )  # fmt: skip
        return float(run.correct(network, fresh, heldout).mean())

    kinds = {name: kind for name, kind in METHODS.items() if issubclass(kind, Criterion)}
    rows = []
    for name in arguments.criteria or kinds:
        scores = kinds[name]().scores(problem)
        for normaliser, floor, targets in itertools.product(
            get_args(Normaliser), FLOORS, arguments.targets
        ):
            budget = dataclasses.replace(run.budget, targets=targets, floor=floor)
            masks = select(run.graph, scores, budget, normaliser)
            least = min(run.graph.widths(masks).values())
            rows.append(
                {"criterion": name, "normaliser": normaliser, "floor": floor, "targets": targets}
                | {"accuracy": accuracy(masks), "narrowest": least}
            )
        with (arguments.run / "ranking_options.jsonl").open("a") as log:
            log.writelines(json.dumps(row) + "\n" for row in rows if row["criterion"] == name)
        table = Table("normaliser", *(f"floor {f:g}" for f in FLOORS), title=name)
        for normaliser in get_args(Normaliser):
            cells = [
                [r["accuracy"] for r in rows
                 if (r["criterion"], r["normaliser"], r["floor"]) == (name, normaliser, floor)]
                for floor in FLOORS
            ]  # fmt: skip
            table.add_row(normaliser, *(" ".join(f"{a:.1%}" for a in cell) for cell in cells))
        Console(highlight=False, width=120).print(table)


if __name__ == "__main__":
    main()
