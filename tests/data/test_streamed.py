import dataclasses
import io
import threading
import weakref

import numpy as np
import pytest
from fake_data import jpeg, write
from PIL import Image

from jaxprune import data
from jaxprune.data import Streamed, batch_indices, streamed
from jaxprune.data.streamed import central_crop, random_crop


def on_disk(count=40, side=16, classes=1000, workers=3):
    rng = np.random.default_rng(0)
    sizes = [(20 + i % 7, 20 + i % 5) for i in range(count)]
    source = [{"image": jpeg(rng, *size), "label": i} for i, size in enumerate(sizes)]
    shape = (side, side, 3)
    return Streamed(source, np.arange(count), "train", "image", "label", shape, classes, workers)


def batches(split, start, stop, seed=0):
    return list(split.batches(seed, 8, start, stop))


def assert_same(some, others):
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


def test_a_batch_depends_on_seed_and_step_alone():
    split = on_disk()
    whole = batches(split, 0, 12)
    assert whole[0][0].shape == (8, 16, 16, 3) and whole[0][0].dtype == np.uint8
    assert whole[0][1].dtype == np.int32
    for start in (1, 5, 11):
        assert_same(batches(split, start, 12), whole[start:])
    assert_same(batches(dataclasses.replace(split, workers=7), 0, 12), whole)
    assert_same(batches(dataclasses.replace(split, workers=1), 0, 12), whole)
    assert np.any(batches(split, 0, 1, seed=1)[0][1] != whole[0][1])


def test_an_epoch_sees_every_example_once_and_the_next_crops_it_otherwise():
    split = on_disk()
    seen = [{}, {}]
    for step, (images, labels) in enumerate(batches(split, 0, 10)):
        np.testing.assert_array_equal(labels, batch_indices(0, step, 40, 8))
        seen[step // 5] |= dict(zip(labels.tolist(), images, strict=True))
    assert set(seen[0]) == set(seen[1]) == set(range(40))
    assert all(np.any(seen[0][i] != seen[1][i]) for i in range(40))


def test_chunks_take_and_first_agree():
    split = on_disk()
    images = [images for images, _ in split.chunks(16)]
    assert [len(piece) for piece in images] == [16, 16, 8]
    taken = split.take(np.array([30, 2, 17]))
    assert taken.labels.tolist() == [30, 2, 17]
    assert taken.ids.tolist() == ["train_00030", "train_00002", "train_00017"]
    np.testing.assert_array_equal(taken.images, np.concatenate(images)[[30, 2, 17]])
    ((first, its_labels),) = split.first(5).chunks(8)
    np.testing.assert_array_equal(first, images[0][:5])
    assert its_labels.tolist() == [0, 1, 2, 3, 4]
    assert len(split.first(None)) == len(split.first(100)) == 40
    assert len(split.take(np.arange(0))) == 0


@pytest.mark.parametrize("count", [64, 256])
@pytest.mark.parametrize("read", ["batches", "chunks"])
def test_no_more_images_are_held_of_a_larger_data_set(monkeypatch, count, read):
    lock = threading.Lock()
    live = peak = 0
    decode = Streamed.decode

    def gone():
        nonlocal live
        with lock:
            live -= 1

    def counted(self, *arguments):
        nonlocal live, peak
        pixels, label = decode(self, *arguments)
        with lock:
            live += 1
            peak = max(peak, live)
        weakref.finalize(pixels, gone)
        return pixels, label

    monkeypatch.setattr(Streamed, "decode", counted)
    split = on_disk(count)
    pieces = split.chunks(8) if read == "chunks" else split.batches(0, 8, 0, count // 8)
    assert sum(len(labels) for _, labels in pieces) == count
    assert 0 < peak <= 3 * 8


def test_reading_stops_with_its_reader():
    def readers():
        return {t for t in threading.enumerate() if t.name.startswith("grain-prefetch")}

    before = readers()
    reading = on_disk(200).batches(0, 8, 0, 1000)
    next(reading)
    mine = readers() - before
    assert mine
    reading.close()
    for thread in mine:
        thread.join(timeout=60)
        assert not thread.is_alive()


def test_the_evaluation_crop_is_the_middle_of_the_short_side_at_256():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 400, 3), dtype=np.uint8)
    for image, expected in (
        (pixels, pixels[16:240, 88:312]),
        (pixels.transpose(1, 0, 2), pixels[16:240, 88:312].transpose(1, 0, 2)),
    ):
        np.testing.assert_array_equal(central_crop(Image.fromarray(image), 224), expected)
    # A bright square of twice the size, 224/256 of the short side, fills the view.
    board = np.zeros((512, 700, 3), np.uint8)
    board[32:480, 126:574] = 200
    view = np.asarray(central_crop(Image.fromarray(board), 224))
    assert view.shape == (224, 224, 3) and view[1:-1, 1:-1].min() == 200


def test_training_crops_are_as_large_and_as_wide_as_they_may_be():
    rng = np.random.default_rng(0)
    areas, aspects = [], []
    for _ in range(2000):
        left, top, right, bottom = random_crop(rng, 500, 375)
        assert 0 <= left < right <= 500 and 0 <= top < bottom <= 375
        areas.append((right - left) * (bottom - top) / (500 * 375))
        aspects.append((right - left) / (bottom - top))
    assert 0.078 < min(areas) < 0.1 and 0.9 < max(areas) <= 1
    assert 0.74 < min(aspects) < 0.76 and 1.31 < max(aspects) < 1.35


@pytest.mark.parametrize(
    ("size", "box"), [((300, 2), (148, 0, 151, 2)), ((2, 300), (0, 148, 2, 151))]
)
def test_an_image_too_narrow_for_any_crop_is_cut_in_its_middle(size, box):
    assert random_crop(np.random.default_rng(0), *size) == box


def test_gray_and_cmyk_jpegs_are_read_as_rgb():
    split = on_disk(2)
    for i, mode in enumerate(("L", "CMYK")):
        file = io.BytesIO()
        Image.new(mode, (30, 20), 77 if mode == "L" else (0, 0, 0, 178)).save(file, "jpeg")
        split.source[i]["image"] = file.getvalue()
    np.testing.assert_allclose(split.take(np.arange(2)).images, 77, atol=2)


def test_bad_examples_are_named():
    split = on_disk(10, classes=9)
    with pytest.raises(ValueError, match="label of train_00009 is 9, out of range for 9 classes"):
        split.take(np.arange(10))
    split.source[3]["image"] = split.source[3]["image"][:40]
    with pytest.raises(OSError, match="train_00003 cannot be decoded"):
        list(split.first(8).chunks(8))
    with pytest.raises(ValueError, match="2 channels"):
        dataclasses.replace(split, image_shape=(4, 4, 2))


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    splits = {"train": 60, "validation": 9, "test": 4}
    write(root, "imagenet2012", splits, unlabelled=["test"])
    return root


def load(root, **options):
    options = {"heldout": 6, "image_size": 32, "workers": 2} | options
    return data.load("imagenet2012", data_dir=root, **options)


def test_imagenet(imagenet):
    dataset = load(imagenet)
    assert dataset.num_classes == 1000 and dataset.input_shape == (32, 32, 3)
    assert dataset.mean == (0.485, 0.456, 0.406)
    assert (len(dataset.train), len(dataset.heldout), len(dataset.test)) == (54, 6, 9)
    # In the fake data, the label is the place.
    assert [f"train_{i:05d}" for i in dataset.heldout.labels] == dataset.heldout.ids.tolist()
    ((images, labels),) = dataset.test.chunks(9)
    assert images.shape == (9, 32, 32, 3) and labels.tolist() == list(range(9))
    trained = {i for _, labels in dataset.train.batches(0, 9, 0, 6) for i in labels.tolist()}
    assert sorted(trained | set(dataset.heldout.labels.tolist())) == list(range(60))
    np.testing.assert_array_equal(load(imagenet).heldout.images, dataset.heldout.images)
    assert set(load(imagenet, seed=1).heldout.ids) != set(dataset.heldout.ids)
    assert len(load(imagenet, heldout=None).heldout) == 6


def test_heldout_by_a_file_of_ids(imagenet, tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("train_00041\ntrain_00007\ntrain_00041\n")
    dataset = load(imagenet, heldout=path)
    assert dataset.heldout.labels.tolist() == [7, 41] and len(dataset.train) == 58
    for wrong in ("train_00060", "validation_00001", "train_x", "41"):
        path.write_text(f"train_00007\n{wrong}\n")
        with pytest.raises(ValueError, match=f"does not have: '{wrong}', 1 in all"):
            load(imagenet, heldout=path)


@pytest.mark.parametrize("heldout", [0, 60])
def test_heldout_that_cannot_be(imagenet, heldout):
    with pytest.raises(ValueError, match=f"heldout is {heldout}; 60 examples allow 1 to 59"):
        load(imagenet, heldout=heldout)


def test_statistics_of_a_data_set_without_known_ones(tmp_path):
    write(tmp_path, "pictures", {"train": 30, "test": 4}, classes=5)
    dataset = data.load("pictures", data_dir=tmp_path, image_size=16)
    assert len(dataset.heldout) == 3
    np.testing.assert_allclose(dataset.mean, (dataset.heldout.images / 255).mean((0, 1, 2)))
    assert streamed.Streamed is type(dataset.test)
