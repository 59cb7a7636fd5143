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

from jaxprune.files import read_json
from jaxprune.report import paired, plots
from jaxprune.report.answers import Part
from jaxprune.report.answers import read as read_answers
from jaxprune.report.progress import duration
from jaxprune.report.table import NETWORKS, accuracies, columns

_SKIPPED = ("name", "out", "method.name")


@dataclass(frozen=True)
class Run:
    """What the folder of a run says of it.

    Attributes:
      folder: where it is.
      label: the shortest end of its path that tells it from the other runs.
      method: the name of what chose its channels.
      config: its fields by dotted name.
      summary: its figures; None where it is not finished.
    """

    folder: Path
    label: str
    method: str
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
        config = _flat(read_json(path / "config.json"))
        method = str(config.get("method.name", config.get("method")))
        figures = read_json(summary) if summary.exists() else None
        runs.append(Run(path, label, method, config, figures))
    return runs


def pairs(runs: Sequence[Run], part: Part = "test") -> paired.Pairs:
    """The networks of the runs beside each other, image by image.

    Raises:
      FileNotFoundError: a run that does not say which images it has right, with what does.
      ValueError: runs that were measured on other images; a damaged file.
    """
    answers = {run.label: read_answers(run.folder, part) for run in runs}
    paired.require_same_images(answers)
    alike: dict[str, list[str]] = {}
    for run in runs:
        fields = {n: v for n, v in run.config.items() if n not in ("name", "out", "seed")}
        alike.setdefault(repr(sorted(fields.items())), []).append(run.label)
    seeds = {
        tuple(labels): paired.over_seeds([answers[label] for label in labels])
        for labels in alike.values()
        if len(labels) > 1
    }
    return paired.Pairs(answers, seeds)


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The config fields in which the runs differ, each with its value in every run.

    A field that a run's config does not have is None there. Of the fields of a method alone, which
    the runs of other methods do not have, those are told in which its own runs differ.
    """
    names = dict.fromkeys(name for run in runs for name in run.config)
    told = {}
    for name in names:
        own = [run for run in runs if name in run.config or not name.startswith("method.")]
        values = [run.config.get(name) for run in own]
        if name not in _SKIPPED and any(value != values[0] for value in values):
            told[name] = [run.config.get(name) for run in runs]
    return told


def record(runs: Sequence[Run], pairs: paired.Pairs | None = None) -> dict[str, Any]:
    """The comparison as JSON says it: `differences` by field, `runs` with their summaries."""
    return {
        **({} if pairs is None else {"paired": paired.record(pairs)}),
        "differences": {n: list(v) for n, v in differences(runs).items()},
        "runs": [
            {
                "label": run.label,
                "method": run.method,
                "finished": run.summary is not None,
                "summary": run.summary,
            }
            for run in runs
        ],
    }


def show(
    runs: Sequence[Run], pairs: paired.Pairs | None = None, console: Console | None = None
) -> None:
    """Prints the comparison to the standard output, or to `console`."""
    console = console or Console(highlight=False)
    console.print(render(runs))
    if pairs is not None:
        paired.show(pairs, console)


def render(runs: Sequence[Run]) -> RenderableType:
    """A column for each run: the fields that differ, accuracies, costs, seconds."""
    differing = differences(runs)
    fields = _table("config", runs)
    fields.add_row("method", *(run.method for run in runs))
    for name, values in differing.items():
        fields.add_row(name, *(_told(value) for value in values))
    if not differing and len({run.method for run in runs}) == 1:
        fields.add_row("no field differs")
    figures = _table("result", runs)
    figures.add_row("", *("" if run.summary else Text("unfinished", "yellow") for run in runs))
    found = [accuracies(run.summary or {}) for run in runs]
    for name, label in NETWORKS.items():
        _row(figures, label, [f"{of[name]:.2%}" if name in of else "" for of in found])
    for quantity, label in (("params", "parameters"), ("macs", "MACs per image")):
        _row(figures, label, [_cost(run, quantity, "", "{:,.0f}") for run in runs])
    _row(figures, "latency per batch", [_cost(run, "latency", "_ms", "{:,.2f} ms") for run in runs])
    _row(figures, "device", [_device(run) for run in runs])
    _row(figures, "time", [_time(run) for run in runs])
    return Padding(Group(fields, "", figures), 1)


def plot(path: str | os.PathLike[str], runs: Sequence[Run]) -> None:
    """Accuracy against cost of the finished runs, each against its own unpruned network.

    Runs of one method have one colour. The unpruned networks are points, too; those that runs share
    are one.

    Raises:
      ValueError: none of the runs is finished.
    """
    finished = [(run, run.summary) for run in runs if run.summary is not None]
    if not finished:
        raise ValueError("none of these runs is finished: there is nothing to plot")
    whole = {"params": 1.0, "macs": 1.0}
    unpruned: dict[float, list[str]] = {}
    points, claims = [], []
    for run, summary in finished:
        unpruned.setdefault(summary["baseline_accuracy"], []).append(run.label)
        costs = {q: summary[f"{q}_after"] / summary[f"{q}_before"] for q in whole}
        point = {"label": run.label, "accuracy": summary["pruned_accuracy"], "method": run.method}
        points.append({**point, "kind": "result", **costs})
        claims.append(plots.claims(run.config.get("data.name"), run.config.get("model.name")))
    for accuracy, labels in unpruned.items():
        label = "unpruned" if len(unpruned) == 1 else f"unpruned ({', '.join(labels)})"
        points.append({"label": label, "accuracy": accuracy, "kind": "reference", **whole})
    shared = claims[0] if all(claim == claims[0] for claim in claims) else {}
    plots.tradeoff(path, points, whole, shared)


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
