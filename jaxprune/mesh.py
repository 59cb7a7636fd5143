"""The devices that work is spread over: a mesh with an axis for masks and one for images.

The masks of a population are split over `population`, the images of a batch over `data`. Everything
else is on every device. Results are those of one device to rounding: also BatchNorm sees the whole
batch, since `jit` computes with whole arrays and XLA exchanges what the parts need of each other.

A run uses the devices of one process; in a program of your own with several, call
`jax.distributed.initialize` and give `fit` a mesh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

POPULATION, DATA = "population", "data"
ALL = -1
"""As many devices as the other axis leaves."""


@dataclass(frozen=True)
class MeshConfig:
    """How many devices of this process share the work; a run may go on with others."""

    data: int = 1
    """Devices that the images of each batch are split over; -1: all that `population` leaves."""
    population: int = 1
    """Devices that masks are split over where many are measured at once; -1: all that `data`
    leaves. They can share that alone: the trainings do the same work on each of them."""

    def __post_init__(self):
        for name in (DATA, POPULATION):
            count = getattr(self, name)
            if count != ALL and count < 1:
                raise ValueError(f"mesh.{name} must be at least 1, or -1 for all, not {count}")
        if self.data == self.population == ALL:
            raise ValueError("mesh.data and mesh.population are both -1; only one can be the rest")


def make(config: MeshConfig) -> Mesh | None:
    """The mesh of a config, of the first devices there are; None where one device is asked for.

    Raises:
      ValueError: there are fewer devices, or other processes have some of them.
    """
    shape = (config.population, config.data)
    if shape == (1, 1):
        return None
    devices = jax.devices()
    if jax.process_count() > 1:
        raise ValueError(
            f"mesh: this is one of {jax.process_count()} processes, but a run has the devices of a "
            "single one; give `fit` a mesh of your own in a program of your own"
        )
    given = math.prod(n for n in shape if n != ALL)
    rest = max(1, len(devices) // given)
    population, data = (rest if n == ALL else n for n in shape)
    if population * data > len(devices):
        raise ValueError(
            f"mesh asks for {population * data} devices (data {data} x population {population}), "
            f"but there are {len(devices)}, {devices[0].platform}; lower mesh.data or "
            "mesh.population"
        )
    return jax.make_mesh(
        (population, data),
        (POPULATION, DATA),
        axis_types=(AxisType.Auto, AxisType.Auto),
        devices=devices[: population * data],
    )


def sharding(mesh: Mesh | None, *axes: str) -> NamedSharding | None:
    """Leading axes split over the mesh's `axes`, or a copy on every device; None without a mesh."""
    return None if mesh is None else NamedSharding(mesh, P(*axes))


def place(tree: Any, mesh: Mesh | None, *axes: str) -> Any:
    """A pytree put where `sharding` says; as it is without a mesh."""
    return tree if mesh is None else jax.device_put(tree, sharding(mesh, *axes))


def constrain(array: jax.Array, mesh: Mesh | None, *axes: str) -> jax.Array:
    """Within `jit`, an array computed in the parts that `sharding` says."""
    if mesh is None:
        return array
    return jax.lax.with_sharding_constraint(array, NamedSharding(mesh, P(*axes)))


def require_shares(name: str, images: int, mesh: Mesh | None) -> None:
    """Checks that a batch can be split evenly.

    Raises:
      ValueError: the devices along `data` do not divide its images; `name` says whose they are.
    """
    parts = 1 if mesh is None else mesh.shape[DATA]
    if images % parts:
        raise ValueError(
            f"{name}: the {parts} devices of mesh.data cannot share {images} images evenly; choose "
            f"a multiple of {parts}, or another mesh.data"
        )
