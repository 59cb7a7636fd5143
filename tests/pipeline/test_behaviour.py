"""`jaxprune evaluate --behaviour` and `jaxprune compare --behaviour`."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

import jaxprune as jp
from jaxprune import cli, pipeline
from jaxprune.behaviour import most
from jaxprune.data.corruptions import CORRUPTIONS, corrupt
from jaxprune.pipeline.folder import problem_of
from jaxprune.pipeline.stages import recalibrated, selected

KEY = "a key of the tests, which is no secret"


@pytest.fixture(scope="module")
def run(tmp_path_factory, hardly_trained):
    """A marked run that is trained for an epoch."""
    folder = tmp_path_factory.mktemp("behaviour")
    (folder / "key").write_text(KEY)
    return hardly_trained(
        folder / "run",
        method=jp.Watermark(str(folder / "key"), "a5", check=4, rate=0.2),
        budget=jp.Budget("params/1.5"),
        evaluation=jp.EvaluationConfig(images=120),
    )


@pytest.fixture(scope="module")
def found(run):
    return pipeline.behave(run)


def answers(run, images, pruned=False):
    """The classes that a network of the run names, from pixels, in NumPy but for its own pass."""
    pixels = ((images / 255 - np.array(run.data.mean)) / np.array(run.data.std)).astype(np.float32)
    if not pruned:
        return np.asarray(run.forward(pipeline.train(run), pixels)).argmax(1)
    small = jp.load(run.folder / "pruned")
    return np.asarray(small.wrap(run.forward)(small.variables, pixels)).argmax(1)


def test_it_is_what_the_networks_say_of_the_images(run, found):
    order = np.sort(np.random.default_rng(0).permutation(len(run.data.test))[:120])
    test = run.data.test.take(order)
    right = answers(run, test.images) == test.labels
    assert found["unpruned"]["accuracy"] == pytest.approx(right.mean(), abs=0.01)
    by_class = [right[test.labels == k].mean() for k in range(10)]
    np.testing.assert_allclose(found["unpruned"]["classes"], by_class, atol=0.1)
    assert np.mean(np.abs(np.array(found["unpruned"]["classes"]) - by_class)) < 0.02
    assert found["pruned"]["corruptions"].keys() == CORRUPTIONS.keys()
    blurred = corrupt(test.images, "blur", 3, run.config.seed)
    expected = np.mean(answers(run, blurred, pruned=True) == test.labels)
    assert found["pruned"]["corruptions"]["blur"][2] == pytest.approx(expected, abs=0.02)


def test_masks_show_the_network_that_recalibration_leaves(run):
    problem = problem_of(run, pipeline.train(run))
    assert problem.recalibrated is not None
    masks, pruned = selected(run).masks, recalibrated(run)
    pixels = problem.validation[0][0]
    found = jax.jit(run.graph.masked(problem.recalibrated))(problem.variables, masks, pixels)
    expected = pruned.wrap(run.forward)(pruned.variables, pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    stale = run.graph.masked(run.forward)(problem.variables, masks, pixels)
    assert float(np.abs(stale - expected).max()) > 0.01


def test_disagreement_is_counted_on_the_held_out_images_with_its_bound(run, found):
    images = run.data.heldout.images
    apart = int(np.sum(answers(run, images) != answers(run, images, pruned=True)))
    of = found["disagreement"]
    assert abs(of["count"] - apart) <= 1 and of["share"] == of["count"] / len(images)
    assert of["most"] == pytest.approx(most(of["count"], len(images))) and of["most"] > of["share"]


def test_the_mark_is_read_until_its_key_is_lost(run, found):
    assert found["watermark"] == "read" and found["supervisors"] == {}
    key = run.folder.parent / "key"
    key.write_text("another key, that reads nothing of it")
    assert pipeline.behaviour._watermark(run, jp.load(run.folder / "pruned").widths) == "not read"
    key.unlink()
    lost = pipeline.behaviour._watermark(run, jp.load(run.folder / "pruned").widths)
    assert lost == "the key is not at hand"
    key.write_text(KEY)


def test_compare_shows_it_and_says_what_measures_it(run, found, capsys, tmp_path):
    out = tmp_path / "c.json"
    picture = tmp_path / "changes.png"
    asked = ["compare", str(run.folder), "--behaviour", "--json", str(out), "--plot", str(picture)]
    cli.main(asked)
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    for words in (
        "calibration error",
        "answers that differ",
        "accuracy under jpeg",
        "class 9",
        "read",
    ):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert json.loads(out.read_text())["behaviour"]["run"] == json.loads(json.dumps(found))
    (run.folder / "behaviour.json").rename(tmp_path / "kept.json")
    with pytest.raises(SystemExit):
        cli.main(["compare", str(run.folder), "--behaviour"])
    err = capsys.readouterr().err
    assert "run `jaxprune evaluate" in err and "--behaviour` first" in err and err.count("\n") == 1
    (tmp_path / "kept.json").rename(run.folder / "behaviour.json")


def test_evaluate_measures_it(run, found, capsys, monkeypatch):
    called = []
    kept = json.loads((run.folder / "behaviour.json").read_text())
    monkeypatch.setattr(pipeline, "behave", lambda opened: called.append(opened) or kept)
    cli.main(["evaluate", str(run.folder), "--behaviour"])
    assert len(called) == 1 and "the class that loses most" in capsys.readouterr().out
