from __future__ import annotations

import numpy as np
import pytest

from jaxprune.marks import decode, encode, length, read_key
from jaxprune.marks.keys import Key, expand, extract


@pytest.mark.parametrize(
    "secret, salt, info, count, key, found",
    [  # RFC 5869, A.1 and A.3
        (
            "0b" * 22, "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", 42,
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            "0b" * 22, "", "", 42,
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)  # fmt: skip
def test_hkdf_gives_what_the_rfc_says(secret, salt, info, count, key, found):
    prk = extract(bytes.fromhex(salt), bytes.fromhex(secret))
    assert prk.hex() == key
    assert expand(prk, bytes.fromhex(info), count).hex() == found
    with pytest.raises(ValueError, match="8160 bytes"):
        expand(prk, b"", 8161)


def test_what_is_drawn_depends_on_key_and_purpose():
    key, other = Key(b"a" * 16), Key(b"b" * 16)
    assert key.order("a", 30) == key.order("a", 30) != key.order("b", 30)
    assert sorted(key.order("a", 30)) == list(range(30)) and other.order("a", 30) != key.order(
        "a", 30
    )
    drawn = [key.below(f"{i}", 5) for i in range(1000)]
    assert set(drawn) == set(range(5)) and abs(np.mean(drawn) - 2) < 0.2
    assert key.tag("check", b"x") != key.tag("check", b"y") and "aaaa" not in repr(key)


def test_a_key_file_that_will_not_do_is_one_sentence(tmp_path):
    (tmp_path / "short").write_bytes(b"123")
    (tmp_path / "key").write_bytes(b"k" * 32)
    assert read_key(tmp_path / "key") == Key(b"k" * 32)
    for path, words in (("", "takes a key file"), (tmp_path / "no", "cannot be read"),
                        (tmp_path / "short", "has 3 bytes, not 16")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            read_key(path)


@pytest.mark.parametrize("code, strength", [("none", 1), ("repetition", 2), ("reed_solomon", 2)])
@pytest.mark.parametrize("count", [1, 7, 16, 136])
def test_a_payload_comes_back_with_as_many_errors_as_its_code_corrects(code, strength, count):
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 2, count).astype(np.uint8)
    sent = encode(bits, code, strength)
    assert len(sent) == length(count, code, strength)
    np.testing.assert_array_equal(decode(sent, count, code, strength), bits)
    wrong = sent.copy()
    if code == "repetition":
        wrong[: 2 * count] ^= 1  # two of five copies of each bit
    elif code == "reed_solomon":
        wrong[:4] ^= 1  # a symbol of four bits, or half of one of eight
        wrong[-1] ^= 1
    np.testing.assert_array_equal(decode(wrong, count, code, strength), bits)


def test_a_payload_too_long_for_reed_solomon_is_refused():
    with pytest.raises(ValueError, match="too long for Reed-Solomon"):
        length(2040, "reed_solomon", 1)
