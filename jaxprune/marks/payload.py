"""A payload as the bits that are embedded: plain, repeated, or a Reed-Solomon word.

Bits are arrays of 0 and 1, the most significant first.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from jaxprune.marks.reed_solomon import Field

Code = Literal["none", "repetition", "reed_solomon"]
CODES: tuple[Code, ...] = get_args(Code)


def length(count: int, code: Code, strength: int) -> int:
    """How many bits a payload of `count` becomes.

    `repetition` has every bit `2 * strength + 1` times and corrects `strength` wrong ones of each;
    `reed_solomon` corrects `strength` symbols of 4 bits, or of 8 where the word would be too long.

    Raises:
      ValueError: a payload that is too long for Reed-Solomon.
    """
    if code == "none":
        return count
    if code == "repetition":
        return (2 * strength + 1) * count
    field = _field(count, strength)
    return field.bits * (-(-count // field.bits) + 2 * strength)


def encode(bits: np.ndarray, code: Code, strength: int) -> np.ndarray:
    """The bits [length] of a payload [K]; errors as for `length`."""
    if code == "none":
        return bits
    if code == "repetition":
        return np.tile(bits, 2 * strength + 1)
    field = _field(len(bits), strength)
    filled = np.pad(bits, (0, -len(bits) % field.bits))
    return _bits(field.encode(_symbols(filled, field.bits), strength), field.bits)


def decode(bits: np.ndarray, count: int, code: Code, strength: int) -> np.ndarray:
    """The payload [count] in bits [length].

    Raises:
      ValueError: more is wrong than the code corrects, as far as that can be seen.
    """
    if code == "none":
        return bits
    if code == "repetition":
        return (bits.reshape(-1, count).sum(axis=0) > strength).astype(bits.dtype)
    field = _field(count, strength)
    return _bits(field.decode(_symbols(bits, field.bits), strength), field.bits)[:count]


def of_bytes(message: bytes) -> np.ndarray:
    """Its bits."""
    return np.unpackbits(np.frombuffer(message, np.uint8))


def _field(count: int, strength: int) -> Field:
    for bits in (4, 8):
        field = Field(bits)
        if -(-count // bits) + 2 * strength <= field.longest:
            return field
    raise ValueError(
        f"{count} bits with {strength} symbols to correct are too long for Reed-Solomon, whose "
        "words have 255 bytes; use a shorter message, or repetition"
    )


def _symbols(bits: np.ndarray, size: int) -> list[int]:
    return (bits.reshape(-1, size) @ (1 << np.arange(size)[::-1])).tolist()


def _bits(symbols: list[int], size: int) -> np.ndarray:
    found = np.array(symbols, np.uint8)[:, None] >> np.arange(size)[::-1] & 1
    return found.astype(np.uint8).ravel()
