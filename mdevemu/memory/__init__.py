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
from mdevemu.memory.far import Answer, Far, Lender
from mdevemu.memory.logged import Logged
from mdevemu.memory.physical import PhysicalMemory

__all__ = [
    "Answer",
    "Backing",
    "Far",
    "FileAccess",
    "FileFacts",
    "Lender",
    "Logged",
    "MappedFile",
    "Miss",
    "PhysicalMemory",
    "Ram",
    "inspect",
    "open_backing",
]
