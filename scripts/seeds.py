"""Runs one config with several seeds and prints what they agree on.

    python scripts/seeds.py configs/digits_vgg.py --seeds 5

Each run goes into `runs/NAME_seedN`; finished ones are read, not run again. The differences are
paired by seed; the intervals of their means are 95 % (Student's t).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from jaxprune import pipeline
from jaxprune.config import load

ACCURACIES = {
    "baseline_accuracy": "unpruned",
    "control_accuracy": "control",
    "pruned_accuracy_before_finetune": "as cut",
    "pruned_accuracy_before_finetune_recalibrated": "recalibrated",
    "pruned_accuracy": "pruned, fine-tuned",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="One config with several seeds.")
    parser.add_argument("config")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs"))
    arguments = parser.parse_args()

    base = load(arguments.config)
    summaries = []
    for seed in range(arguments.seeds):
        folder = arguments.out / f"{base.name}_seed{seed}"
        config = dataclasses.replace(base, seed=seed, out=str(folder))
        summaries.append(pipeline.run(config))
        print(f"seed {seed}: {summaries[-1]['pruned_accuracy']:.2%}", flush=True)

    def column(name: str) -> np.ndarray:
        return np.array([s[name] for s in summaries], float)

    console = Console(highlight=False)
    n = len(summaries)
    device = summaries[0]["versions"]["device"]
    table = Table("accuracy", "mean", "min", "max", title=f"{base.name}, n = {n}, {device}")
    for name, label in ACCURACIES.items():
        if name in summaries[0]:
            values = column(name)
            row = (f"{f(values):.2%}" for f in (np.mean, np.min, np.max))
            table.add_row(label, *row)
    console.print(table)

    differences = Table("pruned minus", "mean, points", "95 % interval")
    record = {}
    for name in ("baseline_accuracy", "control_accuracy"):
        if name in summaries[0]:
            gap = 100 * (column("pruned_accuracy") - column(name))
            half = stats.t.ppf(0.975, n - 1) * gap.std(ddof=1) / np.sqrt(n) if n > 1 else np.nan
            label = ACCURACIES[name]
            differences.add_row(label, f"{gap.mean():+.2f}", f"± {half:.2f}")
            record[name] = {"mean": gap.mean(), "half_interval": half, "each": gap.tolist()}
    console.print(differences)
    for quantity in ("params", "macs"):
        factors = column(f"{quantity}_before") / column(f"{quantity}_after")
        console.print(f"{quantity}: {factors.min():.2f}× to {factors.max():.2f}× fewer")
    seconds = [sum(s["seconds"].values()) for s in summaries]
    console.print(
        f"seconds a run: median {np.median(seconds):.0f}, {min(seconds):.0f} to {max(seconds):.0f}"
    )
    path = arguments.out / f"{base.name}_seeds.json"
    path.write_text(json.dumps({"n": n, "differences": record, "seconds": seconds}, indent=2))
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
