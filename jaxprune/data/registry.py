"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from jaxprune.data import digits
from jaxprune.data.dataset import Dataset

NAMES = ("digits", "cifar10", "cifar100", "svhn_cropped")
"""The data sets that are tried out; `load` takes any image classification data set of TFDS."""


def load(
    name: str,
    *,
    data_dir: str | Path | None = None,
    heldout: int | str | Path | None = None,
    seed: int = 0,
) -> Dataset:
    """A data set by its name, decoded into memory; its test part when it is first used.

    Args:
      name: "digits" (embedded in scikit-learn), or a TFDS name such as "cifar10".
      data_dir: where TFDS keeps its data; None: the environment's `TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.
      heldout: how many training examples to hold out for choosing, balanced over the classes; or
        a file with one id a line; None: 200 of the digits, a tenth of any other.
      seed: chooses which examples are held out. It is not the run's seed: runs with different
        seeds choose by the same examples.

    Raises:
      ValueError: an unknown name, with those there are, or bad contents, naming the field.
      FileNotFoundError: the data is neither there nor to be had, with what to do.
    """
    if name == "digits":
        return digits.load(heldout, seed)
    # Imported late: the digits need none of it.
    import tensorflow_datasets as tfds

    from jaxprune.data import tensorflow_datasets as reader

    try:
        return reader.load(name, data_dir, heldout, seed)
    except tfds.core.DatasetNotFoundError as error:
        close = [line for line in str(error).splitlines() if line.startswith("Did you mean")]
        hint = f" {close[0]}" if close else ""
        raise ValueError(
            f"unknown data set {name!r}; there are {', '.join(NAMES)} and every other image "
            f"classification data set that TFDS has by name.{hint}"
        ) from None
