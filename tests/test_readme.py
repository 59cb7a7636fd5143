"""The README's examples run: every Python block under the comment `<!-- tested -->`."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cli

README = Path(__file__).parents[1] / "README.md"
MARK = "<!-- tested -->"
ONCE, LATER = "# Prune and save.\n", "# In a new process"


def examples():
    """Each marked block, named by its heading, after as many empty lines as the README has."""
    text = README.read_text(encoding="utf-8")
    for block in re.finditer(rf"^{MARK}\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        above = text[: block.start(1)]
        heading = re.findall(r"^##+ (.*)$", above, re.MULTILINE)[-1]
        # So a traceback shows the README's own lines.
        yield pytest.param("\n" * above.count("\n") + block[1], id=heading)


@pytest.mark.parametrize("code", list(examples()))
def test_the_example_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "import keras" in code and not importlib.util.find_spec("keras"):
        pytest.skip("keras is not installed")
    code, _, later = code.partition(LATER)
    names = {"__name__": "__main__"}
    exec(compile(code, str(README), "exec"), names)
    if later:
        again = f"{code.partition(ONCE)[0]}\n#{later}\nimport numpy\nnumpy.save('again', logits)"
        subprocess.run([sys.executable, "-c", again], check=True)
        np.testing.assert_allclose(np.load("again.npy"), names["logits"], rtol=1e-4, atol=1e-4)


def test_no_mark_stands_before_something_else():
    assert README.read_text(encoding="utf-8").count(MARK) == len(list(examples())) > 0


@pytest.mark.parametrize("folder", ["configs", "scripts"])
def test_the_index_of_a_folder_names_every_file(folder):
    index = (README.parent / folder / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\(([\w./]+)\)", index))
    files = {
        path.relative_to(README.parent / folder).as_posix()
        for path in (README.parent / folder).rglob("*")
        if path.suffix in (".py", ".ipynb") and path.name != "__init__.py"
    }
    assert linked == files


def test_it_is_a_page_and_what_it_names_is_there():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    for path in re.findall(r"\b(?:configs|scripts|jaxprune)/[\w/]*\.\w+", text):
        assert (README.parent / path).exists(), path
    for system in re.findall(r"\| `(\w+)`; `configs", text):
        assert system in jp.methods
    for command in re.findall(r"^\| `jaxprune (\w+)", text, re.MULTILINE):
        assert command in cli._COMMANDS
