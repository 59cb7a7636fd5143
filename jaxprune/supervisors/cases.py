"""What supervisors are tried on: test images as inliers, and as many outliers of some kind.

The six cases of arXiv 1903.01263 are in `PAPER`, with the data that they need and what stands in
for them where that is not at hand.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from jaxprune.data import Dataset, Split
from jaxprune.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from jaxprune.data.reshaped import resize
from jaxprune.data.scenes import scenes

WORDS = {
    "fashion_mnist": "Fashion-MNIST, resized, its grey in every channel",
    "left_out": "test images of the classes that the network was not trained on",
    "fog": "procedural scenes, no simulator's, in fog",
    "urban": "procedural scenes, no simulator's, in a street",
    "noise": "the test images under Gaussian noise",
    "blur": "the test images, blurred",
    "contrast": "the test images, of less contrast",
    "brightness": "the test images, brighter",
    "pixelate": "the test images at a coarser resolution",
    "jpeg": "the test images through a small JPEG",
}
"""The outliers of each case; those of the corruptions have five strengths."""


class Published(NamedTuple):
    """A case of the paper; its split into six is inferred from 4 data sets and 6 cases.

    Attributes:
      inliers: the data that the network is trained on.
      outliers: what pollutes it.
      pixels: of an image.
      here: the nearest case that can be run without its data, as a command or in words.
    """

    inliers: str
    outliers: str
    pixels: str
    here: str


PAPER = (
    Published("MNIST", "Omniglot", "28x28", "configs/digits_left_out.py, case left_out"),
    Published("CIFAR-10", "Tiny ImageNet", "32x32", "configs/cifar10_vgg16.py, case fashion_mnist"),
    Published("Pro-SiVIC highway", "its fog", "752x480", "configs/scenes_vgg.py, case fog"),
    Published("Pro-SiVIC highway", "its urban", "752x480", "configs/scenes_vgg.py, case urban"),
    Published("DR(eye)VE", "its rain", "1920x1080", "none: weather on video"),
    Published("DR(eye)VE", "its night", "1920x1080", "none: weather on video"),
)
"""The paper's cases. All need their data, of which none is shipped."""


def names(data: Dataset, fashion: bool) -> list[str]:
    """The cases that a data set has; `fashion`: whether Fashion-MNIST is at hand."""
    found = list(CORRUPTIONS)
    if fashion and data.input_shape[-1] == 3 and data.name != "scenes":
        found.append("fashion_mnist")
    if data.load_left_out is not None:
        found.append("left_out")
    if data.name == "scenes":
        found += ["fog", "urban"]
    return found


def require(name: str, data: Dataset) -> None:
    """Checks that a data set can have a case.

    Raises:
      ValueError: an unknown case, or one of other data.
    """
    if name not in WORDS:
        raise ValueError(f"unknown case {name!r}; there are {', '.join(WORDS)}")
    if name == "left_out" and data.load_left_out is None:
        raise ValueError(
            "case left_out: this network knows all classes; train one with --data.left-out 6 7 8 9"
        )
    if name in ("fog", "urban") and data.name != "scenes":
        raise ValueError(f"case {name}: it is of --data.name scenes, not of {data.name}")


def outliers(name: str, data: Dataset, inliers: Split, seed: int, data_dir: Any) -> dict[str, Any]:
    """The outliers of a case, uint8 [N, H, W, C] by strength; one without strengths has "".

    Args:
      name: of the case.
      data: what the network was trained on.
      inliers: the test images beside them.
      seed: of what is drawn.
      data_dir: where TFDS keeps its data.

    Raises:
      FileNotFoundError: Fashion-MNIST is neither there nor to be had.
    """
    if name in CORRUPTIONS:
        return {f"{s}": corrupt(inliers.images, name, s, seed) for s in STRENGTHS}
    if name in ("fog", "urban"):
        return {"": scenes(len(inliers), seed=1 + seed, weather=name).images}
    if name == "left_out":
        assert data.load_left_out is not None
        found = data.load_left_out().images
    else:
        from jaxprune.data import tensorflow_datasets as reader

        found = reader.read("fashion_mnist", "test", data_dir).images
    order = np.random.default_rng(seed).permutation(len(found))[: len(inliers)]
    return {"": resize(found[np.sort(order)], data.input_shape)}
