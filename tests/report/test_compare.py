import io
import json

import matplotlib.image
import numpy as np
import pytest
from rich.console import Console

from jaxprune import cli
from jaxprune.config import ModelConfig, RunConfig, save
from jaxprune.methods import L1, L2
from jaxprune.methods.rounds import Schedule
from jaxprune.report import answers, compare, plots

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
    compare.show(runs, console=Console(file=file, width=100, highlight=False))
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


def test_of_a_method_its_own_runs_alone_are_compared(tmp_path):
    methods = (L1(), L2(), L1(Schedule("gradual")))
    for name, method in zip("abc", methods, strict=True):
        save(tmp_path / name / "config.json", RunConfig(name=name, method=method))
    two = compare.read([tmp_path / "a", tmp_path / "b"])
    assert compare.differences(two) == {}
    assert line(shown(two), "method") == ["method", "l1", "l2"]
    three = compare.read([tmp_path / name for name in "abc"])
    assert compare.differences(three) == {"method.schedule.name": ["joint", "joint", "gradual"]}


def test_runs_of_one_method_share_a_colour_and_the_unpruned_network_is_a_point(
    folders, tmp_path, monkeypatch
):
    drawn = []
    monkeypatch.setattr(plots, "tradeoff", lambda path, points, *_: drawn.extend(points))
    compare.plot("x.png", compare.read(folders))
    assert [point.get("method") for point in drawn] == ["genetic", "genetic", None]
    whole = {"label": "unpruned", "accuracy": 0.9871, "kind": "reference"}
    assert drawn[-1] == {**whole, "params": 1.0, "macs": 1.0}


def test_a_plot_of_several_methods_has_a_colour_for_each(tmp_path):
    point = {"accuracy": 0.9, "params": 1.0, "macs": 1.0, "kind": "result"}
    points = [{**point, "label": name, "method": name} for name in ("l1", "l2")]
    plots.tradeoff(tmp_path / "a.png", points, {"params": 8.0, "macs": 3.0}, {})
    pixels = matplotlib.image.imread(tmp_path / "a.png")[..., :3]
    for colour, _ in plots.style.SERIES[:2]:
        wanted = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        assert (abs(pixels - wanted).max(-1) < 0.02).sum() > 100
    assert len(set(plots.style.SERIES)) == 77


def leave_answers(folder, right, images="same", part="test"):
    answers.write(folder, answers.Answers(part, "digits", images, right))


def test_paired_reads_the_folders_alone_and_writes_json(folders, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i, folder in enumerate(folders):
        right = {n: rng.random(500) < 0.9 - 0.2 * i for n in ("unpruned", "as_cut", "pruned")}
        leave_answers(folder, right)
    cli.main(["compare", *map(str, folders), "--paired", "--json", str(tmp_path / "c.json")])
    out = capsys.readouterr().out
    assert "paired over 500 test images" in out and "a tie" in out
    found = json.loads((tmp_path / "c.json").read_text())["paired"]
    first, second, _ = found["between"]
    assert (first["pruned"], first["minus"], first["tie"]) == ("a/run", "b/run", False)
    assert first["mean"] == pytest.approx(0.2, abs=0.06) and second["minus"] == "c/run"
    assert found["runs"][0]["pruned_minus"].keys() == {"unpruned"}
    (seeds,) = found["seeds"]  # the first run has another model
    assert seeds["runs"] == ["b/run", "c/run"]


def test_what_cannot_be_paired_is_one_sentence(folders, capsys):
    right = {name: np.ones(4, bool) for name in ("unpruned", "pruned")}
    with pytest.raises(SystemExit):
        cli.main(["compare", str(folders[0]), "--paired"])
    assert f"run `jaxprune evaluate {folders[0]}` first" in capsys.readouterr().err
    leave_answers(folders[0], right)
    leave_answers(folders[1], right, images="others")
    with pytest.raises(SystemExit):
        cli.main(["compare", *map(str, folders[:2]), "--paired"])
    err = capsys.readouterr().err
    assert "a/run and b/run were measured on other test images (4 of digits" in err
    assert err.count("\n") == 1
    with pytest.raises(FileNotFoundError, match=r"evaluate .*a/run --heldout` first"):
        compare.pairs(compare.read(folders[:1]), "heldout")
    (folders[0] / "answers.json").write_text('{"count": 2, "networks": {"pruned": "1"}}')
    with pytest.raises(ValueError, match=r"answers\.json is damaged"):
        compare.pairs(compare.read(folders[:1]))
    with pytest.raises(SystemExit):
        cli.main(["compare", str(folders[0]), "--heldout"])
    assert "give --paired, too" in capsys.readouterr().err


def test_the_paper_claims_nothing_about_other_networks_and_data():
    assert plots.claims("svhn_cropped", "vgg19") == {"params": 8.0, "macs": 3.0}
    assert plots.claims("digits", "vgg16") == plots.claims("cifar10", "resnet20") == {}
