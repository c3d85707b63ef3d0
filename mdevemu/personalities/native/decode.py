"""Hop 6, descriptor to command: everything that can be wrong with a descriptor is found here."""

from mdevemu.accel.operations import BY_CODE, Command, Entry, Extent, Status, extent
from mdevemu.errors import CommandFault
from mdevemu.personalities.native.layout import LOG2_MAX_TRANSFER, Descriptor, Flag
from mdevemu.units import HBM_IOVA, Iova

MAX_TRANSFER = 1 << LOG2_MAX_TRANSFER
KNOWN_FLAGS = sum(Flag)


class HbmFault(CommandFault):
    """An HBM operand that is not inside the slice.

    Attributes:
        address: the offset into HBM that the descriptor names.
    """

    def __init__(self, address: int, length: int, size: int) -> None:
        reason = f"HBM {address:#x}+{length:#x} in a slice of {size:#x} bytes"
        super().__init__(Status.HBM_RANGE, reason)
        self.address = address


def decode(descriptor: Descriptor, hbm_size: int) -> tuple[Entry, Command]:
    """What a descriptor asks for, with HBM operands turned into Iovas; ``hbm_size`` in bytes.

    Raises:
        CommandFault: with the status that the completion shall have.
    """
    entry = BY_CODE.get(descriptor.operation)
    if entry is None:
        raise CommandFault(Status.UNKNOWN_OPERATION, f"operation {descriptor.operation}")
    reserved = (
        descriptor.reserved0,
        descriptor.reserved1,
        descriptor.reserved2,
        descriptor.reserved3,
        descriptor.flags & ~KNOWN_FLAGS,
    )
    if any(reserved):
        raise CommandFault(Status.INVALID_FIELD, f"reserved bits set in {descriptor}")
    length = descriptor.length
    if length > MAX_TRANSFER:
        raise CommandFault(Status.LENGTH, f"{length} bytes, at most {MAX_TRANSFER}")

    capacity = descriptor.capacity

    def place(address: int, kind: Extent, in_hbm: Flag) -> Iova:
        if kind is Extent.NONE or not descriptor.flags & in_hbm:
            return Iova(address)
        count = extent(kind, length, capacity)
        if address + count > hbm_size:
            raise HbmFault(address, count, hbm_size)
        return Iova(HBM_IOVA + address)

    return entry, Command(
        source=place(descriptor.source, entry.source, Flag.SOURCE_HBM),
        destination=place(descriptor.destination, entry.destination, Flag.DESTINATION_HBM),
        length=length,
        operand=place(descriptor.operand, entry.operand, Flag.OPERAND_HBM),
        capacity=capacity,
    )
