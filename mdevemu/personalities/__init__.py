"""The devices we can be.  To add one of ours: write a file here, add it to the table."""

from typing import Any

from mdevemu.accel import Personality
from mdevemu.personalities.adder import Adder
from mdevemu.personalities.ioat import Ioat
from mdevemu.personalities.native import Native

PERSONALITIES: dict[str, type[Personality[Any]]] = {
    "adder": Adder,
    "ioat": Ioat,
    "native": Native,
}
