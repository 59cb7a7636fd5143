"""Reed-Solomon against brute force: the nearest of all code words."""

from __future__ import annotations

import itertools
import random

import pytest

from jaxprune.marks.reed_solomon import Field


@pytest.mark.parametrize("bits", [4, 8])
def test_it_is_a_field(bits):
    field = Field(bits)
    rng = random.Random(0)
    assert sorted(field.alpha(i) for i in range(field.longest)) == list(range(1, 2**bits))
    for _ in range(300):
        a, b, c = (rng.randrange(2**bits) for _ in range(3))
        assert field.times(a, b ^ c) == field.times(a, b) ^ field.times(a, c)
        assert field.times(a, field.times(b, c)) == field.times(field.times(a, b), c)
        if b:
            assert field.times(field.over(a, b), b) == a


def test_every_code_word_is_far_from_every_other_and_the_nearest_is_found():
    """All 256 words of two symbols over GF(16) with t = 2: n = 6, distance 5."""
    field = Field(4)
    words = {m: field.encode(m, 2) for m in itertools.product(range(16), repeat=2)}
    distances = [
        sum(x != y for x, y in zip(a, b, strict=True))
        for a, b in itertools.combinations(words.values(), 2)
    ]
    assert min(distances) == 5
    rng = random.Random(1)
    for _ in range(300):
        received = [rng.randrange(16) for _ in range(6)]
        near = [
            m
            for m, w in words.items()
            if sum(x != y for x, y in zip(w, received, strict=True)) <= 2
        ]
        if near:
            assert field.decode(received, 2) == list(near[0]) and len(near) == 1
        else:
            with pytest.raises(ValueError, match="more than 2 symbols are wrong"):
                field.decode(received, 2)


@pytest.mark.parametrize(
    "bits, message, corrects", [(4, 9, 3), (8, 16, 4), (8, 223, 16), (4, 1, 7)]
)
def test_as_many_errors_as_it_says_anywhere(bits, message, corrects):
    field, rng = Field(bits), random.Random(message)
    for errors in (0, 1, corrects - 1, corrects):
        sent = [rng.randrange(2**bits) for _ in range(message)]
        word = field.encode(sent, corrects)
        assert word[:message] == sent and len(word) == message + 2 * corrects
        for at in rng.sample(range(len(word)), errors):
            word[at] ^= rng.randrange(1, 2**bits)
        assert field.decode(word, corrects) == sent
