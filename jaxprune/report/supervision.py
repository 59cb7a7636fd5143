"""What `supervision.json` says, as tables of 80 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from jaxprune.report.table import columns

HEADS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "tpr05": "TPR05",
    "p95": "P95",
    "fnr95": "FNR95",
    "cbpl": "CBPL",
    "cbfad": "CBFAD",
}
"""The seven metrics and what they are called."""
NETWORKS = ("unpruned", "pruned")
_FIRST = "supervisor"


def show(
    found: Mapping[str, Any], words: Mapping[str, str], console: Console | None = None
) -> None:
    """Prints `render` to the standard output, or to `console`."""
    (console or Console(highlight=False)).print(render(found, words))


def render(found: Mapping[str, Any], words: Mapping[str, str]) -> RenderableType:
    """The seven metrics of each case, the AUROC over strengths, and what pruning changes.

    Args:
      found: as `jaxprune.pipeline.supervise` gives it.
      words: case → what its outliers are.
    """
    title = Text(f"{found['name']} · {found['method']}", style="bold")
    right = " → ".join(f"{found['accuracy'][network]:.2%}" for network in NETWORKS)
    title.append(f" · {found['inliers']} test images, {right} right", style="bright_black")
    parts: list[RenderableType] = [title]
    for case, of in found["cases"].items():
        if "/" not in case:
            parts += ["", Text(f"{case}: {of['outliers']} outliers, {words[case]}"), _case(of)]
    kinds = list(dict.fromkeys(c.partition("/")[0] for c in found["cases"] if "/" in c))
    if kinds:
        parts += ["", Text("corruptions: AUROC, the mean of five strengths"), _kinds(found, kinds)]
    parts += ["", Text("what pruning changes: AUROC in points, 95 % interval"), _changes(found)]
    note = "the autoencoder sees the images alone; of FNR95 lower is better, of all others higher"
    return Padding(Group(*parts, "", Text(note, style="bright_black")), 1)


def _case(of: Mapping[str, Any]) -> RenderableType:
    table = columns(_FIRST, *HEADS.values())
    for name in of["pruned"]:
        for network in NETWORKS:
            values = (f"{of[network][name][metric]:.3f}" for metric in HEADS)
            table.add_row(_label(name, network), *values)
    return table


def _label(name: str, network: str) -> str:
    """A row for the unpruned network, and under it one for the pruned."""
    return name if network == NETWORKS[0] else f"  {network}"


def _kinds(found: Mapping[str, Any], kinds: Sequence[str]) -> RenderableType:
    cases = found["cases"]
    table = columns(_FIRST, *kinds)
    for name in next(iter(cases.values()))["pruned"]:
        for network in NETWORKS:
            means = [
                np.mean([of[network][name]["auroc"] for c, of in cases.items() if _is(c, kind)])
                for kind in kinds
            ]
            table.add_row(_label(name, network), *(f"{mean:.3f}" for mean in means))
    return table


def _is(case: str, kind: str) -> bool:
    return case.startswith(f"{kind}/")


def _changes(found: Mapping[str, Any]) -> RenderableType:
    """The mean over the cases, the worst one, and in how many it is worse."""
    table = columns("supervisor", "mean", "worst case", "", "worse in")
    cases = found["cases"]
    for name in next(iter(cases.values()))["pruned"]:
        changes = {case: of["change"][name] for case, of in cases.items()}
        worst = min(changes, key=lambda case: changes[case]["mean"])
        mean = float(np.mean([change["mean"] for change in changes.values()]))
        least = changes[worst]
        worse = sum(change["high"] < 0 for change in changes.values())
        table.add_row(
            name,
            _points(mean),
            worst,
            f"{_points(least['mean'])} ({_points(least['low'])} to {_points(least['high'])})",
            f"{worse} of {len(changes)}",
        )
    return table


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def show_cases(
    words: Mapping[str, str], paper: Sequence[Any], console: Console | None = None
) -> None:
    """Prints the cases, and the paper's of `jaxprune.supervisors.cases.PAPER`."""
    ours = columns("case", "outliers")
    ours.columns[1].justify = "left"
    for name, of in words.items():
        ours.add_row(name, of)
    table = columns("of the paper", "pixels", "without that data")
    table.columns[2].justify = "left"
    for case in paper:
        table.add_row(f"{case.inliers}, {case.outliers}", case.pixels, case.here)
    (console or Console(highlight=False)).print(Padding(Group(ours, "", table), 1))
