"""What a driver has tried is counted, and what it has not is there with zero."""

import pytest

from mdevemu.coverage import Coverage
from mdevemu.coverage.tally import MOST
from mdevemu.personalities import PERSONALITIES
from mdevemu.registers import declared
from tests.support import ioat, native
from tests.support.victims import ALL, Native


@pytest.fixture
def victim():
    made = Native()
    yield made
    made.close()


@pytest.fixture
def coverage(victim):
    made = Coverage(victim.bench.parent, on=True)
    made.watch(victim.mdev)
    return made


def shown(coverage, kind="native"):
    return coverage._query()["devices"][kind]


def register(coverage, name):
    return shown(coverage)["registers"][name]


def test_everything_that_is_declared_is_there_before_anything_is_tried():
    for each in ALL:
        victim = each()
        coverage = Coverage(victim.bench.parent, on=True)
        coverage.watch(victim.mdev)
        found = shown(coverage, each.kind)
        interface = PERSONALITIES[each.kind].interface
        names = {
            f"bar{bar}.{reg.name}" for bar, kind in interface.maps.items() for reg in declared(kind)
        }
        if interface.config:
            names |= {f"config.{reg.name}" for reg in declared(interface.config)}
        assert set(found["registers"]) == names
        assert not any(reg["reads"] or reg["writes"] for reg in found["registers"].values())
        for codes, kind in (
            ("operations", interface.operations),
            ("statuses", interface.statuses),
            ("faults", interface.faults),
        ):
            assert found[codes] == dict.fromkeys([code.name for code in kind or ()], 0)
        assert "Read page fault" in found["iommu-faults"]
        victim.close()


def test_reads_and_writes_are_counted_by_register(victim, coverage):
    victim.function.read(0, native.STATUS, 4)
    victim.function.read(0, native.STATUS + 2, 1)
    victim.function.read(0, native.SCRATCH, 8)
    victim.function.write(0, native.SCRATCH, bytes(4))
    assert (register(coverage, "bar0.status")["reads"]) == 2
    scratch = register(coverage, "bar0.scratch")
    assert (scratch["reads"], scratch["writes"]) == (1, 1)


def test_registers_of_an_array_are_one(victim, coverage):
    for number in range(3):
        victim.function.read(0, native.QUEUES + number * native.STRIDE + native.QUEUE_STATUS, 4)
    assert register(coverage, "bar0.queue_status")["reads"] == 3


def test_fields_are_counted_by_what_is_written_to_them(victim, coverage):
    at = native.QUEUES + native.STRIDE + native.QUEUE_CONTROL
    victim.function.write(0, at, (native.INTERRUPT | 1 << 16).to_bytes(4, "little"))
    victim.function.write(0, at, bytes(2))
    fields = register(coverage, "bar0.queue_control")["fields"]
    counts = {name: (each["zero"], each["nonzero"]) for name, each in fields.items()}
    assert counts["interrupt"] == (1, 1)
    assert counts["enable"] == (2, 0)
    assert counts["vector"] == (0, 1), "the second write did not reach it"


def test_codes_are_counted_by_name(victim, coverage):
    victim.driver.write(0x80, 0, 4)
    codes = next(
        field["codes"]
        for reg in shown(coverage)["registers"].values()
        for name, field in reg["fields"].items()
        if name == "kind"
    )
    assert list(codes) == ["NOTHING", "CONTEXT", "SPACE", "PAGE"]


def test_registers_in_configuration_space_count_too():
    driver = ioat.Driver()
    coverage = Coverage(driver.bench.parent, on=True)
    coverage.watch(driver.mdev)
    driver.config(ioat.CHANERR_INT)
    driver.set_config(ioat.CHANERR_INT, 1)
    found = shown(coverage, "ioat")["registers"]["config.error_status"]
    assert (found["reads"], found["writes"]) == (1, 1)
    driver.close()


def test_operations_and_statuses_of_commands_are_counted(victim, coverage):
    victim.submit()
    victim.submit(source=1 << 40)
    victim.queue.submit(native.descriptor("nop"))
    victim.queue.submit(native.descriptor(99))
    victim.bench.work()
    found = shown(coverage)
    assert (found["operations"]["COPY"], found["operations"]["NOP"]) == (2, 1)
    assert found["operations"]["FILL"] == 0
    assert found["operations"]["99"] == 1
    assert found["statuses"]["SUCCESS"] == 2
    assert found["statuses"]["READ_FAULT"] == found["statuses"]["UNKNOWN_OPERATION"] == 1


def test_refusals_are_counted(victim, coverage):
    victim.queue.doorbell(1 << 20)
    assert shown(coverage)["faults"]["DOORBELL_RANGE"] == 1


def test_statuses_of_a_device_without_others_are_its_faults():
    driver = ioat.Driver()
    coverage = Coverage(driver.bench.parent, on=True)
    coverage.watch(driver.mdev)
    driver.enable()
    driver.submit(size=0)
    driver.restart()
    driver.submit()
    found = shown(coverage, "ioat")
    assert found["statuses"]["LENGTH"] == 1
    assert found["operations"] == {"COPY": 1}
    driver.close()


def test_injected_error_counts_as_the_driver_sees_it(victim, coverage):
    victim.inject("completion-error", status="corrupt")
    victim.submit()
    assert shown(coverage)["statuses"]["CORRUPT"] == 1
    assert shown(coverage)["statuses"]["SUCCESS"] == 0


def test_codes_without_a_name_are_bounded(victim, coverage):
    tally = victim.mdev.personality.witness
    for number in range(1000):
        tally.ended(number, 0)
    assert len(shown(coverage)["operations"]) == MOST


def test_nothing_is_collected_unless_it_is_wanted(victim):
    coverage = Coverage(victim.bench.parent, on=False)
    coverage.watch(victim.mdev)
    victim.submit()
    assert coverage._query()["devices"] == {}
    assert victim.function.observers == ()
    coverage._set(True)
    victim.submit()
    coverage._set(False)
    victim.submit()
    assert shown(coverage)["operations"]["COPY"] == 1
    assert victim.mdev.personality.witness is None


def test_mdevs_of_a_personality_count_together(victim, coverage):
    other = victim.bench.mdev("native")
    coverage.watch(other)
    for mdev in (victim.mdev, other):
        mdev.function.read(0, native.STATUS, 4)
    assert register(coverage, "bar0.status")["reads"] == 2
