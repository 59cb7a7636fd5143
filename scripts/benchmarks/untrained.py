"""One VGG-16 and what prunes it with no training at all: the methods of `without_training.py`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import jaxprune as jp
from jaxprune import data, interop, models
from jaxprune.data.augment import normalize
from jaxprune.graph import paths
from jaxprune.masks import keep_top
from jaxprune.methods.compensation import compensated, ranking
from jaxprune.methods.lasso import normal_equations
from jaxprune.methods.ranking import filter_norms
from jaxprune.methods.widths import adjusted, greedy_chooser
from jaxprune.reconstruction import least_squares, refitted
from jaxprune.search import search_groups
from jaxprune.statistics.moments import Moments, moments
from jaxprune.train.batchnorm import recalibrate
from jaxprune.train.evaluate import correct
from jaxprune.train.loop import fit
from jaxprune.train.optimizer import OptimizerConfig
from jaxprune.train.state import TrainConfig

TARGETS = ("macs/2", "macs/3", "params/8")
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
        self.args = args
        self.shared: dict[str, Any] = {}

    def batches(self, split: Any, size: int) -> list[Any]:
        images = normalize(split.images, **self.pixels)
        return [
            (images[i : i + size], split.labels[i : i + size])
            for i in range(0, len(images) - size + 1, size)
        ]

    def at(self, budget: jp.Budget, images: int | None = None) -> jp.Problem:
        """The problem at another budget, with the first of the choosing images."""
        batches = list(self.problem.validation)
        heldout = batches if images is None else batches[: images // 100]
        return jp.Problem(**{**vars(self.problem), "budget": budget, "heldout": heldout})

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

    def network(self, variables: Any) -> Any:
        """All methods of one target share what is compiled."""
        shape = tuple(leaf.shape for leaf in jax.tree.leaves(variables))
        if shape not in self.networks:
            self.networks[shape] = models.network(models.from_variables(self.module, variables))
        return self.networks[shape]

    def accuracy(self, variables: Any, split: Any = None) -> float:
        """Of a small network."""
        split = self.measured if split is None else split
        right = correct(self.network(variables), variables, split, batch_size=250, **self.pixels)
        return float(right.mean())

    def anew(self, variables: Any) -> Any:
        """Small variables with BatchNorm statistics taken anew."""
        images = self.calibration.images[:RECALIBRATION]
        return recalibrate(self.network(variables), variables, images, **self.pixels)

    def trained(
        self, variables: Any, steps: int, state: Any = None, until: int | None = None
    ) -> Any:
        """The state after a fine-tune, of so many steps in all, on all training images."""
        split = self.data.train
        config = TrainConfig(
            epochs=steps / (len(split) // 128), batch_size=128, precision=self.args.precision,
            optimizer=OptimizerConfig(learning_rate=self.args.learning_rate),
        )  # fmt: skip
        network = self.network(variables)
        return fit(
            network, variables, split, config, seed=0, state=state, until=until, **self.pixels
        )


def lasso(bench: Bench, widths: Widths) -> Network:
    found = jp.Lasso(positions=bench.positions).prune(bench.at(jp.Budget(widths=widths)))
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


def l1_refitted(bench: Bench, widths: Widths) -> Network:
    return bench.repaired(l1(bench, widths)[1])


def cacp(bench: Bench, target: str) -> Network:
    """One agent for all targets in one quantity; the repair is that of `l1_refitted`."""
    quantity, _ = target.split("/")
    factors = {t: float(t.split("/")[1]) for t in TARGETS if t.split("/")[0] == quantity}
    episodes = bench.args.episodes
    method = jp.CACP(
        rates=tuple(1 / factor for factor in factors.values()), warmup=3 * episodes // 8,
        episodes=5 * episodes // 8, beam_rounds=bench.args.beam, positions=bench.positions,
    )  # fmt: skip
    if quantity not in bench.shared:
        bench.shared[quantity] = method.prune(bench.at(jp.Budget(target), bench.args.rewarding))
    found = bench.shared[quantity].figures[f"width_at_{1 / factors[target]:g}"]
    graph, budget = bench.problem.graph, jp.Budget(target)
    widths = adjusted(graph, budget, np.array([found[name] for name in graph.names]))
    return l1_refitted(bench, dict(zip(graph.names, widths.tolist(), strict=True)))


def compensation_searched(bench: Bench, target: str) -> Network:
    method = jp.Compensation(steps=4, floors=3, positions=bench.positions)
    found = method.prune(bench.at(jp.Budget(target), bench.args.rewarding))
    return found.variables, found.masks


METHODS: dict[str, Callable[[Bench, Widths], Network]] = {
    "l1": l1,
    "merging": merging,
    "l1, reconstruction": l1_refitted,
    "greedy, reconstruction": greedy,
    "modhifi, reconstruction": modhifi,
    "genetic, reconstruction": genetic,
    "lasso": lasso,
    "compensation": compensation("full"),
    "compensation, shrunk": compensation("shrunk"),
    "compensation, no rescale": compensation("none"),
}

OWN: dict[str, Callable[[Bench, str], Network]] = {
    "cacp, own widths": cacp,
    "compensation, own widths": compensation_searched,
}
"""Those that find their widths themselves, to a target."""
