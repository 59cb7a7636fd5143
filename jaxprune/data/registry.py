"""Data sets by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jaxprune.data import digits, scenes
from jaxprune.data.dataset import Dataset, leave_out
from jaxprune.data.reshaped import reshape

NAMES = ("digits", "scenes", "cifar10", "cifar100", "svhn_cropped", "imagenet2012")
"""The data sets that are tried out; `load` takes any image classification data set of TFDS."""
_OURS = {"digits": digits.load, "scenes": scenes.load}


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    heldout: int | str | Path | None = None,
    seed: int = 0,
    image_size: int | None = None,
    workers: int = 16,
    left_out: Sequence[int] = (),
    shape: tuple[int, int, int] | None = None,
) -> Dataset:
    """A data set by its name, decoded into memory; its test part when it is first used.

    With `image_size` the images stay on disk, as `jaxprune.data.streamed` reads them, and only
    those held out are decoded into memory. A data set whose images differ in size needs it.

    Args:
      name: "digits" (embedded in scikit-learn), "scenes" (drawn by `jaxprune.data.scenes`), or a
        TFDS name such as "cifar10".
      data_dir: where TFDS keeps its data; None: the environment's `TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.
      heldout: how many training examples to hold out for choosing, balanced over the classes; or
        a file with one id a line; None: 200 of the digits, a tenth of any other. Of a data set on
        disk they are drawn uniformly, since its labels are not read beforehand, the example at
        position 17 has the id `train_00017`, and None holds out at most 5,000.
      seed: chooses which examples are held out. It is not the run's seed: runs with different
        seeds choose by the same examples.
      image_size: side of the square that every image is cropped to; 224 is usual for ImageNet.
      workers: threads that decode images which stay on disk; the result does not depend on it.
      left_out: classes that no part of the data set has, as outliers for supervisors; see
        `jaxprune.data.dataset.leave_out`.
      shape: (height, width, channels) to which images in memory are brought; see
        `jaxprune.data.reshaped.reshape`.

    Raises:
      ValueError: an unknown name, with those there are, or bad contents, naming the field.
      FileNotFoundError: the data is neither there nor to be had, with what to do.
    """
    if name in _OURS:
        if image_size is not None:
            raise ValueError(f"the {name} are small, in memory; they take no image_size")
        return _prepared(_OURS[name](heldout, seed), left_out, shape)
    # Imported late: the digits need none of it.
    import tensorflow_datasets as tfds

    from jaxprune.data import tensorflow_datasets as reader

    try:
        whole = reader.load(name, data_dir, heldout, seed, image_size, workers)
    except tfds.core.DatasetNotFoundError as error:
        close = [line for line in str(error).splitlines() if line.startswith("Did you mean")]
        hint = f" {close[0]}" if close else ""
        raise ValueError(
            f"unknown data set {name!r}; there are {', '.join(NAMES)} and every other image "
            f"classification data set that TFDS has by name.{hint}"
        ) from None
    return _prepared(whole, left_out, shape)


def _prepared(
    whole: Dataset, left_out: Sequence[int], shape: tuple[int, int, int] | None
) -> Dataset:
    whole = leave_out(whole, left_out) if left_out else whole
    return reshape(whole, shape) if shape is not None else whole
