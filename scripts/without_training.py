r"""Accuracy with no training at all: one VGG-16, one set of widths a target, method beside method.

    TFDS_DATA_DIR=... python scripts/without_training.py FILE.safetensors --heldout IDS.txt \
        --out without_training.jsonl

FILE has the weights of a VGG-16 with BatchNorm that was trained on CIFAR-10 in PyTorch. 1,000
training images calibrate; of the held-out ones the first choose the widths (sensitivity, one
selection for all methods, so that rows differ in channels and repair alone) and the last measure.
The test part is not read. Each network is measured as the method leaves it, and with its BatchNorm
statistics taken anew from 512 of the calibration images. Rows that `--out` has are not done again.

`merging` is neuron merging (Kim et al. 2020): each of the filters that L1 drops goes to the kept
one of the nearest direction, with the ratio of their norms behind BatchNorm, if their cosine is
above 0.1. `modhifi` keeps the channels of the highest `⟨Y, A_c⟩² / (‖A_c‖² ‖Y‖²)`, what a channel's
part A_c of the output Y tells of it (ModHiFi, 2025, arXiv 2511.19566), with the same least squares
as `greedy`.

A VGG-16 of 91.0 % on all 5,000 held-out images (52 epochs), 200 of them chose the widths; accuracy
in percent as left by the method and, after the stroke, with BatchNorm statistics taken anew:

| method                   | macs/2      | macs/3      | params/8    |
|--------------------------|-------------|-------------|-------------|
| unpruned                 | 91.8        | 91.8        | 91.8        |
| greedy, reconstruction   | 89.3 / 87.7 | 86.7 / 85.4 | 87.9 / 85.8 |
| compensation, no rescale | 89.3 / 88.7 | 87.5 / 87.1 | 88.7 / 87.8 |
| compensation             | 89.3 / 88.7 | 87.8 / 87.1 | 88.3 / 87.8 |
| compensation, shrunk     | 89.3 / 88.7 | 87.9 / 87.1 | 88.3 / 87.8 |
| l1, on 2,000 images      | 20.7 / 74.6 |  9.8 / 54.9 |  9.8 / 49.6 |

1,000 held-out images, a standard error of one point; for `l1` 2,000, those among them, on which the
unpruned network has 91.65, with BatchNorm taken anew from 1,000. One seed. What decides is the
refit, not the ranking: CaP's and greedy elimination are alike within the error, and so is CaP with
and without its rescaling. It is better without BatchNorm anew, since it has aimed at the statistics
that the network had. The refit of 13 layers took 22 to 130 s on two cores of an AMD EPYC that other
work shared some eight times over; CaP's ranking, all of it, 18 minutes there. The other rows have
run on a narrow network alone, and no fine-tune after any; a ResNet-56 with trained weights was not
at hand.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from jaxprune import data, interop, models
from jaxprune.budget import Curves, allocate
from jaxprune.data.augment import normalize
from jaxprune.graph import paths
from jaxprune.masks import keep_top
from jaxprune.methods.compensation import compensated, ranking
from jaxprune.methods.lasso import normal_equations
from jaxprune.methods.ranking import filter_norms
from jaxprune.methods.widths import greedy_chooser
from jaxprune.reconstruction import least_squares, refitted
from jaxprune.search import search_groups
from jaxprune.statistics.moments import Moments, moments
from jaxprune.statistics.sensitivity import sensitivity
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.evaluate import correct

TARGETS = ("macs/2", "macs/3", "params/8")
KEPT = (0.1, 0.25, 0.5, 0.75)
SHAPE = (32, 32, 3)
RECALIBRATION = 512  # images of new BatchNorm statistics
MERGED = 0.1  # cosine above which a filter is merged

Layers = dict[str, list[Moments]]
Widths = dict[str, int]
Network = tuple[Any, dict[str, Any]]


class Bench:
    """The network, its data, and the statistics that several methods share."""

    def __init__(self, args: argparse.Namespace):
        self.data = data.load("cifar10", heldout=args.heldout)
        self.pixels: dict[str, Any] = {"mean": self.data.mean, "std": self.data.std}
        self.module: Any = models.build("vgg16", num_classes=10, input_shape=SHAPE)
        self.variables = interop.from_torch(args.weights, self.module)
        network = models.network(self.module)

        def forward(variables: Any, images: Any) -> Any:
            return network.eval(variables, images, None).logits

        rng = np.random.default_rng(0)
        drawn = rng.permutation(len(self.data.train))[: args.calibration]
        self.calibration = self.data.train.take(drawn)
        held = rng.permutation(len(self.data.heldout))
        self.measured = self.data.heldout.take(held[args.choosing :][: args.measuring])
        self.problem = jp.Problem(
            jp.trace(forward, self.variables, np.zeros((1, *SHAPE), np.float32)), forward,
            self.variables, self.batches(self.calibration, args.batch), jp.Budget(),
            key=jax.random.key(0),
            heldout=self.batches(self.data.heldout.take(held[: args.choosing]), 100),
        )  # fmt: skip
        self.networks: dict[tuple[int, ...], Any] = {}
        self.positions = args.positions
        self.shared: dict[str, Any] = {}

    def batches(self, split: Any, size: int) -> list[Any]:
        images = normalize(split.images, **self.pixels)
        return [
            (images[i : i + size], split.labels[i : i + size])
            for i in range(0, len(images) - size + 1, size)
        ]

    def at(self, widths: Widths) -> jp.Problem:
        return jp.Problem(**{**vars(self.problem), "budget": jp.Budget(widths=widths)})

    def moments(self) -> Layers:
        if "moments" not in self.shared:
            self.shared["moments"] = moments(self.problem, positions=self.positions)
        return self.shared["moments"]

    def grams(self) -> dict[str, np.ndarray]:
        return {
            name: normal_equations(layers, [one.kernel for one in layers]).gram
            for name, layers in self.moments().items()
        }

    def orders(self, widths: Widths) -> dict[str, np.ndarray]:
        """The greedy ranking is a path: what is ranked for one width serves all below it."""
        orders = self.shared.setdefault("orders", {})
        for name, layers in self.moments().items():
            width, size = widths[name], self.problem.graph.groups[name].size
            if width < size and orders.get(name, (0, None))[0] < width:
                orders[name] = width, ranking(layers, width)
        return {n: orders[n][1] if n in orders else np.arange(w) for n, w in widths.items()}

    def repaired(self, masks: dict[str, Any], how: Callable[..., Any] = least_squares) -> Network:
        """The network with every reader of a group refitted over what the masks keep."""
        variables = self.variables
        for name, layers in self.moments().items():
            kept = np.flatnonzero(np.asarray(masks[name]))
            for layer in layers if len(kept) < len(masks[name]) else ():
                fit = how(layer, kept)
                variables = refitted(self.problem.graph, variables, name, layer, kept, fit)
        return variables, masks

    def accuracies(self, variables: Any, masks: dict[str, Any]) -> tuple[float, float]:
        """Of the small network, as it is and with BatchNorm statistics taken anew."""
        pruned = self.problem.graph.slice(variables, masks)
        shape = tuple(pruned.widths.values())
        if shape not in self.networks:  # all methods of one target share what is compiled
            module = models.from_pruned(self.module, pruned)
            self.networks[shape] = models.network(module)
        network = self.networks[shape]
        images = self.calibration.images[:RECALIBRATION]
        anew = recalibrate(network, pruned.variables, images, **self.pixels)
        first, second = (
            correct(network, v, self.measured, batch_size=250, **self.pixels).mean()
            for v in (pruned.variables, anew)
        )
        return float(first), float(second)


def lasso(bench: Bench, widths: Widths) -> Network:
    found = jp.Lasso(positions=bench.positions).prune(bench.at(widths))
    return found.variables, found.masks


def compensation(rescale: Any) -> Callable[[Bench, Widths], Network]:
    def method(bench: Bench, widths: Widths) -> Network:
        scores = {name: -np.argsort(order) for name, order in bench.orders(widths).items()}
        masks = keep_top(scores, widths)
        return bench.repaired(masks, lambda layer, kept: compensated(layer, kept, rescale))

    return method


def genetic(bench: Bench, widths: Widths) -> Network:
    config = jp.SearchConfig(population=64, generations=100, bound=False)
    found = search_groups(bench.grams(), widths, jax.random.key(1), config)
    return bench.repaired(found.masks)


def greedy(bench: Bench, widths: Widths) -> Network:
    return bench.repaired(greedy_chooser(bench.grams())(widths))


def l1(bench: Bench, widths: Widths) -> Network:
    norms = filter_norms(bench.problem.graph, bench.variables, 1)
    return bench.variables, keep_top(norms, widths)


def modhifi(bench: Bench, widths: Widths) -> Network:
    scores = {}
    for name, layers in bench.moments().items():
        (layer,) = layers
        units = len(layer.kernel) // layer.taps
        products = layer.second * (layer.kernel @ layer.kernel.T)
        own = np.diagonal(products.reshape(units, layer.taps, units, layer.taps).sum((1, 3)))
        inner = (layer.cross * layer.kernel).reshape(units, -1).sum(1)
        scores[name] = np.square(inner) / np.maximum(own * layer.power.sum(), 1e-30)
    return bench.repaired(keep_top(scores, widths))


def merging(bench: Bench, widths: Widths) -> Network:
    variables = bench.variables
    masks = l1(bench, widths)[1]
    params, stats = bench.variables["params"], bench.variables["batch_stats"]
    kernels = {
        layer: np.array(tree["kernel"]) for layer, tree in params.items() if "kernel" in tree
    }
    order = list(bench.module.layers())
    for layer, after in zip(order, [*order[1:], "classifier"], strict=True):
        norm = layer.replace("conv", "bn")
        mask = np.asarray(masks[f"params/{layer}/kernel[3]"])
        kept, dropped = np.flatnonzero(mask), np.flatnonzero(mask == 0)
        filters = np.asarray(params[layer]["kernel"]).reshape(-1, len(mask))
        gain = np.asarray(params[norm]["scale"] / np.sqrt(stats[norm]["var"] + 1e-5))
        filters = filters * gain
        norms = np.maximum(np.linalg.norm(filters, axis=0), 1e-30)
        cosines = (filters / norms).T[dropped] @ (filters / norms)[:, kept]
        for i, unit in enumerate(dropped):
            best = int(np.argmax(cosines[i])) if len(kept) else 0
            if cosines[i, best] > MERGED:
                factor = norms[unit] / norms[kept[best]]
                kernels[after][..., kept[best], :] += factor * kernels[after][..., unit, :]
    fresh = {f"params/{layer}/kernel": kernel for layer, kernel in kernels.items()}
    leaves = [fresh.get(path, leaf) for path, leaf in paths.leaves(variables)]
    return jax.tree.structure(variables).unflatten(leaves), masks


METHODS: dict[str, Callable[[Bench, Widths], Network]] = {
    "l1": l1,
    "merging": merging,
    "greedy, reconstruction": greedy,
    "modhifi, reconstruction": modhifi,
    "genetic, reconstruction": genetic,
    "lasso": lasso,
    "compensation": compensation("full"),
    "compensation, shrunk": compensation("shrunk"),
    "compensation, no rescale": compensation("none"),
}


def curves_of(bench: Bench) -> Curves:
    """Sensitivity of each group on the choosing images, channels by L1."""
    norms = filter_norms(bench.problem.graph, bench.variables, 1)
    return sensitivity(bench.problem, lambda widths: keep_top(norms, widths), KEPT)


def main() -> None:
    parser = argparse.ArgumentParser(description="Accuracy with no training at all.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--heldout", required=True)
    parser.add_argument("--out", type=Path, default=Path("without_training.jsonl"))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--targets", nargs="+", default=list(TARGETS))
    parser.add_argument("--calibration", type=int, default=1000)
    parser.add_argument("--choosing", type=int, default=500)
    parser.add_argument("--measuring", type=int, default=4500)
    parser.add_argument("--positions", type=int, default=10)
    parser.add_argument("--batch", type=int, default=250)
    args = parser.parse_args()
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    done = {(r["target"], r["method"]): r for r in map(json.loads, lines)}
    bench = Bench(args)

    def keep(row: dict[str, Any]) -> None:
        done[row["target"], row["method"]] = row
        with args.out.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row["target"], row["method"], {k: v for k, v in row.items() if k != "widths"})

    if ("", "unpruned") not in done:
        began = time.perf_counter()
        network = models.network(bench.module)
        right = correct(network, bench.variables, bench.measured, batch_size=250, **bench.pixels)
        keep({"target": "", "method": "unpruned", "cut": float(right.mean()),
              "seconds": time.perf_counter() - began})  # fmt: skip
    if any((target, "widths") not in done for target in args.targets):
        curves = curves_of(bench)
        for target in args.targets:
            if (target, "widths") not in done:
                widths = allocate(curves, bench.problem.graph, jp.Budget(target)).widths
                cost = bench.problem.graph.cost(widths)
                keep({"target": target, "method": "widths", "widths": widths,
                      "params": cost.params, "macs": cost.macs})  # fmt: skip
    for method in args.methods:
        for target in args.targets:
            if (target, method) in done:
                continue
            began = time.perf_counter()
            variables, masks = METHODS[method](bench, done[target, "widths"]["widths"])
            jax.block_until_ready(variables)
            seconds = time.perf_counter() - began
            cut, anew = bench.accuracies(variables, masks)
            keep({"target": target, "method": method, "cut": cut, "anew": anew,
                  "seconds": seconds})  # fmt: skip
    report(done, args.targets)


def cell(row: dict[str, Any]) -> str:
    return f"{100 * row['cut']:.1f} {100 * row['anew']:.1f} {row['seconds']:.0f}"


def report(done: dict[tuple[str, str], Any], targets: list[str]) -> None:
    """The table: for each target, as left and with BatchNorm statistics taken anew."""
    unpruned = 100 * done["", "unpruned"]["cut"]
    table = Table("method", *(f"{t}: cut, anew, s" for t in targets), title=f"{unpruned:.2f} %")
    for method in METHODS:
        cells = []
        for target in targets:
            row = done.get((target, method))
            cells.append(
                f"{100 * row['cut']:.1f} {100 * row['anew']:.1f} {row['seconds']:.0f}"
                if row
                else "–"
            )
        table.add_row(method, *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
