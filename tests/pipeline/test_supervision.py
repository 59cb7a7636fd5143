from __future__ import annotations

import json

import numpy as np
import pytest

from jaxprune import cli, data, pipeline
from jaxprune.budget import Budget
from jaxprune.config import DataConfig
from jaxprune.data.corruptions import corrupt
from jaxprune.methods import L1
from jaxprune.pipeline import supervision
from jaxprune.report.supervision import HEADS
from jaxprune.supervisors import SUPERVISORS, cases, measure


@pytest.fixture(scope="module")
def run(tmp_path_factory, hardly_trained):
    """A pruned run on the digits 0 to 5, trained for an epoch."""
    return hardly_trained(
        tmp_path_factory.mktemp("run"),
        data=DataConfig(left_out=(6, 7, 8, 9)),
        budget=Budget("params/2"),
        method=L1(),
    )


@pytest.fixture(scope="module")
def found(run):
    return pipeline.supervise(run, ["noise", "left_out"], 100)


def test_every_supervisor_has_the_seven_metrics_in_every_case(run, found):
    assert list(found["cases"]) == [*(f"noise/{i}" for i in range(1, 6)), "left_out"]
    for of in found["cases"].values():
        assert of["outliers"] == 100
        for network in ("unpruned", "pruned"):
            assert of[network].keys() == SUPERVISORS.keys()
            for values in of[network].values():
                assert values.keys() == HEADS.keys()
                assert all(0 <= value <= 1 for value in values.values())
        assert of["unpruned"]["autoencoder"] == {**of["pruned"]["autoencoder"]} | {
            "cbpl": of["unpruned"]["autoencoder"]["cbpl"]
        }  # it sees the images alone, but the level is the network's
    assert json.loads((run.folder / "supervision.json").read_text()) == json.loads(
        json.dumps(found)
    )
    plots = {path.name for path in (run.folder / "plots").glob("supervise_*")}
    assert plots == {
        "supervise_noise.png", "supervise_noise_scores.png", "supervise_noise_strengths.png",
        "supervise_left_out.png", "supervise_left_out_scores.png",
    }  # fmt: skip


def test_the_baseline_is_that_of_the_networks_own_logits(run, found):
    """Anew, from the test images to the number, without the supervisors' own code."""
    order = np.sort(np.random.default_rng(0).permutation(len(run.data.test))[:100])
    test = run.data.test.take(order)
    shown = np.concatenate([test.images, corrupt(test.images, "noise", 5, run.config.seed)])
    pixels = (shown / 255 - np.array(run.data.mean)) / np.array(run.data.std)
    logits = np.asarray(run.forward(pipeline.train(run), pixels.astype(np.float32)), np.float64)
    scores = 1 - (np.exp(logits).T / np.exp(logits).sum(1)).T.max(1)
    outlier = np.arange(200) >= 100
    right = np.concatenate([logits[:100].argmax(1) == test.labels, np.zeros(100, bool)])
    expected = measure(scores, outlier, right)._asdict()
    assert found["cases"]["noise/5"]["unpruned"]["max_softmax"] == pytest.approx(
        expected, abs=0.011
    )
    assert found["accuracy"]["unpruned"] == pytest.approx(right[:100].mean())


def test_what_is_judged_is_not_judged_again(run, found, monkeypatch):
    def refuse(*_):
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(supervision, "_judge", refuse)
        assert pipeline.supervise(run, ["noise"], 100)["cases"] == json.loads(
            json.dumps(found["cases"])
        )
        with pytest.raises(AssertionError):  # of other images it is
            pipeline.supervise(run, ["noise"], 90)
    few = {name: SUPERVISORS[name] for name in ("max_softmax", "mahalanobis")}
    monkeypatch.setattr(supervision, "SUPERVISORS", few)
    more = pipeline.supervise(run, ["jpeg"], 100)["cases"]
    assert more["jpeg/1"]["pruned"].keys() == few.keys() and "left_out" in more
    path = run.folder / "supervision.json"
    path.write_text(json.dumps(found))


def test_the_command_shows_it_within_80_columns(run, found, capsys):
    cli.main(["supervise", str(run.folder), "--case", "left_out", "noise", "--images", "100"])
    out = capsys.readouterr().out
    assert "left_out: 100 outliers" in out and "mahalanobis" in out and "CBFAD" in out
    assert max(map(len, out.splitlines())) <= 80
    cli.main(["supervise", "--list"])
    out = capsys.readouterr().out
    assert all(name in out for name in cases.WORDS) and "Pro-SiVIC" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "name the folder of a run"),
        (["RUN", "--case", "rain"], "unknown case 'rain'; there are fashion_mnist"),
        (["RUN", "--case", "fog"], "case fog: it is of --data.name scenes, not of digits"),
        (["RUN", "--images", "10"], "images must be at least 50"),
        (["absent"], "absent is not the folder of a run"),
    ],
)
def test_a_mistake_is_one_sentence(run, arguments, words, capsys):
    given = [str(run.folder) if a == "RUN" else a for a in arguments]
    with pytest.raises(SystemExit) as ended:
        cli.main(["supervise", *given])
    err = capsys.readouterr().err
    assert ended.value.code == 2 and words in err and err.count("\n") == 1


def test_cases_know_their_data(run):
    digits = run.data
    assert cases.names(digits, fashion=True)[-1] == "left_out"  # grey images are of one channel
    colour = data.load("scenes", heldout=60)
    assert cases.names(colour, fashion=True)[-2:] == ["fog", "urban"]
    few = colour.test.first(6)
    (fog,) = cases.outliers("fog", colour, few, 0, None).values()
    assert fog.shape == few.images.shape and np.any(fog != few.images)
    (left,) = cases.outliers("left_out", digits, digits.test.first(30), 0, None).values()
    assert len(left) == 30 and left.shape[1:] == (8, 8, 1)
