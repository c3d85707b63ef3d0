"""The native device: queues in guest memory, ten operations, HBM.  See docs/native.md."""

from mdevemu.personalities.native.device import Native

__all__ = ["Native"]
