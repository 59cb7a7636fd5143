"""Values of a run as plain JSON: no NumPy or JAX scalar, no tuple, nothing non-finite."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any


def plain(value: Any) -> Any:
    """`value` built of dict, list, str, int, float, bool and None alone.

    Arrays become lists, dataclasses dicts, and NaN and infinities None: JSON has no word for them.

    Raises:
      TypeError: a value of another kind, by its type.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars, without importing either
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in value]
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")
