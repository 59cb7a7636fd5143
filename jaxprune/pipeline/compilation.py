"""What a run compiles: kept for the next start, and counted in its `compilation.json`.

Compiled programs are native code that is loaded unchecked, so that they stay in the user's own
cache folder and never travel with a run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache

from jaxprune.files import read_json, write_json

_FOLDER = "jax_compilation_cache_dir"
_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,  # a run compiles much that is short
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_STARTED = datetime.now().isoformat(timespec="milliseconds")


def cache_folder() -> Path:
    """JAX's persistent compilation cache of the user's runs; what it holds may be removed."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "jaxprune" / "compiled"


@contextmanager
def cached() -> Iterator[None]:
    """What is compiled in the block is found by the user's next process that needs it.

    A user who has named a cache, as by JAX_COMPILATION_CACHE_DIR, keeps it. After the block JAX's
    settings are what they were. A process that is killed may leave half an entry: JAX warns of it
    and compiles anew.
    """
    settings = {_FOLDER: str(cache_folder()), **_SETTINGS}
    before = {name: getattr(jax.config, name) for name in settings}
    if before[_FOLDER] is not None:
        yield
        return
    _set(settings)
    try:
        yield
    finally:
        _set(before)


def _set(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # else JAX stays with the first folder of the process


@contextmanager
def counted(folder: Path, stage: str) -> Iterator[None]:
    """Adds to `compilation.json` what the block compiles, by start of the run and by stage.

    For each: `seconds` of it, the number of `programs`, and how many of these were `found` in the
    cache, which takes a part of the seconds.
    """
    count = {"seconds": 0.0, "programs": 0, "found": 0}

    def on_duration(event: str, duration_secs: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            count["seconds"] += duration_secs
            count["programs"] += 1

    def on_event(event: str, **_: Any) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            count["found"] += 1

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
        jax.monitoring.unregister_event_listener(on_event)
        if count["programs"]:
            _add(folder / "compilation.json", stage, count)


def _add(path: Path, stage: str, count: dict[str, float]) -> None:
    starts = read_json(path)["starts"] if path.exists() else []
    if not starts or starts[-1]["began"] != _STARTED:
        starts.append({"began": _STARTED, "stages": {}})
    stages = starts[-1]["stages"]
    earlier = stages.get(stage, {})
    stages[stage] = {name: value + earlier.get(name, 0) for name, value in count.items()}
    write_json(path, {"starts": starts})
