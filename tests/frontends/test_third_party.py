"""A few rows of `scripts/third_party_models.py`; its docstring has the whole table."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "third_party_models.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("third_party_models", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("name", "groups"),
    [("keras/MobileNet", 14), ("haiku/ResNet18", 12), ("flaxmodels/ResNet18", 12),
     ("equimo/mobilenetv3_small", 29)],
)  # fmt: skip
def test_a_model_by_others_is_cut_in_half(script, name, groups):
    package = name.partition("/")[0]
    if not importlib.util.find_spec(package):
        pytest.skip(f"{package} is not installed")
    row = script.cut_in_half(name)
    assert row["groups"] == groups
    assert row["difference"] < 1e-4
    assert row["prunable"] > 0.85
    assert row["params"] > 2.5 and row["macs"] > 2.5
