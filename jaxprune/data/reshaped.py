"""A data set in memory with its images brought to another shape, as a network takes them."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from jaxprune.data.dataset import Dataset
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed


def reshape(dataset: Dataset, shape: tuple[int, int, int]) -> Dataset:
    """The data set with images of `shape`, (height, width, channels), in all its parts.

    They are resized bilinearly, and grey ones become equal channels. Means and deviations stay
    those of the images as they were.

    Raises:
      ValueError: images on disk, a shape without pixels, or channels that cannot be made.
    """
    before = dataset.input_shape
    if isinstance(dataset.train, Streamed):
        raise ValueError("data.shape: it is for images in memory, and these stay on disk")
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"data.shape: {shape}, must be height, width and channels above 0")
    if shape[2] != before[2] and before[2] != 1:
        raise ValueError(
            f"data.shape: {shape} for images of {before[2]} channels; only grey ones can become "
            "several, equal ones"
        )

    def split(part: Split | Streamed) -> Split:
        assert isinstance(part, Split)
        return dataclasses.replace(part, images=resize(part.images, shape))

    left_out = dataset.load_left_out

    def statistic(values: tuple[float, ...]) -> tuple[float, ...]:
        return values * (shape[2] // before[2])

    return dataclasses.replace(
        dataset,
        train=split(dataset.train),
        heldout=split(dataset.heldout),
        mean=statistic(dataset.mean),
        std=statistic(dataset.std),
        load_test=lambda: split(dataset.load_test()),
        load_left_out=None if left_out is None else lambda: split(left_out()),
    )


def resize(images: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Images uint8 [N, h, w, c] in another shape, [N, *shape]: bilinear, grey in equal channels."""
    if images.shape[1:] == shape:
        return images
    height, width, channels = shape
    out = np.empty((len(images), height, width, images.shape[-1]), np.uint8)
    for i, image in enumerate(images):
        for c in range(image.shape[-1]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., c]))
            resized = plane.resize((width, height), Image.Resampling.BILINEAR)
            out[i, ..., c] = np.asarray(resized)
    return out if channels == out.shape[-1] else np.repeat(out, channels, axis=-1)
