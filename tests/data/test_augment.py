import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxprune.data import augment, normalize

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 8, 6, 3), dtype=np.uint8)


def view(key, **options):
    options = {"crop_padding": 2, "flip": True, "mean": MEAN, "std": STD} | options
    return np.asarray(augment(jax.random.key(key), IMAGES, **options))


def test_normalize():
    expected = (IMAGES / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(normalize(IMAGES, mean=MEAN, std=STD), expected, atol=1e-5)
    assert normalize(IMAGES, mean=MEAN, std=STD, dtype=jnp.bfloat16).dtype == jnp.bfloat16


def test_nothing_to_augment_is_normalize():
    np.testing.assert_array_equal(
        view(0, crop_padding=0, flip=False), normalize(IMAGES, mean=MEAN, std=STD)
    )


def test_same_key_same_view():
    np.testing.assert_array_equal(view(0), view(0))
    assert np.any(view(0) != view(1))


def test_every_view_is_a_crop_of_the_reflected_image_perhaps_mirrored():
    padded = np.pad(IMAGES, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    corners = set()
    mirrored = 0
    for image, around in zip(view(3), padded, strict=True):
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            if np.allclose(
                image,
                normalize(
                    around[None, top : top + 8, left : left + 6][:, :, :: -1 if flip else 1],
                    mean=MEAN,
                    std=STD,
                )[0],
                atol=1e-5,
            )
        ]
        assert len(matches) == 1
        corners.add(matches[0][:2])
        mirrored += matches[0][2]
    assert len(corners) > 4
    assert 0 < mirrored < 16


def test_smaller_crops_are_pieces_of_the_image():
    pieces = view(1, crop_padding=0, flip=False, size=5)
    whole = view(1, crop_padding=0, flip=False)
    assert pieces.shape == (16, 5, 5, 3)
    corners = set()
    for piece, image in zip(pieces, whole, strict=True):
        places = [
            (top, left)
            for top in range(4)
            for left in range(2)
            if np.array_equal(piece, image[top : top + 5, left : left + 5])
        ]
        assert len(places) == 1
        corners.update(places)
    assert len(corners) > 4
    with pytest.raises(ValueError, match="crops of 9 pixels do not fit into images of 8x6"):
        view(0, crop_padding=1, size=9)


def test_the_hole_is_a_square_of_zeros_with_its_middle_in_the_image():
    whole = view(2, cutout=0)
    for image, before in zip(view(2, cutout=4), whole, strict=True):
        hole = (image == 0).all(axis=-1)
        rows, columns = hole.any(axis=1), hole.any(axis=0)
        assert 2 <= rows.sum() <= 4 and 2 <= columns.sum() <= 4
        np.testing.assert_array_equal(hole, rows[:, None] & columns)
        np.testing.assert_array_equal(image[~hole], before[~hole])


def test_who_is_mirrored_can_be_given():
    mirrored = np.arange(16) % 3 == 0
    plain = view(4, flip=False)
    given = view(4, mirrored=mirrored)
    np.testing.assert_array_equal(given[mirrored], plain[mirrored][:, :, ::-1])
    np.testing.assert_array_equal(given[~mirrored], plain[~mirrored])


def test_too_much_padding():
    with pytest.raises(ValueError, match="crop_padding is 6; images of 8x6"):
        view(0, crop_padding=6)
