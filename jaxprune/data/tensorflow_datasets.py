"""Image classification data sets of TFDS, read without TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from jaxprune.data.dataset import Dataset, assemble, hold_out
from jaxprune.data.split import Split
from jaxprune.data.streamed import Streamed

# Those that trained networks in circulation were normalised by; of any other data set they are
# taken from its training images.
_STATISTICS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "imagenet2012": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "svhn_cropped": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}

_PREPARE = (
    "import tensorflow_datasets as tfds; "
    "tfds.builder({name!r}, data_dir={data_dir!r}, file_format='array_record')"
    ".download_and_prepare()"
)


def load(
    name: str,
    data_dir: str | Path | None,
    heldout: int | str | Path | None,
    seed: int,
    image_size: int | None,
    workers: int,
) -> Dataset:
    """A TFDS data set by its name; by default a tenth of its training part is held out.

    The test part is the split `test`; where that is missing or has no labels, as ImageNet's,
    `validation`.

    Args:
      name: e.g. "cifar10".
      data_dir: where TFDS keeps its data; None: the environment's `TFDS_DATA_DIR`, else
        `~/tensorflow_datasets`.
      heldout: as in `jaxprune.data.load`.
      seed: as in `jaxprune.data.load`.
      image_size: as in `jaxprune.data.load`.
      workers: as in `jaxprune.data.load`.

    Raises:
      ValueError: an unknown name, a data set that is not for image classification, or one without
        labelled examples to test on.
      FileNotFoundError: the data is not there and could not be prepared.
    """
    place = folder(data_dir)
    train = _source(name, "train", place)
    info = train.dataset_info
    image, label = _fields(name, info)
    num_classes = info.features[label].num_classes
    tested = _labelled(name, info, place, label)
    if image_size is not None:

        def stream(split: str) -> Streamed:
            source = _source(name, split, place, {image: tfds.decode.SkipDecoding()})
            shape = (image_size, image_size, info.features[image].shape[-1])
            everything = np.arange(len(source), dtype=np.int32)
            return Streamed(source, everything, split, image, label, shape, num_classes, workers)

        return hold_out(
            name,
            stream("train"),
            stream(tested),
            heldout=heldout,
            seed=seed,
            statistics=_STATISTICS.get(name),
        )
    examples = _decode(train, "train", image, label)
    return assemble(
        name,
        examples,
        lambda: _decode(_source(name, tested, place), tested, image, label),
        num_classes=num_classes,
        heldout=len(examples) // 10 if heldout is None else heldout,
        seed=seed,
        statistics=_STATISTICS.get(name),
    )


def read(name: str, split: str, data_dir: str | Path | None) -> Split:
    """One split of a TFDS data set of images, decoded into memory.

    Raises:
      FileNotFoundError: the data is not there and could not be prepared.
    """
    source = _source(name, split, folder(data_dir))
    return _decode(source, split, *_fields(name, source.dataset_info))


def folder(data_dir: str | Path | None) -> Path:
    """Where TFDS keeps its data: as given, or as the environment says, or in the home folder."""
    place = Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")
    return place.expanduser().absolute()


def _source(name: str, split: str, data_dir: Path, decoders: Any = None) -> Any:
    def read() -> Any:
        return tfds.data_source(
            name, split=split, data_dir=data_dir, download=False, decoders=decoders
        )

    try:
        return read()
    except tfds.core.DatasetNotFoundError:
        raise
    except Exception:
        prepare(name, data_dir)
        return read()


def prepare(name: str, data_dir: Path) -> None:
    """Download a data set and write it where TFDS looks for it.

    TFDS encodes many data sets with TensorFlow, so it works in a process of its own: none that
    runs JAX imports TensorFlow.

    Raises:
      FileNotFoundError: it failed, with the reason and the way out.
    """
    code = _PREPARE.format(name=name, data_dir=str(data_dir))
    print(f"{name} is not in {data_dir}: downloading it, which can take minutes", file=sys.stderr)
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FileNotFoundError(
            f"data set {name!r} is not in {data_dir}, and could not be downloaded: {lines[-1]}\n"
            "Set TFDS_DATA_DIR to the folder of a prepared copy (written as array_record), or "
            "prepare one where there is a network; TFDS needs `pip install tensorflow` for that "
            f'once, and not again to read it:\n  python -c "{code}"'
        )


def _fields(name: str, info: Any) -> tuple[str, str]:
    keys = info.supervised_keys
    features = info.features
    if (
        keys is None
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"data set {name!r} is not for image classification: its examples are {features}, "
            f"supervised by {keys}"
        )
    return keys


def _labelled(name: str, info: Any, data_dir: Path, label: str) -> str:
    """The split to test on."""
    for split in ("test", "validation"):
        if split in info.splits:
            examples = _source(name, split, data_dir)
            if len(examples) and examples[0][label] >= 0:
                return split
    raise ValueError(
        f"data set {name!r} has no labelled examples to test on: none in a split `test` or "
        f"`validation`; its splits are {', '.join(info.splits)}"
    )


def _decode(source: Any, split: str, image: str, label: str) -> Split:
    # Threads do not help: what TFDS does beside the JPEG itself holds the interpreter's lock.
    count = len(source)
    images: np.ndarray | None = None
    labels = np.empty(count, np.int32)
    ids = []
    for start in range(0, count, 1024):
        stop = min(start + 1024, count)
        for i, example in enumerate(source.__getitems__(list(range(start, stop))), start=start):
            pixels = example[image]
            if images is None:
                images = np.empty((count, *pixels.shape), pixels.dtype)
            if pixels.shape != images.shape[1:]:
                raise ValueError(
                    f"{split} images differ in size: {images.shape[1:]} and {pixels.shape}; "
                    "a data set held in memory has one. With an image_size (224 is usual for "
                    "ImageNet) they are cropped, and read from disk"
                )
            images[i] = pixels
            labels[i] = example[label]
            name = example.get("id") or f"{split}_{i:05d}"
            ids.append(name.decode() if isinstance(name, bytes) else str(name))
    if images is None:
        raise ValueError(f"the {split} part of {source.dataset_info.name!r} is empty")
    return Split(images, labels, np.array(ids))
