"""scikit-learn's handwritten digits: the embedded default, which needs no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from jaxprune.data.dataset import Dataset, assemble, choose_balanced
from jaxprune.data.split import Split

_TEST = 500
_HELDOUT = 200


def load(heldout: int | str | Path | None, seed: int) -> Dataset:
    """1,797 images of 8×8 pixels: 500 test, by default 200 held out, the rest for training.

    The test part is the same for every seed: 50 images a class.
    """
    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    # They count from 0 to 16.
    images = np.round(pixels.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    ids = np.array([f"digit_{i:04d}" for i in range(len(images))])
    whole = Split(images, labels.astype(np.int32), ids)
    tested = choose_balanced(whole.labels, _TEST, seed=0, num_classes=10)
    test = whole.take(tested)
    return assemble(
        "digits",
        whole.take(np.setdiff1d(np.arange(len(whole)), tested)),
        lambda: test,
        num_classes=10,
        heldout=_HELDOUT if heldout is None else heldout,
        seed=seed,
    )
