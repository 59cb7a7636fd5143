"""The Colab notebook runs from top to bottom in an empty folder, and leaves what it promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

import jaxprune as jp

NOTEBOOK = Path(__file__).parents[1] / "scripts" / "colab.ipynb"
PLOTS = {"sensitivity.png", "convergence.png", "kept_channels.png"}
# The table of section 7 as data, after the last cell.
ROWS = """
import json

print(json.dumps({name: [correct, c.params, c.macs] for name, (correct, c) in rows.items()}))
"""


def code_cells():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def is_install(cell):
    return "skip-in-tests" in cell["metadata"].get("tags", ())


def test_it_is_committed_without_outputs():
    cells = code_cells()
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert [is_install(cell) for cell in cells] == [True] + [False] * (len(cells) - 1)


def test_it_prunes_draws_and_saves(tmp_path):
    cells = ["".join(cell["source"]) for cell in code_cells() if not is_install(cell)]
    script = tmp_path / "colab.py"  # a file, so that a traceback shows its lines
    script.write_text("\n\n".join([*cells, ROWS]), encoding="utf-8")
    folder = tmp_path / "empty"
    folder.mkdir()
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=folder,
        env={**os.environ, "MPLBACKEND": "Agg"},
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    assert "\nholds over" in run.stdout  # the verdict of graph.check

    rows = json.loads(run.stdout.splitlines()[-1])
    whole, tuned = rows["unpruned"], rows["pruned, fine-tuned"]
    assert min(whole[0], tuned[0]) > 0.95
    assert 3 * tuned[1] <= whole[1] and 3 * tuned[2] <= whole[2]

    assert {path.name for path in folder.glob("*.png")} == PLOTS
    for name in PLOTS:
        with Image.open(folder / name) as image:
            assert np.asarray(image.convert("L")).std() > 1, f"{name} is blank"

    saved = jp.load(folder / "pruned")
    assert sum(leaf.size for leaf in jax.tree.leaves(saved.variables["params"])) == tuned[1]
