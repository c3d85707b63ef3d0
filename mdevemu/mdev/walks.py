"""What a walk that was written down means: whose guest-physical address, and where it stopped.

Spec: RISC-V Privileged, Two-Stage Address Translation; RISC-V IOMMU 1.0,
Fault/Event-Queue (iotval2)
"""

from collections.abc import Sequence

from mdevemu.iommu import Cause, Step
from mdevemu.iommu.walk import PPN_MASK, SHIFT, N
from mdevemu.mdev.host_iommu import Walk
from mdevemu.units import Gpa

IMPLICIT, SETS = 1, 2
"""Flags of iotval2: the fault was in finding an entry, and that to set its A or D."""
GUEST_PAGE_FAULTS = (
    Cause.INSTRUCTION_GUEST_PAGE_FAULT,
    Cause.READ_GUEST_PAGE_FAULT,
    Cause.WRITE_AMO_GUEST_PAGE_FAULT,
)
PAGE_FAULTS = (
    Cause.INSTRUCTION_PAGE_FAULT,
    Cause.READ_PAGE_FAULT,
    Cause.WRITE_AMO_PAGE_FAULT,
)
DEVICE_DIRECTORY, PROCESS_DIRECTORY = range(257, 260), range(265, 268)


def guest_addresses(walk: Walk, iova: int) -> list[Gpa | None]:
    """For each step, the guest-physical address that it is about; None without a second stage.

    A second-stage step helps to translate one; any other step is an entry at one.
    """
    steps = walk.steps
    found: list[Gpa | None] = [None] * len(steps)
    page, entry = iova, None  # what the access itself needs; where the last entry was
    at = 0
    while at < len(steps):
        step = steps[at]
        if step.table != "second":
            if step.table == "first" and step.leaf:
                page = _first_stage(step, iova)
            entry, at = found[at - 1] if at else None, at + 1
            found[at - 1] = entry
            continue
        end = at + 1
        while end < len(steps) and steps[end].table == "second" and not steps[end - 1].leaf:
            end += 1
        shift = SHIFT + 9 * steps[end - 1].level
        above = sum(each.index << SHIFT + 9 * each.level for each in steps[at:end])
        if end < len(steps) and steps[end].table != "second":
            # The two addresses of the entry that was found differ above the page only.
            gpa = above | steps[end].address & (1 << shift) - 1
        elif end == len(steps) and _implicit(walk):
            assert walk.fault is not None
            gpa = walk.fault.iotval2 & ~3
        elif page >> shift == above >> shift:
            gpa = page
        else:
            gpa = entry if entry is not None else above
        found[at:end] = [Gpa(gpa)] * (end - at)
        at = end
    return found


def _first_stage(leaf: Step, iova: int) -> int:
    """Where a leaf of the first stage leads."""
    shift = SHIFT + (4 if leaf.raw & N else 9 * leaf.level)
    return (leaf.raw >> 10 & PPN_MASK) << SHIFT & -1 << shift | iova & (1 << shift) - 1


def _implicit(walk: Walk) -> bool:
    fault = walk.fault
    return fault is not None and fault.cause in GUEST_PAGE_FAULTS and bool(fault.iotval2 & IMPLICIT)


def where(walk: Walk) -> str | None:
    """In which table a walk stopped; None if it did not."""
    fault = walk.fault
    if fault is None:
        return None
    if fault.cause in GUEST_PAGE_FAULTS:
        address = f"guest-physical address {fault.iotval2 & ~3:#x}"
        if not fault.iotval2 & IMPLICIT:
            return f"second stage, {address}, where the first stage leads"
        did = "set" if fault.iotval2 & SETS else "found"
        return f"second stage, {address}, where an entry is to be {did}"
    if fault.cause in PAGE_FAULTS:
        return f"first stage{_level(walk.steps, 'first')}"
    if fault.cause in DEVICE_DIRECTORY:
        return f"device directory{_level(walk.steps, 'DDT')}"
    if fault.cause in PROCESS_DIRECTORY:
        return f"process directory{_level(walk.steps, 'PDT')}"
    if fault.cause == Cause.TRANSACTION_TYPE_DISALLOWED:
        return "device context, which does not allow such a request"
    return f"behind {walk.steps[-1].table} {walk.steps[-1].level}" if walk.steps else "ddtp"


def _level(steps: Sequence[Step], table: str) -> str:
    """At which level of a table, if the walk came that far."""
    levels = [step.level for step in steps if step.table == table]
    return f", level {levels[-1]}" if levels else ""
