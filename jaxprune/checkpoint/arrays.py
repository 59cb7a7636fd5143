"""Pytrees of arrays on disk, through orbax: whole or not at all, verified as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxprune.checkpoint.errors import attempt, writing
from jaxprune.graph import paths

Shaped = dict[str, tuple[tuple[int, ...], str]]
"""Per variable path, its shape and dtype."""

HASHES = "jaxprune_sha256"
"""The leaf that holds the SHA-256 of all others, uint8 (leaves, 32), by their names in order."""


def save_tree(path: str | Path, tree: Any) -> None:
    """Saves a pytree of arrays into the new folder `path`, complete or not at all.

    Every leaf is stored under its "/"-joined name.

    Raises:
      FileExistsError: `path` exists.
      OSError: it cannot be written, as on a full disk.
      ValueError: two leaves of one name; a leaf that is no array or number.
    """
    path = Path(path).absolute()
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another place or remove it")
    named = hashed(named_leaves(tree))
    with ocp.StandardCheckpointer() as checkpointer, writing(path):
        checkpointer.save(path, named)
        checkpointer.wait_until_finished()


def restore_tree(path: str | Path, like: Any) -> Any:
    """The pytree saved at `path`, in the structure of `like`.

    `like` has arrays or `jax.ShapeDtypeStruct`s for leaves. A leaf comes back as a NumPy array
    where `like` has one, else as a JAX array with the sharding that `like` names.

    Raises:
      FileNotFoundError: nothing is saved at `path`.
      ValueError: names, shapes or dtypes differ from `like`, all of them listed; files that cannot
        be read.
    """
    wanted = {name: abstract(leaf) for name, leaf in paths.leaves(like)}
    refuse(path, differences(stored(path), shaped(wanted), "saved", "expected"))
    return filled(like, read(path, wanted))


def hashed(named: dict[str, Any]) -> dict[str, Any]:
    """The leaves with their hashes beside them."""
    return {**named, HASHES: _hashes(named)}


def _hashes(named: Mapping[str, Any]) -> np.ndarray:
    """SHA-256 of the bytes of each leaf; zeros where this process does not hold all of it."""
    rows = np.zeros((len(named), 32), np.uint8)
    for row, name in zip(rows, sorted(named), strict=True):
        leaf = named[name]
        if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
            digest = hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).digest()
            row[:] = np.frombuffer(digest, np.uint8)
    return rows


def verified(where: Path, arrays: Mapping[str, Any], remedy: str = "") -> dict[str, Any]:
    """The leaves without their hashes, which they are held against."""
    if HASHES not in arrays:  # saved by an older jaxprune
        return dict(arrays)
    stored = np.asarray(arrays[HASHES])
    named = {name: leaf for name, leaf in arrays.items() if name != HASHES}
    found = _hashes(named)
    # A leaf that either process did not hold whole has no hash.
    known = stored.any(axis=1) & found.any(axis=1)
    wrong = known & (stored != found).any(axis=1)
    if wrong.any():
        broken = [name for name, bad in zip(sorted(named), wrong, strict=True) if bad]
        raise ValueError(
            f"{where} is damaged: {', '.join(broken[:4])} "
            f"{'is' if len(broken) == 1 else 'are'} not what was saved{remedy}"
        )
    return named


def with_hashes(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What to restore, with a place for the hashes."""
    return {**wanted, HASHES: np.zeros((len(wanted), 32), np.uint8)}


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, as arrays that orbax stores."""
    named: dict[str, Any] = {}
    for name, leaf in paths.leaves(tree):
        if name in named:
            raise ValueError(f"two leaves are both named {name}; rename a key with a '/' in it")
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            raise ValueError(f"{name} is a typed PRNG key; save its jax.random.key_data instead")
        array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
        if array.dtype.kind in "OUSM":
            raise ValueError(f"{name} is a {type(leaf).__name__}, neither array nor number")
        named[name] = array
    return named


def abstract(leaf: Any) -> Any:
    """What orbax needs to know of a leaf to restore it."""
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)


def shaped(leaves: Mapping[str, Any]) -> Shaped:
    """Shapes and dtypes of leaves by name, without their hashes."""
    named = {name: leaf for name, leaf in leaves.items() if name != HASHES}
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named.items()}


def stored(path: str | Path) -> Shaped:
    """Shapes and dtypes of what orbax has at `path`, without reading the arrays."""
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with ocp.StandardCheckpointer() as checkpointer:
        return attempt(path, lambda: shaped(checkpointer.metadata(path).item_metadata.tree))


def read(path: str | Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays at `path`, verified against their hashes."""
    path = Path(path).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = attempt(path, lambda: checkpointer.metadata(path).item_metadata.tree)
        target = restore_target(with_hashes(wanted) if HASHES in tree else wanted)
        return verified(path, attempt(path, lambda: checkpointer.restore(path, target)))


def restore_target(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Without a sharding, orbax would look for the devices that the arrays were saved from."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or default)
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for name, leaf in wanted.items()
    }


def filled(like: Any, arrays: Mapping[str, Any]) -> Any:
    """The structure of `like` with the arrays of its leaves' names."""
    return jax.tree.structure(like).unflatten([arrays[name] for name, _ in paths.leaves(like)])


def differences(found: Shaped, wanted: Shaped, here: str, there: str) -> list[str]:
    """One line for each variable that is missing, unknown, or of another shape or dtype."""

    def told(at: Shaped, name: str) -> str:
        return f"{at[name][1]}{list(at[name][0])}" if name in at else "nothing"

    return [
        f"{name}: {told(found, name)} in {here}, {told(wanted, name)} in {there}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def refuse(path: str | Path, wrong: list[str]) -> None:
    """Raises one error that lists all that is wrong, where something is."""
    if wrong:
        raise ValueError(f"{path} does not fit:\n  " + "\n  ".join(wrong))
