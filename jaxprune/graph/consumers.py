"""What reads prunable channels, and what it reads."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Consumer:
    """An equation that reads prunable channels.

    Attributes:
      name: the path of its kernel; where it has none, the primitive and its source line.
      primitive: e.g. `conv_general_dilated`.
      params: the primitive's parameters.
      operand: which operand holds the channels; the kernel is the other one of a contraction.
      axes: the operand's channel axes.
      kernel_shape: of the other operand; empty where there is none.
      units: per axis, each position's unit, numbered through all groups, or -1.
      groups: the groups that it reads.
    """

    name: str
    primitive: str
    params: dict[str, Any] = field(repr=False)
    operand: int
    axes: tuple[int, ...]
    kernel_shape: tuple[int, ...]
    units: tuple[np.ndarray, ...] = field(repr=False)
    groups: tuple[str, ...]


class Tapped:
    """What consumers read, in one call: the operand and, for a contraction, the kernel.

    `outputs` is what each gives, before any bias, and `sums` the sums of two layers' outputs;
    `order` has the names of both in the order of the network. What is in a loop is in neither.
    `missed` are the consumers whose reads cannot be handed out: in a loop of unknown length there
    is no telling how many they are.
    """

    def __init__(self) -> None:
        self.consumers: dict[str, Consumer] = {}
        self.reads: dict[str, jax.Array] = {}
        self.kernels: dict[str, jax.Array] = {}
        self.outputs: dict[str, jax.Array] = {}
        self.sums: dict[str, jax.Array] = {}
        self.order: list[str] = []
        self.missed: dict[str, Consumer] = {}


def unused(name: str, names: Container[str]) -> str:
    """The name itself, or with a number behind where it is among `names`."""
    found, n = name, 1
    while found in names:
        n += 1
        found = f"{name}#{n}"
    return found
