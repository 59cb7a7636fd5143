"""A data set: its training, held-out and test parts, in memory or, but for the second, on disk.

The test part is read by `evaluate` alone, so it is decoded only when it is asked for. Whatever
chooses reads the held-out part, which is fixed by the data set's own seed and not by a run's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed


@dataclasses.dataclass(frozen=True)
class Dataset:
    """An image classification data set.

    Attributes:
      name: as `load` was given it.
      train: what networks are trained on.
      heldout: what everything that chooses is measured on: sensitivity, budget, schedule.
      num_classes: labels are below it.
      mean: of each channel of images scaled to [0, 1].
      std: likewise.
      load_test: reads the test part; use `test`.
      load_left_out: reads the test images of the classes that are left out, where some are.
    """

    name: str
    train: Split | Streamed
    heldout: Split
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    load_test: Callable[[], Split | Streamed] = dataclasses.field(repr=False)
    load_left_out: Callable[[], Split] | None = dataclasses.field(repr=False, default=None)

    @cached_property
    def test(self) -> Split | Streamed:
        """The test part; one in memory is decoded at its first use."""
        test = self.load_test()
        if isinstance(test, Split):
            check(test, self.num_classes, f"{self.name}.test")
        if test.image_shape != self.input_shape:
            raise ValueError(
                f"{self.name}.test has images {test.image_shape}, its training part "
                f"{self.input_shape}"
            )
        return test

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Of one image: (height, width, channels)."""
        return self.train.image_shape


def leave_out(dataset: Dataset, classes: Sequence[int]) -> Dataset:
    """The data set without some of its classes, the others numbered anew in their order.

    Args:
      dataset: in memory.
      classes: those that go, from its training, held-out and test parts alike; their test images
        stay as `load_left_out`, whose labels are all 0.

    Raises:
      ValueError: a class that is not there, fewer than two that stay, or a data set on disk.
    """
    gone = sorted(set(classes))
    kept = np.setdiff1d(np.arange(dataset.num_classes), gone)
    if len(kept) + len(gone) != dataset.num_classes or len(kept) < 2:
        raise ValueError(
            f"data.left_out is {gone}: it names classes of 0 to {dataset.num_classes - 1}, and "
            "leaves at least two"
        )
    if isinstance(dataset.train, Streamed):
        raise ValueError("data.left_out: the labels of a data set on disk are not read beforehand")

    def staying(split: Split | Streamed) -> Split:
        assert isinstance(split, Split)
        chosen = split.take(np.flatnonzero(np.isin(split.labels, kept)))
        return dataclasses.replace(
            chosen, labels=np.searchsorted(kept, chosen.labels).astype(np.int32)
        )

    def left_out() -> Split:
        test = dataset.test
        assert isinstance(test, Split)
        chosen = test.take(np.flatnonzero(np.isin(test.labels, gone)))
        return dataclasses.replace(chosen, labels=np.zeros_like(chosen.labels))

    return dataclasses.replace(
        dataset,
        train=staying(dataset.train),
        heldout=staying(dataset.heldout),
        num_classes=len(kept),
        load_test=lambda: staying(dataset.test),
        load_left_out=left_out,
    )


def check(split: Split, num_classes: int, field: str) -> Split:
    """The split itself, if it can be trained on or evaluated.

    Raises:
      ValueError: naming the field and what is wrong with it.
    """
    images, labels = split.images, split.labels
    if images.ndim != 4 or images.dtype != np.uint8:
        raise ValueError(
            f"{field}.images must be uint8 [N, H, W, C]; it is {images.dtype} {list(images.shape)}"
        )
    if not len(images):
        raise ValueError(f"{field} holds no images")
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{field}.labels must be integers [{len(images)}], one an image; "
            f"it is {labels.dtype} {list(labels.shape)}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"{field}.labels[{wrong[0]}] is {labels[wrong[0]]}, out of range for {num_classes} "
            f"classes (and so are {len(wrong) - 1} more)"
        )
    return split


def assemble(
    name: str,
    examples: Split,
    load_test: Callable[[], Split],
    *,
    num_classes: int,
    heldout: int | str | Path,
    seed: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> Dataset:
    """A data set of which some training examples are held out.

    Args:
      name: of the data set.
      examples: the whole training part.
      load_test: reads the test part.
      num_classes: labels are below it.
      heldout: how many examples to hold out, balanced over the classes, or a file with one id a
        line.
      seed: chooses which examples are held out.
      statistics: mean and standard deviation of each channel; None: of the training images.

    Raises:
      ValueError: labels out of range, or a `heldout` that the examples do not allow.
    """
    check(examples, num_classes, f"{name}.train")
    if isinstance(heldout, int):
        chosen = choose_balanced(examples.labels, heldout, seed, num_classes)
    else:
        place = {str(name): i for i, name in enumerate(examples.ids)}
        chosen = positions_in_file(Path(heldout), place.get, str(examples.ids[0]))
    if not 0 < len(chosen) < len(examples):
        raise ValueError(
            f"heldout leaves {len(chosen)} examples to choose by and "
            f"{len(examples) - len(chosen)} to train on; each part needs some"
        )
    train = examples.take(np.setdiff1d(np.arange(len(examples)), chosen))
    mean, std = statistics or channel_statistics(train.images)
    return Dataset(name, train, examples.take(chosen), num_classes, mean, std, load_test)


def hold_out(
    name: str,
    examples: Streamed,
    test: Streamed,
    *,
    heldout: int | str | Path | None,
    seed: int,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None,
) -> Dataset:
    """A data set on disk, of which some training examples are held out, in memory.

    They are drawn uniformly and not balanced over the classes: for that, every label would have to
    be read, and with it the whole data set.

    Args:
      name: of the data set.
      examples: the whole training part.
      test: the test part.
      heldout: how many to hold out, or a file with one id a line; None: 5,000, of fewer than
        50,000 a tenth.
      seed: chooses which.
      statistics: mean and standard deviation of each channel; None: of the held-out images.

    Raises:
      ValueError: a `heldout` that the examples do not allow.
    """
    count = len(examples)
    if heldout is None:
        heldout = min(5000, count // 10)
    if isinstance(heldout, int):
        if not 0 < heldout < count:
            raise ValueError(f"heldout is {heldout}; {count} examples allow 1 to {count - 1}")
        chosen = np.sort(np.random.default_rng(seed).choice(count, heldout, replace=False))
    else:

        def place(name: str) -> int | None:
            split, _, number = name.rpartition("_")
            known = split == examples.split and number.isdecimal() and int(number) < count
            return int(number) if known else None

        chosen = positions_in_file(Path(heldout), place, f"{examples.split}_00000")
        if not 0 < len(chosen) < count:
            raise ValueError(f"heldout file {heldout} names {len(chosen)} of {count} examples")
    rest = np.delete(np.arange(count, dtype=np.int32), chosen)
    held = examples.take(chosen)
    mean, std = statistics or channel_statistics(held.images)
    train = dataclasses.replace(examples, positions=examples.positions[rest])
    return Dataset(name, train, held, examples.num_classes, mean, std, lambda: test)


def choose_balanced(labels: np.ndarray, count: int, seed: int, num_classes: int) -> np.ndarray:
    """Sorted positions of `count` examples, as many of each class as of any other.

    Where the classes do not divide `count`, some that the seed chooses give one more.

    Raises:
      ValueError: a class has too few examples.
    """
    rng = np.random.default_rng(seed)
    quota = np.full(num_classes, count // num_classes)
    quota[rng.permutation(num_classes)[: count % num_classes]] += 1
    parts = []
    for label, wanted in enumerate(quota):
        positions = np.flatnonzero(labels == label)
        if wanted > len(positions):
            raise ValueError(
                f"heldout={count} takes {wanted} examples of class {label}, which has "
                f"{len(positions)}"
            )
        parts.append(rng.permutation(positions)[:wanted])
    return np.sort(np.concatenate(parts))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of `[N, H, W, C]` uint8, scaled to [0, 1].

    A channel that never changes gets the deviation 1, so that dividing by it is harmless.
    """
    # From the counts of the 256 values: exact, and no array of floats as large as the data.
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in np.moveaxis(images, -1, 0):
        share = np.bincount(channel.ravel(), minlength=256) / channel.size
        centre = float(share @ values)
        spread = float(np.sqrt(share @ (values - centre) ** 2))
        mean.append(centre)
        std.append(spread or 1.0)
    return tuple(mean), tuple(std)


def positions_in_file(path: Path, place: Callable[[str], int | None], example: str) -> np.ndarray:
    """Sorted positions of the examples that a file names, one id a line.

    Args:
      path: of the file.
      place: the position of an id; None: the training part has no such id.
      example: an id that it has, to show what they look like.

    Raises:
      ValueError: there is no such file, or it names other ids.
    """
    if not path.is_file():
        raise ValueError(f"heldout names {str(path)!r}, which is no file; it holds one id a line")
    found = {name: place(name) for name in path.read_text().split()}
    missing = [name for name, position in found.items() if position is None]
    if missing:
        raise ValueError(
            f"heldout file {path} names ids that the training part does not have: {missing[0]!r}, "
            f"{len(missing)} in all; it has ids like {example!r}"
        )
    return np.unique(np.array(list(found.values()), np.int64))
