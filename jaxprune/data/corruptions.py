"""Images as a bad camera, bad light or a small file would leave them, at five strengths.

After the corruptions of Hendrycks and Dietterich 2019 (arXiv 1903.12261), of which these are six,
in NumPy and Pillow. Their strengths are for images of 32 pixels; of smaller ones blur and pixelate
go by the side, so that a strength means as much of the image.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

STRENGTHS = (1, 2, 3, 4, 5)

_NOISE = (0.04, 0.06, 0.08, 0.12, 0.18)  # standard deviation
_BLUR = (0.4, 0.6, 0.8, 1.2, 1.8)  # pixels of 32
_CONTRAST = (0.75, 0.5, 0.4, 0.3, 0.15)  # what is left of it
_BRIGHTNESS = (0.05, 0.1, 0.18, 0.28, 0.4)  # added
_PIXELATE = (0.9, 0.8, 0.65, 0.5, 0.3)  # of the side
_JPEG = (60, 40, 25, 15, 8)  # quality


def corrupt(images: np.ndarray, kind: str, strength: int, seed: int = 0) -> np.ndarray:
    """The images, corrupted.

    Args:
      images: uint8 [N, H, W, C], C 1 or 3.
      kind: one of `CORRUPTIONS`.
      strength: 1 to 5.
      seed: of the noise.

    Raises:
      ValueError: an unknown kind or strength.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"unknown corruption {kind!r}; there are {', '.join(CORRUPTIONS)}")
    if strength not in STRENGTHS:
        raise ValueError(f"the strength of a corruption is 1 to 5, not {strength}")
    return CORRUPTIONS[kind](images, strength - 1, np.random.default_rng((seed, strength)))


def _noise(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    noise = rng.standard_normal(images.shape, np.float32)
    return _pixels(images / 255 + _NOISE[level] * noise)


def _contrast(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    pixels = images / 255
    mean = pixels.mean(axis=(1, 2), keepdims=True)
    return _pixels(mean + _CONTRAST[level] * (pixels - mean))


def _brightness(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    return _pixels(images / 255 + _BRIGHTNESS[level])


def _blur(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    radius = _BLUR[level] * images.shape[1] / 32
    return _each(images, lambda image: image.filter(ImageFilter.GaussianBlur(radius)))


def _pixelate(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    height, width = images.shape[1:3]
    part = _PIXELATE[level]
    small = (max(1, round(part * width)), max(1, round(part * height)))

    def coarse(image: Image.Image) -> Image.Image:
        fewer = image.resize(small, Image.Resampling.BOX)
        return fewer.resize((width, height), Image.Resampling.NEAREST)

    return _each(images, coarse)


def _jpeg(images: np.ndarray, level: int, rng: np.random.Generator) -> np.ndarray:
    def encoded(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=_JPEG[level])
        return Image.open(file)

    return _each(images, encoded)


def _each(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    shape = images.shape[1:3] if images.shape[-1] == 1 else images.shape[1:]
    changed = [np.asarray(change(Image.fromarray(image.reshape(shape)))) for image in images]
    return np.stack(changed).reshape(images.shape)


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.round(255 * np.clip(values, 0, 1)).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "brightness": _brightness,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
}
"""The kinds, each by images, strength from 0 and random numbers."""
