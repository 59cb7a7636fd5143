"""What `behaviour.json` says of runs, side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from jaxprune.files import read_json
from jaxprune.report.table import columns

FILE = "behaviour.json"
"""In the folder of a run."""


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """How the networks of a run behave.

    Raises:
      FileNotFoundError: it was not measured, with what does.
      ValueError: a damaged file.
    """
    path = Path(folder) / FILE
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} does not say how its networks behave ({FILE}): run `jaxprune evaluate "
            f"{folder} --behaviour` first"
        )
    return read_json(path)


def show(found: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """Prints the runs by their labels, the unpruned network's figure before the pruned one's."""
    runs = list(found.values())
    table = columns("unpruned → pruned", *found, width=None)
    classes = columns("accuracy by class", *found, width=None)
    for each in (table, classes):
        for column in each.columns[1:]:
            column.no_wrap, column.overflow = False, "fold"
    table.add_row("test accuracy", *(_change(run, "accuracy", _percent) for run in runs))
    worst = [_worst(run) for run in runs]
    table.add_row("the class that loses most", *worst)
    table.add_row("calibration error", *(_change(r, "calibration_error", _percent) for r in runs))
    tempered = (_change(run, "calibration_error_tempered", _percent) for run in runs)
    table.add_row("  with a temperature", *tempered)
    table.add_row("  the temperature", *(_change(run, "temperature", _plain) for run in runs))
    table.add_row("answers that differ, held out", *(_disagreement(run) for run in runs))
    for kind in runs[0]["pruned"]["corruptions"]:
        means = [
            [float(np.mean(run[network]["corruptions"][kind])) for network in _NETWORKS]
            for run in runs
        ]
        table.add_row(f"accuracy under {kind}", *(_arrow(m, _percent) for m in means))
    for name in dict.fromkeys(name for run in runs for name in run["supervisors"]):
        table.add_row(
            f"AUROC of {name}",
            *(_arrow(_pair(run["supervisors"].get(name)), _third) for run in runs),
        )
    if any(run["watermark"] for run in runs):
        table.add_row("watermark", *(run["watermark"] or "–" for run in runs))
    for k in range(len(runs[0]["pruned"]["classes"])):
        classes.add_row(
            f"class {k}", *(_arrow([r[n]["classes"][k] for n in _NETWORKS], _percent) for r in runs)
        )
    note = (
        "corruptions and supervisors: the mean of five strengths, and of the cases judged. In "
        "brackets the share of differing answers that is not exceeded with 95 % confidence."
    )
    whole = Group(table, "", classes, "", Text(note, style="bright_black"))
    (console or Console(highlight=False)).print(Padding(whole, 1))


_NETWORKS = ("unpruned", "pruned")


def _pair(of: Mapping[str, float] | None) -> list[float | None]:
    return [None if of is None else of[network] for network in _NETWORKS]


def _change(run: Mapping[str, Any], figure: str, form: Any) -> str:
    return _arrow([run[network][figure] for network in _NETWORKS], form)


def _arrow(values: Sequence[float | None], form: Any) -> str:
    if all(value is None for value in values):
        return "–"
    return " → ".join("–" if value is None else form(value) for value in values)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _plain(value: float) -> str:
    return f"{value:.2f}"


def _third(value: float) -> str:
    return f"{value:.3f}"


def _worst(run: Mapping[str, Any]) -> str:
    """The class whose accuracy falls most, and by how many points."""
    pairs = zip(*(run[network]["classes"] for network in _NETWORKS), strict=True)
    changes = [0.0 if before is None else after - before for before, after in pairs]
    k = int(np.argmin(changes))
    return f"{k}: {100 * changes[k]:+.1f} points".replace("-", "−")


def _disagreement(run: Mapping[str, Any]) -> str:
    of = run["disagreement"]
    return f"{_percent(of['share'])} (< {_percent(of['most'])})"
