"""Where a run is, as the table that `jaxprune status` prints: 80 columns are enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from jaxprune.report.progress import duration
from jaxprune.report.table import columns

_MARKS = {"done": "[green]✓[/] done", "begun": "[cyan]·[/] begun", "waiting": "  waiting"}
_RESULTS = {
    "loss": "loss {:.3f}",
    "accuracy": "batch accuracy {:.1%}",
    "layer_error": "layer error {:.4f}",
    "pruned_accuracy": "test accuracy {:.2%}",
}


def show(status: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints a run's status to the standard output, or to `console`.

    Args:
      status: the fields of `jaxprune.pipeline.status.Status` as a mapping.
      console: where to.
    """
    console = console or Console(highlight=False)
    console.print(render(status))
    # Not broken into lines, so that the command can be copied.
    console.print(f" {_next(status)}\n", soft_wrap=True, markup=False)


def render(status: Mapping[str, Any]) -> RenderableType:
    """The table of the stages."""
    title = Text(str(status["name"]), style="bold")
    for detail in (status["method"], f"seed {status['seed']}", status["folder"]):
        title.append(f" · {detail}", style="bright_black")
    table = columns("stage", "", "steps", "time", "last")
    table.columns[0].ratio, table.columns[0].no_wrap = None, True
    # The figures alone may take a second line where the terminal is narrow.
    table.columns[-1].ratio, table.columns[-1].no_wrap = 1, False
    for stage in status["stages"]:
        step, steps = stage["step"], stage["steps"]
        results = stage["result"].items()
        table.add_row(
            stage["name"],
            Text.from_markup(_MARKS[stage["state"]]),
            "" if step is None else f"{step:,}" + (f" of {steps:,}" if steps else ""),
            "" if stage["seconds"] is None else duration(stage["seconds"]),
            ", ".join(_RESULTS[name].format(value) for name, value in results if name in _RESULTS),
        )
    return Padding(Group(title, "", table), (1, 1, 0, 1))


def _next(status: Mapping[str, Any]) -> str:
    if status["process"] is not None:
        return f"process {status['process']} is at work on it"
    return "finished" if status["next"] is None else f"next: {status['next']}"
