"""A part of a data set that stays on disk; its images are decoded when they are needed.

For images that differ in size and do not fit in memory together. Grain reads ahead with threads:
decoding a JPEG releases the interpreter's lock. Three batches at most are decoded and not yet
handed out, however large the data set is.

Training reads random resized crops and evaluation central ones, both as torchvision makes them
(`RandomResizedCrop`, and `Resize` with `CenterCrop`), with bilinear interpolation over all pixels
that a smaller image covers.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
from PIL import Image

from jaxprune.data.batches import batch_indices
from jaxprune.data.split import Split

_AREA = (0.08, 1.0)  # of a training crop, as a part of the image's
_ASPECT = (3 / 4, 4 / 3)  # of a training crop, its width by its height
_MARGIN = 256 / 224  # the short side by that of the evaluation crop
_MODES = {1: "L", 3: "RGB"}
_CROPS = 0xC809  # keeps these random numbers apart from others of the same seed

Pixels = np.ndarray
"""uint8 `[S, S, C]`."""


@dataclasses.dataclass(frozen=True)
class Streamed:
    """Images on disk with their labels.

    Attributes:
      source: random access to examples, dictionaries with the image still encoded.
      positions: int32 `[N]`, which examples of `source` these are.
      split: its name; the example at position 17 has the id `SPLIT_00017`.
      image: the field of the image.
      label: the field of the label.
      image_shape: (S, S, C) of a decoded image.
      num_classes: labels are below it.
      workers: threads that decode; what is read does not depend on it.
    """

    source: Any = dataclasses.field(repr=False)
    positions: np.ndarray = dataclasses.field(repr=False)
    split: str
    image: str
    label: str
    image_shape: tuple[int, int, int]
    num_classes: int
    workers: int

    def __post_init__(self):
        if self.image_shape[-1] not in _MODES:
            raise ValueError(
                f"images of {self.image_shape[-1]} channels cannot be read from disk; 1 and 3 can"
            )

    def __len__(self) -> int:
        return len(self.positions)

    def first(self, count: int | None) -> Streamed:
        """The first `count` examples, still on disk; None: all."""
        return self._only(slice(count))

    def take(self, positions: np.ndarray) -> Split:
        """The examples at `positions`, in that order, decoded into memory as for evaluation."""
        part = self._only(positions)
        images = np.empty((len(part), *self.image_shape), np.uint8)
        labels = np.empty(len(part), np.int32)
        done = 0
        for batch, its_labels in part.chunks(64):
            there = slice(done, done + len(batch))
            images[there], labels[there] = batch, its_labels
            done += len(batch)
        return Split(images, labels, np.array([f"{self.split}_{i:05d}" for i in part.positions]))

    def chunks(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All examples in their order: images uint8 `[n, S, S, C]` and labels int32 `[n]`.

        `n` is `size`, or less at the end. Each image is resized so that its short side is 256/224
        of `S`, and cut to the square in its middle.
        """
        return self._read(range(len(self)), lambda i: self.decode(i, central_crop), size)

    def batches(
        self, seed: int, batch_size: int, start: int, stop: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The training batches of the steps from `start` to `stop`, decoded ahead.

        A batch is a function of (seed, step): which examples it has (`batch_indices`), and how
        each is cropped. A crop has 0.08 to 1 of the image's area and an aspect ratio from 3/4 to
        4/3, log-uniform (Szegedy et al., arXiv:1409.4842), and is resized to `S`×`S`.

        Yields:
          Images uint8 `[B, S, S, C]` and labels int32 `[B]`.
        """

        def example(i: int) -> tuple[Pixels, np.int32]:
            step, within = divmod(i, batch_size)
            rng = np.random.default_rng((seed, step, within, _CROPS))

            def view(image: Image.Image, side: int) -> Image.Image:
                box = random_crop(rng, image.width, image.height)
                return image.resize((side, side), Image.Resampling.BILINEAR, box=box)

            order = batch_indices(seed, step, len(self), batch_size)
            return self.decode(int(order[within]), view)

        return self._read(range(start * batch_size, stop * batch_size), example, batch_size)

    def decode(
        self, position: int, view: Callable[[Image.Image, int], Image.Image]
    ) -> tuple[Pixels, np.int32]:
        """The image at `position`, as `view(image, S)` shows it, and its label.

        Raises:
          OSError: an image that cannot be decoded, by its id.
          ValueError: a label out of range, likewise.
        """
        place = int(self.positions[position])
        example = self.source[place]
        label = example[self.label]
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"the label of {self.split}_{place:05d} is {label}, out of range for "
                f"{self.num_classes} classes"
            )
        side, _, channels = self.image_shape
        try:
            with Image.open(io.BytesIO(example[self.image])) as encoded:
                pixels = np.asarray(view(encoded.convert(_MODES[channels]), side))
        except OSError as error:
            raise OSError(f"{self.split}_{place:05d} cannot be decoded: {error}") from error
        return pixels.reshape(self.image_shape), np.int32(label)

    def _only(self, chosen: Any) -> Streamed:
        return dataclasses.replace(self, positions=self.positions[chosen])

    def _read(
        self, wanted: range, example: Callable[[int], tuple[Pixels, np.int32]], batch_size: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        # Imported late: data sets in memory need none of it.
        import grain

        ahead = grain.ReadOptions(
            num_threads=self.workers, prefetch_buffer_size=max(2 * batch_size, self.workers)
        )
        examples = grain.MapDataset.range(wanted.start, wanted.stop).map(example)
        with closing(iter(examples.to_iter_dataset(ahead).batch(batch_size))) as batches:
            yield from batches


def random_crop(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of a training crop, as `Streamed.batches` describes it.

    An image so narrow that none of ten draws fits is cut in its middle.
    """
    low, high = map(math.log, _ASPECT)
    for _ in range(10):
        area = width * height * rng.uniform(*_AREA)
        aspect = math.exp(rng.uniform(low, high))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left = int(rng.integers(width - across + 1))
            top = int(rng.integers(height - down + 1))
            return left, top, left + across, top + down
    across = min(width, max(1, round(height * _ASPECT[1])))
    down = min(height, max(1, round(width / _ASPECT[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def central_crop(image: Image.Image, side: int) -> Image.Image:
    """The square in the middle of the image, whose short side becomes 256/224 of `side`."""
    short = round(side * _MARGIN)
    scale = short / min(image.size)
    width, height = (max(short, int(scale * length)) for length in image.size)
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    return resized.crop((left, top, left + side, top + side))
