"""A watermark in the architecture (Zhao et al. 2021, arXiv 2107.08688): how many channels fall.

The bits go into the pruning counts of the layers by quantisation index modulation. Of a layer with
C units, of which a base rate would drop a, and with k bits of value b, the count

    q = D (2^k j + b) + d    nearest to a,    0 <= q < C,

is pruned; d < D is a dither that the key draws, j is free. From a network of the same family, by
its widths alone, `b = round((q - d) / D) mod 2^k`, so that nothing that is done to the weights
touches the mark, and a count that is off by less than D / 2 does not either. Values are Gray coded:
a count that is off by D is one wrong bit.

Which channels fall is up to the key as well: it draws candidates, of which the unimportant ones go
(`first="key"`), or it draws among the unimportant ones (`first="importance"`); the two notes on the
paper differ. Which segment of the payload a layer bears, the dither and a keystream over the bits
follow from the key by HKDF-SHA-256, so that counts without it look like any others.

That pruning rates bear the bits by this modulation, segment by segment, and that a key chooses
channels is the paper's; the step D, dither, Gray code, keystream, codes, check and how many bits a
layer bears are reconstructed. Bits go where a period of 2^k D is the smallest part of the layer.

A network of C_1, …, C_n channels has `Π C_i` architectures, so that no scheme marks it with more
than `Σ log2 C_i` bits: 104 for VGG-16's convolutions, 148 for the ResNet-56 of CIFAR. 128 bits fit
the second (keeping a half of each layer in the mean) and not the first.

    >>> from jaxprune.marks import Key
    >>> key, scheme = Key(b"sixteen bytes or more"), Scheme(bits=8, check=4)
    >>> sizes, base = {"first": 64, "second": 128}, {"first": 20, "second": 40}
    >>> pruned = counts(sizes, base, bytes.fromhex("a5"), key, scheme)
    >>> widths = {name: sizes[name] - pruned[name] for name in sizes}
    >>> found = read(sizes, widths, key, scheme)         # of a network: widths_of(graph, ...)
    >>> found.fits, np.packbits(found.message).tobytes().hex()
    (True, 'a5')
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.stats import binom

from jaxprune.budget import Budget, CostModel, allocate
from jaxprune.graph import ChannelGraph, paths
from jaxprune.marks import CODES, Code, Key, decode, encode, length, read_key
from jaxprune.marks.payload import of_bytes
from jaxprune.methods.ranking import filter_norms
from jaxprune.problem import Method, Problem, Selection

Sizes = Mapping[str, int]
"""Group → units."""


class Scheme(NamedTuple):
    """What one has to know beside the key to read a mark.

    Attributes:
      bits: of the message.
      code: how the payload bears errors.
      strength: how many.
      check: bits behind the message by which the key is known to fit.
      step: D, counts between two values.
    """

    bits: int
    code: Code = "none"
    strength: int = 1
    check: int = 8
    step: int = 1

    @property
    def coded(self) -> int:
        """Bits that are embedded."""
        return length(self.bits + self.check, self.code, self.strength)


class Reading(NamedTuple):
    """What was read.

    Attributes:
      message: the bits, uint8.
      fits: whether the check says that key and network are the right ones; None without a check,
        False also where the code cannot correct what it found.
    """

    message: np.ndarray
    fits: bool | None


def capacity(sizes: Sizes, step: int = 1) -> int:
    """Bits that a network can bear: a layer as many as periods of them fit into."""
    return sum(_most(size, step) for size in sizes.values())


def segments(sizes: Sizes, scheme: Scheme) -> dict[str, int]:
    """Bits of each group: the next one always where the period is the smallest part of the units.

    Raises:
      ValueError: a payload over the capacity.
    """
    if scheme.coded > capacity(sizes, scheme.step):
        raise ValueError(
            f"the mark has {scheme.coded} bits ({scheme.bits} of the message, {scheme.check} of "
            f"the check, {scheme.code}) and the counts of these {len(sizes)} groups bear "
            f"{capacity(sizes, scheme.step)} at step {scheme.step}; use a shorter message, "
            "such as the first bits of its hash, less redundancy or a smaller step"
        )
    bits = dict.fromkeys(sorted(sizes), 0)
    for _ in range(scheme.coded):
        able = [name for name in bits if bits[name] < _most(sizes[name], scheme.step)]
        chosen = min(able, key=lambda name: 2 ** (bits[name] + 1) / sizes[name])
        bits[chosen] += 1
    return bits


def _most(size: int, step: int) -> int:
    return int(math.log2(size // step)) if size >= step else 0


def counts(sizes: Sizes, base: Sizes, message: bytes, key: Key, scheme: Scheme) -> dict[str, int]:
    """How many units of each group are pruned.

    Args:
      sizes: of the groups.
      base: how many would be, without a mark.
      message: of `scheme.bits` bits.
      key: the secret.
      scheme: the rest.

    Raises:
      ValueError: a payload over the capacity.
    """
    bits = segments(sizes, scheme)
    payload = np.concatenate([of_bytes(message), _check(message, key, scheme)])
    coded = encode(payload, scheme.code, scheme.strength) ^ _keystream(key, scheme)
    found, at = {}, 0
    for name in _carriers(bits, key):
        k = bits[name]
        value = _from_gray(int("".join(map(str, coded[at : at + k])), 2))
        at += k
        first = scheme.step * value + _dither(name, key, scheme)
        found[name] = _nearest(first, scheme.step << k, base[name], sizes[name])
    return {name: found.get(name, base[name]) for name in sizes}


def _nearest(first: int, period: int, base: int, size: int) -> int:
    """Of first, first + period, … below size the one nearest to base."""
    allowed = range(first, size, period)
    return min(allowed, key=lambda q: (abs(q - base), q))


def read(sizes: Sizes, widths: Sizes, key: Key, scheme: Scheme) -> Reading:
    """The mark of a network, by its widths alone.

    Args:
      sizes: of the groups before pruning.
      widths: of the same groups now.
      key: the secret.
      scheme: as it was embedded.

    Raises:
      ValueError: a payload over the capacity.
    """
    bits = segments(sizes, scheme)
    coded: list[int] = []
    for name in _carriers(bits, key):
        k, pruned = bits[name], sizes[name] - widths[name]
        moved = pruned - _dither(name, key, scheme) + scheme.step // 2
        value = moved // scheme.step % (1 << k)
        gray = value ^ (value >> 1)
        coded += [gray >> i & 1 for i in range(k)][::-1]
    word = np.array(coded, np.uint8) ^ _keystream(key, scheme)
    count = scheme.bits + scheme.check
    try:
        payload = decode(word, count, scheme.code, scheme.strength)
    except ValueError:
        return Reading(word[: scheme.bits], False)
    message = payload[: scheme.bits]
    check = _check(np.packbits(message).tobytes(), key, scheme)
    fits = bool((payload[scheme.bits :] == check).all()) if scheme.check else None
    return Reading(message, fits)


def bytes_of(message: str) -> bytes:
    """A message that is written in hexadecimal digits.

    Raises:
      ValueError: it is not.
    """
    try:
        return bytes.fromhex(message)
    except ValueError:
        raise ValueError(f"message is hexadecimal, two digits a byte, not {message!r}") from None


def chance(message: np.ndarray, claimed: np.ndarray) -> float:
    """How likely random bits agree with a claimed message at least as well as these do."""
    agreeing = int(np.sum(message == claimed))
    return float(binom.sf(agreeing - 1, len(claimed), 0.5))


def _carriers(bits: Sizes, key: Key) -> list[str]:
    """The groups that bear bits, in the order of the payload's segments."""
    names = sorted(name for name in bits if bits[name])
    return [names[i] for i in key.order("segments", len(names))]


def _dither(name: str, key: Key, scheme: Scheme) -> int:
    return key.below(f"dither {name}", scheme.step)


def _keystream(key: Key, scheme: Scheme) -> np.ndarray:
    return of_bytes(key.stream("keystream", -(-scheme.coded // 8)))[: scheme.coded]


def _check(message: bytes, key: Key, scheme: Scheme) -> np.ndarray:
    return of_bytes(key.tag("check", message))[: scheme.check]


def _from_gray(code: int) -> int:
    value = 0
    while code:
        value ^= code
        code >>= 1
    return value


def widths_of(graph: ChannelGraph, dense: Any, variables: Any) -> dict[str, int]:
    """The groups' widths in a network of the same family, by the shapes of its variables.

    Args:
      graph: of the network before pruning.
      dense: its variables, or their shapes.
      variables: of the network in question, or their shapes.

    Raises:
      ValueError: a network of another family, by the first variable that does not fit.
    """
    before = {path: jnp.shape(leaf) for path, leaf in paths.leaves(dense)}
    now = {path: jnp.shape(leaf) for path, leaf in paths.leaves(variables)}
    along = _along_axes(graph)
    found: dict[str, int] = {}
    # Where several groups lie on one axis, it tells the last of them when it is come to again.
    for _ in graph.groups:
        for (path, axis), lying in along.items():
            whole, shape = before[path], now.get(path)
            if shape is None or len(shape) != len(whole):
                raise ValueError(_foreign(path, whole, shape))
            fixed = whole[axis] - sum(each * graph.groups[n].size for n, each in lying.items())
            rest = shape[axis] - fixed - sum(each * found.get(n, 0) for n, each in lying.items())
            unknown = [name for name in lying if name not in found]
            if len(unknown) == 1:
                width, rest = divmod(rest, lying[unknown[0]])
                if not 1 <= width <= graph.groups[unknown[0]].size:
                    raise ValueError(_foreign(path, whole, shape))
                found[unknown[0]] = width
            if rest and len(unknown) < 2:
                raise ValueError(_foreign(path, whole, shape))
    if missing := [name for name in graph.groups if name not in found]:
        raise ValueError(f"the widths do not tell that of group {missing[0]}; protect it")
    return found


def _along_axes(graph: ChannelGraph) -> dict[tuple[str, int], dict[str, int]]:
    """Path and axis of a variable → the groups that lie on it, and how often each unit does."""
    along: dict[tuple[str, int], dict[str, int]] = {}
    for name, group in graph.groups.items():
        for member in group.members:
            lying = along.setdefault((member.path, member.axis), {})
            lying[name] = lying.get(name, 0) + member.positions.size // group.size
    return along


def _foreign(path: str, whole: tuple[int, ...], shape: tuple[int, ...] | None) -> str:
    what = "it is not there" if shape is None else f"here it is {shape}"
    return (
        f"this is no pruned form of the network that was marked: {path} is {whole} there, and "
        f"{what}; name the network that it was pruned from"
    )


@dataclass(frozen=True)
class Watermark(Method):
    """Prunes as many channels of each layer as the bits of a message say, which by a secret key."""

    meets_budget: ClassVar[bool] = False

    key_file: str = ""
    """The file of the secret key, 16 bytes or more; the mark cannot be read without it."""
    message: str = ""
    """What is embedded, in hexadecimal digits, two a byte."""
    code: Code = "none"
    """How the mark bears wrong counts: `none`, `repetition`, or `reed_solomon`."""
    strength: int = 1
    """Wrong copies of a bit, or wrong symbols, that the code corrects."""
    check: int = 8
    """Bits behind the message by which a wrong key is told; none where it is 0."""
    step: int = 1
    """Channels between two values of a layer: an odd one bears counts that are off by half."""
    rate: float | None = None
    """Fraction of each group that would be pruned without a mark.
    Where it is not given, the one that meets the budget; the mark moves counts around it."""
    first: Literal["key", "importance"] = "key"
    """Who names the candidates, of which the other chooses: the key, or importance (L1)."""
    pool: float = 2.0
    """Candidates for each channel that goes. At 1 those who name them choose alone."""

    def __post_init__(self):
        bytes_of(self.message)
        for name, holds, wanted in (
            ("code", self.code in CODES, f"one of {', '.join(CODES)}"),
            ("first", self.first in ("key", "importance"), "key or importance"),
            ("strength", self.strength >= 1, "at least 1"),
            ("check", 0 <= self.check <= 64, "0 to 64"),
            ("step", self.step >= 1, "at least 1"),
            ("rate", self.rate is None or 0 <= self.rate < 1, "in [0, 1)"),
            ("pool", self.pool >= 1, "at least 1"),
        ):
            if not holds:
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)!r}")

    @property
    def scheme(self) -> Scheme:
        """What one has to know beside the key to read the mark."""
        bits = 8 * len(bytes_of(self.message))
        return Scheme(bits, self.code, self.strength, self.check, self.step)

    def require(self, model: CostModel, budget: Budget) -> None:
        """Refuses what cannot be embedded, before any work.

        Raises:
          ValueError: no key, no message, a payload over the capacity; a budget of fixed widths, or
            one beyond reach.
        """
        super().require(model, budget)
        read_key(self.key_file)
        if not self.message:
            raise ValueError("the mark takes a message, in hexadecimal digits: message 'c0ffee'")
        if budget.widths:
            raise ValueError(
                "budget.widths: the watermark decides how wide the layers are; give targets or a "
                "rate"
            )
        segments(dict(zip(model.names, model.sizes.tolist(), strict=True)), self.scheme)

    def prune(self, problem: Problem) -> Selection:
        """Counts by message and key, then channels by key and importance.

        The figures are the bits that each group bears and how many of its units fell.

        Raises:
          ValueError: as `require`.
        """
        graph, key = problem.graph, read_key(self.key_file)
        self.require(graph, problem.budget)
        sizes = {name: group.size for name, group in graph.groups.items()}
        if self.rate is None:
            kept = allocate(None, graph, problem.budget, "proportional").widths
            base = {name: sizes[name] - kept[name] for name in sizes}
        else:
            base = {name: min(round(self.rate * n), n - 1) for name, n in sizes.items()}
        pruned = counts(sizes, base, bytes_of(self.message), key, self.scheme)
        norms = filter_norms(graph, problem.variables, 1)
        masks = {
            name: jnp.asarray(self._mask(name, norms[name], count, key))
            for name, count in pruned.items()
        }
        bits = segments(sizes, self.scheme)
        return Selection(masks, problem.variables, {"bits": bits, "pruned": pruned})

    def _mask(self, name: str, norms: np.ndarray, count: int, key: Key) -> np.ndarray:
        """Which units stay, float32 (units,)."""
        by_key = np.argsort(key.order(f"channels {name}", len(norms)))
        by_norm = np.argsort(np.argsort(norms, kind="stable"))
        names, chooses = (by_key, by_norm) if self.first == "key" else (by_norm, by_key)
        candidates = np.argsort(names)[: math.ceil(self.pool * count)]
        gone = candidates[np.argsort(chooses[candidates])][:count]
        mask = np.ones(len(norms), np.float32)
        mask[gone] = 0
        return mask
