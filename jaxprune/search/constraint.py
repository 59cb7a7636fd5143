"""What a search has to keep of the network's accuracy: `class_accuracy>=-0.01`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, cast, get_args

Quantity = Literal["class_accuracy", "accuracy"]


@dataclass(frozen=True)
class Constraint:
    """A bound on how much an accuracy changes.

    Attributes:
      quantity: `class_accuracy`, that of each class by itself, or `accuracy`, of all images.
      least: change from the unpruned network, at least; −0.01 is a point down.
    """

    quantity: Quantity
    least: float

    @classmethod
    def parse(cls, text: str) -> Constraint:
        """The constraint that a text spells.

        Raises:
          ValueError: it spells none.
        """
        quantity, _, bound = text.replace(" ", "").partition(">=")
        number = re.fullmatch(r"[-+]?\d*\.?\d+", bound)
        if quantity not in get_args(Quantity) or not number or not -1 <= float(bound) <= 0:
            raise ValueError(
                f"search.constraint: {text!r} is none; write class_accuracy>=-0.01 for every class "
                "within a point of the unpruned network, or accuracy>=-0.01"
            )
        return cls(cast(Quantity, quantity), float(bound))
