"""What a device gets from its port: bytes, or the fault with the right facts."""

import os

import pytest

from mdevemu.errors import DmaFault
from mdevemu.iommu import Cause, Piece
from mdevemu.units import MIB, PAGE, Iova
from tests.support.host import Host, lent, ready

READ, WRITE = Cause.READ_PAGE_FAULT, Cause.WRITE_AMO_PAGE_FAULT


@pytest.fixture
def host():
    return Host()


@pytest.fixture
def file():
    return lent(4 * MIB)


@pytest.fixture
def space(host, file):
    made = host.space()
    made.map(0, 2 * PAGE, file.duplicate(), 0, readable=True, writable=True)
    made.map(2 * PAGE, PAGE, file.duplicate(), 8 * PAGE, readable=True, writable=False)
    return made


@pytest.fixture
def port(space):
    return ready(space)


def fault(act) -> DmaFault:
    with pytest.raises(DmaFault) as caught:
        act()
    return caught.value


def test_bytes_arrive_in_the_file_and_come_back(port, file):
    port.write(Iova(PAGE - 3), b"across")
    assert os.pread(file.fileno(), 6, PAGE - 3) == b"across"
    assert port.read(Iova(PAGE - 3), 6) == b"across"


def test_access_crosses_into_a_window_that_is_elsewhere(port, file):
    os.pwrite(file.fileno(), b"tail", 2 * PAGE - 4)
    os.pwrite(file.fileno(), b"head", 8 * PAGE)
    assert port.read(Iova(2 * PAGE - 4), 8) == b"tailhead"


def test_numbers_are_little_endian(port):
    port.write_u64(Iova(8), 0x0102030405060708)
    assert port.read(Iova(8), 8) == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert port.read_u16(Iova(8)) == 0x0708
    assert port.read_u32(Iova(8)) == 0x05060708
    assert port.read_u64(Iova(8)) == 0x0102030405060708
    port.write_u16(Iova(8), 0xFFFF)
    port.write_u32(Iova(12), 0)
    assert port.read_u64(Iova(8)) == 0x0506FFFF


def test_nothing_is_read_or_written_by_an_empty_access(host, port):
    assert port.read(Iova(1 << 40), 0) == b""
    port.write(Iova(1 << 40), b"")
    assert host.faults() == []


@pytest.mark.parametrize(
    ("at", "length", "write", "first", "cause"),
    [
        (3 * PAGE, 4, False, 3 * PAGE, READ),
        (3 * PAGE + 5, 4, True, 3 * PAGE + 5, WRITE),
        (2 * PAGE + 5, 4, True, 2 * PAGE + 5, WRITE),
        (PAGE, 2 * PAGE, True, 2 * PAGE, WRITE),
        (2 * PAGE - 1, 3 * PAGE, False, 3 * PAGE, READ),
        (1 << 50, 8, False, 1 << 50, READ),
        ((1 << 64) - 4, 4, False, (1 << 64) - 4, READ),
        ((1 << 64) - 4, 8, True, (1 << 64) - 4, WRITE),
        (1 << 64, 8, False, 1 << 64, READ),
    ],
)
def test_fault_tells_the_first_failing_byte(host, port, at, length, write, first, cause):
    act = (
        (lambda: port.write(Iova(at), bytes(length)))
        if write
        else (lambda: port.read(Iova(at), length))
    )
    seen = fault(act)
    assert (seen.address, seen.length) == (first, at + length - first)
    assert (seen.cause, seen.write) == (cause, write)
    assert host.faults() == [(port.process_id, cause, first & (1 << 64) - 1)]


def test_faulting_write_moves_nothing(port, file):
    before = os.pread(file.fileno(), 4 * MIB, 0)
    fault(lambda: port.write(Iova(PAGE), b"\xff" * 2 * PAGE))
    assert os.pread(file.fileno(), 4 * MIB, 0) == before


def test_access_without_bus_mastering_never_reaches_the_iommu(host, port):
    port.read(Iova(0), 4)
    port.enabled = False
    for act in (
        lambda: port.read(Iova(0), 4),
        lambda: port.write(Iova(0), b"four"),
        lambda: port.views(Iova(0), 4, False),
        lambda: port.check(Iova(0), 4, write=False),
    ):
        assert fault(act).cause == 0
    assert host.faults() == []
    port.enabled = True
    assert port.read(Iova(0), 4) == bytes(4)


def test_views_are_the_windows_themselves_in_few_runs(port, file, space):
    views = port.views(Iova(4), 2 * PAGE - 8, True)
    assert [len(view) for view in views] == [2 * PAGE - 8]
    views[0][:5] = b"bytes"
    assert os.pread(file.fileno(), 5, 4) == b"bytes"
    assert [len(view) for view in port.views(Iova(PAGE), 2 * PAGE, False)] == [PAGE, PAGE]
    space.map(4 * MIB, 2 * MIB, file.duplicate(), 2 * MIB, readable=True, writable=True)
    assert len(port.views(Iova(4 * MIB), 2 * MIB, True)) == 1


def test_views_fault_before_any_is_handed_out(host, port):
    assert fault(lambda: port.views(Iova(0), 3 * PAGE, True)).address == 2 * PAGE
    assert fault(lambda: port.check(Iova(0), 4 * PAGE, write=False)).address == 3 * PAGE
    assert len(host.faults()) == 2


def test_file_that_shrinks_is_an_access_fault_at_the_missing_page(host):
    space = host.space()
    file = lent(4 * PAGE, sealed=False)
    space.map(0, 4 * PAGE, file.duplicate(), 0, readable=True, writable=True)
    port = ready(space)
    port.write(Iova(0), b"x" * 4 * PAGE)
    os.ftruncate(file.fileno(), 2 * PAGE)
    seen = fault(lambda: port.read(Iova(10), 4 * PAGE - 20))
    assert (seen.address, seen.cause) == (2 * PAGE, Cause.READ_ACCESS_FAULT)
    seen = fault(lambda: port.write(Iova(PAGE), b"y" * 2 * PAGE))
    assert (seen.address, seen.cause) == (2 * PAGE, Cause.WRITE_AMO_ACCESS_FAULT)
    assert os.pread(file.fileno(), 4 * PAGE, 0) == b"x" * 2 * PAGE
    seen = fault(lambda: port.read(Iova(3 * PAGE + 8), 8))
    assert (seen.address, seen.cause) == (3 * PAGE + 8, Cause.READ_ACCESS_FAULT)
    assert host.faults() == [
        (space.pasid, 5, 2 * PAGE),
        (space.pasid, 7, 2 * PAGE),
        (space.pasid, 5, 3 * PAGE + 8),
    ]


def test_pieces_stand_for_a_file_that_cannot_be_mapped(host):
    space = host.space()
    file = lent(2 * PAGE, sealed=False)
    space.map(0, 2 * PAGE, file.duplicate(), 0, readable=True, writable=True)
    port = ready(space)
    (piece,) = port.views(Iova(PAGE - 2), 4, True)
    assert isinstance(piece, Piece)
    assert len(piece) == 4
    piece.write(b"four")
    assert piece.read() == b"four"
    assert os.pread(file.fileno(), 4, PAGE - 2) == b"four"
    os.ftruncate(file.fileno(), PAGE)
    assert fault(piece.read).address == PAGE
    assert fault(lambda: piece.write(b"more")).address == PAGE


def test_window_may_lead_into_the_iommus_own_reach_only_by_a_table(host, port):
    # The tables are in physical memory too; no Iova of a guest leads there.
    for table in (0x8000_0000, 0x8000_1000):
        assert fault(lambda at=table: port.read(Iova(at), 8)).cause == READ


def scattered(host, *, sealed=True):
    """A tenant whose 40 pages stand in its file in the opposite order, every other pair joined."""
    space, file = host.space(), lent(40 * PAGE, sealed=sealed)
    order = [at ^ 1 for at in reversed(range(40))]
    for number, at in enumerate(order):
        space.map(
            number * PAGE, PAGE, file.duplicate(), at * PAGE, readable=True, writable=number < 39
        )
    return space, ready(space), file, order


def test_long_access_over_small_pages_is_whole(host):
    _, port, file, order = scattered(host)
    for page in range(40):
        os.pwrite(file.fileno(), bytes([page]) * PAGE, page * PAGE)
    whole = b"".join(bytes([page]) * PAGE for page in order)
    for start, end in (
        (0, 40 * PAGE),
        (5, 40 * PAGE),
        (0, 40 * PAGE - 7),
        (9 * PAGE + 1, 30 * PAGE),
    ):
        for _ in range(2):
            assert port.read(Iova(start), end - start) == whole[start:end]
            views = port.views(Iova(start), end - start, False)
            assert b"".join(bytes(view) for view in views) == whole[start:end]
            assert len(views) <= 21
    port.write(Iova(100), b"z" * 20 * PAGE)
    assert port.read(Iova(100), 20 * PAGE) == b"z" * 20 * PAGE
    assert os.pread(file.fileno(), 100, order[0] * PAGE) == bytes([order[0]]) * 100
    assert host.faults() == []


@pytest.mark.parametrize("start", [0, 3, 5 * PAGE])
def test_long_access_names_the_page_that_is_not_there(host, start):
    space, port, *_ = scattered(host)
    space.unmap(20 * PAGE, PAGE)
    seen = fault(lambda: port.read(Iova(start), 39 * PAGE - start))
    assert (seen.address, seen.length, seen.cause) == (20 * PAGE, 19 * PAGE, READ)
    assert host.faults() == [(space.pasid, READ, 20 * PAGE)]
    seen = fault(lambda: port.write(Iova(21 * PAGE), bytes(19 * PAGE)))
    assert (seen.address, seen.cause) == (39 * PAGE, WRITE)


def test_long_access_names_the_first_of_two_reasons(host):
    space, port, file, order = scattered(host, sealed=False)
    space.unmap(30 * PAGE, PAGE)
    os.ftruncate(file.fileno(), order[4] * PAGE)
    gone = next(number for number, at in enumerate(order) if at >= order[4])
    seen = fault(lambda: port.read(Iova(0), 39 * PAGE))
    assert (seen.address, seen.cause) == (gone * PAGE, Cause.READ_ACCESS_FAULT)
    assert (space.pasid, Cause.READ_ACCESS_FAULT, gone * PAGE) in host.faults()
