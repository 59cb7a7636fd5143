"""The benchmark's script in its short form, on the tables that are quick."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "benchmark.py"
TABLES = ("search_peers", "bound", "gram")
PEERS = {"DEAP": "deap", "pymoo": "pymoo", "NumPy, vectorised": "numpy"}


def test_prints_tables_and_writes_them(tmp_path):
    command = [sys.executable, SCRIPT, "--short", "--out", tmp_path, "--tables", *TABLES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in TABLES}
    for name, record in records.items():
        assert record["title"] in done.stdout
        assert record["title"] in (tmp_path / f"{name}.md").read_text()
        assert "CPU cores, JAX" in record["machine"]
        assert record["rows"]

    peers = records["search_peers"]
    found = {row["peer"]: row for row in peers["rows"]}
    for peer, module in PEERS.items():
        there = importlib.util.find_spec(module) is not None
        assert (peer in found) == there
        assert (f"{peer} is not installed: skipped." in peers["notes"]) != there
    for row in found.values():
        assert row["our error"] <= row["its error"] * (1 + 1e-6)
    for row in records["bound"]["rows"]:
        assert row["bound"] <= row["optimum"] * (1 + 1e-6)
