"""Tables as a guest builds them: each entry stands where the specification says."""

import struct

import pytest

from guest import native
from guest.driver import Device
from guest.errors import AgentError
from guest.native import PasidMode
from guest.queue import Queue, User
from guest.tables import READ_ONLY, READ_WRITE, Directory, Frames
from tests.unit.guest.model import Model, PlainBuffer

BASE, PAGE = 0x1_0000_0000, 4096
V, PPN = 1, 0xFFF_FFFF_FFFF
SV39 = 8


@pytest.fixture
def memory():
    return PlainBuffer(BASE, 32 * PAGE)


def entry(memory, at):
    return struct.unpack_from("<Q", memory.view, at - BASE)[0]


def below(value):
    """Where a valid pointer leads."""
    assert value & 0x3FF == V, hex(value)
    return (value >> 10 & PPN) << 12


def context(memory, directory, indices):
    """The two doublewords of a process context; ``indices`` are PDI[2] down to PDI[0]."""
    table = directory.base
    for index in indices[:-1]:
        table = below(entry(memory, table + 8 * index))
    return [entry(memory, table + 16 * indices[-1] + 8 * n) for n in (0, 1)]


def leaf(memory, root, indices):
    """The leaf entry; ``indices`` are VPN[2] down to VPN[0]."""
    table = root
    for index in indices[:-1]:
        table = below(entry(memory, table + 8 * index))
    return entry(memory, table + 8 * indices[-1])


@pytest.mark.parametrize(
    ("mode", "pasid", "indices"),
    [
        (PasidMode.PD8, 0xA5, [0xA5]),
        (PasidMode.PD17, 0x1_23A5, [0x123, 0xA5]),
        (PasidMode.PD20, 0xD_47A5, [6, 0x147, 0xA5]),
        (PasidMode.PD20, 0, [0, 0, 0]),
    ],
)
def test_process_context_stands_at_its_pasid(memory, mode, pasid, indices):
    directory = Directory(Frames(memory), mode)
    process = directory.enter(pasid)
    assert directory.base % PAGE == process.root % PAGE == 0
    attributes, stage = context(memory, directory, indices)
    assert attributes == V | pasid << 12
    assert stage == SV39 << 60 | process.root >> 12
    directory.remove(pasid)
    assert context(memory, directory, indices)[0] == 0


def test_page_is_mapped_at_its_virtual_address(memory):
    process = Directory(Frames(memory), PasidMode.PD8).enter(1)
    address = 0x55 << 30 | 0x1AA << 21 | 0x0F0 << 12
    process.map(address, 0x1234_5000)
    assert leaf(memory, process.root, [0x55, 0x1AA, 0x0F0]) == 0x12345 << 10 | READ_WRITE
    assert process.entry(address) == 0x12345 << 10 | READ_WRITE
    process.map(address, 0x1234_6000, READ_ONLY)
    assert leaf(memory, process.root, [0x55, 0x1AA, 0x0F0]) == 0x12346 << 10 | READ_ONLY
    process.unmap(address)
    assert leaf(memory, process.root, [0x55, 0x1AA, 0x0F0]) == 0


def test_processes_share_no_table(memory):
    directory = Directory(Frames(memory), PasidMode.PD8)
    first, second = directory.enter(1), directory.enter(2)
    first.map(0, 0x1000)
    assert second.entry(0) == 0
    second.map(0, 0x2000)
    assert first.entry(0) >> 10 == 1


def test_table_is_zero_whatever_was_in_its_page(memory):
    memory.view[:] = b"\xff" * memory.size
    process = Directory(Frames(memory), PasidMode.PD20).enter(7)
    process.map(0x1000, 0x3000)
    assert process.entry(0) == process.entry(0x2000) == 0


def test_no_page_left_is_told_and_leaves_the_memory_releasable(memory):
    frames = Frames(memory)
    for _ in range(32):
        frames.take()
    with pytest.raises(AgentError, match="too few"):
        frames.take()
    frames.close()
    memory.view.release()


def binding(model, number=0):
    at = native.QUEUE_BASE + number * native.QUEUE_STRIDE + native.QUEUE_PASID
    return model.read(0, at, 4)


def test_user_queue_has_its_rings_at_virtual_addresses():
    model = Model()
    model.registers[native.PASID_CAPABILITIES] = 8
    device = Device(model)
    with Queue(device, 0, user=User(5, 0x7000_0000)) as queue:
        assert binding(model) == 1 << 31 | 5
        assert queue.rings.descriptors == 0x7000_0000
        assert queue.rings.completions == 0x7000_0000 + 64 * 64
        assert queue.rings.shadow == 0x7000_0000 + 64 * 96
    with Queue(device, 0) as queue:
        assert binding(model) == 0
        assert queue.rings.descriptors == queue.memory.iova
