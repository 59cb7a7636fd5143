"""A secret key from a file, and all that is drawn from it: HKDF-SHA-256 (RFC 5869).

>>> key = Key(b"sixteen bytes or more of noise")
>>> key.order("units", 4) == key.order("units", 4), sorted(key.order("units", 4))
(True, [0, 1, 2, 3])
"""

from __future__ import annotations

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

_HASH = 32  # bytes of SHA-256
LEAST = 16
"""Bytes that a key file has at least."""


def extract(salt: bytes, secret: bytes) -> bytes:
    """The pseudorandom key of RFC 5869, 32 bytes."""
    return hmac.digest(salt or bytes(_HASH), secret, hashlib.sha256)


def expand(key: bytes, info: bytes, count: int) -> bytes:
    """As many bytes, of this `info` alone (RFC 5869); at most 8160."""
    if count > 255 * _HASH:
        raise ValueError(f"HKDF gives {255 * _HASH} bytes for one info, not {count}")
    found, block = b"", b""
    for i in range(-(-count // _HASH)):
        block = hmac.digest(key, block + info + bytes([i + 1]), hashlib.sha256)
        found += block
    return found[:count]


@dataclass(frozen=True)
class Key:
    """A secret, and what is drawn from it by purpose: no two purposes tell of each other."""

    secret: bytes = field(repr=False)

    def stream(self, purpose: str, count: int) -> bytes:
        """So many bytes."""
        return expand(extract(b"jaxprune watermark", self.secret), purpose.encode(), count)

    def below(self, purpose: str, limit: int) -> int:
        """A number in [0, limit), uniform but for 2⁻⁶⁴ times the limit."""
        return int.from_bytes(self.stream(purpose, 16)) % limit

    def order(self, purpose: str, count: int) -> list[int]:
        """A permutation of `range(count)`."""
        return sorted(range(count), key=lambda i: self.stream(f"{purpose} {i}", 16))

    def tag(self, purpose: str, message: bytes) -> bytes:
        """What only the key's owner can compute of a message, 32 bytes."""
        return hmac.digest(self.stream(purpose, _HASH), message, hashlib.sha256)


def read_key(path: str | os.PathLike[str]) -> Key:
    """The key in a file.

    Raises:
      ValueError: no file is named, it cannot be read, or it is too short to be secret.
    """
    make = "make one with `head -c 32 /dev/urandom > FILE` and keep it: without it no mark is read"
    if not os.fspath(path):
        raise ValueError(f"the mark takes a key file (key_file); {make}")
    try:
        secret = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"the key file {path} cannot be read ({error.strerror}); {make}") from None
    if len(secret) < LEAST:
        raise ValueError(f"the key file {path} has {len(secret)} bytes, not {LEAST}; {make}")
    return Key(secret)
