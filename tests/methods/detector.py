"""A small anchor-free detector with a feature pyramid, and the loss that trains it.

Three stages halve the map; a 1×1 convolution a stage leads to the pyramid, in which each level adds
what the next coarser one holds, upsampled; one head reads all levels. So one group of channels runs
through the pyramid, and one through all that the head reads.

Axes: `B` images, `H` and `W` of a level, `K` classes, `N` boxes of an image, `P` places of all
levels.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

STRIDES = (2, 4, 8)


class Detector(nn.Module):
    """Per place the logits of `classes` and the distances to a box's four sides."""

    classes: int = 3
    stages: tuple[int, ...] = (6, 8, 10)
    pyramid: int = 6

    @nn.compact
    def __call__(self, images):
        """Classes `[B, P, K]` and distances `[B, P, 4]`, in strides, of images `[B, H, W, C]`."""
        x, maps = images, []
        for i, width in enumerate(self.stages):
            x = nn.relu(nn.Conv(width, (3, 3), strides=2, name=f"stage{i}")(x))
            x = nn.relu(x + nn.Conv(width, (3, 3), name=f"residual{i}")(x))
            maps.append(x)
        above, levels = None, []
        for i, x in reversed(list(enumerate(maps))):
            x = nn.Conv(self.pyramid, (1, 1), name=f"lateral{i}")(x)
            if above is not None:
                x = x + jax.image.resize(above, x.shape, "nearest")
            above = x
            levels.append(nn.Conv(self.pyramid, (3, 3), name=f"smooth{i}")(x))
        shared = nn.Conv(self.pyramid, (3, 3), name="shared")
        classes = nn.Conv(self.classes, (3, 3), name="classes")
        boxes = nn.Conv(4, (3, 3), name="boxes")
        found = []
        for x in reversed(levels):
            x = nn.relu(shared(x))
            found.append((_flat(classes(x)), jax.nn.softplus(_flat(boxes(x)))))
        return tuple(jnp.concatenate(part, axis=1) for part in zip(*found, strict=True))


def _flat(x):
    return x.reshape(len(x), -1, x.shape[-1])


def detection_loss(outputs, batch):
    """The mean over the images of a binary cross-entropy of the classes and an L1 of the sides.

    A place is to find the box that it lies in, where the box's longer side suits its level.

    Args:
      outputs: of a `Detector`.
      batch: the images and, of each, boxes `[B, N, 4]` (top, left, bottom, right) in pixels and
        their classes `[B, N]`.
    """
    (classes, sides), (images, (boxes, labels)) = outputs, batch
    (centres, strides), number = places(images.shape[1:3]), classes.shape[-1]
    top_left = centres[:, None] - boxes[:, None, :, :2]  # [B, P, N, 2]
    bottom_right = boxes[:, None, :, 2:] - centres[:, None]
    distances = jnp.concatenate([top_left, bottom_right], axis=-1) / strides[:, None, None]
    longer = (boxes[..., 2:] - boxes[..., :2]).max(-1)[:, None]  # [B, 1, N]
    last = strides == max(STRIDES)
    suits = (longer > strides[:, None]) & ((longer <= 2 * strides[:, None]) | last[:, None])
    inside = (distances.min(-1) > 0) & (suits | (strides == min(STRIDES))[:, None])
    hit, chosen = inside.any(-1), inside.argmax(-1)  # [B, P]
    wanted = jax.nn.one_hot(jnp.take_along_axis(labels, chosen, 1), number) * hit[..., None]
    to = jnp.take_along_axis(distances, chosen[..., None, None], 2)[:, :, 0]
    hits = jnp.maximum(hit.sum(1), 1)
    of_classes = optax.sigmoid_binary_cross_entropy(classes, wanted).sum((1, 2)) / hits
    of_sides = (jnp.abs(sides - to).sum(-1) * hit).sum(1) / hits
    return (of_classes + of_sides).mean()


def places(size):
    """Centres `[P, 2]` in pixels and strides `[P]` of the places of all levels."""
    centres, strides = [], []
    for stride in STRIDES:
        axes = [(jnp.arange(n // stride) + 0.5) * stride for n in size]
        level = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
        centres.append(level)
        strides.append(jnp.full(len(level), stride))
    return jnp.concatenate(centres), jnp.concatenate(strides)
