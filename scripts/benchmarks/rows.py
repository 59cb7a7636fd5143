"""Rows of a table that takes long: a line of JSON each, and the networks beside it as arrays."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from jaxprune.graph import paths


class Rows:
    """What is done, by target, method and steps of training after the cut; 0 is as cut."""

    def __init__(self, path: Path):
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        found = map(json.loads, lines)
        self.done = {(r["target"], r["method"], r.get("steps", 0)): r for r in found}

    def keep(self, target: str, method: str, steps: int, found: dict[str, Any]) -> None:
        """Writes a row at once."""
        row = {"target": target, "method": method, "steps": steps, **found}
        self.done[target, method, steps] = row
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print({name: value for name, value in row.items() if name != "widths"}, flush=True)

    def place(self, target: str, method: str) -> Path:
        """Where the network of a row lies."""
        name = f"{target}_{method}".replace("/", "").replace(", ", "_").replace(" ", "_")
        return self.path.with_suffix("") / f"{name}.npz"

    def save(self, target: str, method: str, variables: Any) -> None:
        """The small variables of a row."""
        place = self.place(target, method)
        place.parent.mkdir(exist_ok=True)
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in paths.leaves(variables)}
        np.savez(place, **arrays)

    def network(self, target: str, method: str) -> Any:
        """The small variables of a row; None where they were not saved."""
        place = self.place(target, method)
        if not place.exists():
            return None
        with np.load(place, allow_pickle=False) as arrays:
            flat = {tuple(name.split("/")): jnp.asarray(arrays[name]) for name in arrays.files}
        return unflatten_dict(flat)


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Seconds on the wall, and of the processor in this process."""
    took: dict[str, float] = {}
    wall, processor = time.perf_counter(), time.process_time()
    yield took
    took["seconds"] = time.perf_counter() - wall
    took["processor"] = time.process_time() - processor
