"""Blocks of kernels as JSON: bits packed into hexadecimal text, for `spec.json` and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxprune.kernels.blocks import Blocks


def to_json(blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Kernel's path → its blocks, `jaxprune.kernels.blocks.Blocks`, in plain types."""
    return {path: _record(each) for path, each in blocks.items()}


def from_json(record: Mapping[str, Any]) -> dict[str, Blocks]:
    """What `to_json` wrote.

    Raises:
      KeyError, TypeError, ValueError: it is damaged.
    """
    return {path: _blocks(each) for path, each in record.items()}


def _record(blocks: Blocks) -> dict[str, Any]:
    return {
        "sides": [int(side) for side in blocks.sides],
        "grid": list(np.shape(blocks.kept)),
        "kept": np.packbits(blocks.kept).tobytes().hex(),
        "shared": None if blocks.shared is None else np.packbits(blocks.shared).tobytes().hex(),
        "order": {str(axis): np.asarray(order).tolist() for axis, order in blocks.order.items()},
    }


def _blocks(record: Mapping[str, Any]) -> Blocks:
    shape = tuple(int(n) for n in record["grid"])

    def bits(text: str) -> np.ndarray:
        packed = np.frombuffer(bytes.fromhex(text), np.uint8)
        count = int(np.prod(shape))
        if len(packed) != -(-count // 8):
            raise ValueError(f"{len(packed)} bytes for {count} blocks")
        return np.unpackbits(packed, count=count).astype(bool).reshape(shape)

    shared = record["shared"]
    return Blocks(
        sides=tuple(int(side) for side in record["sides"]),
        kept=bits(record["kept"]),
        shared=None if shared is None else bits(shared),
        order={int(a): np.array(order, np.int64) for a, order in record["order"].items()},
    )
