"""Which images every network of a run classifies right, a digit an image: `answers.json`.

    {"part": "test", "count": 500, "data": "digits", "images": "9f2c…",
     "networks": {"unpruned": "1101…", "pruned": "1111…"}}

Accuracies alone do not say whether two networks differ: that takes the images on which they do
(`jaxprune.report.paired`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from jaxprune.files import read_json, write_json

Part = Literal["test", "heldout"]
FILES: Mapping[Part, str] = {"test": "answers.json", "heldout": "answers_heldout.json"}
"""The file of each part of the data in a run folder."""


@dataclass(frozen=True)
class Answers:
    """What the networks of a run say of the same images.

    Attributes:
      part: which part of the data these are.
      data: the name of the data set.
      images: a hash that tells these images from others.
      right: network → bool [N], in the order of the images.
    """

    part: Part
    data: str
    images: str
    right: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        """How many images."""
        return len(next(iter(self.right.values())))


def write(folder: str | os.PathLike[str], answers: Answers) -> None:
    """Writes the answers into a run folder."""
    networks = {n: "".join("01"[int(r)] for r in right) for n, right in answers.right.items()}
    record = {
        "part": answers.part,
        "count": answers.count,
        "data": answers.data,
        "images": answers.images,
        "networks": networks,
    }
    write_json(Path(folder) / FILES[answers.part], record)


def read(folder: str | os.PathLike[str], part: Part = "test") -> Answers:
    """The answers in a run folder.

    Raises:
      FileNotFoundError: it holds none, with the command that gives them.
      ValueError: a damaged file.
    """
    path = Path(folder) / FILES[part]
    if not path.exists():
        option = " --heldout" if part == "heldout" else ""
        raise FileNotFoundError(
            f"{folder} does not say which {PARTS[part]} images its networks have right "
            f"({path.name}): run `jaxprune evaluate {folder}{option}` first"
        )
    record = read_json(path)
    networks = record.get("networks", {})
    count = record.get("count")
    if not networks or any(len(r) != count or set(r) - {"0", "1"} for r in networks.values()):
        raise ValueError(f"{path} is damaged: remove it, and `jaxprune evaluate` writes it again")
    right = {n: np.array([d == "1" for d in digits]) for n, digits in networks.items()}
    return Answers(part, record["data"], record["images"], right)


PARTS: Mapping[Part, str] = {"test": "test", "heldout": "held-out"}
"""The parts as sentences call them."""
