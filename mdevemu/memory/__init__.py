"""The emulated host's physical memory, and what is behind each range of it."""

from mdevemu.memory.backing import (
    Backing,
    FileAccess,
    FileFacts,
    MappedFile,
    Miss,
    Ram,
    inspect,
    open_backing,
)
from mdevemu.memory.physical import PhysicalMemory

__all__ = [
    "Backing",
    "FileAccess",
    "FileFacts",
    "MappedFile",
    "Miss",
    "PhysicalMemory",
    "Ram",
    "inspect",
    "open_backing",
]
