"""What stands in memory: directory entries, contexts, commands and records, bit by bit.

Spec: RISC-V IOMMU 1.0, Data Structures; In-memory queue interface
"""

import enum

from mdevemu.layout import Struct, Word, bit, bits, fields_of, u64, width_of


def reserved(kind: type[Word]) -> int:
    """The bits of a word that its declaration leaves unnamed."""
    named = sum(field.mask for field in fields_of(kind).values())
    return ((1 << width_of(kind)) - 1) & ~named


class Directory(Word, width=64):
    """A non-leaf entry of the DDT or a PDT.

    Spec: RISC-V IOMMU 1.0, Non-leaf DDT entry; Non-leaf PDT entry
    """

    v = bit(0)
    ppn = bits(53, 10)


class TranslationControl(Word, width=64):
    """DC.tc.  Spec: RISC-V IOMMU 1.0, Translation control (`tc`)"""

    v = bit(0)
    en_ats = bit(1)
    en_pri = bit(2)
    t2gpa = bit(3)
    dtf = bit(4)
    pdtv = bit(5)
    prpr = bit(6)
    gade = bit(7)
    sade = bit(8)
    dpe = bit(9)
    sbe = bit(10)
    sxl = bit(11)
    custom = bits(31, 24)


class GuestTranslation(Word, width=64):
    """DC.iohgatp.  Spec: RISC-V IOMMU 1.0, `iohgatp`"""

    ppn = bits(43, 0)
    gscid = bits(59, 44)
    mode = bits(63, 60)


class DeviceAttributes(Word, width=64):
    """DC.ta.  Spec: RISC-V IOMMU 1.0, Translation attributes (`ta`) of the device context"""

    pscid = bits(31, 12)
    rcid = bits(51, 40)
    mcid = bits(63, 52)


class TablePointer(Word, width=64):
    """DC.fsc (iosatp or pdtp), PC.fsc and msiptp: a table's mode and page number.

    Spec: RISC-V IOMMU 1.0, First-Stage context (`fsc`); MSI page table pointer
    """

    ppn = bits(43, 0)
    mode = bits(63, 60)


class ProcessAttributes(Word, width=64):
    """PC.ta.  Spec: RISC-V IOMMU 1.0, Translation attributes (`ta`) of the process context"""

    v = bit(0)
    ens = bit(1)
    sum = bit(2)
    pscid = bits(31, 12)


class DirectoryMode(enum.IntEnum):
    """pdtp.MODE.  Spec: RISC-V IOMMU 1.0, pdtp.MODE"""

    BARE = 0
    PD8 = 1
    PD17 = 2
    PD20 = 3


class Entry(Word, width=64):
    """A page table entry of either stage.  Spec: RISC-V Privileged, Sv39 page table entry"""

    v = bit(0)
    r = bit(1)
    w = bit(2)
    x = bit(3)
    u = bit(4)
    g = bit(5)
    a = bit(6)
    d = bit(7)
    rsw = bits(9, 8)
    ppn = bits(53, 10)
    rsw_high = bits(60, 59)
    pbmt = bits(62, 61)
    n = bit(63)


class Opcode(enum.IntEnum):
    """Command groups.  Spec: RISC-V IOMMU 1.0, IOMMU command opcodes"""

    IOTINVAL = 1
    IOFENCE = 2
    IODIR = 3
    ATS = 4


class Iotinval(Word, width=128):
    """IOTINVAL.VMA (func3 0) and IOTINVAL.GVMA (1).

    Spec: RISC-V IOMMU 1.0, Page-Table cache invalidation commands
    """

    opcode = bits(6, 0)
    func3 = bits(9, 7)
    av = bit(10)
    pscid = bits(31, 12)
    pscv = bit(32)
    gv = bit(33)
    nl = bit(34)
    gscid = bits(59, 44)
    s = bit(64 + 9)
    addr = bits(64 + 61, 64 + 10)


class Iofence(Word, width=128):
    """IOFENCE.C (func3 0).  Spec: RISC-V IOMMU 1.0, Command-queue Fence commands"""

    opcode = bits(6, 0)
    func3 = bits(9, 7)
    av = bit(10)
    wsi = bit(11)
    pr = bit(12)
    pw = bit(13)
    data = bits(63, 32)
    addr = bits(64 + 61, 64)


class Iodir(Word, width=128):
    """IODIR.INVAL_DDT (func3 0) and IODIR.INVAL_PDT (1).

    Spec: RISC-V IOMMU 1.0, Directory cache invalidation commands
    """

    opcode = bits(6, 0)
    func3 = bits(9, 7)
    pid = bits(31, 12)
    dv = bit(33)
    did = bits(63, 40)


class Ats(Word, width=128):
    """ATS.INVAL (func3 0) and ATS.PRGR (1).  Spec: RISC-V IOMMU 1.0, PCIe ATS commands"""

    opcode = bits(6, 0)
    func3 = bits(9, 7)
    pid = bits(31, 12)
    pv = bit(32)
    dsv = bit(33)
    rid = bits(55, 40)
    dseg = bits(63, 56)
    payload = bits(127, 64)


class FaultHeader(Word, width=64):
    """The first doubleword of a fault record.  Spec: RISC-V IOMMU 1.0, Fault/Event-Queue"""

    cause = bits(11, 0)
    pid = bits(31, 12)
    pv = bit(32)
    priv = bit(33)
    ttyp = bits(39, 34)
    did = bits(63, 40)


class FaultRecord(Struct):
    """A fault queue entry.  Spec: RISC-V IOMMU 1.0, Fault/Event-Queue"""

    header: u64
    custom: u64
    iotval: u64
    iotval2: u64


class PageRequestHeader(Word, width=64):
    """The first doubleword of a page request record.  Spec: RISC-V IOMMU 1.0, Page-Request-Queue"""

    pid = bits(31, 12)
    pv = bit(32)
    priv = bit(33)
    exec = bit(34)
    did = bits(63, 40)


class PageRequestRecord(Struct):
    """A page request queue entry.  Spec: RISC-V IOMMU 1.0, Page-Request-Queue"""

    header: u64
    payload: u64


class PageRequestPayload(Word, width=64):
    """The body of a "Page Request" message.

    Spec: RISC-V IOMMU 1.0, Page-Request-Queue; PCIe 5.0 §10.4.1
    """

    r = bit(0)
    w = bit(1)
    last = bit(2)
    index = bits(11, 3)
    address = bits(63, 12)
