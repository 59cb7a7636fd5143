"""Procedural road scenes, which stand in for a driving simulator's.

A road in perspective under a sky, and on it one of six things: nothing, a car on the left, ahead or
on the right, a lorry ahead, or a crossing. Nothing here is of a simulator or a camera: a case built
on these scenes shows that the evaluation runs, and says nothing about driving. Two ways out of the
training data are drawn as well: `fog`, and an `urban` street with buildings on both sides.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from jaxprune.data.dataset import Dataset, assemble, choose_balanced
from jaxprune.data.split import Split

CLASSES = ("nothing", "car left", "car ahead", "car right", "lorry ahead", "crossing")
SIDE = 32
_COUNT = 3600
_TEST = 600
_HELDOUT = 300

Weather = Literal["clear", "fog", "urban"]


def draw(label: int, rng: np.random.Generator, weather: Weather = "clear") -> np.ndarray:
    """One scene, uint8 [32, 32, 3]."""
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    horizon = rng.uniform(0.3, 0.42)
    depth = np.clip((y - horizon) / (1 - horizon), 0, 1)  # 0 at the horizon, 1 at the camera
    centre = 0.5 + rng.uniform(-0.08, 0.08) * (1 - depth)
    across = (x - centre) / (0.05 + 0.5 * depth)  # -1 and 1 at the edges of the road
    light = rng.uniform(0.8, 1.1)
    sky = np.array([0.45, 0.65, 0.9]) * (0.8 + 0.4 * y[..., None])
    ground = np.array([0.3, 0.45, 0.2]) + rng.normal(0, 0.03, (SIDE, SIDE, 1))
    image = np.where((y < horizon)[..., None], sky, ground)

    def paint(where: np.ndarray, colour: np.ndarray | float) -> None:
        image[where] = colour

    below = y >= horizon
    paint(below & (np.abs(across) < 1), rng.uniform(0.25, 0.35))
    dashes = (np.abs(across) < 0.06) & (np.sin(14 / (0.15 + depth) + rng.uniform(0, 6)) > 0)
    paint(below & (dashes | (np.abs(np.abs(across) - 0.94) < 0.05)), 0.85)
    if weather == "urban":
        for side in (-1, 1):
            height = horizon - rng.uniform(0.15, 0.3) * (1 + side * (x - 0.5))
            wall = (side * (x - 0.5) > rng.uniform(0.12, 0.2)) & (y > height) & (depth < 0.6)
            wall &= np.abs(across) > 1.05
            windows = (np.sin(40 * x) * np.sin(40 * y) > 0.3)[..., None]
            shade = rng.uniform(0.35, 0.6, 3)
            image = np.where(wall[..., None], np.where(windows, 0.7 * shade, shade), image)
    near = rng.uniform(0.35, 0.6)
    place = {"car left": -0.55, "car ahead": 0.0, "car right": 0.55, "lorry ahead": 0.0}
    name = CLASSES[label]
    if name in place:
        size = 0.05 + 0.5 * near
        high = size * (1.1 if name == "lorry ahead" else 0.55)
        foot = horizon + near * (1 - horizon)
        middle = 0.5 + place[name] * size
        inside = (np.abs(x - middle) < 0.33 * size) & (y < foot) & (y > foot - high)
        paint(inside, rng.uniform(0.1, 0.9, 3))
        paint(inside & (y > foot - 0.12 * high), 0.08)
        paint(inside & (y < foot - 0.6 * high), 0.2)
    elif name == "crossing":
        stripes = (np.abs(depth - near) < 0.09) & (np.sin(9 * across) > 0) & (np.abs(across) < 0.9)
        paint(below & stripes, 0.9)
    image = image * light
    if weather == "fog":
        thick = rng.uniform(0.5, 0.85)
        veil = (thick * (1 - 0.7 * depth))[..., None]
        image = (1 - veil) * image + veil * 0.78
    image += rng.normal(0, 0.02, image.shape)
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def scenes(count: int, seed: int, weather: Weather = "clear") -> Split:
    """As many scenes of each class, in the order of the classes."""
    rng = np.random.default_rng((seed, ("clear", "fog", "urban").index(weather)))
    labels = np.sort(np.arange(count) % len(CLASSES)).astype(np.int32)
    images = np.stack([draw(int(label), rng, weather) for label in labels])
    return Split(images, labels, np.array([f"{weather}_{seed}_{i:04d}" for i in range(count)]))


def load(heldout: int | str | Path | None, seed: int) -> Dataset:
    """3,600 clear scenes: 600 test, by default 300 held out, the rest for training."""
    whole = scenes(_COUNT, seed=0)
    tested = choose_balanced(whole.labels, _TEST, seed=0, num_classes=len(CLASSES))
    test = whole.take(tested)
    return assemble(
        "scenes",
        whole.take(np.setdiff1d(np.arange(_COUNT), tested)),
        lambda: test,
        num_classes=len(CLASSES),
        heldout=_HELDOUT if heldout is None else heldout,
        seed=seed,
    )
