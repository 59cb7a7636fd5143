"""Names of variables and groups: "/"-joined paths, and the patterns that users write for them."""

from __future__ import annotations

from collections.abc import Container, Iterable
from fnmatch import fnmatchcase
from typing import Any

import jax


def name(key_path: tuple[Any, ...]) -> str:
    """The "/"-joined name of a leaf, e.g. `params/conv1/kernel`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of `tree` with its name, in the order of `jax.tree.leaves`."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def match(pattern: str, full_name: str) -> bool:
    """Whether a user's glob pattern names a variable (`params/conv1/kernel`) or a group.

    The pattern may leave out the collection, the leaf, and a group's axis: `conv1`, `stage3/*`,
    `params/conv1/kernel` and `params/conv1/kernel[3]` all name `params/conv1/kernel[3]`.
    """
    path = full_name.partition("[")[0]
    collection_free = path.partition("/")[2]
    candidates = {
        full_name,
        path,
        collection_free,
        path.rpartition("/")[0],
        collection_free.rpartition("/")[0],
    }
    # A group's own name holds brackets, which a glob would read as a character class.
    return pattern in candidates or any(fnmatchcase(c, pattern) for c in candidates if c)


def longest_suffix(path: str, names: Container[str]) -> str | None:
    """The longest tail of a path that is one of `names`, e.g. `b/c` of `1/b/c`."""
    parts = path.split("/")
    return next((s for i in range(len(parts)) if (s := "/".join(parts[i:])) in names), None)


def select(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that any of the patterns matches.

    Raises:
      ValueError: a pattern that matches nothing, with the names there are.
    """
    names = list(names)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        found = [n for n in names if match(pattern, n)]
        if not found:
            shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
            raise ValueError(f"pattern {pattern!r} matches none of: {shown}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)
