import json
import os

import numpy as np
import pytest

from jaxprune.files import read_json, write_json


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "run" / "summary.json"
    write_json(path, {"pruned_accuracy": np.float32(0.5), "seconds": {"train": 1.5}, "bad": np.nan})
    assert read_json(path) == {"pruned_accuracy": 0.5, "seconds": {"train": 1.5}, "bad": None}


def test_a_failed_write_leaves_the_old_summary_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    write_json(path, {"seed": 1})

    def full_disk(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_json(path, {"seed": 2})
    assert read_json(path) == {"seed": 1}
    assert os.listdir(tmp_path) == ["summary.json"]


def test_a_value_without_a_json_form_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "summary.json", {"model": object()})
    assert not (tmp_path / "summary.json").exists()


def test_errors_of_reading_name_the_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"summary\.json.*finished"):
        read_json(tmp_path / "summary.json")
    (tmp_path / "torn.json").write_text('{"a": ')
    with pytest.raises(ValueError, match=r"torn\.json is not JSON"):
        read_json(tmp_path / "torn.json")
    (tmp_path / "list.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="not a JSON object"):
        read_json(tmp_path / "list.json")
