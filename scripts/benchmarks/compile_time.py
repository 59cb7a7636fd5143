"""Seconds spent compiling by two starts of the digits run.

Each start is a process of its own, as a user's is. Before the second one everything that the first
computed is removed but the compilation cache in the run folder, so that both compute the same. Few
epochs and generations: they change nothing that is compiled. The figures are those that the run
itself writes into `compilation.json`, which JAX's own events give: the time of XLA, and that of
reading from the cache. Tracing in Python comes on top, at both starts.

2 cores of an AMD EPYC, JAX 0.10.2, when the cache still lay in the run folder: 28.9 s at the first
start, 1.1 s at the second (n = 1 each), 129 of 129 programs found.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import Table, Times, Value
from jaxprune.files import read_json

CONFIG = Path(__file__).parents[2] / "configs" / "digits_vgg.py"
FEW = "--train.epochs 1 --finetune.epochs 1 --method.search.generations 20".split()
KEPT = ("config.json", "compilation.json")


def measure(*, short: bool) -> Table:
    """Both starts, stage by stage; `short` stops after the first stage."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        walls = [_start(folder, "train" if short else "run") for _ in range(2)]
        starts = [s["stages"] for s in read_json(folder / "compilation.json")["starts"]]
        size = sum(
            entry.stat().st_size for entry in Path(temporary).glob("cache/**/*") if entry.is_file()
        )
    names = list(starts[0])
    total = {
        key: [sum(stages[name][key] for name in stages) for stages in starts]
        for key in ("seconds", "programs", "found")
    }
    rows: list[dict[str, Value | Times]] = []
    for name in [*names, "together"]:
        row: dict[str, Value | Times] = {"stage": name}
        for i, start in enumerate(("first", "second")):
            of = {k: total[k][i] for k in total} if name == "together" else starts[i].get(name, {})
            row |= {f"{start} start, s": float(of.get("seconds", 0.0))}
            row |= {f"{key}, {start}": of.get(key, 0) for key in ("programs", "found")}
        rows.append(row)
    first, second = total["seconds"]
    notes = [
        f"The second start compiles for {second / first:.1%} of the first one's seconds (asked "
        f"for: at most a third); {total['found'][1]} of its {total['programs'][1]} programs were "
        f"in the cache, which holds {size / 1e6:.1f} MB. n=1 each.",
        f"The processes took {walls[0]:.0f} s and {walls[1]:.0f} s in all, with one epoch of each "
        "training.",
    ]
    return Table("Compile time of the digits run", rows, notes)


def _start(folder: Path, command: str) -> float:
    """Seconds of one start, which finds of an earlier one what was compiled, and no result."""
    for path in folder.iterdir() if folder.exists() else ():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    clean = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    clean["XDG_CACHE_HOME"] = str(folder.parent / "cache")
    arguments = [command, str(CONFIG), *FEW, "--out", str(folder)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "jaxprune", *arguments], env=clean, check=True, capture_output=True
    )
    return time.perf_counter() - began
