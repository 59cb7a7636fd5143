import dataclasses
import json
from pathlib import Path

import pytest

from jaxprune import config as configs
from jaxprune.budget import Budget
from jaxprune.config import DataConfig, ModelConfig, RunConfig
from jaxprune.methods import Genetic, Taylor

SHIPPED = sorted((Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_config_loads_is_named_like_its_file_and_says_how_to_run_it(path):
    assert configs.load(path).name == path.stem
    assert f"jaxprune run configs/{path.name}" in path.read_text()


def test_a_config_survives_its_json(tmp_path):
    config = RunConfig(
        name="x",
        out="runs/y",
        data=DataConfig(heldout="ids.txt"),
        model=ModelConfig(widths={"conv1_1": 24}, shortcut="A"),
        protect=("conv1_1", "stage3/*"),
        budget=Budget("params/4", limits={"conv2*": (0.1, 0.9)}),
        method=Genetic(kept=(0.5, 0.25)),
    )
    configs.save(tmp_path / "config.json", config)
    assert configs.load(tmp_path / "config.json") == config
    assert config != RunConfig()
    other = dataclasses.replace(config, method=Taylor())
    configs.save(tmp_path / "config.json", other)
    assert configs.load(tmp_path / "config.json") == other != config


def test_a_field_that_no_config_has_is_named(tmp_path):
    configs.save(tmp_path / "config.json", RunConfig())
    data = json.loads((tmp_path / "config.json").read_text())
    data["method"]["search"]["populaton"] = 3
    (tmp_path / "config.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"config\.json: method: search has a field 'populaton'"):
        configs.load(tmp_path / "config.json")


@pytest.mark.parametrize(
    "text, error, words",
    [
        (None, FileNotFoundError, "no config file"),
        ("x = 1", ValueError, "must define `config"),
        ("config = {}", ValueError, "defines a dict"),
        ("config = 1 / 0", ValueError, "ZeroDivisionError"),
        ("config = (", ValueError, "SyntaxError"),
        (
            "from jaxprune.config import RunConfig\nconfig = RunConfig(sede=1)",
            ValueError,
            "unexpected keyword argument 'sede'",
        ),
    ],
)
def test_a_config_file_that_does_not_serve_is_named_with_the_reason(tmp_path, text, error, words):
    path = tmp_path / "mine.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=r"mine\.py") as caught:
        configs.load(path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "build, field",
    [
        (lambda: DataConfig(heldout=0), "data.heldout"),
        (lambda: Genetic(kept=(0.5, 1.5)), "kept"),
        (lambda: Genetic(kept=()), "kept"),
        (lambda: configs.ValidationConfig(images=0), "validation.images"),
        (lambda: configs.CalibrationConfig(images=0), "calibration.images"),
        (lambda: configs.CalibrationConfig(images=float("nan")), "calibration.images"),  # type: ignore
        (lambda: configs.RecalibrationConfig(batch_size=0), "recalibration.batch_size"),
        (lambda: configs.EvaluationConfig(latency_repeats=0), "evaluation.latency_repeats"),
        (lambda: RunConfig(seed=-1), "seed"),
        (lambda: RunConfig(name="a/b"), "name"),
    ],
)
def test_a_value_out_of_range_is_refused_by_the_name_of_its_field(build, field):
    with pytest.raises(ValueError, match=rf"^{field} must"):
        build()


def test_the_run_folder():
    assert RunConfig(name="x").folder == Path("runs/x")
    assert RunConfig(name="x", out="elsewhere").folder == Path("elsewhere")


def test_model_options_are_those_that_are_set():
    assert ModelConfig().options() == {}
    assert ModelConfig(shortcut="B", dropout=0.0).options() == {"shortcut": "B", "dropout": 0.0}


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig().seed = 1  # type: ignore[misc]
