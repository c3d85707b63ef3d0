"""What a driver has tried of a device, and what it never has."""

from mdevemu.coverage.commands import Coverage

__all__ = ["Coverage"]
