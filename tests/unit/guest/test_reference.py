"""The processor's own CRC-32C and AES-GCM, against published vectors and other implementations."""

import crc32c as other_crc32c
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from guest.checks import aes_gcm
from guest.checks.crc32c import crc32c

KEY = "feffe9928665731c6d6a8f9467308308"
TEXT = (
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
    "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
)
AAD = "feedfacedeadbeeffeedfacedeadbeefabaddad2"
NONCE = "cafebabefacedbaddecaf888"

# The GCM specification's test cases (McGrew and Viega, appendix B): 1, 2, 4, 10, 16.
GCM = [
    ("00" * 16, "00" * 12, "", "", "", "58e2fccefa7e3061367f1d57a4e7455a"),
    (
        "00" * 16,
        "00" * 12,
        "",
        "00" * 16,
        "0388dace60b6a392f328c2b971b2fe78",
        "ab6e47d42cec13bdf53a67b21257bddf",
    ),
    (
        KEY,
        NONCE,
        AAD,
        TEXT,
        "42831ec2217774244b7221b784d0d49ce3aa212f2c02a4e035c17e2329aca12e"
        "21d514b25466931c7d8f6a5aac84aa051ba30b396a0aac973d58e091",
        "5bc94fbc3221a5db94fae95ae7121a47",
    ),
    (
        KEY + KEY[:16],
        NONCE,
        AAD,
        TEXT,
        "3980ca0b3c00e841eb06fac4872a2757859e1ceaa6efd984628593b40ca1e19c"
        "7d773d00c144c525ac619d18c84a3f4718e2448b2fe324d9ccda2710",
        "2519498e80f1478f37ba55bd6d27618c",
    ),
    (
        KEY + KEY,
        NONCE,
        AAD,
        TEXT,
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
        "76fc6ece0f4e1768cddf8853bb2d551b",
    ),
]


@pytest.mark.parametrize(("key", "nonce", "aad", "text", "cipher", "tag"), GCM)
def test_aes_gcm_published_vectors_both_ways(key, nonce, aad, text, cipher, tag):
    key, nonce, aad, text, message = map(bytes.fromhex, (key, nonce, aad, text, cipher + tag))
    assert aes_gcm.encrypt(key, nonce, aad, text) == message
    assert aes_gcm.decrypt(key, nonce, aad, message) == text


def test_aes_block_fips_197_examples():
    block = bytes.fromhex("00112233445566778899aabbccddeeff")
    expected = {
        16: "69c4e0d86a7b0430d8cdb78070b4c55a",
        24: "dda97ca4864cdfe06eaf70a0ec0d7191",
        32: "8ea2b7ca516745bfeafc49904b496089",
    }
    for size, text in expected.items():
        assert aes_gcm.encrypt_block(aes_gcm.expand(bytes(range(size))), block).hex() == text


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([16, 24, 32]).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
    st.binary(min_size=12, max_size=12),
    st.binary(max_size=50),
    st.binary(max_size=200),
)
def test_aes_gcm_any_input_agrees_with_the_library(key, nonce, aad, text):
    message = AESGCM(key).encrypt(nonce, text, aad)
    assert aes_gcm.encrypt(key, nonce, aad, text) == message
    assert aes_gcm.decrypt(key, nonce, aad, message) == text


@pytest.mark.parametrize("at", [0, 20, -1])
def test_decrypt_changed_message_gives_nothing(at):
    message = bytearray(aes_gcm.encrypt(bytes(16), bytes(12), b"aad", b"x" * 40))
    message[at] ^= 1
    assert aes_gcm.decrypt(bytes(16), bytes(12), b"aad", bytes(message)) is None


def test_crc32c_rfc_3720_examples():
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"123456789") == 0xE3069283


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300), st.integers(0, 300))
def test_crc32c_in_two_steps_is_crc32c_of_all(data, cut):
    assert crc32c(data[cut:], crc32c(data[:cut])) == other_crc32c.crc32c(data)
