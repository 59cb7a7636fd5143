"""The end of a run: accuracies on the test part, costs, latency, and the summary."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune import latency
from jaxprune.data import Split, Streamed
from jaxprune.graph import Pruned
from jaxprune.methods import name_of
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.lock import alone
from jaxprune.pipeline.stages import (
    as_cut,
    controlled,
    figures_of,
    load_pruned,
    recalibrated,
    selected,
    student,
    trained,
)
from jaxprune.pipeline.training import Variables
from jaxprune.report import plots
from jaxprune.report import summary as json_files
from jaxprune.report.progress import track
from jaxprune.train import evaluate as predictions
from jaxprune.train.network import Network

_PACKAGES = ("jaxprune", "jax", "flax", "optax", "evosax", "orbax-checkpoint")


@alone
def evaluate(run: Experiment) -> dict[str, Any]:
    """Reads the test part, once for every network of the run, and writes `summary.json`.

    Raises:
      FileNotFoundError: a stage before this one is not finished.
    """
    config = run.config
    baseline, pruned, control = trained(run), load_pruned(run), controlled(run)
    small = student(run, pruned)
    networks: dict[str, tuple[Network, Any]] = {
        "baseline_accuracy": (run.network, baseline),
        "pruned_accuracy_before_finetune": (small, as_cut(run).variables),
        "pruned_accuracy_before_finetune_recalibrated": (small, recalibrated(run).variables),
        "pruned_accuracy": (small, pruned.variables),
    }
    if control is not None:
        networks["control_accuracy"] = (run.network, control)
    with run.stage("evaluate"), track("evaluate", len(networks) + 1, "networks") as advance:
        test = run.data.test.first(config.evaluation.images)
        accuracies = {}
        for name, (network, variables) in networks.items():
            accuracies[name] = float(correct(run, network, variables, test).mean())
            advance(note=f"{name} {accuracies[name]:.2%}")
        before, after = _latencies(run, baseline, small, pruned)
        advance()
    whole, left = run.graph.cost(), run.graph.cost(pruned.widths)
    summary: dict[str, Any] = {
        "name": config.name,
        "method": name_of(config.method),
        "seed": config.seed,
        "out": str(run.folder),
        "test_images": len(test),
        **accuracies,
        "params_before": whole.params,
        "params_after": left.params,
        "macs_before": whole.macs,
        "macs_after": left.macs,
        "latency_before_ms": before,
        "latency_after_ms": after,
        "latency_batch": config.evaluation.latency_batch,
        "targets": dict(run.budget.factors),
        "slack": _slack(run, pruned),
        "layer_error": _layer_errors(run),
        "groups": pruned_groups(run),
        "widths": pruned.widths,
        "seconds": run.seconds(),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES},
            "device": jax.devices()[0].device_kind,
        },
    }
    if run.graph.latency is not None:
        widths = np.array([pruned.widths[name] for name in run.graph.names])
        summary["latency_predicted_ms"] = 1e3 * float(run.graph.latency(widths))
    _plot_tradeoff(run, summary)
    json_files.write(run.folder / "summary.json", summary)  # the last thing: the run is finished
    return summary


def correct(
    run: Experiment, network: Network, variables: Variables, split: Split | Streamed
) -> np.ndarray:
    """Which of a split's images one of the run's networks classifies as labelled, bool [N]."""
    return predictions.correct(
        network,
        variables,
        split,
        batch_size=run.config.evaluation.batch_size,
        mean=run.data.mean,
        std=run.data.std,
        mesh=run.mesh,
    )


def _slack(run: Experiment, pruned: Pruned) -> dict[str, float]:
    """Target → the unused fraction of what it allows."""
    costs = run.graph.costs(np.array([pruned.widths[name] for name in run.graph.names]))
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


def _latencies(
    run: Experiment, baseline: Variables, small: Network, pruned: Pruned
) -> tuple[float, float]:
    """Median milliseconds a batch, before and after, measured in turn."""
    config = run.config.evaluation
    shape = (config.latency_batch, *run.data.input_shape)
    images = jax.random.normal(run.key, shape, jnp.float32)
    calls = [
        latency.call_of(run.forward, baseline, (images,)),
        latency.call_of(lambda v, x: small.eval(v, x, None).logits, pruned.variables, (images,)),
    ]
    before, after = latency.time_in_turn(calls, rounds=config.latency_repeats)
    return 1e3 * before, 1e3 * after


_POINTS: Sequence[tuple[str, str, str | None]] = (
    ("baseline_accuracy", "unpruned", "reference"),
    ("control_accuracy", "control", "reference"),
    ("pruned_accuracy_before_finetune", "as cut", None),
    ("pruned_accuracy_before_finetune_recalibrated", "recalibrated", None),
    ("pruned_accuracy", "fine-tuned", "result"),
)


def _plot_tradeoff(run: Experiment, summary: dict[str, Any]) -> None:
    points = []
    for name, label, kind in _POINTS:
        if name in summary:
            size = "before" if kind == "reference" else "after"
            point = {"label": label, "accuracy": summary[name]}
            point |= {q: summary[f"{q}_{size}"] for q in ("params", "macs")}
            points.append(point | ({"kind": kind} if kind else {}))
    reference = {q: float(summary[f"{q}_before"]) for q in ("params", "macs")}
    claims = plots.claims(run.config.data.name, run.config.model.name)
    plots.tradeoff(run.folder / "plots" / "tradeoff.png", points, reference, claims)
