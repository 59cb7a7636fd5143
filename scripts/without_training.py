r"""Accuracy with no training at all: one VGG-16, one set of widths a target, method beside method.

    TFDS_DATA_DIR=... python scripts/without_training.py FILE.safetensors --heldout IDS.txt \
        --out without_training.jsonl

FILE has the weights of a VGG-16 with BatchNorm that was trained on CIFAR-10 in PyTorch. 1,000
training images calibrate; of the held-out ones the first choose the widths (sensitivity, one
selection for all methods, so that rows differ in channels and repair alone) and the last measure.
The test part is not read. Each network is measured as the method leaves it, and with its BatchNorm
statistics taken anew from 512 of the calibration images. Rows that `--out` has are not done again;
the networks lie beside it, and `--finetune STEPS` trains each for so many steps of 128 images (all
training images, one seed, the learning rate falling from 0.01 with a cosine; `--precision`).
`--match METHOD` trains that of L1 until it is as good as METHOD's is as cut.

`merging` is neuron merging (Kim et al. 2020): each of the filters that L1 drops goes to the kept
one of the nearest direction, with the ratio of their norms behind BatchNorm, if their cosine is
above 0.1. `modhifi` keeps the channels of the highest `⟨Y, A_c⟩² / (‖A_c‖² ‖Y‖²)`, what a channel's
part A_c of the output Y tells of it (ModHiFi, 2025, arXiv 2511.19566), with the same least squares
as `greedy`. The rows of `own widths` find them themselves, to the target: CACP, whose repair at the
table's widths is `l1, reconstruction`, by `--episodes`, one agent for both rates of MACs, and CaP
by a bisection; both look at the first `--rewarding` of the images that choose.

A VGG-16 of 91.0 % on all 5,000 held-out images (52 epochs), of which 500 chose the widths and the
other 4,500 measured; accuracy in percent as left by the method and, after the stroke, with
BatchNorm statistics taken anew:

| method                   | macs/2      | macs/3      | params/8    | macs/3, after 150 steps |
|--------------------------|-------------|-------------|-------------|-------------------------|
| unpruned                 | 90.8        | 90.8        | 90.8        |                         |
| l1                       | 20.1 / 73.0 |  9.8 / 54.5 |  9.8 / 49.2 | 86.0                    |
| merging                  | 60.2 / 78.9 | 19.9 / 59.5 | 36.8 / 59.3 | 85.5                    |
| lasso                    | 88.6 / 88.6 | 85.5 / 85.7 | 86.5 / 86.2 | 86.4                    |
| l1, reconstruction       | 88.4 / 88.1 | 85.8 / 85.4 | –           | 87.0                    |
| modhifi, reconstruction  | 88.0 / 88.1 | 82.8 / 83.5 | 84.4 / 84.9 | 85.8                    |
| greedy, reconstruction   | 89.3 / 89.1 | 86.5 / 86.0 | 87.4 / 86.5 | 87.1                    |
| genetic, reconstruction  | 89.3 / 89.2 | 86.5 / 86.0 | 87.4 / 86.4 | 87.1                    |
| compensation, no rescale | 89.4 / 88.7 | 87.7 / 87.2 | 87.9 / 87.5 | –                       |
| compensation             | 89.4 / 88.7 | 87.6 / 87.2 | 88.0 / 87.5 | 87.9                    |
| compensation, shrunk     | 89.4 / 88.7 | 87.7 / 87.2 | 88.0 / 87.5 | –                       |
| compensation, own widths | –           | 87.7 / 87.5 | –           | 87.7                    |
| cacp, own widths         | 89.2 / 88.7 | 80.4 / 81.9 | –           | 85.9                    |

The standard error of a cell is half a point (0.7 for l1 and merging), of a difference up to 0.7;
one seed. CaP's compensation is the best, by 1.1 points at a third of the MACs, where that is hardly
two standard errors, and by less elsewhere; greedy elimination and the genetic search tie. LASSO and
L1 with the same refit are 0.6 to 1.0 points below these, less than two standard errors; so is the
ModHiFi score at half of the MACs, but it is behind at the other targets. What decides is the refit,
not the ranking: without it L1 keeps nothing, and merging and new statistics bring back a part. What
was refitted is better without BatchNorm anew, since it aimed at the statistics that the network
had. CaP with its rescaling and without is the same.

150 steps of training (19,200 images) even out most of it: from 85.5 to 87.9 %, where CaP gains
next to nothing, is ahead of L1 by 1.9 points, and has a refit (greedy, genetic, L1) 0.8 to 0.9
behind it, which is a tie. Its claims, of time and of data: with statistics and ranking it took 160
s of the processor and 1,000 images without labels; L1, trained for 240 s of it on 19,200 images,
was 1.6 points behind what CaP had as cut.

The widths that CaP finds itself are those of 3.50 M parameters, where the table's have 5.08 M, at
the same MACs and accuracy (200 images look, 4 steps a layer, 3 floors; 430 s of the processor).
CACP's one agent (320 episodes, where the paper has 800, each rewarded on 100 images; 690 s of the
processor with the search at the end, then 2 s for the other rate) cuts deepest in parameters: 2.75
and 1.76 M, the latter 8.4 times fewer at once with a third of the MACs, as no other row has, so
that its accuracy there is no ranking of the method.

A refit of 13 layers takes 12 to 15 s of the processor, the statistics before it 90, on two cores of
an AMD EPYC; LASSO 240. Not run: `--match`, the own widths of the other targets, a fine-tune at
these, and a ResNet-56, of which no trained weights were at hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmarks.rows import Rows, timed
from benchmarks.untrained import METHODS, OWN, TARGETS, Bench, l1
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from jaxprune.budget import Curves, allocate
from jaxprune.masks import keep_top
from jaxprune.methods.ranking import filter_norms
from jaxprune.statistics.sensitivity import sensitivity

KEPT = (0.1, 0.25, 0.5, 0.75)
EVERY, MOST = 25, 1000  # steps of the training that is to match a method


def curves_of(bench: Bench) -> Curves:
    """Sensitivity of each group on the choosing images, channels by L1."""
    norms = filter_norms(bench.problem.graph, bench.variables, 1)
    return sensitivity(bench.problem, lambda widths: keep_top(norms, widths), KEPT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy with no training at all.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--out", type=Path, default=Path("without_training.jsonl"))
    known = [*METHODS, *OWN]
    parser.add_argument("--methods", nargs="+", choices=known, default=known)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--choosing", type=int, default=500)
    parser.add_argument("--measuring", type=int, default=4500)
    parser.add_argument("--positions", type=int, default=10)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--episodes", type=int, default=800, help="of CACP, 3/8 of them at random")
    parser.add_argument("--beam", type=int, default=5, help="rounds of CACP's search at the end")
    parser.add_argument("--rewarding", type=int, help="choosing images that own widths look at")
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help="after the cut")
    parser.add_argument("--learning-rate", type=float, default=0.01, help="of the fine-tune")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--match", metavar="METHOD", help="trains l1 until it is as good as this")
    args = parser.parse_args()
    rows = Rows(args.out)
    bench = Bench(args)
    if ("", "unpruned", 0) not in rows.done:
        with timed() as took:
            accuracy = bench.accuracy(bench.variables)
        rows.keep("", "unpruned", 0, {"cut": accuracy, **took})
    if any((target, "widths", 0) not in rows.done for target in args.targets):
        curves = curves_of(bench)
        for target in args.targets:
            if (target, "widths", 0) not in rows.done:
                widths = allocate(curves, bench.problem.graph, jp.Budget(target)).widths
                cost = bench.problem.graph.cost(widths)
                found = {"widths": widths, "params": cost.params, "macs": cost.macs}
                rows.keep(target, "widths", 0, found)
    for method in args.methods:
        for target in args.targets:
            row(bench, rows, method, target)
    if args.match:
        for target in args.targets:
            match(bench, rows, args.match, target)
    report(rows.done, args)


def row(bench: Bench, rows: Rows, method: str, target: str) -> None:
    """Cuts and measures; then trains what was cut, and measures again."""
    steps = bench.args.finetune
    if (target, method, 0) in rows.done and (not steps or (target, method, steps) in rows.done):
        return
    small = rows.network(target, method)
    if small is None:
        widths = rows.done[target, "widths", 0]["widths"]
        with timed() as took:
            own = OWN.get(method)
            found = own(bench, target) if own else METHODS[method](bench, widths)
            jax.block_until_ready(found)
        pruned = bench.problem.graph.slice(*found)
        small = pruned.variables
        rows.save(target, method, small)
        if (target, method, 0) not in rows.done:
            cost, anew = bench.problem.graph.cost(found[1]), bench.anew(small)
            result = {"cut": bench.accuracy(small), "anew": bench.accuracy(anew), **took}
            size = {"params": cost.params, "macs": cost.macs, "widths": dict(pruned.widths)}
            rows.keep(target, method, 0, result | size)
    if steps and (target, method, steps) not in rows.done:
        with timed() as took:
            state = jax.block_until_ready(bench.trained(small, steps))
        rows.keep(target, method, steps, {"cut": bench.accuracy(state.variables), **took})


def match(bench: Bench, rows: Rows, method: str, target: str) -> None:
    """Steps and seconds of training after which L1's network is as good as another one, as cut."""
    name = f"l1, until {method}"
    if (target, name, 0) in rows.done:
        return
    wanted, small = rows.done[target, method, 0]["cut"], rows.network(target, "l1")
    if small is None:
        small = bench.problem.graph.slice(*l1(bench, rows.done[target, "widths", 0]["widths"]))
        small = small.variables
    state, accuracy, total = None, 0.0, {"seconds": 0.0, "processor": 0.0}
    for end in range(EVERY, MOST + 1, EVERY):
        with timed() as took:
            state = jax.block_until_ready(bench.trained(small, MOST, state, end))
        total = {name: total[name] + took[name] for name in total}
        accuracy = bench.accuracy(state.variables)
        if accuracy >= wanted:
            break
    assert state is not None
    result = {"cut": accuracy, "wanted": wanted, "trained": int(state.step)}
    rows.keep(target, name, 0, result | total)


def report(done: dict[tuple[str, str, int], Any], args: argparse.Namespace) -> None:
    """The table: per target as left, with BatchNorm anew, fine-tuned, and the cut's seconds."""
    unpruned = done["", "unpruned", 0]["cut"]
    error = np.sqrt(unpruned * (1 - unpruned) / args.measuring)
    title = f"unpruned {100 * unpruned:.2f} %, standard error {100 * error:.2f}"
    table = Table("method", *(f"{t}: cut, anew, tuned, s" for t in args.targets), title=title)
    for method in (*METHODS, *OWN):
        cells = []
        for target in args.targets:
            row = done.get((target, method, 0))
            tuned = done.get((target, method, args.finetune)) if args.finetune else None
            parts = [row["cut"], row["anew"]] if row else []
            parts += [tuned["cut"]] if tuned else []
            text = " ".join(f"{100 * part:.1f}" for part in parts)
            cells.append(f"{text} {row['seconds']:.0f}" if row else "–")
        table.add_row(method, *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
