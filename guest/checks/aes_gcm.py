"""AES-GCM, the processor's own computation: nothing to install in a guest, nothing secret.

Spec: FIPS 197 (AES), NIST SP 800-38D (GCM).
"""

import struct

TAG = 16  # bytes


def _double(value: int) -> int:
    """x times ``value`` in AES's field.  Spec: FIPS 197 §4.2.1."""
    return (value << 1 ^ (0x11B if value & 0x80 else 0)) & 0xFF


def _boxes() -> list[int]:
    """The S-box: inverse in the field, then an affine map.  Spec: FIPS 197 §5.1.1."""
    power, logarithm = [0] * 255, [0] * 256
    value = 1
    for exponent in range(255):
        power[exponent], logarithm[value] = value, exponent
        value ^= _double(value)  # times 3, a generator
    box = []
    for value in range(256):
        inverse = power[-logarithm[value] % 255] if value else 0
        rotated = inverse * 0x0101
        box.append(
            (inverse ^ rotated >> 4 ^ rotated >> 5 ^ rotated >> 6 ^ rotated >> 7) & 0xFF ^ 0x63
        )
    return box


_BOX = _boxes()
# A column of SubBytes, ShiftRows and MixColumns at once, by the row its byte came from.
_ROW0 = [_double(s) << 24 | s << 16 | s << 8 | _double(s) ^ s for s in _BOX]
_ROW1 = [word >> 8 | (word & 0xFF) << 24 for word in _ROW0]
_ROW2 = [word >> 8 | (word & 0xFF) << 24 for word in _ROW1]
_ROW3 = [word >> 8 | (word & 0xFF) << 24 for word in _ROW2]

# What the eight bits shifted out at the end of a GHASH element fold back to.
_FOLD = []
for _byte in range(256):
    _value = _byte
    for _ in range(8):
        _value = _value >> 1 ^ (0xE1 << 120 if _value & 1 else 0)
    _FOLD.append(_value)


def _substitute(word: int) -> int:
    return (
        _BOX[word >> 24] << 24
        | _BOX[word >> 16 & 0xFF] << 16
        | _BOX[word >> 8 & 0xFF] << 8
        | _BOX[word & 0xFF]
    )


def expand(key: bytes) -> list[int]:
    """The round keys as 32-bit words; ``key`` is 16, 24 or 32 bytes.  Spec: FIPS 197 §5.2."""
    words = list(struct.unpack(f">{len(key) // 4}I", key))
    size, constant = len(words), 1
    while len(words) < 4 * (size + 7):
        word = words[-1]
        if len(words) % size == 0:
            word = _substitute((word << 8 | word >> 24) & 0xFFFFFFFF) ^ constant << 24
            constant = _double(constant)
        elif size > 6 and len(words) % size == 4:
            word = _substitute(word)
        words.append(words[-size] ^ word)
    return words


def encrypt_block(words: list[int], block: bytes) -> bytes:
    """One 16-byte block under the round keys ``words``.  Spec: FIPS 197 §5.1."""
    a, b, c, d = (
        left ^ right for left, right in zip(struct.unpack(">4I", block), words, strict=False)
    )
    row0, row1, row2, row3 = _ROW0, _ROW1, _ROW2, _ROW3
    at = 4
    for at in range(4, len(words) - 4, 4):
        a, b, c, d = (
            row0[a >> 24] ^ row1[b >> 16 & 255] ^ row2[c >> 8 & 255] ^ row3[d & 255] ^ words[at],
            row0[b >> 24]
            ^ row1[c >> 16 & 255]
            ^ row2[d >> 8 & 255]
            ^ row3[a & 255]
            ^ words[at + 1],
            row0[c >> 24]
            ^ row1[d >> 16 & 255]
            ^ row2[a >> 8 & 255]
            ^ row3[b & 255]
            ^ words[at + 2],
            row0[d >> 24]
            ^ row1[a >> 16 & 255]
            ^ row2[b >> 8 & 255]
            ^ row3[c & 255]
            ^ words[at + 3],
        )
    last = []
    for place, (w, x, y, z) in enumerate(((a, b, c, d), (b, c, d, a), (c, d, a, b), (d, a, b, c))):
        mixed = w & 0xFF000000 | x & 0xFF0000 | y & 0xFF00 | z & 0xFF
        last.append(_substitute(mixed) ^ words[at + 4 + place])
    return struct.pack(">4I", *last)


def _ghash(subkey: int, data: bytes) -> int:
    """GHASH of ``data``, whole blocks.  Spec: SP 800-38D §6.4, by bytes instead of bits."""
    table = [0] * 256
    value = subkey
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        table[bit] = value
        value = value >> 1 ^ (0xE1 << 120 if value & 1 else 0)
    for byte in range(256):
        low = byte & -byte
        if low != byte:
            table[byte] = table[low] ^ table[byte ^ low]
    fold = _FOLD
    total = 0
    for high, low in struct.iter_unpack(">QQ", data):
        total ^= high << 64 | low
        product = 0
        for byte in total.to_bytes(16, "little"):
            product = product >> 8 ^ fold[product & 0xFF] ^ table[byte]
        total = product
    return total


def _crypt(words: list[int], nonce: bytes, data: bytes) -> bytes:
    """Counter mode from counter 2.  Spec: SP 800-38D §6.5, §7.1 steps 2 and 3."""
    blocks = -(-len(data) // 16)
    stream = b"".join(
        encrypt_block(words, nonce + struct.pack(">I", 2 + block)) for block in range(blocks)
    )[: len(data)]
    mixed = int.from_bytes(data, "big") ^ int.from_bytes(stream, "big")
    return mixed.to_bytes(len(data), "big")


def _tag(words: list[int], nonce: bytes, aad: bytes, ciphertext: bytes) -> bytes:
    """Spec: SP 800-38D §7.1 steps 4 to 6."""
    subkey = int.from_bytes(encrypt_block(words, bytes(16)), "big")
    padded = b"".join(part + bytes(-len(part) % 16) for part in (aad, ciphertext))
    total = _ghash(subkey, padded + struct.pack(">QQ", len(aad) * 8, len(ciphertext) * 8))
    mask = encrypt_block(words, nonce + b"\0\0\0\1")
    return (total ^ int.from_bytes(mask, "big")).to_bytes(TAG, "big")


def encrypt(key: bytes, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    """Ciphertext and 16-byte tag; ``nonce`` is 12 bytes."""
    words = expand(key)
    ciphertext = _crypt(words, nonce, plaintext)
    return ciphertext + _tag(words, nonce, aad, ciphertext)


def decrypt(key: bytes, nonce: bytes, aad: bytes, message: bytes) -> bytes | None:
    """The plaintext of ciphertext and tag; None if it is not authentic."""
    words = expand(key)
    ciphertext, tag = message[:-TAG], message[-TAG:]
    if _tag(words, nonce, aad, ciphertext) != tag:
        return None
    return _crypt(words, nonce, ciphertext)
