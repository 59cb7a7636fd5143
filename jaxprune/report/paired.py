"""Differences in accuracy between networks over the same images, and how sure they are.

For each image the difference of two networks is −1, 0 or 1. Its mean has a 95 % interval by the
bootstrap over the images; where that holds 0 the difference is smaller than chance makes it, and is
called a tie. Over runs that differ in nothing but the seed there is Student's interval of the mean
over the seeds as well, which holds what another training would have changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text
from scipy import stats

from jaxprune.report.answers import PARTS, Answers
from jaxprune.report.table import NETWORKS, columns

SAMPLES = 10_000
_UNPAIRED = ("as_cut", "recalibrated")  # on the way to the pruned network, not beside it


@dataclass(frozen=True)
class Difference:
    """One accuracy minus another.

    Attributes:
      mean: of the difference.
      low: the lower end of its 95 % interval.
      high: the upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def tie(self) -> bool:
        """Whether the interval holds 0."""
        return self.low <= 0 <= self.high

    def __str__(self) -> str:
        points = (100 * self.mean, 100 * self.low, 100 * self.high)
        mean, low, high = (f"{p:+.2f}".replace("-", "−") for p in points)
        return f"{mean} ({low} to {high})" + (", a tie" if self.tie else "")


def difference(first: np.ndarray, second: np.ndarray, seed: int = 0) -> Difference:
    """The accuracy of one network minus that of another, over the images of both, bool [N].

    How often each value is drawn among N images is multinomial.

    >>> import numpy as np
    >>> print(difference(np.array([True] * 90 + [False] * 10), np.array([True] * 100)))
    −10.00 (−16.00 to −5.00)
    """
    gap = first.astype(int) - second
    values = np.array([-1, 0, 1])
    shares = np.array([np.mean(gap == value) for value in values])
    drawn = np.random.default_rng(seed).multinomial(len(gap), shares, size=SAMPLES)
    low, high = np.quantile(drawn @ values / len(gap), [0.025, 0.975])
    return Difference(float(gap.mean()), float(low), float(high))


def within(answers: Answers) -> dict[str, Difference]:
    """The pruned network of a run minus each of its others."""
    pruned = answers.right["pruned"]
    others = (n for n in answers.right if n not in ("pruned", *_UNPAIRED))
    return {name: difference(pruned, answers.right[name]) for name in others}


def between(answers: Mapping[str, Answers]) -> dict[tuple[str, str], Difference]:
    """The pruned network of each run minus that of every later one, by the runs' names."""
    names = list(answers)
    return {
        (first, second): difference(answers[first].right["pruned"], answers[second].right["pruned"])
        for i, first in enumerate(names)
        for second in names[i + 1 :]
    }


def over_seeds(answers: Sequence[Answers]) -> dict[str, Difference]:
    """The pruned network minus each other, the mean over runs of two seeds or more."""
    gaps = {
        name: [a.right["pruned"].mean() - a.right[name].mean() for a in answers]
        for name in within(answers[0])
        if all(name in a.right for a in answers)
    }
    found = {}
    for name, gap in gaps.items():
        mean, n = float(np.mean(gap)), len(gap)
        half = float(stats.t.ppf(0.975, n - 1) * np.std(gap, ddof=1) / np.sqrt(n))
        found[name] = Difference(mean, mean - half, mean + half)
    return found


def require_same_images(answers: Mapping[str, Answers]) -> None:
    """Checks that all runs answered for the same images.

    Raises:
      ValueError: two that did not.
    """
    (first, reference), *others = answers.items()
    for name, other in others:
        if (other.data, other.images) != (reference.data, reference.images):
            part = PARTS[reference.part]
            raise ValueError(
                f"{first} and {name} were measured on other {part} images ({reference.count} of "
                f"{reference.data}, {other.count} of {other.data}), which cannot be paired: "
                "compare runs of the same data and evaluation.images, or leave --paired out"
            )


@dataclass(frozen=True)
class Pairs:
    """What runs say of the same images.

    Attributes:
      answers: of each run, by its label.
      seeds: labels of runs that differ in their seed alone → the pruned network minus the others.
    """

    answers: Mapping[str, Answers]
    seeds: Mapping[tuple[str, ...], Mapping[str, Difference]]


def record(pairs: Pairs) -> dict[str, Any]:
    """The differences as JSON says them."""
    part, images = next((of.part, of.count) for of in pairs.answers.values())
    return {
        "part": part,
        "images": images,
        "runs": [
            {
                "label": label,
                "accuracies": {name: float(right.mean()) for name, right in of.right.items()},
                "pruned_minus": {name: _plain(gap) for name, gap in within(of).items()},
            }
            for label, of in pairs.answers.items()
        ],
        "between": [
            {"pruned": first, "minus": second, **_plain(gap)}
            for (first, second), gap in between(pairs.answers).items()
        ],
        "seeds": [
            {
                "runs": list(labels),
                "pruned_minus": {name: _plain(gap) for name, gap in gaps.items()},
            }
            for labels, gaps in pairs.seeds.items()
        ],
    }


def show(pairs: Pairs, console: Console | None = None) -> None:
    """Prints `render(pairs)` to the standard output, or to `console`."""
    (console or Console(highlight=False)).print(render(pairs))


def render(pairs: Pairs) -> RenderableType:
    """Accuracies of every network, the pruned ones beside all others: 80 columns are enough."""
    part, images = next((PARTS[of.part], of.count) for of in pairs.answers.values())
    tables: list[RenderableType] = [Text(f"paired over {images:,} {part} images", "bold"), ""]
    for label, of in pairs.answers.items():
        table = columns(label, "accuracy", "pruned minus it, points (95 %)")
        gaps = within(of)
        for name in (n for n in NETWORKS if n in of.right):
            gap = str(gaps[name]) if name in gaps else ""
            accuracy = f"{of.right[name].mean():.2%}"
            table.add_row(NETWORKS[name], accuracy, gap, style=None if gap else "bright_black")
        tables += [table, ""]
    if len(pairs.answers) > 1:
        table = columns("pruned, fine-tuned", "minus", "points (95 %)")
        for (first, second), gap in between(pairs.answers).items():
            table.add_row(first, second, str(gap))
        tables += [table, ""]
    for labels, gaps in pairs.seeds.items():
        title = f"mean of {len(labels)} seeds"
        table = columns(title, "accuracy (range)", "pruned minus it, points (95 %)")
        runs = [pairs.answers[label].right for label in labels]
        for name in (n for n in NETWORKS if all(n in run for run in runs)):
            each = [100 * run[name].mean() for run in runs]
            told = f"{np.mean(each):.2f}% ({min(each):.2f}–{max(each):.2f})"
            table.add_row(NETWORKS[name], told, str(gaps.get(name, "")))
        tables += [table, ""]
    return Padding(Group(*tables[:-1]), 1)


def _plain(gap: Difference) -> dict[str, Any]:
    return {"mean": gap.mean, "interval": [gap.low, gap.high], "tie": gap.tie}
