"""The summary of a run as the table that ends it on the terminal: 80 columns are enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jaxprune.report.progress import duration

NETWORKS = {
    "unpruned": "unpruned",
    "finetuned": "unpruned, trained on like the pruned one",
    "plain": "unpruned, trained on without a teacher",
    "scratch": "pruned widths, from random weights",
    "scratch_distilled": "pruned widths, random weights, teacher",
    "l1": "pruned widths, channels by L1",
    "l1_uniform": "uniform widths, channels by L1",
    "as_cut": "pruned, as cut",
    "recalibrated": "pruned, BatchNorm statistics anew",
    "pruned": "pruned, fine-tuned",
}
"""The networks of a run and what they are called, in the order in which a run gets them."""
SHORT = {
    "unpruned": "unpruned",
    "finetuned": "control",
    "plain": "control, no teacher",
    "scratch": "random weights",
    "scratch_distilled": "random weights, teacher",
    "l1": "L1",
    "l1_uniform": "L1, uniform widths",
    "as_cut": "as cut",
    "recalibrated": "recalibrated",
    "pruned": "fine-tuned",
}
"""The same for where there is little room."""
FIGURES = {
    "unpruned": "baseline_accuracy",
    "finetuned": "control_accuracy",
    "as_cut": "pruned_accuracy_before_finetune",
    "recalibrated": "pruned_accuracy_before_finetune_recalibrated",
    "pruned": "pruned_accuracy",
}
"""What a summary calls the accuracies of those that every run has; others are in `controls`."""
_COSTS = {
    "params": "parameters",
    "bytes": "bytes of parameters",
    "macs": "MACs per image",
    "latency": "latency per batch",
}
_WIDTH = 78


def show(summary: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints `render(summary)` to the standard output, or to `console`."""
    (console or Console(highlight=False)).print(render(summary))


def show_groups(found: Mapping[str, Mapping[str, float]], console: Console | None = None) -> None:
    """Prints `groups(found)` to the standard output, or to `console`; nothing where it is empty."""
    if found:
        (console or Console(highlight=False)).print(Padding(groups(found), 1))


def render(summary: Mapping[str, Any]) -> RenderableType:
    """The table of a run's `summary.json`; what is absent from it is left out."""
    parts: list[RenderableType] = [_title(summary), "", _accuracies(summary), "", _costs(summary)]
    if summary.get("layer_error"):
        parts += ["", _errors(summary["layer_error"])]
    if summary.get("groups"):
        parts += ["", groups(summary["groups"])]
    if summary.get("seconds"):
        parts += ["", _seconds(summary["seconds"])]
    if summary.get("versions"):
        versions = " · ".join(f"{name} {v}" for name, v in summary["versions"].items())
        parts += ["", Text(versions, style="bright_black")]
    return Padding(Group(*parts), 1)


def accuracies(summary: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies in a summary by the names of their networks, in the order of `NETWORKS`."""
    found = {name: summary.get(figure) for name, figure in FIGURES.items()}
    found |= {name: of["accuracy"] for name, of in summary.get("controls", {}).items()}
    return {name: value for name in NETWORKS if (value := found.get(name)) is not None}


def _title(summary: Mapping[str, Any]) -> Text:
    """Name, method, seed and folder of the run."""
    text = Text(str(summary.get("name", "jaxprune")), style="bold")
    details = [str(summary["method"])] if "method" in summary else []
    details += [f"seed {summary['seed']}"] if "seed" in summary else []
    details += [str(summary["out"])] if "out" in summary else []
    return text.append("".join(f" · {d}" for d in details), style="bright_black")


def _accuracies(summary: Mapping[str, Any]) -> Table:
    """Every accuracy, and how far it lies from the unpruned network and from the control."""
    table = columns("test accuracy", "", "to unpruned", "to control")
    for name, value in accuracies(summary).items():
        first, last = name == "unpruned", name == "pruned"
        table.add_row(
            NETWORKS[name],
            f"{value:.2%}",
            "" if first else _points(value, summary.get("baseline_accuracy")),
            _points(value, summary.get("control_accuracy")) if last else "",
            style="bold" if last else None,
        )
    return table


def _costs(summary: Mapping[str, Any]) -> Table:
    """Parameters, MACs and latency before and after, the factor between them and its target."""
    targets, slack = summary.get("targets") or {}, summary.get("slack") or {}
    table = columns("cost", "before", "after", "factor", "target" if targets else "")
    for key, label in _COSTS.items():
        unit = "_ms" if key == "latency" else ""
        before, after = summary.get(f"{key}_before{unit}"), summary.get(f"{key}_after{unit}")
        if before is None or after is None:
            continue
        table.add_row(
            label,
            *(f"{v:,.2f} ms" if unit else f"{v:,.0f}" for v in (before, after)),
            Text(f"{before / after:.2f}×" if after else "", style="bold"),
            f"{targets[key]:g}×" + (f", slack {slack[key]:.1%}" if key in slack else "")
            if key in targets
            else "",
        )
    if (predicted := summary.get("latency_predicted_ms")) is not None:
        table.add_row("latency, as predicted", "", f"{predicted:,.2f} ms", "", "")
    return table


def _errors(errors: Mapping[str, float]) -> Table:
    """The share of their output that the layers lose, after the search and each option of it."""
    table = columns("layer error, mean of the groups", "")
    for step, error in errors.items():
        table.add_row(step, f"{error:.4f}")
    return table


def groups(found: Mapping[str, Mapping[str, float]]) -> Table:
    """What is left of every narrowed group: `kept` of `size`, and where told `error` and `gap`.

    The gap is how far the error can be above the lowest possible one, as a fraction of the error
    (`jaxprune.search.bound`).
    """
    forms = {"error": ("layer error", "{:.4f}"), "gap": ("gap at most", "{:.2%}")}
    told = [figure for figure in forms if any(figure in row for row in found.values())]
    table = columns("group", "channels", "kept", *(forms[figure][0] for figure in told))
    for name, row in found.items():
        figures = [forms[f][1].format(row[f]) if f in row else "" for f in told]
        table.add_row(name, f"{row['size']}", f"{row['kept']}", *figures)
    return table


def _seconds(seconds: Mapping[str, float]) -> Table:
    """The wall time of each stage, with its share as a bar."""
    total = seconds.get("total", sum(seconds.values()))
    table = columns("stage", "time")
    width = 2 + max(map(len, seconds))
    for stage, value in seconds.items():
        if stage != "total":
            bar = Text("▪" * round(40 * value / total) if total else "", style="cyan")
            table.add_row(Text(f"{stage:<{width}}").append(bar), duration(value))
    table.add_row("total", duration(total), style="bold")
    return table


def columns(first: str, *others: str, width: int | None = _WIDTH) -> Table:
    """A table of the common look: words to the left, figures to the right."""
    table = Table(box=box.SIMPLE_HEAD, width=width, header_style="cyan")
    table.pad_edge = table.show_edge = False
    table.add_column(first, ratio=1)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True, min_width=6)
    return table


def _points(value: float, reference: float | None) -> str:
    """The difference of two accuracies in percentage points: `−0.16 pp`."""
    if reference is None:
        return ""
    return f"{100 * (value - reference):+.2f} pp".replace("-", "−")
