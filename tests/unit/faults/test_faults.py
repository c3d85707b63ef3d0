"""Every kind of fault, injected into every personality that can have it."""

import pytest

from mdevemu.errors import ConfigError, DmaFault
from mdevemu.faults.commands import KINDS
from mdevemu.units import Iova
from tests.support import native
from tests.support.victims import ALL, Adder, Native

HBM_IOVA = 0xFFFF_8000_0000_0000
SECOND = 1_000_000
READ_PAGE_FAULT, WRITE_PAGE_FAULT, HARDWARE_ERROR = 13, 15, 19
ONES = b"\xff" * 4


@pytest.fixture(params=ALL, ids=[kind.kind for kind in ALL])
def victim(request):
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def device():
    made = Native()
    yield made
    made.close()


def seams(mdev):
    """What faults put in the way."""
    return (
        mdev.function.link,
        mdev.personality.meddler,
        mdev.flow.pace,
        mdev.port.gate.guards,
        mdev.personality.interrupt == mdev.function.interrupt,
    )


CLEAN = (None, None, None, (), True)


# Commands.


def test_completion_is_lost(victim):
    victim.inject("completion-lost", after=1)
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (1, 1)
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (0, 0)
    victim.submit()
    assert victim.completed() == 1
    assert victim.strikes() == ["completion-lost"]
    assert not victim.failed()


def test_completion_is_late(victim):
    victim.inject("completion-late", delay_us=SECOND)
    victim.submit()
    victim.submit()
    assert victim.completed() == 0
    victim.wait(SECOND - 1)
    assert victim.completed() == 0
    victim.wait(2)
    assert victim.completed() > 0
    assert victim.strikes() == ["completion-late"]


def test_completion_is_doubled(victim):
    victim.inject("completion-doubled")
    victim.submit()
    assert victim.completed() == (1 if victim.kind == "ioat" else 2)
    assert victim.interrupts() == 2
    victim.submit()
    assert victim.completed() == 1
    assert victim.strikes() == ["completion-doubled"]


def test_command_ends_with_an_error(victim):
    options = {"status": victim.error} if victim.error else {}
    victim.inject("completion-error", **options)
    victim.submit()
    victim.completed()
    assert victim.failed()
    assert victim.strikes() == ["completion-error"]


def test_error_of_the_native_device_is_the_one_asked_for(device):
    device.inject("completion-error", status="corrupt")
    device.inject("completion-error", status="7", after=1)
    device.submit()
    device.submit()
    device.submit()
    device.completed()
    statuses = [done.status for done in device.done]
    assert statuses == [native.CORRUPT, native.MISMATCH, native.SUCCESS]


def test_command_hangs_until_a_reset(victim):
    victim.inject("command-hung")
    victim.submit()
    victim.wait(100 * SECOND)
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (0, 0)
    victim.reset()
    victim.submit()
    assert victim.completed() == 1


def test_command_hangs_until_it_is_cleared(victim):
    number = victim.inject("command-hung")["id"]
    victim.submit()
    assert victim.completed() == 0
    assert victim.clear(id=number) == {"cleared": [number]}
    victim.bench.work()
    assert victim.completed() == 1


def test_other_queues_go_on_beside_a_command_that_hangs(device):
    device.inject("command-hung")
    device.submit()
    other = device.driver.queue(number=1)
    other.submit(native.descriptor("nop"))
    device.bench.work()
    assert len(other.reap()) == 1
    assert device.completed() == 0


def test_latency_is_added_to_each_command(victim):
    victim.inject("latency", delay_us=10)
    for _ in range(3):
        victim.submit()
        assert victim.completed() == 0
        victim.wait(11)
        assert victim.completed() == 1
    victim.clear()
    victim.submit()
    assert victim.completed() == 1


# Interrupts.


def test_interrupt_is_lost(victim):
    victim.inject("interrupt-lost")
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (1, 0)
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (1, 1)
    assert victim.strikes() == ["interrupt-lost"]


def test_interrupt_is_late(victim):
    victim.inject("interrupt-late", delay_us=50)
    victim.submit()
    assert (victim.completed(), victim.interrupts()) == (1, 0)
    victim.wait(51)
    assert victim.interrupts() == 1


def test_late_interrupt_of_a_fault_that_is_cleared_does_not_come(victim):
    victim.inject("interrupt-late", delay_us=50)
    victim.submit()
    victim.clear()
    victim.wait(51)
    assert victim.interrupts() == 0


def test_spurious_interrupts_come_from_nowhere(victim):
    victim.inject("interrupt-spurious", count=3, delay_us=10)
    assert victim.interrupts() == 1
    victim.wait(11)
    assert victim.interrupts() == 1
    victim.wait(11)
    victim.wait(11)
    assert victim.interrupts() == 1
    assert victim.strikes() == ["interrupt-spurious"] * 3
    assert victim.completed() == 0


def test_only_the_vector_that_is_named_loses_its_interrupt(device):
    device.inject("interrupt-lost", vector=2)
    device.submit()
    assert device.interrupts() == 1
    device.inject("interrupt-lost", vector=1)
    device.submit()
    assert device.interrupts() == 0


# Memory.


def test_nth_access_faults_and_the_iommu_says_so(victim):
    victim.inject("translation-fault", after=1)
    victim.submit()
    victim.completed()
    assert victim.failed()
    (record,) = victim.bench.faults()
    assert record.pasid == victim.mdev.space.pasid
    (facts,) = [facts for _, facts in victim.injected()]
    assert facts["iova"] == record.iova
    assert int(record.cause) == (WRITE_PAGE_FAULT if facts["write"] else READ_PAGE_FAULT)


@pytest.mark.parametrize("access", ["read", "write"])
def test_address_faults_for_the_access_that_is_named(device, access):
    place = native.DATA + (0 if access == "read" else 64)
    other = "write" if access == "read" else "read"
    device.inject("translation-fault", address=place, access=other)
    device.inject("translation-fault", address=place + 3, access=access)
    device.submit()
    device.completed()
    expected = native.READ_FAULT if access == "read" else native.WRITE_FAULT
    (done,) = device.done
    assert (done.status, done.address) == (expected, place)
    assert [each["hits"] for each in device.listed()] == [0, 1]
    assert device.ram.read(native.DATA + 64, 4) == bytes(4)


def test_neighbouring_byte_is_not_meant(device):
    device.inject("translation-fault", address=native.DATA + 4)
    device.inject("translation-fault", address=native.DATA - 8, length=8)
    device.submit()
    assert device.completed() == 1
    assert not device.failed()


def test_access_that_is_looked_at_still_needs_bus_mastering(device):
    device.inject("translation-fault", after=1000)
    port, place = device.mdev.port, Iova(native.DATA)
    assert port.read(place, 4) == bytes(4)
    device.function.write(7, 4, b"\x02\x00")
    with pytest.raises(DmaFault):
        port.read(place, 4)
    with pytest.raises(DmaFault):
        port.write(place, bytes(4))
    device.clear()
    with pytest.raises(DmaFault):
        port.read(place, 4)


# HBM.


def read_hbm(device, at, length=8):
    """Have the device copy from HBM; the completion record."""
    device.submit(flags=native.SOURCE_HBM, source=at, length=length)
    device.completed()
    return device.done[-1]


@pytest.fixture
def hbm(device):
    """Numbers in HBM."""
    device.ram.write(native.DATA + 64, bytes(64))
    device.mdev.partition.backing.write(0, bytes(range(64)))
    return device


def errors(device):
    found = device.faults.errors(device.mdev)
    return found["hbm-correctable-errors"], found["hbm-uncorrectable-errors"]


def test_corrected_bit_is_counted_once_and_the_bytes_are_right(hbm):
    hbm.inject("hbm-corrected", address=17)
    assert read_hbm(hbm, 0).status == native.SUCCESS
    assert errors(hbm) == (0, 0)
    assert read_hbm(hbm, 16).status == native.SUCCESS
    assert hbm.ram.read(native.DATA + 64, 8) == bytes(range(16, 24))
    assert errors(hbm) == (1, 0)
    read_hbm(hbm, 16)
    assert errors(hbm) == (1, 0)
    assert seams(hbm.mdev) == CLEAN


def test_uncorrected_bits_poison_a_word_until_it_is_written_whole(hbm):
    hbm.inject("hbm-uncorrected", address=16)
    for _ in range(2):
        done = read_hbm(hbm, 8, 24)
        assert (done.status, done.cause, done.address) == (native.READ_FAULT, HARDWARE_ERROR, 16)
    assert errors(hbm) == (0, 2)
    assert hbm.bench.faults() == [], "the IOMMU has no part in it"
    assert hbm.function.read(4, 16, 2) == bytes([16 ^ 3, 17]), "a mapped reader sees two bits"
    hbm.submit(flags=native.DESTINATION_HBM, destination=16, length=4)
    hbm.completed()
    assert hbm.done[-1].status == native.WRITE_FAULT, "half a word is read before it is written"
    hbm.submit(flags=native.DESTINATION_HBM, destination=16, length=8)
    assert read_hbm(hbm, 8, 24).status == native.SUCCESS
    assert seams(hbm.mdev) == CLEAN


def test_access_that_fails_heals_nothing(hbm):
    for address in (8, 16):
        hbm.inject("hbm-uncorrected", address=address)
    hbm.inject("hbm-corrected", address=24)
    hbm.submit(flags=native.DESTINATION_HBM, destination=8, length=12)
    hbm.submit(flags=native.DESTINATION_HBM, destination=8, length=10)
    hbm.completed()
    assert [done.address for done in hbm.done] == [16, 16]
    assert [read_hbm(hbm, at).status for at in (8, 16)] == [native.READ_FAULT] * 2
    assert errors(hbm) == (0, 4)
    assert read_hbm(hbm, 24).status == native.SUCCESS
    assert errors(hbm) == (1, 4)


@pytest.mark.parametrize(("at", "length"), [(8, 8), (0, 16), (17, 8), (23, 1)])
def test_only_reads_that_touch_a_word_meet_its_error(hbm, at, length):
    hbm.inject("hbm-uncorrected", address=16)
    touches = at < 24 and at + length > 16
    assert (read_hbm(hbm, at, length).status == native.READ_FAULT) == touches


def test_clearing_puts_the_bits_back(hbm):
    hbm.inject("hbm-uncorrected", count=50, seed=3)
    assert hbm.mdev.partition.backing.read(0, 1 << 22) != bytes(range(64)).ljust(1 << 22, b"\0")
    hbm.clear()
    assert hbm.mdev.partition.backing.read(0, 1 << 22) == bytes(range(64)).ljust(1 << 22, b"\0")
    assert seams(hbm.mdev) == CLEAN


def test_word_that_flips_twice_is_put_back_once(hbm):
    for _ in range(2):
        hbm.inject("hbm-uncorrected", address=0)
    hbm.inject("hbm-corrected", address=0)
    assert hbm.mdev.partition.backing.read(0, 8) == bytes(range(8))
    hbm.clear()
    assert hbm.mdev.partition.backing.read(0, 8) == bytes(range(8))


def test_places_depend_on_the_seed_alone(hbm):
    def places(seed):
        hbm.inject("hbm-corrected", count=5, seed=seed)
        return [facts["hbm"] for _, facts in hbm.injected()[-5:]]

    first = places(7)
    assert len(set(first)) == 5
    assert places(7) == first
    assert places(8) != first


# The link.


def test_reads_are_all_ones_as_often_as_asked(victim):
    victim.inject("read-ones", count=2, address=0, length=4)
    before = victim.function.read(0, 4, 4)
    assert before != ONES
    assert [victim.function.read(0, 0, 4) for _ in range(2)] == [ONES] * 2
    assert victim.function.read(0, 0, 4) != ONES
    assert victim.strikes() == ["read-ones"] * 2
    assert seams(victim.mdev) == CLEAN


def test_link_that_is_down_reads_all_ones_and_comes_back_reset(victim):
    victim.submit()
    number = victim.inject("link-down")["id"]
    assert victim.function.read(7, 0, 4) == victim.function.read(0, 0, 4) == ONES
    victim.function.write(7, 4, b"\x06\x00")
    victim.submit()
    assert victim.interrupts() <= 1, "none but that of the command before"
    victim.clear(id=number)
    assert victim.function.read(7, 0, 2) != ONES[:2]
    assert victim.function.read(7, 4, 2) == b"\x00\x00", "as after a reset"
    assert not victim.mdev.port.enabled
    assert seams(victim.mdev) == CLEAN
    victim.reset()
    victim.completed()
    victim.submit()
    assert victim.completed() == 1


def test_link_comes_back_by_itself_after_the_delay(victim):
    victim.inject("link-down", delay_us=100)
    victim.wait(99)
    assert victim.function.read(7, 0, 4) == ONES
    assert "down already" in victim.refused("link-down")
    victim.wait(2)
    assert victim.function.read(7, 0, 4) != ONES
    assert seams(victim.mdev) == CLEAN


def test_reset_takes_long(victim):
    victim.inject("reset-slow", delay_us=100)
    assert victim.function.read(7, 0, 4) != ONES
    victim.function.reset()
    assert victim.function.read(7, 0, 4) == ONES
    victim.wait(101)
    assert victim.function.read(7, 0, 4) != ONES
    victim.function.reset()
    assert victim.function.read(7, 0, 4) != ONES
    assert victim.strikes() == ["reset-slow"]


# The engines.


def test_bandwidth_is_what_was_asked_for(device):
    rate = 1 << 20
    device.inject("bandwidth", rate=rate)
    device.submit(length=1 << 18, destination=native.DATA + (1 << 19))
    moved, steps = [], 0
    while not device.completed():
        moved.append(device.driver.counters()["bytes_written"])
        device.wait(SECOND // 64)
        steps += 1
        assert steps < 100
    assert 16 <= steps <= 24, "a quarter of a second for the copy, and some for the command"
    assert moved[0] < moved[4] < moved[-1]


def test_clearing_ends_a_rest_at_once(device):
    device.inject("bandwidth", rate=1)
    device.submit()
    device.submit()
    device.wait(1)
    assert device.completed() < 2
    device.clear()
    device.bench.work()
    device.completed()
    assert device.driver.counters()["completed"] == 2
    assert seams(device.mdev) == CLEAN


# All of them.


def test_without_faults_nothing_is_in_the_way(victim):
    assert seams(victim.mdev) == CLEAN
    assert victim.listed() == []


@pytest.mark.parametrize("kind", KINDS)
def test_clearing_takes_everything_out_of_the_way(device, kind):
    given = {"delay_us": 1000, "rate": 1 << 20}
    options = {name: given[name] for name in KINDS[kind][0].needs}
    if kind == "completion-error":
        options["status"] = "length"
    device.inject(kind, **options)
    device.submit()
    device.clear()
    device.wait(2000)
    assert device.listed() == []
    assert seams(device.mdev) == CLEAN
    device.reset()
    device.submit()
    assert device.completed() == 1
    assert not device.failed()


def test_mdev_that_goes_takes_its_faults_with_it(device):
    device.inject("command-hung")
    device.inject("interrupt-spurious", count=100)
    device.submit()
    device.faults.forget(device.mdev)
    assert seams(device.mdev) == CLEAN
    assert device.listed() == []


def test_neighbour_has_none_of_it(device):
    other = device.bench.mdev("native")
    for kind in ("completion-lost", "translation-fault", "link-down", "read-ones"):
        device.inject(kind)
    assert seams(other) == CLEAN


def test_percent_and_seed_choose_the_same_occasions_each_time():
    def chosen(seed):
        made = Adder()
        made.inject("completion-lost", percent=30, count=1000, seed=seed)
        lost = []
        for _ in range(60):
            made.submit()
            lost.append(made.completed() == 0)
        made.close()
        return lost

    first = chosen(1)
    assert chosen(1) == first
    assert chosen(2) != first
    assert 5 < sum(first) < 35


def test_fault_is_listed_with_what_was_asked_for_and_how_often_it_struck(victim):
    victim.inject("completion-lost", after=1, count=2)
    victim.submit()
    victim.submit()
    (shown,) = victim.listed()
    assert shown == {
        "id": 1,
        "mdev": victim.mdev.name,
        "kind": "completion-lost",
        "options": {"after": 1, "count": 2},
        "hits": 1,
        "spent": False,
    }
    victim.submit()
    assert victim.listed()[0]["spent"]
    assert seams(victim.mdev) == CLEAN


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("completion-lots", {}, "did you mean 'completion-lost'?"),
        ("completion-lost", {"vector": 1}, "vector: means nothing for completion-lost (accepted:"),
        ("completion-lost", {"count": 0}, "count: 0 (accepted: 1 to"),
        ("completion-lost", {"percent": 101}, "percent: 101 (accepted: 1 to 100)"),
        ("completion-lost", {"seed": 1}, "seed: means nothing without percent"),
        ("completion-late", {}, "delay-us: is missing; completion-late needs it"),
        ("completion-error", {"status": "success"}, "unknown status 'success'"),
        ("completion-error", {}, "status: is missing (accepted: unknown-operation"),
        ("translation-fault", {"length": 4}, "length: means nothing without an address"),
        ("translation-fault", {"access": "both"}, "unknown access 'both' (accepted: any, read,"),
        ("interrupt-lost", {"vector": 5}, "vector: 5 (accepted: 0 to 4)"),
        ("hbm-corrected", {"address": 1 << 22}, "address: 0x400000 (accepted: below 0x400000)"),
        ("hbm-corrected", {"address": 0, "count": 2}, "count: means nothing with an address"),
        ("hbm-corrected", {"count": 1025}, "count: at most 1024 words"),
        ("bandwidth", {}, "rate: is missing"),
        ("bandwidth", {"rate": 0}, "rate: 0 (accepted: 1 to"),
    ],
)
def test_order_that_makes_no_sense_is_refused(device, kind, options, words):
    assert words in device.refused(kind, **options)


def test_mdev_without_hbm_or_status_codes_cannot_have_their_faults():
    adder = Adder()
    assert "has no HBM" in adder.refused("hbm-corrected")
    assert "the adder has no status codes" in adder.refused("completion-error", status="1")
    adder.close()


def test_second_limit_of_a_kind_is_refused(device):
    device.inject("bandwidth", rate=100)
    assert "has a fault bandwidth already" in device.refused("bandwidth", rate=200)


def test_number_of_faults_is_bounded(device):
    for _ in range(256):
        device.inject("completion-lost", after=1000)
    assert "256 faults already" in device.refused("completion-lost")


def test_fault_that_is_not_there_cannot_be_cleared(device):
    device.inject("completion-lost")
    with pytest.raises(ConfigError, match=r"no fault 9 \(accepted: 1\)"):
        device.clear(id=9)
    assert len(device.listed()) == 1


def test_kinds_are_described(device):
    found = {each["kind"]: each for each in device.commands["query-fault-kinds"]()}
    assert set(found) == set(KINDS)
    assert found["completion-late"]["needs"] == ["delay-us"]
    for each in found.values():
        assert set(each["needs"]) <= set(each["options"])
        assert each["occasion"]
        assert each["effect"]
