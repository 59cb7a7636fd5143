"""Runs side by side: what their configs differ in, and what came out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxprune.report import plots
from jaxprune.report import summary as json_files
from jaxprune.report.progress import duration
from jaxprune.report.table import ACCURACIES, columns

_SKIPPED = ("name", "out")


@dataclass(frozen=True)
class Run:
    """What the folder of a run says of it.

    Attributes:
      label: the shortest end of its path that tells it from the other runs.
      config: its fields by dotted name.
      summary: its figures; None where it is not finished.
    """

    label: str
    config: Mapping[str, Any]
    summary: Mapping[str, Any] | None


def read(folders: Sequence[str | os.PathLike[str]]) -> list[Run]:
    """The runs in some folders, in their order.

    Raises:
      FileNotFoundError: a folder without `config.json`: it holds no run.
      ValueError: a damaged file, by its name; one folder twice.
    """
    paths = [Path(folder).resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("a run was named twice; compare it with others")
    runs = []
    for path, label in zip(paths, _labels(paths), strict=True):
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} is not the folder of a run: it has no config.json")
        summary = path / "summary.json"
        config = _flat(json_files.read(path / "config.json"))
        runs.append(Run(label, config, json_files.read(summary) if summary.exists() else None))
    return runs


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The config fields in which the runs differ, each with its value in every run.

    A field that a run's config does not have, as one of an older version, is None there.
    """
    names = dict.fromkeys(name for run in runs for name in run.config)
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {
        name: found
        for name, found in values.items()
        if name not in _SKIPPED and any(value != found[0] for value in found)
    }


def record(runs: Sequence[Run]) -> dict[str, Any]:
    """The comparison as JSON says it: `differences` by field, and `runs` with their summaries."""
    return {
        "differences": {n: list(v) for n, v in differences(runs).items()},
        "runs": [
            {"label": run.label, "finished": run.summary is not None, "summary": run.summary}
            for run in runs
        ],
    }


def show(runs: Sequence[Run], console: Console | None = None) -> None:
    """Prints `render(runs)` to the standard output, or to `console`."""
    (console or Console(highlight=False)).print(render(runs))


def render(runs: Sequence[Run]) -> RenderableType:
    """A column for each run: the fields that differ, accuracies, costs, seconds."""
    differing = differences(runs)
    fields = _table("config", runs)
    for name, values in differing.items():
        fields.add_row(name, *(_told(value) for value in values))
    if not differing:
        fields.add_row("no field differs")
    figures = _table("result", runs)
    figures.add_row("", *("" if run.summary else Text("unfinished", "yellow") for run in runs))
    for name, label in ACCURACIES.items():
        _row(figures, label, [_figure(run, name, "{:.2%}") for run in runs])
    for quantity, label in (("params", "parameters"), ("macs", "MACs per image")):
        _row(figures, label, [_cost(run, quantity, "", "{:,.0f}") for run in runs])
    _row(figures, "latency per batch", [_cost(run, "latency", "_ms", "{:,.2f} ms") for run in runs])
    _row(figures, "device", [_device(run) for run in runs])
    _row(figures, "time", [_time(run) for run in runs])
    return Padding(Group(fields, "", figures), 1)


def plot(path: str | os.PathLike[str], runs: Sequence[Run]) -> None:
    """Accuracy against cost of the finished runs, each against its own unpruned network.

    Raises:
      ValueError: none of the runs is finished.
    """
    points, claims = [], []
    for run in runs:
        if run.summary is None:
            continue
        costs = {
            q: run.summary[f"{q}_after"] / run.summary[f"{q}_before"] for q in ("params", "macs")
        }
        accuracy = run.summary["pruned_accuracy"]
        points.append({"label": run.label, "accuracy": accuracy, "kind": "result", **costs})
        claims.append(plots.claims(run.config.get("data.name"), run.config.get("model.name")))
    if not points:
        raise ValueError("none of these runs is finished: there is nothing to plot")
    shared = claims[0] if all(claim == claims[0] for claim in claims) else {}
    plots.tradeoff(path, points, {"params": 1.0, "macs": 1.0}, shared)


def _labels(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as it takes for all to differ."""
    depth = 1
    while len({p.parts[-depth:] for p in paths}) < len(paths):
        depth += 1
    return ["/".join(p.parts[-depth:]) for p in paths]


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of nested objects by their dotted names."""
    leaves: dict[str, Any] = {}
    for name, inner in value.items():
        dotted = f"{prefix}{name}"
        leaves |= _flat(inner, f"{dotted}.") if isinstance(inner, Mapping) else {dotted: inner}
    return leaves


def _table(first: str, runs: Sequence[Run]) -> Table:
    table = columns(first, *(run.label for run in runs), width=None)
    for column in table.columns[1:]:
        column.no_wrap, column.overflow = False, "fold"
    return table


def _row(table: Table, label: str, values: Sequence[str]) -> None:
    """A row, unless no run has anything to say in it."""
    if any(values):
        table.add_row(label, *(value or "–" for value in values))


def _told(value: Any) -> str:
    return "–" if value is None else str(value)


def _figure(run: Run, name: str, form: str) -> str:
    value = (run.summary or {}).get(name)
    return "" if value is None else form.format(value)


def _cost(run: Run, quantity: str, unit: str, form: str) -> str:
    """What is left, and how many times less that is: `33,938 (8.0×)`."""
    summary = run.summary or {}
    before, after = (summary.get(f"{quantity}_{when}{unit}") for when in ("before", "after"))
    if before is None or not after:
        return ""
    return f"{form.format(after)} ({before / after:.2f}×)"


def _device(run: Run) -> str:
    return str((run.summary or {}).get("versions", {}).get("device", ""))


def _time(run: Run) -> str:
    seconds = (run.summary or {}).get("seconds")
    return duration(sum(seconds.values())) if seconds else ""
