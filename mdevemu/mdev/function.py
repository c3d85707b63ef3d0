"""The PCI function of an mdev: one whose device can move, if its personality can."""

from mdevemu.mdev.migration import Migration
from mdevemu.pci.function import Function


class MdevFunction(Function):
    """See ``Function``.

    Attributes:
        migration: its state as a stream; None if it cannot be moved.
    """

    migration: Migration | None = None
