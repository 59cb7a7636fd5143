"""Accuracy on the held-out images: what a setting of the fine-tune is chosen by.

    python scripts/heldout.py runs/a runs/b

Each run has come to the end of `finetune`. The test part is not read. The interval is that of the
difference to the first run, 95 %, paired image by image.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprune import pipeline
from jaxprune.pipeline.evaluation import correct
from jaxprune.pipeline.stages import load_pruned, student


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", nargs="+", help="folders of runs")
    arguments = parser.parse_args()
    table = Table("run", "held-out accuracy", "minus the first, points", "95 % interval")
    first = None
    for folder in arguments.runs:
        right = answers(folder)
        first = right if first is None else first
        gap = 100 * (right.astype(float) - first)
        half = 1.96 * gap.std() / np.sqrt(len(gap))
        shown = ("", "") if first is right else (f"{gap.mean():+.2f}", f"± {half:.2f}")
        table.add_row(folder, f"{right.mean():.2%}", *shown)
    Console(highlight=False).print(table)


def answers(folder: str) -> np.ndarray:
    """Which held-out images the pruned network classifies as their labels say, bool [N]."""
    run = pipeline.open_run(folder)
    pruned = load_pruned(run)
    return correct(run, student(run, pruned), pruned.variables, run.data.heldout)


if __name__ == "__main__":
    main()
