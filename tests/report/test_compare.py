import io
import json

import matplotlib.image
import pytest
from rich.console import Console

from jaxprune import cli
from jaxprune.config import ModelConfig, RunConfig, save
from jaxprune.report import compare, plots

SUMMARY = {
    "baseline_accuracy": 0.9871,
    "pruned_accuracy": 0.9855,
    "params_before": 800,
    "params_after": 100,
    "macs_before": 900,
    "macs_after": 300,
    "latency_before_ms": 8.0,
    "latency_after_ms": 4.0,
    "seconds": {"train": 61.0, "search": 14.2},
    "versions": {"device": "cpu"},
}


@pytest.fixture
def folders(tmp_path):
    """Two finished runs of one name in different folders, and one that is not finished."""
    for i, where in enumerate(("a/run", "b/run", "c/run")):
        folder = tmp_path / where
        model = ModelConfig(widths={"conv1_1": 8} if i else {})
        save(folder / "config.json", RunConfig(name="run", seed=i, out=where, model=model))
        if i < 2:
            summary = {**SUMMARY, "pruned_accuracy": 0.9855 - 0.1 * i}
            (folder / "summary.json").write_text(json.dumps(summary))
    return [tmp_path / where for where in ("a/run", "b/run", "c/run")]


def shown(runs) -> str:
    file = io.StringIO()
    compare.show(runs, Console(file=file, width=100, highlight=False))
    return file.getvalue()


def line(text: str, start: str) -> list[str]:
    (found,) = [row for row in text.splitlines() if row.strip().startswith(start)]
    return found.split()


def test_only_the_fields_that_differ_are_shown_beside_the_results(folders):
    runs = compare.read(folders)
    assert compare.differences(runs) == {
        "seed": [0, 1, 2],
        "model.widths.conv1_1": [None, 8, 8],
    }
    text = shown(runs)
    assert line(text, "config") == ["config", "a/run", "b/run", "c/run"]
    assert line(text, "model.widths.conv1_1")[1:] == ["–", "8", "8"]
    assert line(text, "pruned, fine-tuned")[-3:] == ["98.55%", "88.55%", "–"]
    assert line(text, "parameters") == ["parameters", "100", "(8.00×)", "100", "(8.00×)", "–"]
    assert line(text, "latency")[3:6] == ["4.00", "ms", "(2.00×)"]
    assert line(text, "time") == ["time", "1:15", "1:15", "–"]
    assert line(text, "unfinished") == ["unfinished"]
    assert "control" not in text  # which no run has


def test_runs_of_one_config_say_so(folders):
    (folders[1] / "config.json").write_text((folders[0] / "config.json").read_text())
    assert "no field differs" in shown(compare.read(folders[:2]))


def test_the_command_writes_json_and_a_plot(folders, tmp_path, capsys):
    file, plot = tmp_path / "new" / "c.json", tmp_path / "new" / "c.png"
    names = [str(folder) for folder in folders]
    cli.main(["compare", *names, "--json", str(file), "--plot", str(plot)])
    assert "unfinished" in capsys.readouterr().out
    record = json.loads(file.read_text())
    assert record["differences"]["seed"] == [0, 1, 2]
    assert [run["finished"] for run in record["runs"]] == [True, True, False]
    assert record["runs"][0]["summary"] == SUMMARY
    assert matplotlib.image.imread(plot)[..., :3].std() > 0.05


def test_mistakes(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"new is not the folder of a run"):
        compare.read([folders[0], tmp_path / "new"])
    with pytest.raises(ValueError, match="named twice"):
        compare.read([folders[0], folders[0]])
    with pytest.raises(ValueError, match="nothing to plot"):
        compare.plot(tmp_path / "x.png", compare.read(folders[2:]))


def test_the_paper_claims_nothing_about_other_networks_and_data():
    assert plots.claims("svhn_cropped", "vgg19") == {"params": 8.0, "macs": 3.0}
    assert plots.claims("digits", "vgg16") == plots.claims("cifar10", "resnet20") == {}
