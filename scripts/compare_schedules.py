"""Compares the pruning schedules on held-out images: same weights, same budget, same epochs.

    python scripts/compare_schedules.py configs/cifar10_schedules.py --seeds 2

Every schedule starts from the one network that a seed trains, and trains for as many epochs after
that as the config's fine-tune has, those between its rounds included. The test part is not read.
Runs go into `runs/NAME_SCHEDULE_seedN`; what is finished is read, not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from jaxprune import pipeline
from jaxprune.config import RunConfig, load
from jaxprune.methods import Genetic
from jaxprune.pipeline.evaluation import correct
from jaxprune.pipeline.stages import student

SCHEDULES = {
    "joint": {"name": "joint"},
    "layerwise": {"name": "layerwise"},
    "gradual, linear": {"name": "gradual", "decline": "linear"},
    "gradual, cubic": {"name": "gradual", "decline": "cubic"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The pruning schedules at equal epochs.")
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()
    base = load(arguments.config)

    right: dict[str, list[np.ndarray]] = {label: [] for label in ("unpruned", *SCHEDULES)}
    factors: dict[str, list[float]] = {label: [] for label in SCHEDULES}
    groups = len(pipeline.open_run(_with_schedule(base, "joint", 0, arguments.out)).prunable())
    for seed in range(arguments.seeds):
        first: Path | None = None
        for label in SCHEDULES:
            run = pipeline.open_run(_with_schedule(base, label, seed, arguments.out, groups))
            folder = run.folder
            if first is not None and not (folder / "checkpoints" / "train").exists():
                shutil.copytree(first / "checkpoints" / "train", folder / "checkpoints" / "train")
            dense = pipeline.train(run)
            if first is None:
                right["unpruned"].append(correct(run, run.network, dense, run.data.heldout))
                first = folder
            pipeline.prune(run)
            pruned = pipeline.finetune(run)
            small = student(run, pruned)
            right[label].append(correct(run, small, pruned.variables, run.data.heldout))
            whole, left = run.graph.cost(), run.graph.cost(pruned.widths)
            factors[label].append(whole.params / left.params)
            print(f"seed {seed}, {label}: {right[label][-1].mean():.2%}", flush=True)

    console = Console(highlight=False)
    table = Table(
        "schedule", "held-out accuracy", "minus joint, points", "95 % interval", "parameters",
        title=f"{base.name}, n = {arguments.seeds} seeds, {jax.devices()[0].device_kind}",
    )  # fmt: skip
    record = {}
    for label, answers in right.items():
        each = np.array([a.mean() for a in answers])
        gaps = [a.astype(float) - j for a, j in zip(answers, right["joint"], strict=True)]
        mean, half = _interval(gaps)
        shown = ("", "") if label == "joint" else (f"{100 * mean:+.2f}", f"± {100 * half:.2f}")
        fewer = f"{np.mean(factors[label]):.2f}× fewer" if label in factors else ""
        table.add_row(label, f"{each.mean():.2%}", *shown, fewer)
        record[label] = {"accuracy": each.tolist(), "minus_joint": mean, "half_interval": half}
    console.print(table)
    path = arguments.out / f"{base.name}_schedules.json"
    path.write_text(json.dumps(record, indent=2))
    console.print(f"written to {path}")


def _with_schedule(base: RunConfig, label: str, seed: int, out: Path, groups: int = 0) -> RunConfig:
    """The config with a schedule whose epochs between rounds are taken from the fine-tune."""
    assert isinstance(base.method, Genetic)
    schedule = dataclasses.replace(base.method.schedule, **SCHEDULES[label])
    rounds = {"joint": 0, "layerwise": groups, "gradual": schedule.rounds}[schedule.name]
    epochs = base.finetune.epochs - rounds * schedule.training.epochs
    return dataclasses.replace(
        base,
        method=dataclasses.replace(base.method, schedule=schedule),
        finetune=dataclasses.replace(base.finetune, epochs=epochs),
        seed=seed,
        out=str(out / f"{base.name}_{label.replace(', ', '_')}_seed{seed}"),
    )


def _interval(gaps: list[np.ndarray]) -> tuple[float, float]:
    """Mean over seeds and half a 95 % interval, from the images and, with seeds, from these too."""
    means = np.array([g.mean() for g in gaps])
    images = 1.96 * np.sqrt(np.mean([g.var() / len(g) for g in gaps]) / len(gaps))
    if len(gaps) < 2:
        return float(means.mean()), float(images)
    seeds = stats.t.ppf(0.975, len(gaps) - 1) * means.std(ddof=1) / np.sqrt(len(gaps))
    return float(means.mean()), float(max(images, seeds))


if __name__ == "__main__":
    main()
