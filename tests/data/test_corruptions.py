import numpy as np
import pytest

from jaxprune.data.corruptions import CORRUPTIONS, STRENGTHS, corrupt


@pytest.fixture(scope="module")
def images():
    """Soft pictures in colour, as JPEG is made for."""
    y, x = np.mgrid[0:32, 0:32] / 31
    waves = [0.5 + 0.4 * np.sin(5 * (i + 1) * (x + i * y)) for i in range(4)]
    grey = np.stack(waves)[..., None]
    return np.round(255 * grey * np.array([1.0, 0.8, 0.6])).astype(np.uint8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_strength_is_further_away_than_the_one_before(images, kind, channels):
    images = images[..., :channels]
    before = images.copy()
    gaps = []
    for strength in STRENGTHS:
        found = corrupt(images, kind, strength)
        assert (found.shape, found.dtype) == (images.shape, np.uint8)
        gaps.append(np.abs(found.astype(float) - images).mean())
    assert gaps[0] > 0 and gaps == sorted(gaps)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(corrupt(images, kind, 3, 5), corrupt(images, kind, 3, 5))


def test_contrast_and_brightness_are_their_formulas(images):
    pixels = images / 255
    mean = pixels.mean((1, 2), keepdims=True)
    half = np.round(255 * (mean + 0.5 * (pixels - mean)))
    np.testing.assert_array_equal(corrupt(images, "contrast", 2), half)
    brighter = np.round(255 * np.minimum(pixels + 0.1, 1))
    np.testing.assert_array_equal(corrupt(images, "brightness", 2), brighter)


def test_noise_has_the_deviation_that_it_says_and_its_seed(images):
    grey = np.full((2, 64, 64, 1), 128, np.uint8)
    noise = corrupt(grey, "noise", 2).astype(float) - 128
    assert noise.std() / 255 == pytest.approx(0.06, rel=0.05)
    assert np.any(corrupt(grey, "noise", 2, seed=1) != corrupt(grey, "noise", 2))


def test_pixelate_makes_blocks():
    rng = np.random.default_rng(0)
    found = corrupt(rng.integers(0, 256, (1, 32, 32, 1), dtype=np.uint8), "pixelate", 4)
    blocks = found.reshape(16, 2, 16, 2)
    assert (blocks == blocks[:, :1, :, :1]).all()


@pytest.mark.parametrize("kind, strength, words", [
    ("rain", 1, "unknown corruption 'rain'; there are noise"),
    ("noise", 6, "1 to 5, not 6"),
])  # fmt: skip
def test_what_there_is_not_is_refused(images, kind, strength, words):
    with pytest.raises(ValueError, match=words):
        corrupt(images, kind, strength)
