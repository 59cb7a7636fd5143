import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

from jaxprune import data
from jaxprune.data import tensorflow_datasets as reader

FEATURES = {
    "image": tfds.features.Image(shape=(6, 5, 3), encoding_format="png"),
    "label": tfds.features.ClassLabel(num_classes=3),
}


def images_of(split, count):
    rng = np.random.default_rng(len(split))
    return rng.integers(0, 256, (count, 6, 5, 3), dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write(root, name, features, examples, supervised=("image", "label")):
    """A prepared data set, as `download_and_prepare` would write it with TensorFlow."""
    folder = root / name / "1.0.0"
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
        "version": "1.0.0",
        "supervisedKeys": {"tuple": {"items": [{"featureKey": key} for key in supervised]}},
    }
    (folder / "dataset_info.json").write_text(json.dumps(info))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    examples = {
        split: [{"image": png(x), "label": i % 3} for i, x in enumerate(images_of(split, count))]
        for split, count in (("train", 60), ("test", 9))
    }
    write(root, "toy_images", FEATURES, examples)
    named = {"id": tfds.features.Text(), **FEATURES}
    for rows in examples.values():
        for i, row in enumerate(rows):
            row["id"] = f"picture_{i}"
    write(root, "toy_named", named, examples)
    pairs = {"image": FEATURES["image"], "label": tfds.features.Text()}
    rows = [{"image": png(x), "label": "words"} for x in images_of("train", 3)]
    write(root, "toy_text", pairs, {"train": rows, "test": rows})
    return root


def test_reads_what_was_written(prepared):
    dataset = data.load("toy_images", data_dir=prepared)
    assert dataset.num_classes == 3 and dataset.input_shape == (6, 5, 3)
    assert (len(dataset.train), len(dataset.heldout), len(dataset.test)) == (54, 6, 9)
    assert set(np.bincount(dataset.heldout.labels)) == {2}
    originals = images_of("train", 60)
    for split in (dataset.train, dataset.heldout):
        for image, label, name in zip(split.images, split.labels, split.ids, strict=True):
            i = int(name.removeprefix("train_"))
            np.testing.assert_array_equal(image, originals[i])
            assert label == i % 3
    np.testing.assert_array_equal(dataset.test.images, images_of("test", 9))
    np.testing.assert_allclose(dataset.mean, (dataset.train.images / 255).mean((0, 1, 2)))


def test_own_ids_are_kept(prepared):
    dataset = data.load("toy_named", data_dir=prepared)
    assert dataset.test.ids.tolist() == [f"picture_{i}" for i in range(9)]


def test_the_environment_says_where_and_tensorflow_is_never_imported(prepared):
    code = (
        "import sys; from jaxprune import data; d = data.load('toy_images'); d.test; "
        "assert 'tensorflow' not in sys.modules; print(len(d.train))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TFDS_DATA_DIR": str(prepared)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "54"


def test_the_digits_need_no_tfds():
    code = (
        "import sys; from jaxprune import data; data.load('digits').test; "
        "assert 'tensorflow_datasets' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match=r"unknown data set 'cifra10'; there are digits.*cifar10"):
        data.load("cifra10", data_dir=tmp_path)


def test_not_image_classification(prepared):
    with pytest.raises(ValueError, match="'toy_text' is not for image classification"):
        data.load("toy_text", data_dir=prepared)


def test_failed_download_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_PREPARE", "raise OSError('no network for {name}')")
    with pytest.raises(FileNotFoundError, match=r"no network for mnist\nSet TFDS_DATA_DIR") as e:
        data.load("mnist", data_dir=tmp_path)
    assert str(tmp_path) in str(e.value) and 'python -c "' in str(e.value)


def test_cifar10():
    # Beside the project, or wherever the environment says.
    beside = Path(__file__).parents[2].parent / "shared" / "tfds"
    place = Path(os.environ.get("TFDS_DATA_DIR") or beside)
    if not (place / "cifar10").is_dir():
        pytest.skip(f"no prepared CIFAR-10 in {place}")
    cifar = data.load("cifar10", data_dir=place)
    assert (len(cifar.train), len(cifar.heldout), cifar.num_classes) == (45_000, 5_000, 10)
    assert set(np.bincount(cifar.heldout.labels)) == {500}
    assert cifar.input_shape == (32, 32, 3)
    assert "test" not in cifar.__dict__
    # Near the constants of the original data set: these images went through JPEG once.
    np.testing.assert_allclose((cifar.heldout.images / 255).mean((0, 1, 2)), cifar.mean, atol=0.01)
