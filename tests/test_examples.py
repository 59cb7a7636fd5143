"""The examples in the docstrings of the package run, as doctests."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import os
from pathlib import Path

import pytest

os.environ["KERAS_BACKEND"] = "jax"
ROOT = Path(__file__).parents[1]
LIBRARIES = {"keras", "haiku", "equinox"}  # of the front ends; one that is not installed is skipped


def modules():
    """Every module of the package with an example in it."""
    for path in sorted((ROOT / "jaxprune").rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("name", list(modules()))
def test_the_examples_of_a_module_run(name, tmp_path, monkeypatch):
    library = name.rpartition(".")[2]
    if library in LIBRARIES and not importlib.util.find_spec(library):
        pytest.skip(f"{library} is not installed")
    monkeypatch.chdir(tmp_path)
    failed, run = doctest.testmod(importlib.import_module(name))
    assert run > 0 and not failed
