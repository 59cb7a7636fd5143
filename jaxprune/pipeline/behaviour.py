"""What pruning changes beside the accuracy: `behaviour.json`, for `jaxprune compare --behaviour`.

On the test images, for the unpruned and the pruned network: the accuracy of each class, the
calibration error with and without a temperature, and the accuracy on corrupted images. On the
held-out images: that temperature, and how often the two networks disagree, with a bound. Beside
these what `jaxprune supervise` found, and the watermark where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune import behaviour as measures
from jaxprune.data import Split
from jaxprune.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from jaxprune.files import plain, read_json, write_json
from jaxprune.methods import Watermark
from jaxprune.methods.watermark import read, read_key
from jaxprune.pipeline import supervision
from jaxprune.pipeline.experiment import Experiment
from jaxprune.pipeline.lock import exclusive
from jaxprune.pipeline.stages import load_pruned, student, trained
from jaxprune.report.behaviour import FILE
from jaxprune.report.progress import track

IMAGES = 1000
"""Test images that are corrupted."""
ON_DISK = 5000
"""Test images in all, of those that stay on disk and where `evaluation.images` says nothing."""


@exclusive
def behave(run: Experiment) -> dict[str, Any]:
    """Measures how both networks of a run behave, and writes `behaviour.json`.

    Raises:
      FileNotFoundError: a stage before this one is not finished.
    """
    pruned = load_pruned(run)
    networks = {
        "unpruned": (run.network, trained(run)),
        "pruned": (student(run, pruned), pruned.variables),
    }
    whole = run.data.test
    images = run.config.evaluation.images or (len(whole) if isinstance(whole, Split) else ON_DISK)
    test = supervision.test_images(run, images)
    few = test.first(IMAGES)
    heldout = run.data.heldout
    found: dict[str, Any] = {"images": len(test), "heldout": len(heldout)}
    answers = {}
    steps = 2 * len(networks) + len(CORRUPTIONS)
    with run.stage("behaviour"), track("behaviour", steps, "measurements") as advance:
        for name, (network, variables) in networks.items():
            chosen = run.predict(network, variables, heldout)
            answers[name] = chosen.argmax(axis=-1)
            temperature = measures.fitted_temperature(chosen, heldout.labels)
            advance(note=f"{name}, held out")
            logits = run.predict(network, variables, test)
            advance(note=f"{name}, test")
            found[name] = {
                "accuracy": float(np.mean(logits.argmax(axis=-1) == test.labels)),
                "classes": measures.class_accuracies(logits, test.labels),
                "calibration_error": measures.calibration_error(logits, test.labels),
                "temperature": temperature,
                "calibration_error_tempered": measures.calibration_error(
                    logits, test.labels, temperature
                ),
                "corruptions": {},
            }
        for kind in CORRUPTIONS:
            right: dict[str, list[float]] = {name: [] for name in networks}
            for strength in STRENGTHS:
                corrupted = corrupt(few.images, kind, strength, run.config.seed)
                shown = dataclasses.replace(few, images=corrupted)
                for name, (network, variables) in networks.items():
                    answer = run.predict(network, variables, shown).argmax(axis=-1)
                    right[name].append(float(np.mean(answer == few.labels)))
            for name, by_strength in right.items():
                found[name]["corruptions"][kind] = by_strength
            advance(note=kind)
    apart = int(np.sum(answers["unpruned"] != answers["pruned"]))
    found["disagreement"] = {
        "count": apart,
        "share": apart / len(heldout),
        "most": measures.most(apart, len(heldout)),
    }
    found["supervisors"] = _supervisors(run)
    found["watermark"] = _watermark(run, pruned.widths)
    write_json(run.folder / FILE, plain(found))
    return plain(found)


def _supervisors(run: Experiment) -> dict[str, Any]:
    """Supervisor → its AUROC by network, the mean over the cases; {} where none were judged."""
    path = run.folder / supervision.FILE
    cases = read_json(path)["cases"] if path.exists() else {}
    if not cases:
        return {}
    names = next(iter(cases.values()))["pruned"]
    return {
        name: {
            network: float(np.mean([of[network][name]["auroc"] for of in cases.values()]))
            for network in ("unpruned", "pruned")
        }
        for name in names
    }


def _watermark(run: Experiment, widths: Mapping[str, int]) -> str | None:
    """Whether the mark of a run that was marked is read, in words."""
    method = run.config.method
    if not isinstance(method, Watermark):
        return None
    try:
        key = read_key(method.key_file)
    except ValueError:
        return "the key is not at hand"
    sizes = {name: group.size for name, group in run.graph.groups.items()}
    found = read(sizes, widths, key, method.scheme)
    whole = np.packbits(found.message).tobytes().hex() == method.message.replace(" ", "").lower()
    return "read" if whole and found.fits is not False else "not read"
