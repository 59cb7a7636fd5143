from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from jaxprune.interop import files


def test_what_is_written_is_read(tmp_path):
    state = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.count": np.array(3)}
    path = tmp_path / "out" / "small.safetensors"
    files.write(path, state, {"model": "vgg16", "widths": {"a": 2}, "zeros": {"b": (1, 2)}})
    found = files.read(path)
    assert found.keys() == state.keys()
    assert all(np.array_equal(found[n], a) and found[n].dtype == a.dtype for n, a in state.items())
    record = json.loads((tmp_path / "out" / "small.json").read_text())
    assert record == {"model": "vgg16", "widths": {"a": 2}, "zeros": {"b": [1, 2]}}


def test_a_file_that_cannot_be_read_says_why(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent\.safetensors"):
        files.read(tmp_path / "absent.safetensors")
    with pytest.raises(ValueError, match=r"weights\.pkl has to end in \.safetensors"):
        files.read(tmp_path / "weights.pkl")
    whole = tmp_path / "whole.safetensors"
    files.write(whole, {"a": np.zeros(100, np.float32)}, {})
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(whole.read_bytes()[:-50])
    with pytest.raises(
        ValueError, match=r"damaged\.safetensors is no safetensors file, or damaged"
    ):
        files.read(damaged)
    with pytest.raises(ValueError, match=r"small\.pt has to end in \.safetensors"):
        files.write(tmp_path / "small.pt", {}, {})


def test_a_pickled_file_needs_pytorch(tmp_path, monkeypatch):
    (tmp_path / "weights.pt").touch()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ValueError, match=r"only be read where PyTorch is installed; .*save_file"):
        files.read(tmp_path / "weights.pt")
