"""The search of a whole VGG-16 at the shipped default: all 13 groups, 300 generations.

Plain fitness (no reconstruction), on made-up Gram matrices (`problems.py`) of the network's widths,
with half or a quarter of the channels kept. The first call compiles one program per width; another
K or other matrices compile nothing. The proof of the gap is timed apart: it may be left out.

Half of the channels kept, 2 cores of an AMD EPYC, JAX 0.10.2: 2.74 s (2.59-2.94, n = 3) after
compilation, 12.8 s with it. The proofs take another 9.8 s (`--method.search.no-bound`).
"""

from __future__ import annotations

import time

import jax
import numpy as np

from benchmarks.common import Table, together
from benchmarks.problems import gram, vgg16
from jaxprune.search import SearchConfig, lower_bounds, search_groups

LIMITS = {"cpu": (10, 25), "gpu": (1, None)}
"""Asked: seconds after compilation, and with it."""


def measure(*, short: bool) -> Table:
    """Seconds of the search and of the bounds."""
    grams = {f"conv{i}": gram(16, i) for i in (1, 2)} if short else vgg16()
    config = SearchConfig(bound=False, generations=10 if short else 300)
    table = Table(
        f"Search of all {len(grams)} groups of a VGG-16, {config.generations} generations"
    )
    for part in (2, 4):
        keep = {name: len(matrix) // part for name, matrix in grams.items()}
        runs = {
            "search": lambda keep=keep: search_groups(grams, keep, jax.random.key(0), config),
            "bounds": lambda keep=keep: lower_bounds(grams, keep),
        }
        for name, run in runs.items():
            began = time.perf_counter()
            run()
            first = time.perf_counter() - began
            seconds = together({name: run}, n=3)[name]
            row = {"what": name, "kept": f"1/{part}", "seconds": seconds}
            row["with compilation"] = first if part == 2 else None
            table.rows.append(row)
            if name == "search" and part == 2:
                after, whole = LIMITS.get(jax.default_backend(), (None, None))
                table.notes.append(
                    f"{seconds.median:.2f} s after compilation (asked for: at most {after or '–'}) "
                    f"and {first:.1f} s with it (asked for: at most {whole or '–'})."
                )
    widths = sorted({len(matrix) for matrix in grams.values()})
    table.notes.append(f"One compilation for each of the widths {', '.join(map(str, widths))}.")
    table.data["groups"] = int(np.size(list(grams)))
    return table
