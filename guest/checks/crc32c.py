"""CRC-32C, the processor's own computation.

Spec: RFC 3720 appendix B.4 (Castagnoli polynomial, reflected).
"""

_POLYNOMIAL = 0x82F63B78


def _table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table


_TABLE = _table()


def crc32c(data: bytes, seed: int = 0) -> int:
    """The checksum of ``data``; ``seed`` is the checksum of what came before it."""
    value = seed ^ 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _TABLE[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
