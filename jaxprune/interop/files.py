"""Files of PyTorch weights. Nothing is unpickled but by PyTorch itself, and weights alone."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from jaxprune.files import read_json, replace, write_json

_PICKLED = (".pt", ".pth")


def read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """A `state_dict`, or whatever mapping holds it, from a file.

    `.safetensors` needs no PyTorch. `.pt` and `.pth` are read by PyTorch, where it is installed,
    with `weights_only=True`: nothing else in them is executed.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: another kind of file, one that is damaged or holds more than weights, or no
        PyTorch to read it.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", *_PICKLED):
        raise ValueError(
            f"{path} has to end in .safetensors, or where PyTorch is installed in .pt or .pth"
        )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.suffix in _PICKLED:
        return _read_pickled(path)
    try:
        return safetensors.numpy.load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or damaged: {error}") from error


def write(
    path: str | os.PathLike[str], state_dict: Mapping[str, np.ndarray], record: Mapping[str, Any]
) -> None:
    """Writes what `to_torch` gave: the weights to `path`, the record beside it as `.json`.

    Raises:
      ValueError: `path` does not end in `.safetensors`.
      OSError: it cannot be written; what was there stays.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} has to end in .safetensors")
    replace(path, safetensors.numpy.save(dict(state_dict)))
    write_json(path.with_suffix(".json"), record)


def read_record(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The record that `write` left beside the weights; {} where there is none of ours."""
    path = Path(path).with_suffix(".json")
    try:
        record = read_json(path) if path.is_file() else {}
    except ValueError:  # the file of someone else
        return {}
    return record if {"model", "widths"} <= record.keys() else {}


def _read_pickled(path: Path) -> Mapping[str, Any]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ValueError(
            f"{path} can only be read where PyTorch is installed; there, "
            "safetensors.torch.save_file(model.state_dict(), FILE) writes one that needs none"
        ) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of many types, an OSError without the path among them
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} cannot be read: it is damaged, or holds more than weights ({reason}); save "
            "model.state_dict() alone"
        ) from error
    if not isinstance(found, Mapping):
        raise ValueError(f"{path} holds a {type(found).__name__}; save model.state_dict() alone")
    return found
