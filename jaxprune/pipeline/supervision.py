"""Supervisors on the networks of a run, before and after pruning: `supervision.json`.

They are fitted to training images and judged on test images, half of them outliers; nothing is
chosen by what comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxprune import models
from jaxprune.data import Split
from jaxprune.data import tensorflow_datasets as reader
from jaxprune.data.augment import normalize
from jaxprune.data.corruptions import CORRUPTIONS
from jaxprune.files import plain, read_json, write_json
from jaxprune.methods import name_of
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.lock import exclusive
from jaxprune.pipeline.stages import load_pruned, trained
from jaxprune.report import supervision_plots
from jaxprune.report.progress import track
from jaxprune.supervisors import BLIND, SUPERVISORS, Score, Seen, Watched, measure, see, sweep
from jaxprune.supervisors import cases as kinds
from jaxprune.supervisors.change import auroc_change

FILE = "supervision.json"
IMAGES = 1000
"""Test images, and training images that supervisors are fitted to, where nothing else is asked."""
_DRAWN = 4
"""The strength whose curves are drawn, of a case that has five."""


@exclusive
def supervise(run: Experiment, cases: Sequence[str] = (), images: int = IMAGES) -> dict[str, Any]:
    """Judges every supervisor on every case, for the unpruned and the pruned network.

    Args:
      run: a run whose network is fine-tuned.
      cases: their names; all that the run's data has where none is named. Those that an earlier
        call judged on as many images are not judged again.
      images: inliers, as many outliers, and as many training images to fit to; fewer where there
        are not so many.

    Raises:
      FileNotFoundError: a stage before this one is not finished, or data of a case is absent.
      ValueError: an unknown case or one of other data, or fewer than 50 images.
    """
    if images < 50:
        raise ValueError(f"images must be at least 50 to judge a supervisor by, not {images}")
    for name in cases:
        kinds.require(name, run.data)
    fashion = (reader.folder(run.config.data.data_dir) / "fashion_mnist").exists()
    chosen = list(cases) or kinds.names(run.data, fashion)
    pruned = load_pruned(run)
    small = models.from_pruned(run.module, pruned)
    watched = {
        "unpruned": _watched(run, run.module, trained(run)),
        "pruned": _watched(run, small, pruned.variables),
    }
    done = _earlier(run, images)
    left = [name for name in chosen if not any(c.partition("/")[0] == name for c in done["cases"])]
    if left:
        _judge(run, watched, left, images, done)
    for name in chosen:
        if name in CORRUPTIONS:
            _draw_strengths(run, name, done["cases"])
    return done


def _judge(
    run: Experiment, watched: Mapping[str, Watched], left: Sequence[str], images: int, done: Any
) -> None:
    seed = run.config.seed
    steps = 2 * len(SUPERVISORS) + len(left)
    with run.stage("supervise"), track("supervise", steps, "steps") as advance:
        drawn = run.draw(images, purpose=0x5EE)
        inliers = test_images(run, images)
        fitted: dict[str, dict[str, Score]] = {}
        seen: dict[str, Seen] = {}
        scores: dict[str, dict[str, np.ndarray]] = {}
        shared: dict[str, Score] = {}
        for network, of in watched.items():
            shown = see(of, _normalised(run, drawn.images), drawn.labels)
            seen[network] = see(of, _normalised(run, inliers.images), inliers.labels)
            fitted[network] = {}
            for name, fit in SUPERVISORS.items():
                advance(note=f"{name}, {network}")
                score = shared[name] if name in shared else fit(of, shown, seed)
                if name in BLIND:
                    shared[name] = score
                fitted[network][name] = score
            scores[network] = {n: score(seen[network]) for n, score in fitted[network].items()}
        done["images"], done["inliers"] = images, len(inliers)
        done["accuracy"] = {n: float(np.mean(_right(of))) for n, of in seen.items()}
        for name in left:
            advance(note=name)
            for strength, found in kinds.outliers(
                name, run.data, inliers, seed, run.config.data.data_dir
            ).items():
                label = f"{name}/{strength}" if strength else name
                shown = {n: _shown(run, watched[n], found) for n in watched}
                outside = {
                    n: {s: score(shown[n]) for s, score in fitted[n].items()} for n in watched
                }
                done["cases"][label] = _judged(scores, outside, seen)
                if strength in ("", str(_DRAWN)):
                    _draw_case(run, name, strength, scores, outside, seen)
            write_json(run.folder / FILE, plain(done))


def _judged(
    inside: Mapping[str, Mapping[str, np.ndarray]],
    outside: Mapping[str, Mapping[str, np.ndarray]],
    seen: Mapping[str, Seen],
) -> dict[str, Any]:
    """The seven metrics of each supervisor by network, and how its AUROC changes."""
    found: dict[str, Any] = {
        network: {
            name: measure(
                *_mixed(inside[network][name], outside[network][name], seen[network])
            )._asdict()
            for name in SUPERVISORS
        }
        for network in inside
    }
    change = {
        name: auroc_change(
            (outside["unpruned"][name], inside["unpruned"][name]),
            (outside["pruned"][name], inside["pruned"][name]),
        )._asdict()
        for name in SUPERVISORS
    }
    outliers = len(next(iter(outside["pruned"].values())))
    return {"outliers": outliers, **found, "change": change}


def _mixed(
    inside: np.ndarray, outside: np.ndarray, seen: Seen
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of inliers and outliers together, which are outliers, which are predicted right."""
    outlier = np.arange(len(inside) + len(outside)) >= len(inside)
    right = np.concatenate([_right(seen), np.zeros(len(outside), bool)])
    return np.concatenate([inside, outside]), outlier, right


def _right(seen: Seen) -> np.ndarray:
    return seen.logits.argmax(axis=-1) == seen.labels


def _watched(run: Experiment, module: Any, variables: Any) -> Watched:
    return Watched(
        models.features(module), variables, run.data.std, run.config.evaluation.batch_size
    )


def _shown(run: Experiment, watched: Watched, images: np.ndarray) -> Seen:
    return see(watched, _normalised(run, images), np.zeros(len(images), np.int32))


def _normalised(run: Experiment, images: np.ndarray) -> np.ndarray:
    return np.asarray(normalize(images, mean=run.data.mean, std=run.data.std))


def test_images(run: Experiment, images: int) -> Split:
    """Test images that do not depend on the run's seed, so that runs compare."""
    test = run.data.test
    order = np.random.default_rng(0).permutation(len(test))[:images]
    return test.take(np.sort(order))


def _earlier(run: Experiment, images: int) -> dict[str, Any]:
    """What an earlier call left, if it judged on as many images."""
    path = run.folder / FILE
    done = read_json(path) if path.exists() else {}
    if done.get("images") != images:
        done = {"name": run.config.name, "method": name_of(run.config.method), "images": images}
        done["cases"] = {}
    return done


def _draw_case(
    run: Experiment, name: str, strength: str, inside: Any, outside: Any, seen: Mapping[str, Seen]
) -> None:
    """The four plots of a case: ROC, precision-recall and risk-coverage, and the scores."""
    title = f"{name}, strength {strength} of 5" if strength else name
    of = {
        network: {s: _mixed(inside[network][s], outside[network][s], seen[network]) for s in scores}
        for network, scores in inside.items()
    }
    curves = {n: {s: sweep(*mixed) for s, mixed in by.items()} for n, by in of.items()}
    plots = run.folder / "plots"
    levels = {n: float(np.mean(~_right(which))) for n, which in seen.items()}
    supervision_plots.curves(plots / f"supervise_{name}.png", title, curves, levels)
    split = {
        n: {s: (scores[~outlier], scores[outlier]) for s, (scores, outlier, _) in by.items()}
        for n, by in of.items()
    }
    supervision_plots.histograms(plots / f"supervise_{name}_scores.png", title, split)


def _draw_strengths(run: Experiment, name: str, cases: Mapping[str, Any]) -> None:
    """How the AUROC grows with the strength of a corruption."""
    strengths = [int(c.partition("/")[2]) for c in cases if c.startswith(f"{name}/")]
    auroc = {
        network: {
            s: [cases[f"{name}/{k}"][network][s]["auroc"] for k in strengths] for s in SUPERVISORS
        }
        for network in ("unpruned", "pruned")
    }
    path = run.folder / "plots" / f"supervise_{name}_strengths.png"
    supervision_plots.strengths(path, name, strengths, auroc)
