"""The states of a training or a loop, by step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jaxprune.checkpoint.arrays import (
    HASHES,
    abstract,
    differences,
    filled,
    hashed,
    named_leaves,
    refuse,
    restore_target,
    shaped,
    verified,
    with_hashes,
)
from jaxprune.checkpoint.errors import Result, attempt, writing
from jaxprune.graph import paths


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
        self._manager = attempt(
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
            state=ocp.args.StandardSave(hashed(named_leaves(state))),
            metrics=ocp.args.JsonSave(dict(metrics or {})),
        )
        with writing(self.folder / str(step)):
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
        wanted = {name: abstract(leaf) for name, leaf in paths.leaves(like)}
        tree = self._attempt(step, lambda: self._manager.item_metadata(step)["state"].tree)
        refuse(where, differences(shaped(tree), shaped(wanted), "saved", "expected"))
        target = restore_target(with_hashes(wanted) if HASHES in tree else wanted)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(target))
        arrays = self._attempt(step, lambda: self._manager.restore(step, args=args))["state"]
        return filled(like, verified(where, arrays, self._remedy(step)))

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
        return attempt(self.folder / str(step), read, self._remedy(step))

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
