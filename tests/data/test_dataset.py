import numpy as np
import pytest

from jaxprune import data
from jaxprune.data.dataset import Dataset, assemble, channel_statistics, check, choose_balanced
from jaxprune.data.reshaped import reshape
from jaxprune.data.split import Split


def toy(count=40, classes=4):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    labels = (np.arange(count) % classes).astype(np.int32)
    return Split(images, labels, np.array([f"toy_{i}" for i in range(count)]))


def test_digits():
    digits = data.load("digits")
    assert (len(digits.train), len(digits.heldout), len(digits.test)) == (1097, 200, 500)
    assert digits.input_shape == (8, 8, 1) and digits.num_classes == 10
    assert digits.train.images.max() == 255
    assert set(np.bincount(digits.test.labels)) == {50}
    assert set(np.bincount(digits.heldout.labels)) == {20}
    ids = np.concatenate([digits.train.ids, digits.heldout.ids, digits.test.ids])
    assert len(set(ids)) == 1797


def test_the_digits_are_in_memory():
    with pytest.raises(ValueError, match="take no image_size"):
        data.load("digits", image_size=8)


def test_a_split_in_pieces():
    split = toy(10)
    assert len(split.first(None)) == 10 and split.first(3).labels.tolist() == [0, 1, 2]
    images, labels = zip(*split.chunks(4), strict=True)
    assert [len(piece) for piece in images] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate(images), split.images)
    np.testing.assert_array_equal(np.concatenate(labels), split.labels)


def test_the_seed_moves_the_held_out_part_and_never_the_test_part():
    first, same, other = (data.load("digits", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.heldout.ids, same.heldout.ids)
    assert set(first.heldout.ids) != set(other.heldout.ids)
    np.testing.assert_array_equal(first.test.ids, other.test.ids)


def test_heldout_by_a_file_of_ids(tmp_path):
    wanted = data.load("digits", seed=5).heldout.ids[:30]
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(wanted))
    digits = data.load("digits", heldout=path)
    assert set(digits.heldout.ids) == set(wanted)
    assert len(digits.train) == 1297 - 30
    path.write_text(f"{wanted[0]}\nnobody\n")
    with pytest.raises(ValueError, match="does not have: 'nobody', 1 in all"):
        data.load("digits", heldout=path)
    with pytest.raises(ValueError, match="no file"):
        data.load("digits", heldout=tmp_path / "absent.txt")


@pytest.mark.parametrize(
    ("heldout", "message"), [(5000, "class 0, which has"), (0, "heldout leaves 0")]
)
def test_heldout_that_cannot_be(heldout, message):
    with pytest.raises(ValueError, match=message):
        data.load("digits", heldout=heldout)


def test_balanced_choice_spreads_the_remainder():
    labels = np.repeat(np.arange(4), 10)
    chosen = choose_balanced(labels, 10, seed=0, num_classes=4)
    assert sorted(np.bincount(labels[chosen])) == [2, 2, 3, 3]
    assert len(set(chosen)) == 10


def test_the_test_part_is_read_once_and_only_when_asked_for():
    reads = []

    def load_test():
        reads.append(1)
        return toy(8)

    dataset = assemble("toy", toy(), load_test, num_classes=4, heldout=8, seed=0)
    assert not reads
    assert dataset.test is dataset.test
    assert reads == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.full(40, 4, np.int32)}, r"toy.train.labels\[0\] is 4, out of range"),
        ({"labels": np.full(40, -1, np.int32)}, "out of range for 4 classes"),
        ({"labels": np.zeros(39, np.int32)}, r"toy.train.labels must be integers \[40\]"),
        ({"labels": np.zeros(40)}, "integers"),
        ({"images": np.full((40, 6, 6, 3), np.nan)}, "toy.train.images must be uint8"),
        ({"images": np.zeros((40, 6, 6), np.uint8)}, "toy.train.images must be uint8"),
        ({"images": np.zeros((0, 6, 6, 3), np.uint8)}, "toy.train holds no images"),
    ],
)
def test_bad_contents_are_named(change, message):
    good = toy()
    bad = Split(**({"images": good.images, "labels": good.labels, "ids": good.ids} | change))
    with pytest.raises(ValueError, match=message):
        check(bad, 4, "toy.train")


def test_channel_statistics():
    images = toy().images
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)))
    assert channel_statistics(np.zeros((2, 3, 3, 1), np.uint8)) == ((0.0,), (1.0,))


def test_classes_that_are_left_out_are_in_no_part_and_their_test_images_stay():
    whole, left = data.load("digits"), data.load("digits", left_out=(0, 7))
    assert left.num_classes == 8 and len(left.test) == 400 and len(left.heldout) == 160
    for part in ("train", "heldout", "test"):
        images = {image.tobytes() for image in getattr(left, part).images}
        gone = getattr(whole, part)
        assert set(getattr(left, part).labels) == set(range(8))
        gone = gone.images[np.isin(gone.labels, (0, 7))]
        assert not images & {image.tobytes() for image in gone}
    # The others are numbered anew in their order: 1 is 0 now, and 9 is 7.
    nines = whole.train.images[whole.train.labels == 9]
    np.testing.assert_array_equal(left.train.images[left.train.labels == 7], nines)
    assert left.load_left_out is not None and whole.load_left_out is None
    outside = left.load_left_out()
    gone = np.isin(whole.test.labels, (0, 7))
    np.testing.assert_array_equal(outside.images, whole.test.images[gone])


@pytest.mark.parametrize("classes", [(10,), tuple(range(9)), (-1,)])
def test_classes_that_cannot_be_left_out_are_refused(classes):
    with pytest.raises(ValueError, match="leaves at least two"):
        data.load("digits", left_out=classes)


def test_images_are_brought_to_another_shape_in_all_parts():
    plain, shaped = data.load("digits"), data.load("digits", shape=(12, 16, 3))
    assert shaped.input_shape == (12, 16, 3) and shaped.test.image_shape == (12, 16, 3)
    assert shaped.mean == plain.mean * 3 and shaped.std == plain.std * 3
    for part in ("train", "heldout", "test"):
        before, after = getattr(plain, part), getattr(shaped, part)
        assert (after.images == after.images[..., :1]).all() and after.images.dtype == np.uint8
        np.testing.assert_array_equal(before.labels, after.labels)
        # Bilinear: what lies between two pixels is between their values; means nearly stay.
        assert after.images.max() <= before.images.max()
        assert after.images.mean() == pytest.approx(before.images.mean(), rel=0.02)
    twice = data.load("digits", shape=(8, 8, 1))
    np.testing.assert_array_equal(twice.train.images, plain.train.images)
    constant = reshape(plain_of(np.full((1, 4, 4, 1), 7, np.uint8)), (6, 5, 2))
    assert (constant.train.images == 7).all() and constant.input_shape == (6, 5, 2)


def plain_of(images):
    split = Split(images, np.zeros(1, np.int32), np.array(["a"]))
    return Dataset("one", split, split, 1, (0.5,), (0.5,), lambda: split)


def test_shapes_that_cannot_be_are_told():
    three = plain_of(np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(ValueError, match="only grey ones can become several"):
        reshape(three, (4, 4, 1))
    with pytest.raises(ValueError, match="must be height, width and channels above 0"):
        data.load("digits", shape=(0, 8, 1))


def test_images_that_are_left_out_have_the_shape_of_the_others():
    found = data.load("digits", left_out=(0, 7), shape=(12, 10, 3))
    assert found.load_left_out is not None
    assert found.load_left_out().image_shape == found.test.image_shape == (12, 10, 3)
