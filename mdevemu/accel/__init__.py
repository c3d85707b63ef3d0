"""What every accelerator is made of: engines, HBM, rings, and the personality base."""

from mdevemu.accel.personality import Interface, Personality, Slice
from mdevemu.accel.reach import Reach, Reading, Writing
from mdevemu.accel.ring import CompletionRing, Popped, Ring, RingState
from mdevemu.accel.saving import Saved
from mdevemu.accel.scheduler import Work
from mdevemu.pci.config import Identity

__all__ = [
    "CompletionRing",
    "Identity",
    "Interface",
    "Personality",
    "Popped",
    "Reach",
    "Reading",
    "Ring",
    "RingState",
    "Saved",
    "Slice",
    "Work",
    "Writing",
]
