"""Saving and loading: arrays through orbax, and a readable `spec.json` beside a pruned network.

Nothing is pickled. Orbax casts to the dtype that it is asked for and says nothing; so every load
compares names, shapes and dtypes first, and one error lists all that differs.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxprune.graph import paths
from jaxprune.graph.pruned import Pruned

FORMAT = "jaxprune pruned network"
VERSION = 1
"""Version of the format; raised when an older jaxprune could misread it."""

Result = TypeVar("Result")

Shaped = dict[str, tuple[tuple[int, ...], str]]
"""Per variable path, its shape and dtype."""


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
    named = _hashed(_named(tree))
    with ocp.StandardCheckpointer() as checkpointer, _writing(path):
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
    wanted = {name: _abstract(leaf) for name, leaf in paths.leaves(like)}
    _refuse(path, _differences(_stored(path), _shaped(wanted), "saved", "expected"))
    return _filled(like, _read(path, wanted))


class Checkpoints:
    """The training states of a run in one folder, by step; the newest `keep` stay.

    A save is complete when it returns, and a state is either there whole or not at all: a process
    killed in the middle leaves what was there before.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        """Opens, or makes, the folder.

        Raises:
          OSError: it cannot be made.
          ValueError: a damaged step, where what was saved beside a state cannot be read.
        """
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(),
            "metrics": ocp.JsonCheckpointHandler(),
        }
        remedy = "; remove the step in it that is damaged, to go on from the one before"
        self._manager = _attempt(
            self.folder,
            lambda: ocp.CheckpointManager(self.folder, item_handlers=handlers, options=options),
            remedy,
        )

    def save(self, step: int, state: Any, metrics: Mapping[str, Any] | None = None) -> None:
        """Saves a pytree of arrays, and what JSON can say beside it, as of `step`.

        A step that is saved already stays as it is.

        Raises:
          OSError: it cannot be written, as on a full disk; the steps before stay.
          ValueError: as `save_tree`.
        """
        if step in self._manager.all_steps():
            return
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(_hashed(_named(state))),
            metrics=ocp.args.JsonSave(dict(metrics or {})),
        )
        with _writing(self.folder / str(step)):
            self._manager.save(step, args=args, force=True)
            self._manager.wait_until_finished()

    def latest(self) -> int | None:
        """The newest step there is, or None."""
        return self._manager.latest_step()

    def restore(self, like: Any, step: int | None = None) -> Any:
        """The state of a step, by default the newest, in the structure of `like`.

        Raises:
          FileNotFoundError: there is none.
          ValueError: as `restore_tree`; where files are damaged, with the way out.
        """
        step = self._existing(step)
        where = self.folder / str(step)
        wanted = {name: _abstract(leaf) for name, leaf in paths.leaves(like)}
        tree = self._attempt(step, lambda: self._manager.item_metadata(step)["state"].tree)
        _refuse(where, _differences(_shaped(tree), _shaped(wanted), "saved", "expected"))
        target = _target(_with_hashes(wanted) if HASHES in tree else wanted)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        arrays = self._attempt(step, lambda: self._manager.restore(step, args=args))["state"]
        return _filled(like, _verified(where, arrays, self._remedy(step)))

    def metrics(self, step: int | None = None) -> dict[str, Any]:
        """What was saved beside the state of a step, by default the newest."""
        step = self._existing(step)
        args = ocp.args.Composite(metrics=ocp.args.JsonRestore())
        return self._attempt(step, lambda: self._manager.restore(step, args=args))["metrics"]

    def close(self) -> None:
        """Lets go of the folder."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _attempt(self, step: int, read: Callable[[], Result]) -> Result:
        return _attempt(self.folder / str(step), read, self._remedy(step))

    def _remedy(self, step: int) -> str:
        before = [other for other in self._manager.all_steps() if other < step]
        rest = f"step {max(before)}" if before else "the start"
        return f"; remove it to go on from {rest}"

    def _existing(self, step: int | None) -> int:
        step = self.latest() if step is None else step
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(
                f"{self.folder} has no checkpoint" + ("" if step is None else f" of step {step}")
            )
        return step


def save(path: str | Path, pruned: Pruned) -> None:
    """Saves a pruned network into the folder `path`: `arrays/` (orbax) and `spec.json`.

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
    save_tree(partial / "arrays", pruned.variables)
    with _writing(path):
        (partial / "spec.json").write_text(json.dumps(_spec(pruned), indent=1) + "\n")
    if path.exists():
        path.rename(old)
    partial.rename(path)
    shutil.rmtree(old, ignore_errors=True)


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
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path / 'spec.json'} is damaged: {error!r}") from error

    wrong = _contradictions(variables, dense, indices, widths)
    wrong += _differences(_stored(path / "arrays"), variables, "arrays", "spec.json")
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
        wanted = {n: _abstract(leaf) for n, leaf in paths.leaves(like)}
        wrong += _differences(variables, _shaped(wanted), "spec.json", "like")
    _refuse(path, wrong)

    arrays = _read(path / "arrays", wanted)
    if like is None:
        tree: Any = _nested({tuple(keys[n]): array for n, array in arrays.items()})
    else:
        tree = _filled(like, arrays)
    return Pruned(
        variables=tree,
        indices=indices,
        widths=widths,
        dense=dense,
        allow_inexact=allow_inexact,
        before=before,
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
        "version": VERSION,
        "jaxprune": importlib.metadata.version("jaxprune"),
        "allow_inexact": pruned.allow_inexact,
        "groups": {name: int(width) for name, width in pruned.widths.items()},
        "variables": variables,
        "indices": {name: np.asarray(kept).tolist() for name, kept in pruned.indices.items()},
        "before": {name: np.asarray(kept).tolist() for name, kept in pruned.before.items()},
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
    if spec.get("version") != VERSION:
        raise ValueError(
            f"{path} has format version {spec.get('version')}, this jaxprune reads {VERSION}: "
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


HASHES = "jaxprune_sha256"
"""The leaf that holds the SHA-256 of all others, uint8 (leaves, 32), by their names in order."""


def _hashed(named: dict[str, Any]) -> dict[str, Any]:
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


def _verified(where: Path, arrays: Mapping[str, Any], remedy: str = "") -> dict[str, Any]:
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


def _with_hashes(wanted: Mapping[str, Any]) -> dict[str, Any]:
    return {**wanted, HASHES: np.zeros((len(wanted), 32), np.uint8)}


def _named(tree: Any) -> dict[str, Any]:
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


def _abstract(leaf: Any) -> Any:
    """What orbax needs to know of a leaf to restore it."""
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
    return np.asarray(leaf)


def _shaped(leaves: Mapping[str, Any]) -> Shaped:
    named = {name: leaf for name, leaf in leaves.items() if name != HASHES}
    return {name: (tuple(leaf.shape), str(leaf.dtype)) for name, leaf in named.items()}


def _stored(path: str | Path) -> Shaped:
    """Shapes and dtypes of what orbax has at `path`, without reading the arrays."""
    path = Path(path).absolute()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    with ocp.StandardCheckpointer() as checkpointer:
        return _attempt(path, lambda: _shaped(checkpointer.metadata(path).item_metadata.tree))


def _read(path: str | Path, wanted: Mapping[str, Any]) -> dict[str, Any]:
    path = Path(path).absolute()
    with ocp.StandardCheckpointer() as checkpointer:
        tree = _attempt(path, lambda: checkpointer.metadata(path).item_metadata.tree)
        target = _target(_with_hashes(wanted) if HASHES in tree else wanted)
        return _verified(path, _attempt(path, lambda: checkpointer.restore(path, target)))


def _target(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Without a sharding, orbax would look for the devices that the arrays were saved from."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or default)
        if isinstance(leaf, jax.ShapeDtypeStruct)
        else leaf
        for name, leaf in wanted.items()
    }


def _filled(like: Any, arrays: Mapping[str, Any]) -> Any:
    """The structure of `like` with the arrays of its leaves' names."""
    return jax.tree.structure(like).unflatten([arrays[name] for name, _ in paths.leaves(like)])


def _attempt(where: Path, read: Callable[[], Result], remedy: str = "") -> Result:
    """What `read` gives; whatever orbax raises becomes one error that says where."""
    try:
        return read()
    except OSError:
        raise
    except Exception as error:
        code = _system_error(error)
        if code in _NOT_DAMAGE:
            raise OSError(code, os.strerror(code), str(where)) from error
        raise ValueError(
            f"{where} cannot be read, it is no checkpoint or its files are damaged{remedy} "
            f"({_brief(error)})"
        ) from error


_NOT_DAMAGE = (
    errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE,
)  # fmt: skip


def _system_error(error: BaseException) -> int | None:
    """The system's error number behind an error; TensorStore tells it within its text."""
    number = re.search(r"os_error_code='(\d+)'", str(error))
    return getattr(error, "errno", None) or (int(number[1]) if number else None)


@contextmanager
def _writing(where: Path) -> Iterator[None]:
    """Whatever orbax raises while it writes becomes an OSError that says where."""
    try:
        yield
    except Exception as error:
        code = _system_error(error)
        if code is None:
            raise OSError(f"{where} cannot be written: {_brief(error)}") from error
        raise OSError(code, os.strerror(code), str(where)) from error


def _brief(error: Exception, length: int = 160) -> str:
    """The beginning of an error: those of TensorStore go on for a page."""
    line = (str(error).splitlines() or [""])[0].partition(". See full")[0] or repr(error)
    return line if len(line) <= length else line[:length] + "…"


def _differences(found: Shaped, wanted: Shaped, here: str, there: str) -> list[str]:
    """One line for each variable that is missing, unknown, or of another shape or dtype."""

    def told(at: Shaped, name: str) -> str:
        return f"{at[name][1]}{list(at[name][0])}" if name in at else "nothing"

    return [
        f"{name}: {told(found, name)} in {here}, {told(wanted, name)} in {there}"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    ]


def _refuse(path: str | Path, wrong: list[str]) -> None:
    if wrong:
        raise ValueError(f"{path} does not fit:\n  " + "\n  ".join(wrong))


def _nested(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for keys, leaf in leaves.items():
        node = tree
        for key in keys[:-1]:
            node = node.setdefault(key, {})
        node[keys[-1]] = leaf
    return tree
