"""What every personality must do.  A new table entry is tested from its first day."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.personalities import PERSONALITIES
from mdevemu.registers import declared, slots
from mdevemu.units import MIB, PAGE
from tests.support.bench import COMMAND, CONFIG, MEMORY_AND_BUS_MASTER, Bench, Ram

each = pytest.mark.parametrize("name", sorted(PERSONALITIES))
BARS = range(6)
LENT_AT, LENT = 8 * PAGE, 4 * PAGE
noise = st.tuples(st.integers(0, 8), st.integers(0, 0x11000), st.binary(min_size=1, max_size=16))


def maps(name):
    """Every register map of a personality, by its BAR."""
    return PERSONALITIES[name].interface.maps


def driver_moves(name):
    """Writes to declared registers, with the small values and addresses that drivers use."""
    places = [
        (bar, slot) for bar, registers in maps(name).items() for slot in slots(registers)[:60]
    ]

    def move(place):
        bar, slot = place
        top = 2 ** (8 * slot.length) - 1
        value = st.integers(0, 8) | st.integers(0, 4 * LENT // 64).map(lambda n: n * 64 & top)
        value |= st.integers(0, top)
        return value.map(lambda v: (bar, slot.offset, v.to_bytes(slot.length, "little")))

    return st.sampled_from(places).flatmap(move)


def contents(mdev):
    """Everything that a guest can read of the registers."""
    return [mdev.function.read(bar, 0, 0x10000) for bar in maps(mdev.type.personality)]


@each
def test_every_register_map_fits_its_bar(name):
    mdev = Bench().mdev(name)
    sizes = {bar.index: bar.size for bar in mdev.personality.bars}
    for bar, registers in maps(name).items():
        assert all(reg.offset + reg.length <= sizes[bar] for reg in declared(registers))


@each
@pytest.mark.parametrize("kind", ["message", "function-level"])
def test_reset_restores_every_register(name, kind):
    bench = Bench()
    mdev = bench.mdev(name)
    fresh, config = contents(mdev), mdev.function.read(CONFIG, 0, 4096)
    for bar in maps(name):
        mdev.function.write(bar, 0, b"\xff" * 0x10000)
    bench.work()
    assert contents(mdev) != fresh
    if kind == "message":
        mdev.function.reset()
    else:
        place = next(r for r in declared(mdev.function.config) if r.name == "device_control")
        mdev.function.write(CONFIG, place.offset, (1 << 15).to_bytes(2, "little"))
    bench.work()
    assert contents(mdev) == fresh
    mdev.function.write(CONFIG, COMMAND, MEMORY_AND_BUS_MASTER)
    assert mdev.function.read(CONFIG, 0, 4096) == config


@each
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_guest_access_escapes_or_touches_foreign_pages(name, data):
    bench, ram = Bench(), Ram(32 * PAGE)
    mdev = bench.mdev(name)
    other = bench.mdev(name)
    bench.lend(mdev, ram, iova=0, offset=LENT_AT, size=LENT)
    ram.write(0, b"\x5a" * (32 * PAGE))
    ram.write(LENT_AT, data.draw(st.binary(min_size=256, max_size=256)))
    before = ram.read(0, ram.size)
    untouched = contents(other)
    for bar, offset, value in data.draw(st.lists(noise | driver_moves(name), max_size=30)):
        mdev.function.write(bar, offset, value)
        mdev.function.read(bar, offset, len(value))
        bench.work()
    assert ram.read(0, LENT_AT) == before[:LENT_AT]
    assert ram.read(LENT_AT + LENT, ram.size) == before[LENT_AT + LENT :]
    assert contents(other) == untouched
    assert {fault.pasid for fault in bench.faults()} <= {mdev.space.pasid}
    ram.close()


@each
def test_reset_drops_work_that_has_not_begun(name):
    bench = Bench()
    mdev = bench.mdev(name)
    for bar in maps(name):
        mdev.function.write(bar, 0, b"\x01" * 0x10000)
    mdev.function.reset()
    assert not bench.parent.scheduler.step()


@each
def test_device_without_bus_master_reaches_nothing(name):
    bench, ram = Bench(), Ram(MIB)
    mdev = bench.mdev(name)
    bench.lend(mdev, ram)
    mdev.function.write(CONFIG, COMMAND, b"\x02\x00")
    for bar in maps(name):
        mdev.function.write(bar, 0, b"\x01\x00" * 0x8000)
    bench.work()
    assert not any(ram.read(0, MIB))
    ram.close()


@each
def test_docs_and_constants_can_be_made(name):
    from mdevemu.describe import FORMATS

    for make in FORMATS.values():
        text = make(PERSONALITIES[name])
        for registers in maps(name).values():
            for reg in declared(registers):
                assert reg.name in text.lower()
