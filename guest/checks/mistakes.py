"""Descriptors and registers as a bad driver writes them, and what the device must say to each."""

import time
from typing import NamedTuple

from guest import native
from guest.access import PAGE
from guest.bench import Bench, status_name
from guest.driver import bits
from guest.native import FaultCode, Operation, Status
from guest.protocol import Message
from guest.queue import Command, Queue, of_process

_SETTLE = 2.0  # seconds for a fault record to appear
_UNKNOWN = 0xEE  # no operation
_FLAG = 0x80  # no flag


class _Mistake(NamedTuple):
    """A descriptor and the status that it must end with.

    Attributes:
        address: what the completion must name as the address at fault; None for anything.
    """

    name: str
    command: Command
    status: Status
    address: int | None = None


def make_mistakes(bench: Bench) -> list[Message]:
    """Each mistake with ``expected``, ``status`` and ``address``; ``ok`` if they agree."""
    with bench.memory(4 * PAGE) as buffer, bench.open_queue(0) as queue:
        # A block of parameters with a key that no cipher has, and one that is fine.
        bad, fine = buffer.iova + 64, buffer.iova + 128
        native.AES_GCM.pack_into(buffer.view, 64, 17, 0, bytes(12), 0, bytes(32), 0)
        native.AES_GCM.pack_into(buffer.view, 128, 16, 0, bytes(12), 0, bytes(32), 0)
        buffer.view[256:512] = b"\xff" * 256  # no deflate stream begins like this
        found = []
        for mistake in _mistakes(bench, buffer.iova, buffer.iova + buffer.size, bad, fine):
            if mistake.command.operation in (*bench.device.operations, _UNKNOWN):
                found.append(_make(queue, mistake))
        works = queue.run(Command(Operation.NOP)).status
        found.append(verdict("none, after all of these", Status.SUCCESS, works))
    return found + _misuse_registers(bench)


def _mistakes(bench: Bench, start: int, end: int, bad: int, fine: int) -> list[_Mistake]:
    """``start`` and ``end`` bound a buffer with nothing behind it; the rest are its parameters."""
    hbm, most = bench.device.hbm, bench.device.max_transfer
    copy = Command(Operation.COPY, length=16, source=start, destination=start + PAGE)
    faults = [
        _Mistake("copy from nowhere", copy._replace(source=end), Status.READ_FAULT, end),
        _Mistake("copy over the end", copy._replace(source=end - 8), Status.READ_FAULT, end),
        _Mistake("copy to nowhere", copy._replace(destination=end), Status.WRITE_FAULT, end),
        _Mistake(
            "copy to over the end", copy._replace(destination=end - 8), Status.WRITE_FAULT, end
        ),
        _Mistake(
            "fill nowhere", Command(Operation.FILL, 16, destination=end), Status.WRITE_FAULT, end
        ),
        _Mistake(
            "compare with nowhere",
            Command(Operation.COMPARE, 16, source=start, operand=end),
            Status.READ_FAULT,
            end,
        ),
        _Mistake(
            "crc32c of nowhere", Command(Operation.CRC32C, 16, source=end), Status.READ_FAULT, end
        ),
        _Mistake(
            "digest to nowhere",
            Command(Operation.SHA256, 16, source=start, destination=end, capacity=32),
            Status.WRITE_FAULT,
            end,
        ),
        _Mistake(
            "parameters nowhere",
            Command(Operation.AES_GCM_ENCRYPT, 16, start, start + PAGE, end, 32),
            Status.READ_FAULT,
            end,
        ),
    ]
    ranges = [
        _Mistake(
            "copy from behind HBM",
            copy._replace(source=hbm, flags=native.Flag.SOURCE_HBM),
            Status.HBM_RANGE,
        ),
        _Mistake(
            "copy to over HBM's end",
            copy._replace(destination=max(hbm - 8, 0), flags=native.Flag.DESTINATION_HBM),
            Status.HBM_RANGE,
        ),
        _Mistake(
            "copy from HBM round the end of 64 bits",
            copy._replace(source=(1 << 64) - 8, flags=native.Flag.SOURCE_HBM),
            Status.HBM_RANGE,
        ),
        _Mistake("length over the limit", copy._replace(length=most + 1), Status.LENGTH),
        _Mistake(
            "ciphertext shorter than its tag",
            Command(Operation.AES_GCM_DECRYPT, 15, start, start + PAGE, fine, 64),
            Status.LENGTH,
        ),
    ]
    fields = [
        _Mistake("unknown operation", Command(_UNKNOWN), Status.UNKNOWN_OPERATION),
        _Mistake("unknown flag", copy._replace(flags=_FLAG), Status.INVALID_FIELD),
        *(
            _Mistake(
                f"reserved field {place}",
                copy._replace(reserved=(place == 0, place == 1, place == 2)),
                Status.INVALID_FIELD,
            )
            for place in range(3)
        ),
        _Mistake("PASID without its bit", copy._replace(pasid=1), Status.INVALID_FIELD),
        _Mistake("PASID too wide", copy._replace(pasid=of_process(1 << 20)), Status.INVALID_FIELD),
        _Mistake(
            "key of 17 bytes",
            Command(Operation.AES_GCM_ENCRYPT, 16, start, start + PAGE, bad, 64),
            Status.INVALID_FIELD,
        ),
    ]
    contents = [
        _Mistake(
            "no room for deflate",
            Command(Operation.DEFLATE, 4096, start, start + 2 * PAGE, capacity=2),
            Status.CAPACITY,
        ),
        _Mistake(
            "no room for a tag",
            Command(Operation.AES_GCM_ENCRYPT, 16, start, start + PAGE, fine, 31),
            Status.CAPACITY,
        ),
        _Mistake(
            "no deflate stream",
            Command(Operation.INFLATE, 256, start + 256, start + PAGE, capacity=PAGE),
            Status.CORRUPT,
        ),
        _Mistake(
            "tag of something else",
            Command(Operation.AES_GCM_DECRYPT, 64, start, start + PAGE, fine, 64),
            Status.AUTHENTICATION,
        ),
    ]
    return faults + ranges + fields + contents


def _make(queue: Queue, mistake: _Mistake) -> Message:
    completion = queue.run(mistake.command)
    facts = verdict(mistake.name, mistake.status, completion.status)
    facts["address"] = completion.address
    facts["cause"] = completion.cause
    if mistake.address is not None:
        facts["expected-address"] = mistake.address
        # The IOMMU refuses such an access and must be named as the reason.
        agree = completion.address == mistake.address and completion.cause != 0
        facts["ok"] = bool(facts["ok"]) and agree
    return facts


def verdict(name: str, expected: int, status: int) -> Message:
    """What a mistake had to end with, and what it did end with."""
    return {
        "mistake": name,
        "expected": status_name(expected),
        "status": status_name(status),
        "ok": status == expected,
    }


def _misuse_registers(bench: Bench) -> list[Message]:
    """Doorbells and queue registers misused: the fault record tells, and vector 0 interrupts."""
    device = bench.device
    number = device.queues - 1
    page = number * native.DOORBELL_STRIDE
    block = native.QUEUE_BASE + number * native.QUEUE_STRIDE
    found = []
    with bench.open_queue(number) as queue:
        found.append(
            _record(
                bench,
                "doorbell beyond the ring",
                FaultCode.DOORBELL_RANGE,
                [(native.DOORBELLS_BAR, page + native.DOORBELL_SQ_TAIL, queue.entries + 1)],
            )
        )
    found.append(
        _record(
            bench,
            "doorbell of a disabled queue",
            FaultCode.QUEUE_DISABLED,
            [(native.DOORBELLS_BAR, page + native.DOORBELL_SQ_TAIL, 1)],
        )
    )
    found.append(
        _record(
            bench,
            "misaligned ring",
            FaultCode.QUEUE_CONFIG,
            [
                (native.REGISTERS_BAR, block + native.QUEUE_SIZE, 3),
                (native.REGISTERS_BAR, block + native.QUEUE_SQ_BASE, 1),
                (
                    native.REGISTERS_BAR,
                    block + native.QUEUE_CONTROL,
                    bits(1, native.QUEUE_CONTROL_ENABLE),
                ),
            ],
        )
    )
    device.write64(block + native.QUEUE_SQ_BASE, 0)
    return found


def _record(
    bench: Bench, name: str, expected: FaultCode, writes: list[tuple[int, int, int]]
) -> Message:
    """Do the (bar, offset, value) writes of 32 bits and look at the fault record."""
    device = bench.device
    device.clear_fault()
    interrupt = bench.access.interrupt(native.FAULT_VECTOR) if bench.access.vectors else None
    if interrupt is not None:
        interrupt.take()
    for bar, offset, value in writes:
        bench.access.write(bar, offset, value, 4)
    deadline = time.monotonic() + _SETTLE
    while (fault := device.fault()) is None and time.monotonic() < deadline:
        time.sleep(0.001)
    interrupts = interrupt.wait(_SETTLE) if interrupt is not None and fault is not None else 0
    device.clear_fault()
    return {
        "mistake": name,
        "expected": _fault_name(expected),
        "status": _fault_name(fault.code) if fault else "no fault",
        "interrupts": interrupts,
        "ok": fault is not None
        and fault.code == expected
        and (interrupt is None or interrupts > 0),
    }


def _fault_name(code: int) -> str:
    try:
        return FaultCode(code).name.lower().replace("_", "-")
    except ValueError:
        return str(code)
