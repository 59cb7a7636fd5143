import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_data import write, write_examples
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


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    examples = {
        split: [{"image": png(x), "label": i % 3} for i, x in enumerate(images_of(split, count))]
        for split, count in (("train", 60), ("test", 9))
    }
    write_examples(root, "toy_images", FEATURES, examples)
    named = {"id": tfds.features.Text(), **FEATURES}
    for rows in examples.values():
        for i, row in enumerate(rows):
            row["id"] = f"picture_{i}"
    write_examples(root, "toy_named", named, examples)
    pairs = {"image": FEATURES["image"], "label": tfds.features.Text()}
    rows = [{"image": png(x), "label": "words"} for x in images_of("train", 3)]
    write_examples(root, "toy_text", pairs, {"train": rows, "test": rows})
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
        "assert not {'tensorflow', 'grain'} & set(sys.modules); print(len(d.train))"
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
        "assert not {'tensorflow_datasets', 'grain'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("name", "classes", "coarse"), [("cifar100", 100, 20), ("svhn_cropped", 10, 0)]
)
def test_the_usual_data_sets_of_small_images(tmp_path, name, classes, coarse):
    splits = {"train": 2 * classes, "test": 12}
    write(tmp_path, name, splits, classes=classes, coarse=coarse, sizes=[(32, 32)])
    dataset = data.load(name, data_dir=tmp_path, heldout=classes)
    assert dataset.num_classes == classes and dataset.input_shape == (32, 32, 3)
    for split in (dataset.train, dataset.heldout):
        assert sorted(split.labels) == list(range(classes))
    assert dataset.test.labels.tolist() == [i % classes for i in range(12)]
    assert len(set(dataset.train.ids) | set(dataset.heldout.ids)) == 2 * classes


def test_a_test_part_without_labels_is_not_tested_on(tmp_path):
    sizes = [(6, 5)]
    write(tmp_path, "hidden", {"train": 9, "test": 4}, sizes=sizes, unlabelled=["test"])
    with pytest.raises(ValueError, match=r"'hidden' has no labelled .* splits are train, test"):
        data.load("hidden", data_dir=tmp_path)
    splits = {"train": 20, "validation": 3, "test": 4}
    write(tmp_path, "other", splits, classes=2, sizes=sizes, unlabelled=["test"])
    dataset = data.load("other", data_dir=tmp_path)
    assert dataset.test.ids.tolist() == [f"validation_{i:05d}" for i in range(3)]


def test_images_that_differ_in_size_need_an_image_size(tmp_path):
    write(tmp_path, "imagenet2012", {"train": 20, "validation": 3})
    with pytest.raises(ValueError, match=r"differ in size: .* With an image_size"):
        data.load("imagenet2012", data_dir=tmp_path)


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
