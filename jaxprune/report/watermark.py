"""What a watermark takes, before the work, and what was read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.padding import Padding
from rich.text import Text

from jaxprune.methods.watermark import Reading, Scheme, capacity, segments
from jaxprune.report.table import columns


def show_plan(sizes: Mapping[str, int], scheme: Scheme, console: Console | None = None) -> None:
    """Prints capacity, payload, and which group bears how many bits."""
    table = columns("group", "channels", "bits", "moved by at most")
    for name, bits in segments(sizes, scheme).items():
        moved = f"{(scheme.step << bits) // 2}" if bits else "–"
        table.add_row(name, f"{sizes[name]}", f"{bits}", moved)
    what = f"{scheme.bits} bits of the message and {scheme.check} of the check"
    if scheme.code != "none":
        what += f", {scheme.code} against {scheme.strength}"
    title = Text(
        f"watermark: {what} are {scheme.coded} bits; capacity {capacity(sizes, scheme.step)} at "
        f"step {scheme.step}"
    )
    (console or Console(highlight=False)).print(Padding(Group(title, "", table), 1))


def show_reading(reading: Reading, chance: float | None, console: Console | None = None) -> None:
    """Prints the message, and how sure it is."""
    told: list[Any] = [Text(np.packbits(reading.message).tobytes().hex(), style="bold")]
    if reading.fits is not None:
        told.append(f"the check {'fits' if reading.fits else 'does not fit'}")
    if chance is not None:
        told.append(f"random bits agree with the message as well with probability {chance:.2g}")
    (console or Console(highlight=False)).print(Padding(Group(*told), 1))
