"""The native device as its driver sees it: words, registers, descriptors.

docs/native.md tells what they do; its tables, and guest/native.py, are generated
from here.  All indices of rings are free-running, modulo 2**32.
"""

import enum

from mdevemu.layout import Access, Struct, Word, bit, bits, code, u8, u16, u32, u64
from mdevemu.registers import Array, Reg, RegisterMap
from mdevemu.units import PAGE

MAGIC = int.from_bytes(b"ACC1", "little")
MAX_QUEUES = 16
LOG2_MAX_ENTRIES = 12
LOG2_MAX_TRANSFER = 24

QUEUES_AT, QUEUE_STRIDE = 0x4000, 0x40


class DeviceState(enum.IntEnum):
    """What the device as a whole is doing."""

    DISABLED = 0
    READY = 1


class QueueState(enum.IntEnum):
    """What one queue is doing."""

    DISABLED = 0
    RUNNING = 1
    STALLED = 2
    FAILED = 3


class FaultCode(enum.IntEnum):
    """Why a queue failed, or why a doorbell was refused."""

    NONE = 0
    RING_READ = 1
    COMPLETION_WRITE = 2
    DOORBELL_RANGE = 3
    QUEUE_CONFIG = 4
    SHADOW_ACCESS = 5
    QUEUE_DISABLED = 6


class Magic(Word, width=32):
    """The letters ACC1, lowest byte first."""

    letters = bits(31, 0, Access.RO, reset=MAGIC)


class Version(Word, width=32):
    """Version of this register interface."""

    minor = bits(15, 0, Access.RO, reset=2)
    major = bits(31, 16, Access.RO, reset=1)


class Capabilities(Word, width=64):
    """What this slice has."""

    queues = bits(7, 0, Access.RO)
    log2_max_entries = bits(12, 8, Access.RO, reset=LOG2_MAX_ENTRIES)
    log2_max_transfer = bits(17, 13, Access.RO, reset=LOG2_MAX_TRANSFER)
    event_index = bit(18, Access.RO, reset=True)
    hbm = bit(19, Access.RO)
    monitoring = bit(20, Access.RO, reset=True)
    vectors = bits(28, 21, Access.RO)
    hbm_buffers = bit(29, Access.RO)


class Operations(Word, width=64):
    """Bit n: operation code n is available."""

    available = bits(63, 0, Access.RO)


class HbmSize(Word, width=64):
    """Bytes of HBM in this slice, from address 0 of the aperture."""

    bytes = bits(63, 0, Access.RO)


class Control(Word, width=32):
    """Switches the device on, or resets it."""

    enable = bit(0)
    reset = bit(1, Access.W1S)


class Status(Word, width=32):
    """What the device as a whole is doing."""

    state = code(1, 0, DeviceState, Access.RO)


class Scratch(Word, width=64):
    """Nothing: for a driver to try its register access on."""

    value = bits(63, 0)


class InterruptStatus(Word, width=64):
    """Bit n: vector n is pending on the INTx line; unused while MSI-X is on."""

    vectors = bits(63, 0, Access.W1C)


class FunctionSet(Word, width=32):
    """Changes whenever what the slice's engines do may have changed."""

    version = bits(31, 0, Access.RO)


class EventStatus(Word, width=32):
    """What happened: functions_changed, an engine of the slice was reprogrammed."""

    functions_changed = bit(0, Access.W1C)


class FaultStatus(Word, width=32):
    """The first fault since ``valid`` was cleared."""

    valid = bit(0, Access.W1C)
    overflow = bit(1, Access.W1C)
    code = code(15, 8, FaultCode, Access.RO)
    queue = bits(31, 16, Access.RO)


class FaultCause(Word, width=32):
    """The IOMMU's cause code, 0 if the IOMMU had no part in it."""

    cause = bits(31, 0, Access.RO)


class FaultAddress(Word, width=64):
    """The Iova that faulted, or the doorbell value that was refused."""

    address = bits(63, 0, Access.RO)


class FaultIndex(Word, width=64):
    """Index of the descriptor at hand."""

    index = bits(63, 0, Access.RO)


class Counter(Word, width=64):
    """A count since reset, modulo 2**64."""

    value = bits(63, 0, Access.RO)


class Address(Word, width=64):
    """An Iova."""

    iova = bits(63, 0)


class QueueSize(Word, width=32):
    """Both rings have 2**log2_entries entries, 1 to capabilities.log2_max_entries."""

    log2_entries = bits(4, 0)


class QueueControl(Word, width=32):
    """Switches a queue on; base, shadow and size are read at that moment."""

    enable = bit(0)
    event_index = bit(1)
    interrupt = bit(2)
    vector = bits(31, 16)


class QueueStatus(Word, width=32):
    """What a queue is doing, and why it failed."""

    state = code(2, 0, QueueState, Access.RO)
    fault = code(15, 8, FaultCode, Access.RO)


class RingIndex(Word, width=32):
    """An index that the device moves."""

    index = bits(31, 0, Access.RO)


class PasidCapabilities(Word, width=32):
    """Whether the guest has PASIDs of its own; all zero if not."""

    bits = bits(4, 0, Access.RO)
    page_requests = bit(8, Access.RO)


class PasidMode(enum.IntEnum):
    """Levels of the process directory, as RISC-V's pdtp.MODE has them."""

    OFF = 0
    PD8 = 1
    PD17 = 2
    PD20 = 3


class PasidTable(Word, width=64):
    """The guest's process directory; a write takes effect at once."""

    mode = code(1, 0, PasidMode)
    page = bits(63, 12)


class InvalidateAddress(Word, width=64):
    """The virtual address that the next ``invalidate`` names."""

    address = bits(63, 0)


class InvalidateKind(enum.IntEnum):
    """What the guest changed in its tables."""

    NOTHING = 0
    CONTEXT = 1
    SPACE = 2
    PAGE = 3


class Invalidate(Word, width=32):
    """Forget what was cached; it has happened when the write is over.

    CONTEXT: the process context of PASID ``id``.  SPACE: all of the soft context
    (PSCID) ``id``, of every one with ``all``.  PAGE: one address of it.
    """

    kind = code(1, 0, InvalidateKind, Access.WO)
    all = bit(2, Access.WO)
    id = bits(31, 12, Access.WO)


class PageRequestSize(Word, width=32):
    """The page-request ring has 2**log2_entries entries."""

    log2_entries = bits(4, 0)


class PageRequestControl(Word, width=32):
    """Switches page requests on; base and size are read at that moment."""

    enable = bit(0)
    vector = bits(31, 16)


class PageRequestHead(Word, width=32):
    """Index up to which the driver has taken page requests."""

    index = bits(31, 0)


class PageResponse(Word, width=64):
    """Answers a page request; code 0 is success, 1 invalid, 15 failure."""

    group = bits(8, 0, Access.WO)
    pasid = bits(31, 12, Access.WO)
    code = bits(35, 32, Access.WO)


class QueuePasid(Word, width=32):
    """With ``user``, rings and operands of the queue are addresses of this PASID."""

    pasid = bits(19, 0)
    user = bit(31)


class HbmOperation(enum.IntEnum):
    """What ``hbm_command`` does with ``hbm_argument``.

    ALLOCATE: bytes; FREE and EXPORT: a buffer's address; REVOKE and IMPORT: a handle;
    RELEASE: the address of an import.
    """

    NOTHING = 0
    ALLOCATE = 1
    FREE = 2
    EXPORT = 3
    REVOKE = 4
    IMPORT = 5
    RELEASE = 6
    JOIN = 7


class HbmStatusCode(enum.IntEnum):
    """What became of the last ``hbm_command``."""

    OK = 0
    INVALID = 1
    NO_ROOM = 2
    NO_BUFFER = 3
    DENIED = 4


class HbmArgument(Word, width=64):
    """What the next ``hbm_command`` is about."""

    value = bits(63, 0)


class HbmPeer(Word, width=64):
    """Whom the next EXPORT is for: the number that it got by JOIN, and whether it may write."""

    number = bits(62, 0)
    writable = bit(63)


class HbmCommand(Word, width=32):
    """Does something about buffers; it is done when the write is over.

    ``mapped``: ALLOCATE an address of the slice's MMU, which leads to places anywhere.
    """

    operation = code(2, 0, HbmOperation, Access.WO)
    mapped = bit(8, Access.WO)


class HbmStatus(Word, width=32):
    """What became of the last ``hbm_command``."""

    code = code(7, 0, HbmStatusCode, Access.RO)


class HbmValue(Word, width=64):
    """ALLOCATE, IMPORT: the address of the buffer; EXPORT: the handle; JOIN: the number."""

    value = bits(63, 0, Access.RO)


class HbmLength(Word, width=64):
    """Bytes of what was allocated or imported last."""

    value = bits(63, 0, Access.RO)


class NativeRegs(RegisterMap, size=0x10000):
    """BAR0."""

    magic = Reg(0x000, Magic)
    version = Reg(0x004, Version)
    capabilities = Reg(0x008, Capabilities)
    operations = Reg(0x010, Operations)
    hbm_size = Reg(0x018, HbmSize)
    control = Reg(0x020, Control)
    status = Reg(0x024, Status)
    scratch = Reg(0x028, Scratch)
    interrupt_status = Reg(0x030, InterruptStatus)
    function_set = Reg(0x038, FunctionSet)
    event_status = Reg(0x03C, EventStatus)
    fault_status = Reg(0x040, FaultStatus)
    fault_cause = Reg(0x044, FaultCause)
    fault_address = Reg(0x048, FaultAddress)
    fault_index = Reg(0x050, FaultIndex)

    pasid_capabilities = Reg(0x060, PasidCapabilities)
    pasid_table = Reg(0x068, PasidTable)
    invalidate_address = Reg(0x070, InvalidateAddress)
    invalidate = Reg(0x078, Invalidate)
    page_request_base = Reg(0x080, Address)
    page_request_size = Reg(0x088, PageRequestSize)
    page_request_control = Reg(0x08C, PageRequestControl)
    page_request_tail = Reg(0x090, RingIndex)
    page_request_head = Reg(0x094, PageRequestHead)
    page_response = Reg(0x098, PageResponse)

    hbm_argument = Reg(0x0A0, HbmArgument)
    hbm_peer = Reg(0x0A8, HbmPeer)
    hbm_command = Reg(0x0B0, HbmCommand)
    hbm_status = Reg(0x0B4, HbmStatus)
    hbm_result = Reg(0x0B8, HbmValue)
    hbm_length = Reg(0x0C0, HbmLength)

    completed = Reg(0x1000, Counter)
    failed = Reg(0x1008, Counter)
    bytes_read = Reg(0x1010, Counter)
    bytes_written = Reg(0x1018, Counter)
    interrupts = Reg(0x1020, Counter)
    doorbells = Reg(0x1028, Counter)
    faults = Reg(0x1030, Counter)
    busy_ns = Reg(0x1038, Counter)
    hbm_bytes = Reg(0x1040, Counter)
    weight = Reg(0x1048, Counter)
    hbm_used = Reg(0x1050, Counter)
    hbm_high_water = Reg(0x1058, Counter)
    hbm_scrubbing = Reg(0x1060, Counter)
    hbm_imported = Reg(0x1068, Counter)

    queue_sq_base = Array(QUEUES_AT + 0x00, Address, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_cq_base = Array(QUEUES_AT + 0x08, Address, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_shadow = Array(QUEUES_AT + 0x10, Address, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_size = Array(QUEUES_AT + 0x18, QueueSize, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_control = Array(QUEUES_AT + 0x1C, QueueControl, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_status = Array(QUEUES_AT + 0x20, QueueStatus, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_sq_head = Array(QUEUES_AT + 0x24, RingIndex, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_cq_tail = Array(QUEUES_AT + 0x28, RingIndex, count=MAX_QUEUES, stride=QUEUE_STRIDE)
    queue_pasid = Array(QUEUES_AT + 0x2C, QueuePasid, count=MAX_QUEUES, stride=QUEUE_STRIDE)


class SqTail(Word, width=32):
    """Index behind the last descriptor that is ready."""

    index = bits(31, 0, Access.WO)


class CqHead(Word, width=32):
    """Index up to which the driver has taken completions."""

    index = bits(31, 0, Access.WO)


class DoorbellRegs(RegisterMap, size=MAX_QUEUES * PAGE):
    """BAR2: one page for each queue."""

    doorbell_sq_tail = Array(0x0, SqTail, count=MAX_QUEUES, stride=PAGE)
    doorbell_cq_head = Array(0x4, CqHead, count=MAX_QUEUES, stride=PAGE)


class Flag(enum.IntFlag):
    """Flags of a descriptor; an address whose flag is set is an offset into HBM."""

    SOURCE_HBM = 1
    DESTINATION_HBM = 2
    OPERAND_HBM = 4
    NO_INTERRUPT = 8


class Descriptor(Struct):
    """One command, 64 bytes.  Reserved members must be zero.

    ``pasid``: bit 31 says that operands are addresses of the PASID in bits 19:0.
    """

    operation: u8
    flags: u8
    reserved0: u16
    length: u32
    source: u64
    destination: u64
    operand: u64
    capacity: u32
    pasid: u32
    cookie: u64
    reserved2: u64
    reserved3: u64


class Completion(Struct):
    """What became of a command, 32 bytes.

    ``address`` is the Iova (or HBM offset) that faulted, ``index`` the low 16 bits
    of the descriptor's index, ``cause`` the IOMMU's cause code.
    """

    cookie: u64
    result: u64
    address: u64
    index: u16
    cause: u16
    status: u16
    phase: u16


class PageRequest(Struct):
    """A page that the device wants, 16 bytes; answer it in ``page_response``.

    ``flags``: bit 0 it will be read, bit 1 it will be written.
    """

    address: u64
    pasid: u32
    group: u16
    flags: u16


class Shadow(Struct):
    """What driver and device tell each other in memory, 16 bytes.

    The driver writes ``sq_tail`` and ``cq_head``, the device ``sq_event``.
    """

    sq_tail: u32
    sq_event: u32
    cq_head: u32
    reserved: u32
