"""The IOMMU's registers.

Spec: RISC-V IOMMU 1.0, Memory-mapped register interface
"""

import enum

from mdevemu.layout import Access, Word, bit, bits
from mdevemu.registers import Array, Reg, RegisterMap

RO, W1C, W1S = Access.RO, Access.W1C, Access.W1S


class Interrupts(enum.IntEnum):
    """capabilities.IGS: how the IOMMU can interrupt."""

    MSI = 0
    WSI = 1
    BOTH = 2
    RESERVED = 3


class Mode(enum.IntEnum):
    """ddtp.iommu_mode."""

    OFF = 0
    BARE = 1
    ONE_LEVEL = 2
    TWO_LEVELS = 3
    THREE_LEVELS = 4


class Capabilities(Word, width=64):
    """What this IOMMU can do.  Spec: RISC-V IOMMU 1.0, IOMMU capabilities"""

    version = bits(7, 0, RO)
    sv32 = bit(8, RO)
    sv39 = bit(9, RO)
    sv48 = bit(10, RO)
    sv57 = bit(11, RO)
    svrsw60t59b = bit(14, RO)
    svpbmt = bit(15, RO)
    sv32x4 = bit(16, RO)
    sv39x4 = bit(17, RO)
    sv48x4 = bit(18, RO)
    sv57x4 = bit(19, RO)
    amo_mrif = bit(21, RO)
    msi_flat = bit(22, RO)
    msi_mrif = bit(23, RO)
    amo_hwad = bit(24, RO)
    ats = bit(25, RO)
    t2gpa = bit(26, RO)
    end = bit(27, RO)
    igs = bits(29, 28, RO)
    hpm = bit(30, RO)
    dbg = bit(31, RO)
    pas = bits(37, 32, RO)
    pd8 = bit(38, RO)
    pd17 = bit(39, RO)
    pd20 = bit(40, RO)
    qosid = bit(41, RO)
    nl = bit(42, RO)
    s = bit(43, RO)


def can_choose_rv32(capabilities: Capabilities) -> bool:
    """fctl.GXL can be written."""
    return capabilities.sv32 or capabilities.sv32x4


class FeatureControl(Word, width=32):
    """fctl; which of its bits can be written depends on the capabilities.

    Spec: RISC-V IOMMU 1.0, Features-control register
    """

    be = bit(0)
    wsi = bit(1)
    gxl = bit(2)


class DirectoryPointer(Word, width=64):
    """ddtp.  Spec: RISC-V IOMMU 1.0, Device-directory-table pointer"""

    iommu_mode = bits(3, 0)
    busy = bit(4, RO)
    ppn = bits(53, 10)


class QueueBase(Word, width=64):
    """cqb, fqb and pqb.  Spec: RISC-V IOMMU 1.0, Command-queue base and its equals"""

    log2sz_1 = bits(4, 0)
    ppn = bits(53, 10)


class Index(Word, width=32):
    """A queue index that software writes: cqt, fqh, pqh."""

    index = bits(31, 0)


class OwnIndex(Word, width=32):
    """A queue index that the IOMMU writes: cqh, fqt, pqt."""

    index = bits(31, 0, RO)


class CommandQueueCsr(Word, width=32):
    """cqcsr.  Spec: RISC-V IOMMU 1.0, Command-queue CSR"""

    cqen = bit(0)
    cie = bit(1)
    cqmf = bit(8, W1C)
    cmd_to = bit(9, W1C)
    cmd_ill = bit(10, W1C)
    fence_w_ip = bit(11, W1C)
    cqon = bit(16, RO)
    busy = bit(17, RO)


class RecordQueueCsr(Word, width=32):
    """fqcsr and pqcsr: fqen, fie, fqmf, fqof, fqon and their equals.

    Spec: RISC-V IOMMU 1.0, Fault queue CSR, Page-request-queue CSR
    """

    enable = bit(0)
    interrupt_enable = bit(1)
    memory_fault = bit(8, W1C)
    overflow = bit(9, W1C)
    on = bit(16, RO)
    busy = bit(17, RO)


class InterruptPending(Word, width=32):
    """ipsr.  Spec: RISC-V IOMMU 1.0, Interrupt pending status register"""

    cip = bit(0, W1C)
    fip = bit(1, W1C)
    pmip = bit(2, W1C)
    pip = bit(3, W1C)


class CounterOverflow(Word, width=32):
    """iocountovf.  Spec: RISC-V IOMMU 1.0, Counter overflow status"""

    counters = bits(31, 0, RO)


class CounterInhibit(Word, width=32):
    """iocountinh.  Spec: RISC-V IOMMU 1.0, Counter inhibits"""

    counters = bits(31, 0)


class Cycles(Word, width=64):
    """iohpmcycles.  Spec: RISC-V IOMMU 1.0, Cycles counter"""

    counter = bits(62, 0)
    overflow = bit(63)


class Counter(Word, width=64):
    """One of iohpmctr1-31.  Spec: RISC-V IOMMU 1.0, Event counters"""

    counter = bits(63, 0)


class EventSelector(Word, width=64):
    """One of iohpmevt1-31.  Spec: RISC-V IOMMU 1.0, Event selectors"""

    event = bits(14, 0)
    dmask = bit(15)
    pid_pscid = bits(35, 16)
    did_gscid = bits(59, 36)
    pv_pscv = bit(60)
    dv_gscv = bit(61)
    idt = bit(62)
    overflow = bit(63)


class RequestIova(Word, width=64):
    """tr_req_iova.  Spec: RISC-V IOMMU 1.0, Translation-request IOVA"""

    vpn = bits(63, 12)


class RequestControl(Word, width=64):
    """tr_req_ctl.  Spec: RISC-V IOMMU 1.0, Translation-request control"""

    go_busy = bit(0, W1S)
    priv = bit(1)
    exe = bit(2)
    nw = bit(3)
    pid = bits(31, 12)
    pv = bit(32)
    did = bits(63, 40)


class Response(Word, width=64):
    """tr_response.  Spec: RISC-V IOMMU 1.0, Translation-response"""

    fault = bit(0, RO)
    pbmt = bits(8, 7, RO)
    s = bit(9, RO)
    ppn = bits(53, 10, RO)


class QosId(Word, width=32):
    """iommu_qosid.  Spec: RISC-V IOMMU 1.0, IOMMU QoS ID"""

    rcid = bits(11, 0)
    mcid = bits(27, 16)


class CauseToVector(Word, width=64):
    """icvec.  Spec: RISC-V IOMMU 1.0, Interrupt-cause-to-vector register"""

    civ = bits(3, 0)
    fiv = bits(7, 4)
    pmiv = bits(11, 8)
    piv = bits(15, 12)


class MsiAddress(Word, width=64):
    """msi_addr.  Spec: RISC-V IOMMU 1.0, MSI configuration table"""

    addr = bits(55, 2)


class MsiData(Word, width=32):
    """msi_data.  Spec: RISC-V IOMMU 1.0, MSI configuration table"""

    data = bits(31, 0)


class MsiControl(Word, width=32):
    """msi_vec_ctl.  Spec: RISC-V IOMMU 1.0, MSI configuration table"""

    masked = bit(0)


COUNTERS = 31
VECTORS = 16


class IommuRegisters(RegisterMap, size=0x1000):
    """The 4 KiB register page.  Spec: RISC-V IOMMU 1.0, Register layout"""

    capabilities = Reg(0, Capabilities)
    fctl = Reg(8, FeatureControl)
    ddtp = Reg(16, DirectoryPointer)
    cqb = Reg(24, QueueBase)
    cqh = Reg(32, OwnIndex)
    cqt = Reg(36, Index)
    fqb = Reg(40, QueueBase)
    fqh = Reg(48, Index)
    fqt = Reg(52, OwnIndex)
    pqb = Reg(56, QueueBase)
    pqh = Reg(64, Index)
    pqt = Reg(68, OwnIndex)
    cqcsr = Reg(72, CommandQueueCsr)
    fqcsr = Reg(76, RecordQueueCsr)
    pqcsr = Reg(80, RecordQueueCsr)
    ipsr = Reg(84, InterruptPending)
    iocountovf = Reg(88, CounterOverflow)
    iocountinh = Reg(92, CounterInhibit)
    iohpmcycles = Reg(96, Cycles)
    iohpmctr = Array(104, Counter, count=COUNTERS)
    iohpmevt = Array(352, EventSelector, count=COUNTERS)
    tr_req_iova = Reg(600, RequestIova)
    tr_req_ctl = Reg(608, RequestControl)
    tr_response = Reg(616, Response)
    iommu_qosid = Reg(624, QosId)
    icvec = Reg(760, CauseToVector)
    msi_addr = Array(768, MsiAddress, count=VECTORS, stride=16)
    msi_data = Array(776, MsiData, count=VECTORS, stride=16)
    msi_vec_ctl = Array(780, MsiControl, count=VECTORS, stride=16)
