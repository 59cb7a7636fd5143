"""What a pruned network has to be held against: the controls of a run, and how sure the gaps are.

    python scripts/controls.py runs/cifar10_vgg16 --controls distilled plain

The run has come to the end of `finetune`. On the same data, each a training of its own that goes on
where it was:

- `distilled`: the unpruned network, fine-tuned with the same loss (the run's own control);
- `plain`: the unpruned network, fine-tuned with the cross-entropy alone;
- `scratch`, `scratch_distilled`: the pruned widths from random weights, as long as pre-training and
  fine-tuning together (Liu et al. 2019, arXiv 1810.05270), at the pre-training's learning rate.

Then the test part is read, once, for all of them. Differences are paired image by image, with a 95
% bootstrap interval over the images; an interval that holds 0 is a tie. The table goes into
`controls.json` of the run as well. With `--heldout` the held-out images are read in its place, into
`controls_heldout.json`: what the settings of a control are chosen by.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxprune import models, pipeline
from jaxprune.pipeline import stages, training
from jaxprune.pipeline.evaluation import correct
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.training import Training, Variables
from jaxprune.report import summary
from jaxprune.train.network import Network

CONTROLS = ("distilled", "plain", "scratch", "scratch_distilled")
SAMPLES = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--controls", nargs="+", default=CONTROLS[:2], choices=CONTROLS)
    parser.add_argument(
        "--pretraining", type=float, help="epochs that imported weights were trained for"
    )
    parser.add_argument(
        "--heldout", action="store_true", help="read the held-out images, not the test part"
    )
    arguments = parser.parse_args()
    run = pipeline.open_run(arguments.run)
    try:
        networks = trained(run, arguments.controls, arguments.pretraining)
    except pipeline.Stopped as stopped:
        raise SystemExit(f"controls: {stopped}") from None
    part = "held-out" if arguments.heldout else "test"
    images = run.data.heldout if arguments.heldout else run.data.test
    images = images.first(run.config.evaluation.images)
    report(run, {name: correct(run, *network, images) for name, network in networks.items()}, part)


def trained(
    run: Experiment, controls: list[str], pretraining: float | None
) -> dict[str, tuple[Network, Variables]]:
    """The unpruned network, the pruned one, and each control at the end of its training."""
    dense, pruned = stages.trained(run), stages.load_pruned(run)
    found = {
        "unpruned": (run.network, dense),
        "pruned": (stages.student(run, pruned), pruned.variables),
    }
    if "distilled" in controls:
        controlled = pipeline.control(run)
        if controlled is None:
            raise ValueError(f"{run.folder} is a run without a control; leave `distilled` out")
        found["distilled"] = (run.network, controlled)
    teacher = (run.network, dense)
    if "plain" in controls:
        plain = Training("control_plain", run.network, run.config.finetune)
        found["plain"] = (run.network, _train(run, plain, lambda: dense))
    small = models.from_pruned(run.module, pruned)
    for name in ("scratch", "scratch_distilled"):
        if name not in controls:
            continue
        network = models.network(small)
        longer = dataclasses.replace(
            run.config.train, epochs=_pretraining(run, pretraining) + run.config.finetune.epochs
        )
        guide = teacher if name == "scratch_distilled" else None
        fresh = Training(f"control_{name}", network, longer, guide, run.config.distill)
        key = jax.random.fold_in(run.key, 0x5C4A)

        def begin(key: jax.Array = key) -> Variables:
            return models.init(small, run.data.input_shape, key)

        found[name] = (network, _train(run, fresh, begin))
    return found


def _train(run: Experiment, of: Training, begin: Callable[[], Variables]) -> Variables:
    return training.train(run, of, jax.eval_shape(begin), begin)


def _pretraining(run: Experiment, epochs: float | None) -> float:
    if epochs is None and run.config.model.weights is not None:
        raise SystemExit(
            "controls: the run's weights were trained elsewhere; say for how many epochs with "
            "--pretraining"
        )
    return run.config.train.epochs if epochs is None else epochs


def interval(gap: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the mean of `gap`, values of -1, 0 and 1, over resampled images.

    How often each value is drawn among N images is multinomial.
    """
    values = np.array([-1, 0, 1])
    shares = np.array([np.mean(gap == value) for value in values])
    drawn = np.random.default_rng(seed).multinomial(len(gap), shares, size=SAMPLES)
    low, high = np.quantile(drawn @ values / len(gap), [0.025, 0.975])
    return float(low), float(high)


def report(run: Experiment, right: dict[str, np.ndarray], part: str) -> None:
    """Prints the table over images of `part` and writes it into the run folder."""
    console = Console(highlight=False)
    table = Table(
        "network", f"{part} accuracy", "pruned minus it, points", "95 % interval",
        title=f"{run.config.name}, {len(right['pruned'])} {part} images", title_justify="left",
    )  # fmt: skip
    record = {}
    for name, answers in right.items():
        gap = right["pruned"].astype(int) - answers
        low, high = interval(gap)
        shown = ["", ""]
        if name != "pruned":
            tie = ", a tie" if low <= 0 <= high else ""
            shown = [f"{100 * gap.mean():+.2f}", f"{100 * low:+.2f} to {100 * high:+.2f}{tie}"]
        table.add_row(name, f"{answers.mean():.2%}", *shown)
        record[name] = {
            "accuracy": float(answers.mean()),
            "pruned_minus": float(gap.mean()),
            "interval": [low, high],
        }
    console.print(table)
    path = Path(run.folder) / ("controls.json" if part == "test" else "controls_heldout.json")
    summary.write(path, record)
    console.print(f"written to {path}")


if __name__ == "__main__":
    main()
