"""The end of a run: accuracies on the test part, costs, latency, and the summary."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import latency
from jaxprune.data import Split, Streamed
from jaxprune.files import read_json, write_json
from jaxprune.graph import Cost, Pruned
from jaxprune.graph.cost import QUANTITIES
from jaxprune.methods import name_of
from jaxprune.pipeline.controls import Trained, controlled
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.lock import exclusive
from jaxprune.pipeline.stages import (
    TRAINING,
    as_cut,
    figures_of,
    load_pruned,
    recalibrated,
    selected,
    student,
    trained,
)
from jaxprune.pipeline.training import Variables
from jaxprune.report import plots
from jaxprune.report.answers import Answers, Part
from jaxprune.report.answers import write as write_answers
from jaxprune.report.progress import Advance, track
from jaxprune.report.table import FIGURES, SHORT
from jaxprune.train.network import Network

_PACKAGES = ("jaxprune", "jax", "flax", "optax", "evosax", "orbax-checkpoint")


@exclusive
def evaluate(run: Experiment) -> dict[str, Any]:
    """Reads the test part, once for every network of the run, and writes `summary.json`.

    Raises:
      FileNotFoundError: a stage before this one is not finished.
    """
    config = run.config
    networks = _networks(run)
    with run.stage("evaluate"), track("evaluate", len(networks) + 1, "networks") as advance:
        found = _answers(run, networks, "test", advance)
        before, after = _latencies(run, networks["unpruned"], networks["pruned"])
        advance()
    accuracies = {name: float(right.mean()) for name, right in found.right.items()}
    costs = {name: run.graph.cost(of.widths, of.kept) for name, of in networks.items()}
    whole, left, widths = costs["unpruned"], costs["pruned"], networks["pruned"].widths
    pruned = load_pruned(run)
    kept = run.budget.fits(run.graph, np.array([widths[name] for name in run.graph.names]))
    summary: dict[str, Any] = {
        "name": config.name,
        "method": name_of(config.method),
        "seed": config.seed,
        "out": str(run.folder),
        "test_images": found.count,
        **{figure: accuracies[name] for name, figure in FIGURES.items() if name in accuracies},
        "controls": {
            name: {
                "accuracy": accuracies[name],
                "params": costs[name].params,
                "macs": costs[name].macs,
            }
            for name in config.controls
        },
        "params_before": whole.params,
        "params_after": left.params,
        "macs_before": whole.macs,
        "macs_after": left.macs,
        "latency_before_ms": before,
        "latency_after_ms": after,
        "latency_batch": config.evaluation.latency_batch,
        # Where the method itself decides how much stays, nothing is missed.
        "targets": dict(run.budget.factors) if config.method.meets_budget or kept else {},
        **_bytes(run, whole, pruned),
        "slack": _slack(run, left, pruned),
        "layer_error": _layer_errors(run),
        "groups": pruned_groups(run),
        "widths": dict(widths),
        "seconds": run.seconds(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "device": jax.devices()[0].device_kind,
        },
    }
    if (run.folder / TRAINING).exists():
        summary["training"] = read_json(run.folder / TRAINING)
    if (predicted := latency.latency_of(run.graph)) is not None:
        units = np.array([widths[name] for name in run.graph.names])
        summary["latency_predicted_ms"] = 1e3 * float(predicted(units))
    _plot_tradeoff(run, summary)
    write_json(run.folder / "summary.json", summary)  # the last thing: the run is finished
    return summary


@exclusive
def evaluate_heldout(run: Experiment) -> Answers:
    """Reads the held-out images in place of the test part, for what settings are chosen by.

    Raises:
      FileNotFoundError: a stage before this one is not finished.
    """
    networks = _networks(run)
    with track("evaluate", len(networks), "networks") as advance:
        return _answers(run, networks, "heldout", advance)


def _networks(run: Experiment) -> dict[str, Trained]:
    """Every network of a run that is evaluated, by its name."""
    dense, pruned = trained(run), load_pruned(run)
    whole = {name: group.size for name, group in run.graph.groups.items()}
    on_the_way = {
        "as_cut": as_cut(run).variables,
        "recalibrated": recalibrated(run).variables,
        "pruned": pruned.variables,
    }
    small = student(run, pruned)
    return {
        "unpruned": Trained(run.network, dense, whole),
        **controlled(run, dense),
        **{
            name: Trained(small, tree, pruned.widths, pruned.kept())
            for name, tree in on_the_way.items()
        },
    }


def _answers(
    run: Experiment, networks: Mapping[str, Trained], part: Part, advance: Advance
) -> Answers:
    """Which images of a part each network classifies right; kept in the run folder."""
    split = run.data.heldout
    if part == "test":
        split = run.data.test.first(run.config.evaluation.images)
    right = {}
    for name, of in networks.items():
        right[name] = run.correct(of.network, of.variables, split)
        advance(note=f"{name} {right[name].mean():.2%}")
    answers = Answers(part, run.data.name, _fingerprint(split), right)
    write_answers(run.folder, answers)
    return answers


def _fingerprint(split: Split | Streamed) -> str:
    """SHA-256 of which images these are: of their pixels, or of their places on disk."""
    of = (split.images, split.labels) if isinstance(split, Split) else (split.positions,)
    hashed = hashlib.sha256(str(split.image_shape).encode())
    for array in of:
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def _bytes(run: Experiment, whole: Cost, pruned: Pruned) -> dict[str, int]:
    """The bytes of the parameters, where their form has changed or a target asks for them."""
    if not pruned.blocks and "bytes" not in run.budget.factors:
        return {}
    return {"bytes_before": whole.bytes, "bytes_after": pruned.bytes()}


def _slack(run: Experiment, left: Cost, pruned: Pruned) -> dict[str, float]:
    """Target → the unused fraction of what it allows."""
    costs = {
        **run.graph.costs(np.array([pruned.widths[name] for name in run.graph.names])),
        **{quantity: getattr(left, quantity) for quantity in QUANTITIES},
        "bytes": pruned.bytes(),
    }
    allowed = run.budget.limits_of(run.graph)
    return {quantity: max(0.0, 1 - float(costs[quantity]) / m) for quantity, m in allowed.items()}


def _layer_errors(run: Experiment) -> dict[str, float]:
    """What the plain search and each option after it reached, the mean over the prunable groups."""
    figures = figures_of(run)
    steps = {
        "plain search": "error_plain",
        "polished": "error_polished",
        "refitted": "error_refitted",
    }
    return {
        step: float(np.mean([figures[name].get(g, 0.0) for g in run.prunable()]))
        for step, name in steps.items()
        if figures.get(name)
    }


def pruned_groups(run: Experiment) -> dict[str, dict[str, float]]:
    """Size and kept units of each group that got narrower, with what its method says of it."""
    chosen = selected(run)
    widths = run.graph.widths(chosen.masks)
    told = {what: chosen.figures.get(what, {}) for what in ("error", "gap")}
    return {
        name: {
            "size": group.size,
            "kept": widths[name],
            **{what: figure[name] for what, figure in told.items() if name in figure},
        }
        for name, group in run.graph.groups.items()
        if widths[name] < group.size
    }


def _latencies(run: Experiment, dense: Trained, pruned: Trained) -> tuple[float, float]:
    """Median milliseconds a batch, before and after, measured in turn."""
    config = run.config.evaluation
    shape = (config.latency_batch, *run.data.input_shape)
    images = jax.random.normal(run.key, shape, jnp.float32)
    calls = [
        latency.call_of(partial(_logits, of.network), of.variables, (images,))
        for of in (dense, pruned)
    ]
    before, after = latency.time_in_turn(calls, rounds=config.latency_repeats)
    return 1e3 * before, 1e3 * after


def _logits(network: Network, variables: Variables, images: jax.Array) -> jax.Array:
    return network.eval(variables, images, None).logits


def _plot_tradeoff(run: Experiment, summary: dict[str, Any]) -> None:
    """Every network of the run as a point; what it is held against in grey."""
    points = []
    for name, figure in FIGURES.items():
        if name not in summary["controls"] and figure in summary:
            size = "before" if name == "unpruned" else "after"
            costs = {q: summary[f"{q}_{size}"] for q in ("params", "macs")}
            points.append({"label": SHORT[name], "accuracy": summary[figure], **costs})
    points[0]["kind"], points[-1]["kind"] = "reference", "result"
    for name, of in summary["controls"].items():
        points.append({"label": SHORT[name], "kind": "reference", **of})
    reference = {q: float(summary[f"{q}_before"]) for q in ("params", "macs")}
    claims = plots.claims(run.config.data.name, run.config.model.name)
    plots.tradeoff(run.folder / "plots" / "tradeoff.png", points, reference, claims)
