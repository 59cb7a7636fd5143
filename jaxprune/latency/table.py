"""What was measured of a network on a device: its latency over widths, and which widths suit it.

Plain data; `jaxprune.latency.measure` measures it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LayerTimes:
    """One piece of a network, timed alone over the widths at its two ends.

    Attributes:
      name: the kernel's path.
      reads: the groups whose channels it reads.
      writes: all other groups in it.
      kept_read: ascending fractions of the units of `reads` that were kept, (R,); (1,) for none.
      kept_written: the same of `writes`, (W,).
      seconds: (R, W).
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    kept_read: np.ndarray
    kept_written: np.ndarray
    seconds: np.ndarray

    def __call__(self, read: np.ndarray, written: np.ndarray) -> np.ndarray:
        """Seconds at kept fractions [...] of both ends, bilinear between those measured."""
        times = self.seconds
        i, u = _between(self.kept_read, read)
        j, v = _between(self.kept_written, written)
        k, m = np.minimum(i + 1, len(times) - 1), np.minimum(j + 1, times.shape[1] - 1)
        near = (1 - u) * times[i, j] + u * times[k, j]
        far = (1 - u) * times[i, m] + u * times[k, m]
        return (1 - v) * near + v * far


@dataclass(frozen=True)
class LatencyTable:
    """The latency of a network at any widths, from measurements on one device.

    A layer's time depends on the widths at both its ends, so the layers are timed over both and
    interpolated. Their sum is not the network's time: each run alone finds its inputs in other
    caches and pays for its own call. So whole networks were timed, too, and a curve leads from
    the one to the other. A wider network may be the faster one: many devices are slow at odd
    widths.

    Attributes:
      groups: group → units, in the order of the graph.
      device: on which it was measured.
      inputs: the types of the network's inputs; latency is of one such batch.
      layers: in the order in which they run.
      sums: ascending sums of the layers' seconds, (K,), at which whole networks were measured.
      whole: the seconds of these networks, (K,).
    """

    groups: dict[str, int]
    device: str
    inputs: str
    layers: tuple[LayerTimes, ...]
    sums: np.ndarray
    whole: np.ndarray

    def __call__(self, widths: np.ndarray) -> np.ndarray:
        """Seconds of networks of these widths, int [..., G] → float64 [...]."""
        total = self.layer_sum(widths)
        return np.interp(total, self.sums, self.whole)

    def layer_sum(self, widths: np.ndarray) -> np.ndarray:
        """The sum of the layers' seconds, int [..., G] → float64 [...]."""
        widths = np.asarray(widths, np.float64)
        number = {name: i for i, name in enumerate(self.groups)}
        sizes = np.array(list(self.groups.values()))
        total = np.zeros(widths.shape[:-1])
        for layer in self.layers:
            ends = []
            for names in (layer.reads, layer.writes):
                at = [number[name] for name in names]
                ends.append(widths[..., at].sum(-1) / max(sizes[at].sum(), 1))
            total += layer(*ends)
        return total


@dataclass(frozen=True)
class LatencyCheck:
    """What was asked for, predicted and measured, in seconds of one batch.

    Attributes:
      target: `dense` over the factor of the budget; None without a latency target.
      predicted: the table's, at the pruned network's widths.
      measured: the pruned network's.
      dense: the unpruned network's, measured in turn with it.
    """

    target: float | None
    predicted: float
    measured: float
    dense: float

    @property
    def missed(self) -> bool:
        """Whether the pruned network takes more than was asked for, beyond noise of 5 %."""
        return self.target is not None and self.measured > 1.05 * self.target

    def __str__(self) -> str:
        asked = "" if self.target is None else f", asked for at most {1e3 * self.target:.3g}"
        return (
            f"latency {1e3 * self.measured:.3g} ms ({self.dense / self.measured:.2f} times less "
            f"than {1e3 * self.dense:.3g} ms), predicted {1e3 * self.predicted:.3g}{asked}"
        )


@dataclass(frozen=True)
class Rounding:
    """Which widths suit a device.

    Attributes:
      multiple: the chosen `round_to`.
      device: on which it was measured.
      relative: candidate → the seconds of layers whose widths are its multiples, relative to the
        smooth curve through those of all widths; empty where nothing was measured.
      reason: why this one, as a sentence.
    """

    multiple: int
    device: str
    relative: Mapping[int, float]
    reason: str


def choose_rounding(
    layers: Sequence[tuple[np.ndarray, np.ndarray]], device: str, tolerance: float = 0.03
) -> Rounding:
    """The least multiple whose widths are within a tolerance as fast as those of the best.

    Over a window of widths the time of a layer whose two ends are as wide is a parabola, times what
    the widths' divisors make of it. Only multiples that every window holds twice are judged.

    Args:
      layers: of each, neighbouring widths (N,) and the seconds (N,) at them.
      device: on which they were measured.
      tolerance: what a smaller multiple may be slower by.
    """
    relative = {}
    for multiple in (2**i for i in range(16)):
        judged = []
        for widths, seconds in layers:
            smooth = np.polyval(np.polyfit(widths, seconds, 2), widths)
            fits = widths % multiple == 0
            judged.append(np.mean((seconds / smooth)[fits]) if fits.sum() > 1 else np.nan)
        if np.isfinite(judged).all():
            relative[multiple] = float(np.mean(judged))
    best = min(relative.values())
    chosen = next(m for m, r in relative.items() if r <= best + tolerance)
    shown = ", ".join(f"{m} {r - 1:+.0%}" for m, r in relative.items())
    spans = ", ".join(f"{widths[0]} to {widths[-1]}" for widths, _ in layers)
    reason = (
        f"the least multiple within {tolerance:.0%} of the fastest; layers timed at widths {spans} "
        f"took, at multiples of each against all widths: {shown}"
    )
    return Rounding(chosen, device, relative, reason)


def _between(grid: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The grid point at or below each x, and how far x lies towards the next one, in [0, 1]."""
    if len(grid) == 1:
        return np.zeros(np.shape(x), int), np.zeros(np.shape(x))
    i = np.clip(np.searchsorted(grid, x, "right") - 1, 0, len(grid) - 2)
    return i, np.clip((x - grid[i]) / (grid[i + 1] - grid[i]), 0, 1)
