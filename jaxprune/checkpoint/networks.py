"""A pruned network on disk: its arrays, and a readable `spec.json` beside them."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxprune.checkpoint.arrays import (
    Shaped,
    abstract,
    differences,
    filled,
    read,
    refuse,
    save_tree,
    shaped,
    stored,
)
from jaxprune.checkpoint.blocks import from_json, to_json
from jaxprune.checkpoint.errors import writing
from jaxprune.graph import paths
from jaxprune.graph.pruned import Pruned
from jaxprune.graph.structure import require
from jaxprune.kernels.blocks import Blocks
from jaxprune.kernels.packed import pack, packed_shapes, unpack

FORMAT = "jaxprune pruned network"
VERSION = 1
"""Version of the format; raised when an older jaxprune could misread it."""
WITH_BLOCKS = 2
"""That of a network with blocks, whose kernels are in their small form."""
SIGNS = "#signs"
"""Behind a kernel's path, the name of its signs."""


def save(path: str | Path, pruned: Pruned) -> None:
    """Saves a pruned network into the folder `path`: `arrays/` (orbax) and `spec.json`.

    Of a kernel with blocks it holds the small form (`jaxprune.kernels.packed`).

    An earlier pruned network at `path` is replaced, once the new one is complete. A process that
    is killed at any moment leaves one of the two for `load`: the earlier one has the name
    `.NAME.old` beside `path` for as long as it takes to rename the new one.

    Raises:
      FileExistsError: `path` is something else.
      OSError: it cannot be written, as on a full disk; the earlier one stays.
      ValueError: as `save_tree`.
    """
    path = Path(path).absolute()
    if path.exists() and not (path / "spec.json").exists():
        raise FileExistsError(f"{path} exists and is no saved network; choose another place")
    partial, old = _beside(path, "partial"), _beside(path, "old")
    if not path.exists() and old.exists():
        old.rename(path)
    for leftover in (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    save_tree(partial / "arrays", _small(pruned))
    with writing(path):
        (partial / "spec.json").write_text(json.dumps(_spec(pruned), indent=1) + "\n")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _small(pruned: Pruned) -> dict[str, Any]:
    """The variables by name, kernels with blocks in their small form."""
    arrays: dict[str, Any] = {}
    for name, leaf in paths.leaves(pruned.project(pruned.variables)):
        arrays[name] = leaf
        if (blocks := pruned.blocks.get(name)) is not None:
            assert isinstance(blocks, Blocks)
            arrays[name], arrays[name + SIGNS] = pack(np.asarray(leaf), blocks)
    # What is empty cannot be stored, and need not be.
    small = {n for path in pruned.blocks for n in (path, path + SIGNS)}
    return {n: array for n, array in arrays.items() if n not in small or array.size}


def _held(variables: Shaped, blocks: Mapping[str, Blocks]) -> Shaped:
    """What the file of arrays holds of these variables."""
    held = dict(variables)
    for name, each in blocks.items():
        shape, dtype = variables[name]
        numbers, signs = packed_shapes(shape, each)
        held[name], held[name + SIGNS] = (numbers, dtype), (signs, "uint8")
        for empty in [n for n in (name, name + SIGNS) if held[n][0] == (0,)]:
            del held[empty]
    return held


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f".{path.name}.{what}")


def load(path: str | Path, like: Any = None) -> Pruned:
    """The pruned network saved at `path`, verified against its `spec.json`.

    Without `like` the variables are nested dicts; with it (a pytree of arrays or
    `jax.ShapeDtypeStruct`s at the pruned shapes) they take its structure.

    Raises:
      FileNotFoundError: nothing is saved at `path`.
      ValueError: no saved network, a newer format, files that cannot be read, or names, shapes,
        dtypes or kept positions that contradict the spec or `like`, all of them listed.
    """
    path = Path(path).absolute()
    if not path.exists() and _beside(path, "old").exists():
        path = _beside(path, "old")  # left by a process that was killed while it replaced it
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    spec = _read_spec(path / "spec.json")
    try:
        variables: Shaped = {
            n: (tuple(v["shape"]), v["dtype"]) for n, v in spec["variables"].items()
        }
        dense: Shaped = {
            n: (tuple(v["dense_shape"]), v["dense_dtype"]) for n, v in spec["variables"].items()
        }
        keys = {n: v["keys"] for n, v in spec["variables"].items()}
        indices, before = (
            {n: np.array(kept, np.int64) for n, kept in spec[what].items()}
            for what in ("indices", "before")
        )
        widths = {n: int(width) for n, width in spec["groups"].items()}
        allow_inexact = bool(spec["allow_inexact"])
        blocks = from_json(spec.get("blocks", {}))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path / 'spec.json'} is damaged: {error!r}") from error

    wrong = _contradictions(variables, dense, indices, widths)
    try:
        require(blocks, {n: shape for n, (shape, _) in variables.items()})
    except ValueError as error:
        refuse(path, [*wrong, str(error)])
    held = _held(variables, blocks)
    wrong += differences(stored(path / "arrays"), held, "arrays", "spec.json")
    if like is None:
        wanted = {
            n: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype))
            for n, (shape, dtype) in variables.items()
        }
        wrong += [
            f"{n} is {dtype}, which JAX holds only with jax_enable_x64 (or give `like` as NumPy)"
            for n, (_, dtype) in variables.items()
            if jax.dtypes.canonicalize_dtype(dtype) != jnp.dtype(dtype)
        ]
    else:
        wanted = {n: abstract(leaf) for n, leaf in paths.leaves(like)}
        wrong += differences(variables, shaped(wanted), "spec.json", "like")
    refuse(path, wrong)

    small = {n: np.zeros(*held[n]) for n in held if n.removesuffix(SIGNS) in blocks}
    plain = {n: struct for n, struct in wanted.items() if n not in blocks}
    arrays = read(path / "arrays", {**plain, **small})
    for name, each in blocks.items():
        signs = arrays.pop(name + SIGNS, np.zeros(0, np.uint8))
        numbers = arrays.get(name, np.zeros(0, variables[name][1]))
        kernel = unpack(np.asarray(numbers), np.asarray(signs), variables[name][0], each)
        on_host = isinstance(wanted[name], np.ndarray)
        arrays[name] = kernel if on_host else jax.device_put(kernel, wanted[name].sharding)
    if like is None:
        tree: Any = _nested({tuple(keys[n]): array for n, array in arrays.items()})
    else:
        tree = filled(like, arrays)
    return Pruned(
        variables=tree,
        indices=indices,
        widths=widths,
        dense=dense,
        allow_inexact=allow_inexact,
        before=before,
        blocks=blocks,
    )


def _spec(pruned: Pruned) -> dict[str, Any]:
    variables = {}
    for key_path, leaf in jax.tree_util.tree_leaves_with_path(pruned.variables):
        name = paths.name(key_path)
        dense_shape, dense_dtype = pruned.dense[name]
        variables[name] = {
            # A name of Haiku's has "/" within one key: it alone would not give the dicts back.
            "keys": [paths.name((key,)) for key in key_path],
            "shape": list(jnp.shape(leaf)),
            "dtype": str(leaf.dtype),
            "dense_shape": list(dense_shape),
            "dense_dtype": dense_dtype,
        }
    return {
        "format": FORMAT,
        "version": WITH_BLOCKS if pruned.blocks else VERSION,
        "jaxprune": importlib.metadata.version("jaxprune"),
        "allow_inexact": pruned.allow_inexact,
        "groups": {name: int(width) for name, width in pruned.widths.items()},
        "variables": variables,
        "indices": {name: np.asarray(kept).tolist() for name, kept in pruned.indices.items()},
        "before": {name: np.asarray(kept).tolist() for name, kept in pruned.before.items()},
        **({"blocks": to_json(pruned.blocks)} if pruned.blocks else {}),
    }


def _read_spec(path: Path) -> dict[str, Any]:
    try:
        spec = json.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"{path.parent} is no saved network: it has no spec.json") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not isinstance(spec, dict) or spec.get("format") != FORMAT:
        raise ValueError(f"{path} is not the spec of a pruned network")
    if spec.get("version") not in (VERSION, WITH_BLOCKS):
        raise ValueError(
            f"{path} has format version {spec.get('version')}, this jaxprune reads {VERSION} "
            f"and {WITH_BLOCKS}: "
            f"use jaxprune {spec.get('jaxprune')}"
        )
    return spec


def _contradictions(
    variables: Shaped, dense: Shaped, indices: dict[str, np.ndarray], widths: dict[str, int]
) -> list[str]:
    """What in a spec cannot be: kept positions against the shapes before and after."""
    wrong = []
    for name in indices:
        path, _, axis = name.removesuffix("]").rpartition("[")
        if path not in dense or not axis.isdecimal() or int(axis) >= len(dense[path][0]):
            wrong.append(f"indices name {name}, which is no axis of a variable")
    for path, (shape, _) in variables.items():
        first = dense[path][0]
        if len(shape) != len(first):
            wrong.append(f"{path} has shape {shape}, but {first} before pruning")
            continue
        for axis, (size, full) in enumerate(zip(shape, first, strict=True)):
            kept = indices.get(f"{path}[{axis}]", np.arange(full))
            if len(kept) != size:
                wrong.append(f"{path}[{axis}] keeps {len(kept)} positions, but has size {size}")
            if len(set(kept.tolist())) != len(kept) or np.any((kept < 0) | (kept >= full)):
                wrong.append(f"{path}[{axis}] keeps positions twice or outside 0..{full - 1}")
    for group, width in widths.items():
        if width < 1 or (group in indices and len(indices[group]) % width):
            wrong.append(f"group {group} has {width} units, but {len(indices.get(group, []))} kept")
    return wrong


def _nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for keys, leaf in leaves.items():
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = leaf
    return tree
