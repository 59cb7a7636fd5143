"""Names of variables and groups: "/"-joined paths, and the patterns that users write for them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase
from typing import Any

import jax


def name(key_path: tuple[Any, ...]) -> str:
    """The "/"-joined name of a leaf, e.g. `params/conv1/kernel`."""
    return jax.tree_util.keystr(key_path, simple=True, separator="/")


def leaves(tree: Any) -> list[tuple[str, Any]]:
    """Every leaf of `tree` with its name, in the order of `jax.tree.leaves`."""
    return [(name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def bare(name: str) -> str:
    """A variable's name less the collection of parameters, as the parameters alone have it."""
    return name.removeprefix("params/")


def longest_suffix(path: str, names: Container[str]) -> str | None:
    """The longest tail of a path that is one of `names`, e.g. `b/c` of `1/b/c`."""
    parts = path.split("/")
    return next((s for i in range(len(parts)) if (s := "/".join(parts[i:])) in names), None)


def select(patterns: str | Iterable[str], names: Iterable[str]) -> list[str]:
    """The variables (`params/conv1/kernel`) or groups (`params/conv1/kernel[3]`) of a user's words.

    A pattern is a name, the name of a layer that holds it at any depth, or a glob of either, and
    may leave out the collection: `stem`, `params/stem`, `stem/conv1/kernel`, `stem/conv?` and
    `*/kernel` all name `params/stem/conv1/kernel[3]`. What a pattern says to the letter it means:
    a glob, or a name less its collection, is looked for only where nothing is called so.

    Raises:
      ValueError: a pattern that matches nothing, with the names that are nearest to it.
    """
    spellings = [(n, *_spellings(n)) for n in names]
    chosen: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = _called(pattern, spellings)
        if not found:
            known = [spelled[0] for spelled in spellings]
            raise ValueError(f"pattern {pattern!r} matches nothing; {nearest(pattern, known)}")
        chosen.update(dict.fromkeys(found))
    return list(chosen)


def nearest(pattern: str, names: Iterable[str], count: int = 6) -> str:
    """Tells the nearest names, layers too, the parameters' before those of other collections."""
    spellings = [(n, *_spellings(n)) for n in names]
    if not spellings:
        return "there is nothing to name"
    matcher = SequenceMatcher(autojunk=False)
    matcher.set_seq2(pattern.lower().replace(".", "/"))

    def likeness(spelled: str) -> float:
        matcher.set_seq1(spelled.lower())
        return matcher.ratio()

    scores: dict[str, float] = {}
    for _, whole, _ in spellings:
        for spelled in whole:
            if spelled not in scores:
                tails = {spelled, spelled.partition("/")[2], spelled.rpartition("/")[2]}
                scores[spelled] = max(likeness(tail) for tail in tails)
    near = [n for n in scores if scores[n] > 0.5]
    near.sort(key=lambda n: (not n.startswith("params/"), -scores[n]))
    if near:
        return f"the nearest names are {', '.join(near[:count])}"
    known = sorted((s[0] for s in spellings), key=lambda n: not n.startswith("params/"))
    return f"the names are {listed(known)}"


def listed(names: Sequence[str], length: int = 300) -> str:
    """As many names as fit into `length` characters, at least one, and how many more there are."""
    shown = 1
    while shown < len(names) and len(", ".join(names[: shown + 1])) <= length:
        shown += 1
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


Spelled = tuple[str, list[str], list[str]]
"""A name, and how it and the layers that hold it are spelled: in full, and less the collection."""


def _spellings(full_name: str) -> tuple[list[str], list[str]]:
    parts = full_name.partition("[")[0].split("/")
    whole = [full_name, *("/".join(parts[:i]) for i in range(len(parts), 0, -1))]
    return whole, [rest for n in whole if (rest := n.partition("/")[2])]


def _called(pattern: str, spellings: Sequence[Spelled]) -> list[str]:
    # A group's own name holds brackets, which a glob would read as a character class: `w[1]` is
    # the axis 1 of `w`, not the variable `w1`.
    for matches in (lambda spelled: pattern == spelled, lambda s: fnmatchcase(s, pattern)):
        for form in (1, 2):
            found = [s[0] for s in spellings if any(map(matches, s[form]))]
            if found:
                return found
    return []
