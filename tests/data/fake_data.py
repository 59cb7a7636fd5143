"""Prepared TFDS data sets for tests, as `download_and_prepare` would write them with TensorFlow."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image


def write(
    root: Path,
    name: str,
    splits: Mapping[str, int],
    *,
    classes: int = 1000,
    sizes: Sequence[tuple[int, int]] = ((40, 52), (61, 37), (48, 48)),
    coarse: int = 0,
    unlabelled: Sequence[str] = (),
) -> None:
    """Writes JPEGs of smooth random colours, image `i` of `sizes[i % len(sizes)]`, label `i`.

    Labels count modulo `classes`; those of an `unlabelled` split are all -1.

    Args:
      root: the data folder: TFDS_DATA_DIR, or `DataConfig.data_dir`.
      name: of the data set; one that TFDS knows, such as "imagenet2012", is read by this name.
      splits: how many images each has.
      classes: of the label.
      sizes: (height, width); one alone gives all images this shape.
      coarse: classes of a second label, as CIFAR-100 has it.
      unlabelled: names of splits.
    """
    shape = (*sizes[0], 3) if len(sizes) == 1 else (None, None, 3)
    features: dict = {
        "image": tfds.features.Image(shape=shape, encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(num_classes=classes),
    }
    if coarse:
        features["coarse_label"] = tfds.features.ClassLabel(num_classes=coarse)
    examples = {}
    for split, count in splits.items():
        rng = np.random.default_rng(len(split))
        rows = []
        for i in range(count):
            label = -1 if split in unlabelled else i % classes
            row = {"image": jpeg(rng, *sizes[i % len(sizes)]), "label": label}
            rows.append(row | ({"coarse_label": i % coarse} if coarse else {}))
        examples[split] = rows
    write_examples(root, name, features, examples)


def jpeg(rng: np.random.Generator, height: int, width: int) -> bytes:
    """A smooth picture, encoded."""
    corners = rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize((width, height), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.save(file, "jpeg")
    return file.getvalue()


def write_examples(root, name, features, examples, supervised=("image", "label")):
    """Writes `examples[split]`, a list of rows as the features encode them."""
    folder = root / name / version(name)
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict(features)
    features.save_config(folder)
    splits = []
    for split, rows in examples.items():
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for row in rows:
            writer.write(features.serialize_example(features.encode_example(row)))
        writer.close()
        splits.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(path.stat().st_size),
                "shardLengths": [str(len(rows))],
            }
        )
    info = {
        "fileFormat": "array_record",
        "name": name,
        "splits": splits,
        "version": version(name),
        "supervisedKeys": {"tuple": {"items": [{"featureKey": key} for key in supervised]}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


def version(name: str) -> str:
    """The version that TFDS looks for: its own, where it knows the data set."""
    try:
        return str(tfds.builder_cls(name).VERSION)
    except tfds.core.DatasetNotFoundError:
        return "1.0.0"
