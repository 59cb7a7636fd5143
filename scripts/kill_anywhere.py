"""Kills a run at random moments and compares what comes out with an undisturbed one, to the bit.

    python scripts/kill_anywhere.py                       # 30 kills, configs/digits_vgg.py
    python scripts/kill_anywhere.py --kills 8 --short     # a run of few epochs
    python scripts/kill_anywhere.py configs/mine.py --train.epochs 5

A process gets SIGKILL after a time drawn from the length of the undisturbed run, and the same
command goes on, until the run has ended; then another run begins, until there were enough kills.
What one process compiles the next ones find: else most kills would only hit the compiler. The
script itself goes on where it was. Exit code 1 on any difference.

`--short`, 30 kills over 11 runs of the digits, from before the first stage to the control: nothing
differed, metrics and weights to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxprune as jp
from jaxprune import pipeline
from jaxprune.files import read_json, write_json
from jaxprune.report import metrics

SHORT = ["--train.epochs", "3", "--finetune.epochs", "3", "--method.search.generations", "30"]
MEASURED = ("out", "seconds", "latency_before_ms", "latency_after_ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("config", nargs="?", default="configs/digits_vgg.py")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--out", type=Path, default=Path("runs/kill_anywhere"))
    parser.add_argument("--short", action="store_true", help="few epochs and generations")
    arguments, overrides = parser.parse_known_args()
    out, fields = arguments.out, overrides + (SHORT if arguments.short else [])

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "jaxprune", "run", arguments.config, *fields]
        return subprocess.Popen(
            [*command, "--out", str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": str((out / "compiled").absolute()),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            },
        )

    notes = out / "kills.json"
    record: dict[str, Any] = read_json(notes) if notes.exists() else {"attempts": 0, "kills": []}
    reference = out / "undisturbed"
    if "length" not in record:
        check(start(out / "compiling"))
        began = time.monotonic()
        check(start(reference))
        record["length"] = time.monotonic() - began
        write_json(notes, record)

    while len(record["kills"]) < arguments.kills:
        folder = disturbed(out)
        delay = float(
            np.random.default_rng([arguments.seed, record["attempts"]]).uniform(0, record["length"])
        )
        process = start(folder)
        try:
            process.wait(timeout=delay)
            check(process)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            record["kills"].append({"run": folder.name, "after": delay, "at": where(folder)})
            print(f"kill {len(record['kills'])}: {record['kills'][-1]}", flush=True)
        record["attempts"] += 1
        write_json(notes, record)
    last = disturbed(out)
    if last.exists():
        check(start(last))

    console = Console(highlight=False)
    kills = Table("kill", "run", "after", "at", title=f"{len(record['kills'])} kills")
    for i, kill in enumerate(record["kills"], 1):
        kills.add_row(str(i), kill["run"], f"{kill['after']:.1f} s", kill["at"])
    console.print(kills)
    results = Table("run", "kills", "differs from the undisturbed one in")
    differing = False
    for folder in [out / "compiling", *sorted(out.glob("run*"))]:
        found = differences(reference, folder)
        differing = differing or bool(found)
        count = sum(kill["run"] == folder.name for kill in record["kills"])
        results.add_row(folder.name, str(count), ", ".join(found) or "nothing")
    console.print(results)
    sys.exit(1 if differing else 0)


def check(process: subprocess.Popen[str]) -> None:
    """Waits for a process; one that fails by itself ends the script."""
    _, errors = process.communicate()
    if process.returncode:
        sys.exit(f"a run failed:\n{errors}")


def disturbed(out: Path) -> Path:
    """The run to kill next: the last one, or another where that one has ended."""
    number = 0
    while (out / f"run{number:02}" / "summary.json").exists():
        number += 1
    return out / f"run{number:02}"


def where(folder: Path) -> str:
    """The stage that a killed process was in."""
    if not (folder / "config.json").exists():
        return "before the first stage"
    for stage in pipeline.status(folder).stages:
        if stage.state != "done":
            return stage.name if stage.step is None else f"{stage.name}, step {stage.step}"
    return "after the last stage"


def differences(reference: Path, folder: Path) -> list[str]:
    """What of a run is not the same, to the bit: results, metrics, kept channels, variables."""
    before, after = (json.loads((d / "summary.json").read_text()) for d in (reference, folder))
    found = [
        name
        for name in sorted(before.keys() | after.keys())
        if name not in MEASURED and before.get(name) != after.get(name)
    ]
    if metrics.read(reference / "metrics.jsonl") != metrics.read(folder / "metrics.jsonl"):
        found.append("metrics.jsonl")
    if (reference / "answers.json").read_bytes() != (folder / "answers.json").read_bytes():
        found.append("answers.json")
    one, other = (jp.load(d / "pruned") for d in (reference, folder))
    for part in ("indices", "variables"):
        trees = getattr(one, part), getattr(other, part)
        same = jax.tree.structure(trees[0]) == jax.tree.structure(trees[1])
        if not same or not jax.tree.all(jax.tree.map(np.array_equal, *trees)):
            found.append(f"pruned {part}")
    return found


if __name__ == "__main__":
    main()
