"""What a watermark is made of before it meets a network: a key, and a payload that bears errors."""

from jaxprune.marks.keys import Key, read_key
from jaxprune.marks.payload import CODES, Code, decode, encode, length

__all__ = ["CODES", "Code", "Key", "decode", "encode", "length", "read_key"]
