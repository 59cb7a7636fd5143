"""Reed-Solomon codes over GF(16) and GF(256): `2t` symbols more correct any `t` wrong ones.

A word is a polynomial whose first symbol is its highest coefficient; a code word has the roots
1, α, …, α^(2t - 1). Decoding finds the error locator by Berlekamp and Massey, its roots by trying
all places (Chien), and the errors by Forney's formula.

>>> field = Field(4)
>>> word = field.encode([1, 2, 3, 4], 2)
>>> word[1], word[6] = 9, 0
>>> field.decode(word, 2)
[1, 2, 3, 4]
"""

from __future__ import annotations

from collections.abc import Sequence

_POLYNOMIALS = {4: 0b10011, 8: 0b100011101}  # primitive; the usual ones


class Field:
    """GF(2^bits), with the codes over it.

    Attributes:
      bits: of a symbol, 4 or 8.
      longest: symbols that a code word has at most.
    """

    def __init__(self, bits: int):
        self.bits, self.longest = bits, 2**bits - 1
        self._power, value = [], 1
        for _ in range(self.longest):
            self._power.append(value)
            value <<= 1
            if value > self.longest:
                value ^= _POLYNOMIALS[bits]
        self._log = {value: i for i, value in enumerate(self._power)}

    def times(self, a: int, b: int) -> int:
        """The product of two symbols; their sum is `a ^ b`."""
        return self.alpha(self._log[a] + self._log[b]) if a and b else 0

    def over(self, a: int, b: int) -> int:
        """The quotient of two symbols, the second not 0."""
        return self.alpha(self._log[a] - self._log[b]) if a else 0

    def alpha(self, exponent: int) -> int:
        """A power of the field's generator."""
        return self._power[exponent % self.longest]

    def encode(self, message: Sequence[int], corrects: int) -> list[int]:
        """The message with `2 * corrects` symbols behind it."""
        generator = [1]
        for i in range(2 * corrects):
            generator = self._product(generator, [1, self.alpha(i)])
        rest = [*message, *[0] * (2 * corrects)]
        for i in range(len(message)):
            factor = rest[i]
            for j, coefficient in enumerate(generator):
                rest[i + j] ^= self.times(factor, coefficient)
        return [*message, *rest[len(message) :]]

    def decode(self, word: Sequence[int], corrects: int) -> list[int]:
        """The message of a code word in which at most `corrects` symbols are wrong.

        Raises:
          ValueError: more are, as far as that can be seen.
        """
        word, count = list(word), len(word)
        syndromes = [self._at(word, self.alpha(i)) for i in range(2 * corrects)]
        if any(syndromes):
            locator = self._locator(syndromes)
            # A root at the inverse of α^e is an error at the coefficient of degree e.
            wrong = [e for e in range(count) if self._at(locator[::-1], self.alpha(-e)) == 0]
            if len(wrong) != len(locator) - 1 or len(wrong) > corrects:
                raise ValueError(f"more than {corrects} symbols are wrong")
            evaluator = [self._sum_of_products(syndromes, locator, i) for i in range(2 * corrects)]
            slope = [c if i % 2 == 0 else 0 for i, c in enumerate(locator[1:])]
            for e in wrong:
                inverse = self.alpha(-e)
                value = self.over(
                    self._at(evaluator[::-1], inverse), self._at(slope[::-1], inverse)
                )
                word[count - 1 - e] ^= self.times(self.alpha(e), value)
            if any(self._at(word, self.alpha(i)) for i in range(2 * corrects)):
                raise ValueError(f"more than {corrects} symbols are wrong")
        return word[: count - 2 * corrects]

    def _locator(self, syndromes: Sequence[int]) -> list[int]:
        """The shortest recurrence of the syndromes, lowest coefficient first."""
        locator, before, length, gap, last = [1], [1], 0, 1, 1
        for n, syndrome in enumerate(syndromes):
            discrepancy = syndrome
            for i in range(1, length + 1):
                if i < len(locator):
                    discrepancy ^= self.times(locator[i], syndromes[n - i])
            if discrepancy == 0:
                gap += 1
                continue
            factor = self.over(discrepancy, last)
            shifted = [0] * gap + [self.times(factor, c) for c in before]
            size = max(len(locator), len(shifted))
            updated = [
                (locator[i] if i < len(locator) else 0) ^ (shifted[i] if i < len(shifted) else 0)
                for i in range(size)
            ]
            if 2 * length <= n:
                length, before, last, gap = n + 1 - length, locator, discrepancy, 1
            else:
                gap += 1
            locator = updated
        while len(locator) > 1 and locator[-1] == 0:
            locator.pop()
        return locator

    def _at(self, polynomial: Sequence[int], x: int) -> int:
        value = 0
        for coefficient in polynomial:
            value = self.times(value, x) ^ coefficient
        return value

    def _product(self, a: Sequence[int], b: Sequence[int]) -> list[int]:
        found = [0] * (len(a) + len(b) - 1)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                found[i + j] ^= self.times(x, y)
        return found

    def _sum_of_products(self, a: Sequence[int], b: Sequence[int], degree: int) -> int:
        """The coefficient of a product of two polynomials, lowest coefficients first."""
        value = 0
        for j in range(min(degree + 1, len(b))):
            value ^= self.times(a[degree - j], b[j])
        return value
