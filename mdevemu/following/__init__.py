"""What happens, told to whoever follows it: filtered, by name, and never in anybody's way."""

from mdevemu.following.commands import Following

__all__ = ["Following"]
