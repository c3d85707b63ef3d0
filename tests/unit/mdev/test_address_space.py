"""Windows, PASIDs and HBM: what the host driver does with the IOMMU."""

import contextlib
import errno
import gc
import os

import pytest

from mdevemu.errors import DmaFault, RequestError
from mdevemu.iommu import Cause, capabilities_of
from mdevemu.mdev.address_space import MAX_FILES, MAX_LENT
from mdevemu.mdev.attachment import MAX_TABLES
from mdevemu.memory import Ram
from mdevemu.units import GIB, HBM_IOVA, MIB, PAGE, Hpa, Iova
from tests.support.host import Host, lent, ready

HBM = Hpa(1 << 40)


@pytest.fixture
def host():
    made = Host()
    made.memory.add(HBM, Ram(8 * MIB), 8 * MIB)
    return made


def add(space, iova, size, file, offset=0, *, readable=True, writable=True):
    space.map(iova, size, file.duplicate(), offset, readable=readable, writable=writable)


def refusal(act) -> int:
    with pytest.raises(RequestError) as caught:
        act()
    return caught.value.number


def cause(act) -> int:
    with pytest.raises(DmaFault) as caught:
        act()
    return caught.value.cause


def leaf_size(host, space, iova) -> int:
    return host.driver.walk(space.device_id, space.pasid, Iova(iova)).size


def test_window_is_mapped_in_the_largest_pages_that_fit(host):
    space, file = host.space(), lent(4 * GIB)
    add(space, 0, 4 * GIB, file)
    assert leaf_size(host, space, 3 * GIB) == GIB
    add(space, 5 * GIB + 2 * MIB, GIB, file, 2 * MIB)
    assert leaf_size(host, space, 5 * GIB + 2 * MIB) == 2 * MIB
    add(space, 8 * GIB + PAGE, 2 * MIB, file)
    assert leaf_size(host, space, 8 * GIB + PAGE) == PAGE
    add(space, 16 * GIB, 2 * MIB + PAGE, file)
    assert leaf_size(host, space, 16 * GIB) == 2 * MIB
    assert leaf_size(host, space, 16 * GIB + 2 * MIB) == PAGE
    space.close()


@pytest.mark.parametrize("offset", [0, PAGE, 2 * MIB, 3 * MIB])
@pytest.mark.parametrize("iova", [0, PAGE, GIB - PAGE, GIB - 2 * MIB, (1 << 47) - 5 * MIB])
def test_every_byte_of_a_window_is_the_byte_of_the_file(host, offset, iova):
    space, file = host.space(), lent(8 * MIB)
    size = 5 * MIB
    for at in range(0, 8 * MIB, PAGE):
        os.pwrite(file.fileno(), at.to_bytes(4, "little"), at)
    add(space, iova, size, file, offset)
    port = ready(space)
    for at in range(0, size, PAGE):
        assert port.read_u32(Iova(iova + at)) == at + offset
    if iova:
        assert cause(lambda: port.read(Iova(iova - 1), 1)) == Cause.READ_PAGE_FAULT
    assert cause(lambda: port.read(Iova(iova + size), 1)) == Cause.READ_PAGE_FAULT
    space.unmap(iova, size)
    for at in range(0, size, PAGE):
        assert cause(lambda at=at: port.read(Iova(iova + at), 4)) == Cause.READ_PAGE_FAULT
    space.close()


def test_unmapping_leaves_the_windows_around_it(host):
    space, file = host.space(), lent(16 * PAGE)
    for number in range(4):
        add(space, number * PAGE, PAGE, file, number * PAGE)
    port = ready(space)
    port.write(Iova(0), b"x" * 4 * PAGE)
    space.unmap(PAGE, PAGE)
    assert port.read(Iova(0), 1) == b"x"
    assert port.read(Iova(2 * PAGE), 2 * PAGE) == b"x" * 2 * PAGE
    assert cause(lambda: port.read(Iova(PAGE), 1)) == Cause.READ_PAGE_FAULT


def test_permissions_are_those_of_the_window(host):
    space, file = host.space(), lent(4 * PAGE)
    add(space, 0, PAGE, file, writable=False)
    add(space, PAGE, PAGE, file, readable=False, writable=False)
    port = ready(space)
    assert port.read(Iova(0), 4) == bytes(4)
    assert cause(lambda: port.write(Iova(0), b"x")) == Cause.WRITE_AMO_PAGE_FAULT
    assert cause(lambda: port.read(Iova(PAGE), 1)) == Cause.READ_PAGE_FAULT


def test_window_without_a_file_is_remembered_and_faults(host):
    space, file = host.space(), lent(PAGE)
    space.map(GIB, 2 * PAGE, None, 0, readable=True, writable=True)
    port = ready(space)
    assert cause(lambda: port.read(Iova(GIB), 1)) == Cause.READ_PAGE_FAULT
    assert refusal(lambda: add(space, GIB + PAGE, PAGE, file)) == errno.EEXIST
    assert refusal(lambda: space.unmap(GIB, PAGE)) == errno.ENOENT
    space.unmap(GIB, 2 * PAGE)
    add(space, GIB + PAGE, PAGE, file)


@pytest.mark.parametrize(
    ("iova", "size"),
    [
        (8 * PAGE, 4 * PAGE),
        (7 * PAGE, 2 * PAGE),
        (11 * PAGE, PAGE),
        (9 * PAGE, PAGE),
        (0, 16 * PAGE),
    ],
)
def test_overlap_is_refused_and_changes_nothing(host, iova, size):
    space, file = host.space(), lent(16 * PAGE)
    add(space, 8 * PAGE, 4 * PAGE, file, 8 * PAGE)
    used = host.driver.frames.used
    assert refusal(lambda: add(space, iova, size, file)) == errno.EEXIST
    assert space.windows == 1
    assert host.driver.frames.used == used
    add(space, 12 * PAGE, PAGE, file)
    add(space, 7 * PAGE, PAGE, file)


@pytest.mark.parametrize(
    ("iova", "size", "offset"),
    [
        (1, PAGE, 0),
        (0, PAGE - 1, 0),
        (0, 0, 0),
        (0, -PAGE, 0),
        (-PAGE, PAGE, 0),
        (0, PAGE, 512),
        (0, PAGE, -PAGE),
        (0, 2 * PAGE, 15 * PAGE),
        (0, PAGE, 16 * PAGE),
        (0, PAGE, (1 << 64) - PAGE),
        (1 << 47, PAGE, 0),
        ((1 << 47) - PAGE, 2 * PAGE, 0),
        (HBM_IOVA, PAGE, 0),
        ((1 << 64) - PAGE, 2 * PAGE, 0),
        (0, 1 << 64, 0),
    ],
)
def test_impossible_window_is_refused_and_its_file_closed(host, iova, size, offset):
    space, file = host.space(), lent(16 * PAGE)
    given = file.duplicate()
    number = given.fileno()
    assert (
        refusal(lambda: space.map(iova, size, given, offset, readable=True, writable=True))
        == errno.EINVAL
    )
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    assert space.windows == 0


def test_file_that_cannot_be_used_is_refused_when_it_is_mapped(host, tmp_path):
    from mdevemu.fds import Fd

    space = host.space()
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(PAGE))

    def opened(flags, path=plain):
        return lambda: space.map(0, PAGE, Fd(os.open(path, flags)), 0, readable=True, writable=True)

    assert refusal(opened(os.O_RDONLY)) == errno.EACCES
    assert refusal(opened(os.O_WRONLY)) == errno.EACCES
    assert refusal(opened(os.O_PATH)) == errno.EBADF
    assert refusal(opened(os.O_RDONLY, tmp_path)) == errno.EINVAL
    assert refusal(lambda: add(space, 0, PAGE, lent(PAGE - 1))) == errno.EINVAL
    assert (
        refusal(lambda: add(space, 0, PAGE, lent(PAGE), readable=False, writable=True))
        == errno.EINVAL
    )
    assert space.windows == 0
    opened(os.O_RDWR)()


def test_unmap_wants_exactly_one_window(host):
    space, file = host.space(), lent(16 * PAGE)
    add(space, 0, 4 * PAGE, file)
    for iova, size in ((0, PAGE), (PAGE, PAGE), (0, 8 * PAGE), (4 * PAGE, PAGE), (0, 0)):
        assert refusal(lambda iova=iova, size=size: space.unmap(iova, size)) == errno.ENOENT
    port = ready(space)
    assert port.read(Iova(0), 4 * PAGE) == bytes(4 * PAGE)
    space.unmap(0, 4 * PAGE)
    assert refusal(lambda: space.unmap(0, 4 * PAGE)) == errno.ENOENT


def test_clear_takes_windows_and_leaves_the_hbm(host):
    space, file = host.space(), lent(4 * MIB)
    add(space, 0, 4 * MIB, file)
    add(space, 8 * MIB, PAGE, file)
    space.map(16 * MIB, PAGE, None, 0, readable=True, writable=True)
    space.map_hbm(HBM, 2 * MIB)
    port = ready(space)
    for iova in (0, 8 * MIB, HBM_IOVA):
        port.read(Iova(iova), 1)
    space.clear()
    assert space.windows == 0
    for iova in (0, 2 * MIB, 8 * MIB):
        assert cause(lambda iova=iova: port.read(Iova(iova), 1)) == Cause.READ_PAGE_FAULT
    assert port.read(HBM_IOVA, 1) == b"\0"
    add(space, 0, 4 * MIB, file)
    space.clear()
    space.clear()


def test_runs_that_are_taken_away_together_are_gone_and_others_are_there(host):
    space = host.space()
    port, places = ready(space), [n * 2 * PAGE for n in range(4)]
    for at in places:
        space.map_runs(at, [(Hpa(HBM + at), PAGE)], writable=True)
        port.read(Iova(HBM_IOVA + at), 8)  # and so it is cached
    space.unmap_runs([(at, PAGE) for at in places[:3]])
    for at in places[:3]:
        assert cause(lambda at=at: port.read(Iova(HBM_IOVA + at), 8)) == Cause.READ_PAGE_FAULT
    port.read(Iova(HBM_IOVA + places[3]), 8)


def test_hbm_is_the_slices_own_and_ends_where_it_ends(host):
    one, other = host.space(), host.space()
    one.map_hbm(HBM, 2 * MIB)
    other.map_hbm(Hpa(HBM + 2 * MIB), 4 * MIB)
    here, there = ready(one), ready(other)
    here.write(HBM_IOVA, b"mine")
    assert there.read(HBM_IOVA, 4) == bytes(4)
    assert here.read(Iova(HBM_IOVA + 2 * MIB - 4), 4) == bytes(4)
    assert (
        cause(lambda: here.write(Iova(HBM_IOVA + 2 * MIB - 4), b"eightbyt"))
        == Cause.WRITE_AMO_PAGE_FAULT
    )
    there.read(Iova(HBM_IOVA + 4 * MIB - 1), 1)
    assert leaf_size(host, one, HBM_IOVA) == 2 * MIB


def test_table_memory_is_given_back(host):
    before = host.driver.frames.used
    space, file = host.space(), lent(64 * MIB)
    space.map_hbm(HBM, MIB)
    for round_ in range(3):
        for number in range(64):
            add(space, number * GIB + PAGE * round_, PAGE, file, number * PAGE)
        for number in range(64):
            space.unmap(number * GIB + PAGE * round_, PAGE)
    idle = host.driver.frames.used
    add(space, 0, 64 * MIB, file)
    space.unmap(0, 64 * MIB)
    assert host.driver.frames.used == idle
    add(space, 0, PAGE, file)
    space.close()
    # What remains are the tables of the device directory.
    assert host.driver.frames.used - before <= 2
    again = host.space()
    again.close()
    assert host.driver.frames.used - before <= 2


def test_map_that_runs_out_of_tables_maps_nothing():
    host = Host(tables=64 * PAGE)
    space, file = host.space(), lent(256 * MIB)
    add(space, 0, PAGE, file)
    used = host.driver.frames.used
    # Shifted by a page against the file, it needs a table for every 2 MiB.
    assert refusal(lambda: add(space, PAGE, 256 * MIB, file)) == errno.ENOSPC
    assert space.windows == 1
    assert host.driver.frames.used == used
    for iova in (PAGE, 2 * MIB, 16 * MIB):
        assert host.driver.walk(space.device_id, space.pasid, Iova(iova)).hpa is None
    port = ready(space)
    assert port.read(Iova(0), 1) == b"\0"
    add(space, PAGE, PAGE, file)
    assert port.read(Iova(PAGE), 1) == b"\0"


def test_space_that_cannot_be_made_takes_nothing():
    host = Host(tables=48 * PAGE)
    spaces = []
    with contextlib.suppress(RequestError):
        for _ in range(100):
            spaces.append(host.space())
    assert 8 < len(spaces) < 24
    used = host.driver.frames.used
    assert refusal(host.space) == errno.ENOSPC
    assert host.driver.frames.used == used
    last = spaces.pop()
    freed = last.pasid
    last.close()
    assert host.space().pasid == freed


def descriptors() -> int:
    gc.collect()  # what earlier tests left must not go meanwhile
    return len(os.listdir("/proc/self/fd"))


def test_file_is_lent_once_and_given_back_with_its_last_window(host):
    space, file = host.space(), lent(4 * MIB)
    before = descriptors()
    for number in range(50):
        add(space, number * PAGE, PAGE, file, (number * 7 % 1024) * PAGE)
    assert descriptors() - before == 1
    for number in range(49):
        space.unmap(number * PAGE, PAGE)
    assert descriptors() - before == 1
    space.unmap(49 * PAGE, PAGE)
    assert descriptors() == before


@pytest.mark.parametrize("sealed", [True, False])
def test_refused_maps_leak_no_descriptor(host, sealed):
    space, file = host.space(), lent(4 * PAGE, sealed=sealed)
    before = descriptors()
    add(space, 0, PAGE, file)
    for _ in range(20):
        refusal(lambda: add(space, 0, PAGE, file))
        refusal(lambda: add(space, PAGE, 8 * PAGE, file))
        refusal(lambda: add(space, 1 << 47, PAGE, file))
    space.close()
    assert descriptors() == before


def test_number_of_files_is_bounded(host):
    space = host.space()
    files = [lent(PAGE) for _ in range(MAX_FILES + 1)]
    for number, file in enumerate(files[:-1]):
        add(space, number * PAGE, PAGE, file)
    assert refusal(lambda: add(space, MAX_FILES * PAGE, PAGE, files[-1])) == errno.ENOSPC
    add(space, MAX_FILES * PAGE, PAGE, files[0])
    space.close()
    for file in files:
        file.close()


def test_size_of_all_files_is_bounded(host):
    space, large, small = host.space(), lent(MAX_LENT - PAGE), lent(2 * PAGE)
    assert refusal(lambda: add(space, 0, PAGE, lent(MAX_LENT + 1))) == errno.ENOSPC
    add(space, 0, PAGE, large)
    assert refusal(lambda: add(space, PAGE, PAGE, small)) == errno.ENOSPC
    add(host.space(), PAGE, PAGE, small)
    space.unmap(0, PAGE)
    add(space, PAGE, PAGE, small)


def test_one_tenant_cannot_take_all_tables():
    host = Host(tables=64 * MIB)
    greedy, modest = host.space(), host.space()
    large = lent(1 << 36)
    assert refusal(lambda: add(greedy, PAGE, 1 << 35, large)) == errno.ENOSPC
    add(greedy, PAGE, 15 << 30, large)
    assert host.driver.frames.used > MAX_TABLES * 3 // 4
    add(modest, PAGE, 1 << 30, large)


def test_file_that_grew_can_be_lent_further(host):
    space, file = host.space(), lent(2 * PAGE)
    add(space, 0, 2 * PAGE, file)
    assert refusal(lambda: add(space, 2 * PAGE, 2 * PAGE, file, 2 * PAGE)) == errno.EINVAL
    os.ftruncate(file.fileno(), 4 * PAGE)
    add(space, 2 * PAGE, 2 * PAGE, file, 2 * PAGE)
    port = ready(space)
    port.write(Iova(PAGE), b"x" * 2 * PAGE)
    assert os.pread(file.fileno(), 4 * PAGE, 0) == bytes(PAGE) + b"x" * 2 * PAGE + bytes(PAGE)
    space.unmap(0, 2 * PAGE)
    assert port.read(Iova(2 * PAGE), 2 * PAGE) == b"x" * PAGE + bytes(PAGE)
    space.close()


def test_read_only_and_writable_descriptors_of_one_file_live_side_by_side(host, tmp_path):
    from mdevemu.fds import Fd

    plain = tmp_path / "plain"
    plain.write_bytes(b"text" * PAGE)
    space = host.space()
    space.map(0, PAGE, Fd(os.open(plain, os.O_RDONLY)), 0, readable=True, writable=False)
    space.map(PAGE, PAGE, Fd(os.open(plain, os.O_RDWR)), 0, readable=True, writable=True)
    port = ready(space)
    port.write(Iova(PAGE), b"TEXT")
    assert port.read(Iova(0), 8) == b"TEXTtext"
    assert cause(lambda: port.write(Iova(0), b"x")) == Cause.WRITE_AMO_PAGE_FAULT


def test_pasid_of_a_closed_space_faults_and_is_given_out_again(host):
    stays = host.space()
    space, file = host.space(), lent(4 * PAGE)
    add(space, 0, 4 * PAGE, file)
    port = ready(space)
    port.read(Iova(0), 4)
    space.close()
    assert cause(lambda: port.read(Iova(0), 4)) == Cause.PDT_ENTRY_NOT_VALID
    after = host.space()
    assert after.pasid == space.pasid
    assert cause(lambda: port.read(Iova(0), 4)) == Cause.READ_PAGE_FAULT
    stays.close()
    after.close()
    assert cause(lambda: port.read(Iova(0), 4)) == Cause.DDT_ENTRY_NOT_VALID


def test_spaces_share_nothing_but_the_device_id(host):
    one, other = host.space(), host.space()
    assert one.device_id == other.device_id
    assert one.pasid != other.pasid
    mine, theirs = lent(4 * PAGE), lent(4 * PAGE)
    add(one, 0, 4 * PAGE, mine)
    add(other, 0, 4 * PAGE, theirs)
    ready(one).write(Iova(0), b"one")
    ready(other).write(Iova(0), b"two")
    assert os.pread(mine.fileno(), 3, 0) == b"one"
    assert os.pread(theirs.fileno(), 3, 0) == b"two"


def test_faults_are_read_in_order_with_all_their_facts(host):
    space, file = host.space(), lent(PAGE)
    add(space, 0, PAGE, file, writable=False)
    port = ready(space)
    assert not host.driver.faulted
    cause(lambda: port.write(Iova(8), b"x"))
    cause(lambda: port.read(Iova(PAGE + 1), 1))
    assert host.driver.faulted
    first, second = host.driver.read_faults()
    assert (first.cause, first.kind.title) == (
        Cause.WRITE_AMO_PAGE_FAULT,
        "Untranslated write/AMO",
    )
    assert (first.device_id, first.pasid, first.iova) == (space.device_id, space.pasid, 8)
    assert not first.supervisor
    assert (second.cause, second.iova) == (Cause.READ_PAGE_FAULT, PAGE + 1)
    assert not host.driver.faulted
    assert host.driver.read_faults() == []


def test_overflow_of_the_fault_queue_is_counted_and_ends(host):
    port = ready(host.space())
    for number in range(1200):
        cause(lambda number=number: port.read(Iova(number * PAGE), 1))
    found = host.driver.read_faults()
    assert [report.iova for report in found] == [number * PAGE for number in range(1023)]
    assert host.driver.lost_faults == 1
    cause(lambda: port.read(Iova(5), 1))
    assert [report.iova for report in host.driver.read_faults()] == [5]
    assert host.driver.lost_faults == 1


def test_fault_queue_wraps_around(host):
    port = ready(host.space())
    seen = []
    for number in range(2500):
        cause(lambda number=number: port.read(Iova(number * PAGE), 1))
        if number % 700 == 0:
            seen += [report.iova for report in host.driver.read_faults()]
    seen += [report.iova for report in host.driver.read_faults()]
    assert seen == [number * PAGE for number in range(2500)]


@pytest.mark.parametrize("msi_flat", [0, 1])
@pytest.mark.parametrize("device_id", [0, 0x100, 0xFFFF, 0xFFFFFF])
def test_walk_shows_every_entry_and_changes_nothing(msi_flat, device_id):
    host = Host(capabilities=capabilities_of(msi_flat=msi_flat))
    host.device_id = device_id
    space, file = host.space(), lent(4 * MIB)
    add(space, 4 * MIB, 4 * MIB, file)
    walk = host.driver.walk(device_id, space.pasid, Iova(5 * MIB + 5))
    assert [step.table for step in walk.steps] == [
        *("DDT", "DDT", "DC", "PDT", "PDT", "PC"),
        *("first", "first", "first"),
    ]
    assert [step.level for step in walk.steps] == [2, 1, 0, 2, 1, 0, 3, 2, 1]
    assert walk.steps[-1].leaf
    assert walk.steps[-1].flags == ("V", "R", "W", "U", "A", "D")
    assert walk.size == 2 * MIB
    assert walk.fault is None
    for step in walk.steps:
        assert host.memory.read_u64(step.address) == step.raw
    assert walk.hpa is not None
    os.pwrite(file.fileno(), b"here", MIB + 5)
    assert host.memory.read(walk.hpa, 4) == b"here"
    missing = host.driver.walk(device_id, space.pasid, Iova(64 * MIB))
    assert missing.fault is not None
    assert missing.fault.cause == Cause.READ_PAGE_FAULT
    assert (missing.hpa, missing.size) == (None, 0)
    stranger = host.driver.walk(device_id, 77, Iova(0))
    assert stranger.fault is not None
    assert stranger.fault.cause == Cause.PDT_ENTRY_NOT_VALID
    assert not host.driver.faulted
    assert len(host.iommu.iotlb) == 0
    assert not host.iommu.devices.entries
    assert not host.iommu.processes.entries


def test_pasids_reach_across_directory_tables():
    host = Host(tables=8 * MIB)
    spaces = [host.space() for _ in range(600)]
    assert [space.pasid for space in spaces] == list(range(1, 601))
    file = lent(PAGE)
    for space in (spaces[0], spaces[255], spaces[256], spaces[-1]):
        add(space, 0, PAGE, file)
        assert ready(space).read(Iova(0), 1) == b"\0"
