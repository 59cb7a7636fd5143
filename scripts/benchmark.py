"""Every table of speed, in one run.

    python scripts/benchmark.py --out benchmark                    # all of them
    python scripts/benchmark.py --tables gram population           # some
    python scripts/benchmark.py --short                            # smaller and fewer, to try it

Each table is a module of `scripts/benchmarks/`: what is measured, against what, and why it is fair
stands there. Prints the tables, writes them as JSON and Markdown, and draws the plots. Peers (DEAP,
pymoo, PyTorch) run in the same process; one that is not installed is skipped by name.

The docstring of each module holds the last table that it printed; most of these are from runs on 2
cores of an AMD EPYC with AVX-512, JAX 0.10.2, float32, as median, range and n. Nothing has run on
a GPU or TPU yet; the tables `accelerator` and `vgg_search` are ready for one, and `devices` was
tested on eight devices that one CPU pretends to have.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

sys.path.insert(0, str(Path(__file__).parent))

from benchmarks.common import Table, Times, machine

from jaxprune.memory import keep_freed_memory

TABLES = (
    "search_peers",
    "search_quality",
    "bound",
    "vgg_search",
    "gram",
    "population",
    "training_methods",
    "group_fisher",
    "reconstruction",
    "convolutions",
    "sliced",
    "predictors",
    "compile_time",
    "input_pipeline",
    "scaling",
    "devices",
    "accelerator",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tables", nargs="+", default=TABLES, choices=TABLES, metavar="TABLE")
    parser.add_argument("--short", action="store_true", help="smaller and fewer")
    parser.add_argument("--out", type=Path, default=Path("benchmark"), help="where results go")
    arguments = parser.parse_args()
    keep_freed_memory()
    arguments.out.mkdir(parents=True, exist_ok=True)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(machine(), style="bold")
    for name in arguments.tables:
        module = importlib.import_module(f"benchmarks.{name}")
        began = time.perf_counter()
        table: Table = module.measure(short=arguments.short)
        seconds = round(time.perf_counter() - began, 1)
        console.print(shown(table), *table.notes, f"({name}: {seconds} s)", "", sep="\n")
        record = {"machine": machine(), "seconds": seconds, **as_json(table)}
        (arguments.out / f"{name}.json").write_text(json.dumps(record, indent=1, default=float))
        (arguments.out / f"{name}.md").write_text(as_markdown(table))
        if hasattr(module, "plot"):
            module.plot(table, arguments.out)


def shown(table: Table) -> RichTable:
    """For the terminal."""
    rich_table = RichTable(title=table.title, title_justify="left")
    for column in table.columns():
        rich_table.add_column(column)
    for row in table.rows:
        rich_table.add_row(*(cell(row.get(column)) for column in table.columns()))
    return rich_table


def as_json(table: Table) -> dict[str, Any]:
    """For programs: times as objects."""
    rows = [
        {k: v._asdict() if isinstance(v, Times) else v for k, v in row.items()}
        for row in table.rows
    ]
    return {"title": table.title, "rows": rows, "notes": table.notes, "data": table.data}


def as_markdown(table: Table) -> str:
    """For the docstring of its module."""
    columns = table.columns()
    lines = [f"**{table.title}**", "", " | ".join(["", *columns, ""]).strip()]
    lines.append("|" + "---|" * len(columns))
    lines += [
        " | ".join(["", *(cell(row.get(column)) for column in columns), ""]).strip()
        for row in table.rows
    ]
    return "\n".join([*lines, "", *table.notes, ""])


def cell(value: Any) -> str:
    """A value as a text."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
