"""Hop 6, descriptor to command: everything that can be wrong with a descriptor is found here."""

from collections.abc import Callable, Iterator

from mdevemu.accel.operations import BY_CODE, Command, Entry, Extent, Status, extent
from mdevemu.errors import CommandFault
from mdevemu.personalities.native.layout import LOG2_MAX_TRANSFER, Descriptor, Flag
from mdevemu.units import Iova

MAX_TRANSFER = 1 << LOG2_MAX_TRANSFER
KNOWN_FLAGS = sum(Flag)
# Plain numbers: an operator of enum's takes as long as reading memory does.
_SOURCE_HBM, _DESTINATION_HBM, _OPERAND_HBM = map(
    int, (Flag.SOURCE_HBM, Flag.DESTINATION_HBM, Flag.OPERAND_HBM)
)

HBM = Iova(1 << 65)
"""Operands in HBM start here: beyond every address that a descriptor can name, or run up to."""

PASID_VALID, PASID_MASK = 1 << 31, (1 << 20) - 1


class HbmFault(CommandFault):
    """An HBM operand that the slice does not reach.

    Attributes:
        address: where, in bytes from the start of the slice's HBM.
    """

    def __init__(self, code: Status, address: int, length: int) -> None:
        """``length`` bytes of it are meant."""
        super().__init__(code, f"HBM {address:#x}+{length:#x}: {code.name}")
        self.address = address


def decode(
    descriptor: Descriptor, hbm_size: int, check_hbm: Callable[[int, int], None]
) -> tuple[Entry, Command]:
    """What a descriptor asks for; HBM operands are counted from ``HBM``.

    The first ``hbm_size`` bytes of HBM are the slice's; of others (address, count) ``check_hbm``
    raises an HbmFault if the slice does not reach them.

    Raises:
        CommandFault: with the status that the completion shall have.
    """
    entry = BY_CODE.get(descriptor.operation)
    if entry is None:
        raise CommandFault(Status.UNKNOWN_OPERATION, f"operation {descriptor.operation}")
    reserved = descriptor.reserved0, descriptor.reserved2, descriptor.reserved3
    if any(reserved) or descriptor.flags & ~KNOWN_FLAGS:
        raise CommandFault(Status.INVALID_FIELD, f"reserved bits set in {descriptor}")
    length = descriptor.length
    if length > MAX_TRANSFER:
        raise CommandFault(Status.LENGTH, f"{length} bytes, at most {MAX_TRANSFER}")

    capacity = descriptor.capacity

    def place(address: int, kind: Extent, in_hbm: int) -> Iova:
        if kind is Extent.NONE or not descriptor.flags & in_hbm:
            return Iova(address)
        count = extent(kind, length, capacity)
        if address + count > hbm_size:
            check_hbm(address, count)
        return Iova(HBM + address)

    return entry, Command(
        source=place(descriptor.source, entry.source, _SOURCE_HBM),
        destination=place(descriptor.destination, entry.destination, _DESTINATION_HBM),
        length=length,
        operand=place(descriptor.operand, entry.operand, _OPERAND_HBM),
        capacity=capacity,
    )


def pasid_of(descriptor: Descriptor, bits: int | None, bound: int | None) -> int | None:
    """Whose addresses the operands are; None for the function's own, without a PASID.

    ``bits`` is the width of the guest's PASIDs, None if it has none; ``bound`` the
    PASID that the queue is bound to.

    Raises:
        CommandFault: INVALID_FIELD, a PASID that this descriptor cannot name.
    """
    if not descriptor.pasid:
        return bound
    pasid = descriptor.pasid & PASID_MASK
    well_formed = descriptor.pasid == PASID_VALID | pasid
    if bits is None or bound is not None or pasid >> bits or not well_formed:
        raise CommandFault(Status.INVALID_FIELD, f"PASID field {descriptor.pasid:#x}")
    return pasid


def named_pasid(descriptor: Descriptor, bound: int | None) -> int | None:
    """The PASID that a descriptor names, whether it may or not; else that of its queue."""
    return descriptor.pasid & PASID_MASK if descriptor.pasid & PASID_VALID else bound


def operands(entry: Entry, command: Command) -> Iterator[tuple[int, int, bool]]:
    """What a command will reach outside HBM: (address, bytes, for writing)."""
    for address, kind, write in (
        (command.source, entry.source, False),
        (command.operand, entry.operand, False),
        (command.destination, entry.destination, True),
    ):
        count = extent(kind, command.length, command.capacity)
        if count and address < HBM:
            yield address, count, write
