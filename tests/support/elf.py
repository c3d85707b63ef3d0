"""ELF files made of nothing but what a test needs."""

import struct

HEADER, SECTION = struct.Struct("<16sHHIQQQIHHHHHH"), struct.Struct("<IIQQQQIIQQ")
RELOCATABLE, X86_64, PROGBITS, STRTAB = 1, 62, 1, 3


def relocatable(name: str, content: bytes) -> bytes:
    """An object file with one section of that name.  Spec: ELF-64 Object File Format 1.5."""
    names = b"\0" + name.encode() + b"\0.shstrtab\0"
    body = content + names
    where = HEADER.size + len(body)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    sizes = (HEADER.size, 0, 0, SECTION.size, 3, 2)
    header = HEADER.pack(identity, RELOCATABLE, X86_64, 1, 0, 0, where, 0, *sizes)
    sections = bytes(SECTION.size)
    for at, kind, offset, length in (
        (1, PROGBITS, HEADER.size, len(content)),
        (len(name) + 2, STRTAB, HEADER.size + len(content), len(names)),
    ):
        sections += SECTION.pack(at, kind, 0, 0, offset, length, 0, 0, 1, 0)
    return header + body + sections
