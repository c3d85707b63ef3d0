"""Intel I/OAT, a copy engine that stock drivers know.  See docs/ioat.md."""

from mdevemu.personalities.ioat.device import Ioat

__all__ = ["Ioat"]
