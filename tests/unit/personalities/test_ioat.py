"""I/OAT as its driver has it: chains, completions, interrupts, errors, suspend and reset."""

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.units import PAGE
from tests.support.bench import BASE, CONFIG, MEMORY_AND_BUS_MASTER, Bench, Ram
from tests.support.bench import COMMAND as COMMAND_REGISTER
from tests.support.ioat import (
    ACTIVE,
    ARMED,
    ATTNSTATUS,
    CBVER,
    CDAR,
    CHAIN_ADDRESS,
    CHAINADDR,
    CHANCMD,
    CHANCMP,
    CHANCNT,
    CHANCTRL,
    CHANERR,
    CHANERR_INT,
    CHANERRMSK,
    CHANERRMSK_INT,
    CHANSTS,
    COMMAND,
    COMPLETION,
    COMPLETION_ADDRESS,
    CONTROL,
    DATA,
    DMACOUNT,
    DMAUNCERRSTS,
    FENCE,
    HALTED,
    IDLE,
    INTERRUPT,
    INTRCTRL,
    INTRDELAY,
    LENGTH,
    MASTER,
    NEXT_ADDRESS,
    NULL,
    PER_CHANNEL,
    RAM,
    READ_DATA,
    RESET,
    RING,
    RUN,
    SLOTS,
    SUSPEND,
    SUSPENDED,
    WRITE_DATA,
    XFERCAP,
    Driver,
)

MISSING = 0x4000_0000
"""An address that nothing is mapped at."""
CONTENT = os.urandom(PAGE)


@pytest.fixture
def idle():
    driver = Driver()
    yield driver
    driver.close()


@pytest.fixture
def driver(idle):
    """Set up, with content at DATA."""
    idle.ram.write(DATA, CONTENT)
    idle.enable()
    return idle


# The device as a whole.


def test_device_introduces_itself_as_version_3_2_with_a_channel_for_each_queue(idle):
    assert int.from_bytes(idle.function.read(7, 0, 4), "little") == 0x2021_8086
    assert idle.function.read(7, 9, 3) == b"\x00\x80\x08"
    assert (idle.get(CHANCNT, 1), idle.get(CBVER, 1), idle.get(XFERCAP, 1)) == (4, 0x32, 20)
    assert idle.function.interrupts[2] == 4
    assert [region.size for region in idle.function.regions[:3]] == [0x4000, 0, 0x1000]


@pytest.mark.parametrize("size", [4096, 65536, 1 << 31])
def test_type_chooses_the_most_that_a_descriptor_copies(size):
    bench = Bench(BASE | {"type": [{"name": "own", "personality": "ioat", "max-transfer": size}]})
    driver = Driver(bench=bench, mdev=bench.mdev("own"))
    assert 1 << driver.get(XFERCAP, 1) == size
    driver.put(XFERCAP, 20, 1)
    driver.function.reset()
    assert 1 << driver.get(XFERCAP, 1) == size, "a reset changes nothing, nor does the driver"
    driver.function.write(CONFIG, COMMAND_REGISTER, MEMORY_AND_BUS_MASTER)
    driver.enable()
    driver.submit(size=min(size, 4096))
    assert driver.errors == 0
    driver.submit(size=size + 1)
    assert driver.errors == LENGTH
    driver.close()


def test_slice_with_fewer_queues_has_fewer_channels_and_ignores_the_others():
    kind = {"name": "two", "personality": "ioat", "queues": 2}
    bench = Bench(BASE | {"type": [kind]})
    mdev = bench.mdev("two")
    missing = Driver(number=3, bench=bench, mdev=mdev)
    assert missing.get(CHANCNT, 1) == 2
    missing.enable()
    missing.submit()
    assert missing.state == HALTED
    assert missing.channel(CHANCMD, 1) == 0
    missing.close()


def test_channel_starts_halted_and_needs_a_chain(idle):
    assert idle.state == HALTED
    idle.submit()
    assert (idle.state, idle.errors) == (HALTED, 0)
    idle.restart()
    assert idle.state == ARMED


# Chains.


def test_first_null_descriptor_is_active_at_once_and_then_idle(driver):
    at = driver.descriptor(size=1, control=NULL | INTERRUPT | COMPLETION, source=0, destination=0)
    driver.ring_doorbell()
    assert driver.state == ACTIVE
    driver.bench.work()
    assert driver.channel(CHANSTS, 8) == at | IDLE
    assert driver.written_back == at | IDLE
    assert driver.vectors == [0]
    assert driver.ram.read(0, 16) == bytes(16)


@pytest.mark.parametrize("size", [1, 63, 2000, PAGE])
def test_copy_copies_as_many_bytes_and_no_more(driver, size):
    driver.submit(size=size)
    assert driver.ram.read(DATA + 0x1000, PAGE) == CONTENT[:size].ljust(PAGE, b"\0")


def test_copy_of_the_largest_size_is_done_in_pieces():
    ram = Ram(4 << 20)
    driver = Driver(ram=ram)
    driver.bench.lend(driver.mdev, ram)
    driver.enable()
    content = os.urandom(1 << 20)
    ram.write(1 << 20, content)
    driver.descriptor(size=1 << 20, source=1 << 20, destination=2 << 20)
    driver.ring_doorbell()
    steps = 0
    while driver.bench.parent.step():
        steps += 1
    assert steps >= 16
    assert ram.read(2 << 20, 1 << 20) == content
    ram.close()


def test_chain_is_followed_in_order_as_far_as_announced(driver):
    places = [DATA + 0x1000 * (step + 1) for step in range(5)]
    chain = [
        driver.descriptor(size=16, source=there - 0x1000, destination=there) for there in places
    ]
    driver.set_channel(DMACOUNT, 3, 2)
    driver.bench.work()
    assert driver.channel(CHANSTS, 8) == chain[2] | IDLE
    assert driver.channel(CDAR, 8) == chain[2]
    copied = [driver.ram.read(there, 16) == CONTENT[:16] for there in places]
    assert copied == [True, True, True, False, False]


def test_append_goes_on_behind_the_last_descriptor_even_if_it_was_linked_late(driver):
    driver.submit(following=MISSING)
    second = DATA + 0x4000
    driver.ram.write(RING + 24, second.to_bytes(8, "little"))
    driver.ram.write(second, driver.ram.read(RING, 64))
    driver.count += 1
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.channel(CHANSTS, 8) == second | IDLE


def test_append_while_active_is_taken_up(driver):
    driver.descriptor()
    driver.ring_doorbell()
    assert driver.bench.parent.step()
    last = driver.descriptor(destination=DATA + 0x2000)
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.channel(CHANSTS, 8) == last | IDLE
    assert driver.ram.read(DATA + 0x2000, 64) == CONTENT[:64]


def test_descriptor_count_wraps_and_the_ring_goes_round(driver):
    driver.mdev.personality._channels[0]._done = 0xFFF0
    driver.set_channel(DMACOUNT, 0xFFF0, 2)
    driver.count = 0xFFF0
    for _ in range(2 * SLOTS):
        at = driver.submit(size=8)
        assert driver.channel(CHANSTS, 8) == at | IDLE
    assert driver.count == 0x1_0010
    assert driver.mdev.personality.counts()["completed"] == 2 * SLOTS


def test_doorbell_with_the_same_count_does_nothing(driver):
    driver.submit()
    driver.ring_doorbell()
    assert not driver.bench.parent.step()
    assert driver.state == IDLE


def test_fence_keeps_what_is_in_order_anyway(driver):
    driver.descriptor(size=32, destination=DATA + 0x1000)
    driver.descriptor(size=32, source=DATA + 0x1000, destination=DATA + 0x2000, control=FENCE)
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.ram.read(DATA + 0x2000, 32) == CONTENT[:32]


def test_descriptor_without_completion_shows_in_the_register_only(driver):
    at = driver.submit(control=0)
    assert driver.channel(CHANSTS, 8) == at | IDLE
    assert driver.written_back == 0
    assert driver.vectors == []


def test_chain_address_written_while_active_changes_nothing(driver):
    driver.descriptor()
    driver.ring_doorbell()
    driver.set_channel(CHAINADDR, MISSING, 8)
    driver.bench.work()
    assert (driver.state, driver.errors) == (IDLE, 0)


def test_chain_address_written_between_two_pieces_begins_a_new_chain(driver):
    driver.descriptor(size=1, control=NULL)
    driver.ring_doorbell()
    assert driver.bench.parent.step()
    assert driver.state == IDLE
    driver.restart()
    assert driver.state == ARMED
    driver.bench.work()
    assert driver.state == ARMED
    at = driver.submit()
    assert driver.channel(CHANSTS, 8) == at | IDLE


def test_channels_work_side_by_side():
    first = Driver(0)
    others = [Driver(n, first.bench, first.mdev, first.ram) for n in (1, 2, 3)]
    channels = [first, *others]
    for channel in channels:
        channel.enable()
        channel.ram.write(DATA + 0x100 * channel.number, bytes([channel.number]) * 64)
        channel.descriptor(
            control=COMPLETION | INTERRUPT,
            source=DATA + 0x100 * channel.number,
            destination=DATA + 0x1000 + 0x100 * channel.number,
        )
    for channel in channels:
        channel.ring_doorbell()
    first.bench.work()
    for channel in channels:
        there = DATA + 0x1000 + 0x100 * channel.number
        assert first.ram.read(there, 64) == bytes([channel.number]) * 64
        assert channel.written_back == channel.slot(0) | IDLE
    assert sorted(others[-1].vectors) == [0, 1, 2, 3]
    first.close()


# Interrupts.


def test_interrupt_waits_until_the_driver_arms_it_again(driver):
    for _ in range(3):
        driver.submit(control=INTERRUPT)
    assert driver.vectors == [0]
    assert driver.channel(CHANCTRL, 2) & 1
    driver.set_channel(CHANCTRL, RUN & ~1, 2)
    assert driver.vectors == [0]
    driver.set_channel(CHANCTRL, RUN, 2)
    assert driver.vectors == [0, 0], "what came meanwhile is told once"
    driver.set_channel(CHANCTRL, RUN, 2)
    assert driver.vectors == [0, 0]


def test_interrupt_waits_for_the_master_enable(driver):
    driver.put(INTRCTRL, PER_CHANNEL, 1)
    driver.submit(control=INTERRUPT)
    assert driver.vectors == []
    driver.put(INTRCTRL, PER_CHANNEL | MASTER, 1)
    assert driver.vectors == [0]


def test_interrupts_without_a_vector_per_channel_have_the_first():
    driver = Driver(number=2)
    driver.enable()
    driver.put(INTRCTRL, MASTER, 1)
    driver.submit(control=INTERRUPT)
    assert driver.vectors == [0]
    driver.close()


def test_completion_is_in_memory_before_the_interrupt(driver):
    seen = []
    driver.mdev.personality.interrupt = lambda vector: seen.append(
        (driver.written_back, driver.ram.read(DATA + 0x1000, 8))
    )
    at = driver.submit(control=COMPLETION | INTERRUPT)
    assert seen == [(at | IDLE, CONTENT[:8])]


def test_delay_gathers_interrupts(driver):
    driver.put(INTRDELAY, 3, 2)
    for _ in range(2):
        driver.submit(control=INTERRUPT)
    assert driver.vectors == []
    scheduler = driver.bench.parent.scheduler
    while scheduler.ring_due() is not None:
        pass
    assert driver.vectors == [0]


def test_reset_takes_back_a_delayed_interrupt(driver):
    driver.put(INTRDELAY, 3, 2)
    driver.submit(control=INTERRUPT)
    driver.set_channel(CHANCMD, RESET, 1)
    driver.submit(control=INTERRUPT)
    driver.function.reset()
    while driver.bench.parent.scheduler.ring_due() is not None:
        pass
    assert driver.vectors == []


def test_line_is_up_until_the_attention_was_read():
    driver = Driver(number=1)
    driver.mdev.personality.interrupt = driver.function.interrupt
    driver.enable()
    driver.put(INTRCTRL, MASTER, 1)
    device = driver.mdev.personality
    driver.submit(control=INTERRUPT)
    assert device.pending_intx
    assert driver.get(INTRCTRL, 1) == 0b111
    assert driver.get(ATTNSTATUS, 4) == 1 << 1
    assert not device.pending_intx
    assert driver.get(INTRCTRL, 1) == 0b001
    driver.set_channel(CHANCTRL, RUN, 2)
    driver.submit(control=INTERRUPT)
    driver.put(INTRCTRL, 0, 1)
    assert not device.pending_intx
    assert driver.get(INTRCTRL, 1) == 0b010
    driver.close()


# Errors.

BAD = [
    ({"source": MISSING}, READ_DATA),
    ({"destination": MISSING}, WRITE_DATA),
    ({"source": 2**64 - 32}, READ_DATA),
    ({"destination": RAM - 32}, WRITE_DATA),
    ({"size": 0}, LENGTH),
    ({"size": 0, "control": NULL}, LENGTH),
    ({"size": (1 << 20) + 1}, LENGTH),
    ({"control": 0x87 << 24}, CONTROL),
    ({"control": 1 << 11}, CONTROL),
]


@pytest.mark.parametrize(("fields", "error"), BAD)
def test_bad_descriptor_halts_tells_and_is_recovered_from(driver, fields, error):
    good = driver.submit()
    driver.submit(**fields)
    assert (driver.state, driver.errors) == (HALTED, error)
    assert driver.config(CHANERR_INT) == error
    assert driver.written_back == good | HALTED
    assert driver.vectors == [0]
    driver.submit()
    assert driver.state == HALTED, "nothing goes on without a new chain"

    assert driver.recover() == error
    assert (driver.errors, driver.config(CHANERR_INT)) == (0, 0)
    assert driver.channel(CHANSTS, 8) == ARMED
    at = driver.submit(destination=DATA + 0x3000, control=COMPLETION | INTERRUPT)
    assert driver.written_back == at | IDLE
    assert driver.ram.read(DATA + 0x3000, 64) == CONTENT[:64]
    assert driver.vectors == [0, 0]


def test_error_of_the_first_descriptor_is_written_back_without_an_address(driver):
    driver.ram.write(driver.done, b"\xff" * 8)
    driver.submit(source=MISSING)
    assert driver.written_back == HALTED


def test_descriptors_behind_the_bad_one_are_not_touched(driver):
    driver.descriptor(source=MISSING)
    driver.descriptor(destination=DATA + 0x2000)
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.ram.read(DATA + 0x2000, 64) == bytes(64)


@pytest.mark.parametrize("place", [MISSING, RING + 32])
def test_chain_that_cannot_be_read_is_an_error_of_its_first_address(driver, place):
    driver.set_channel(CHAINADDR, place, 8)
    driver.submit()
    assert (driver.state, driver.errors) == (HALTED, CHAIN_ADDRESS)
    assert driver.recover() == CHAIN_ADDRESS
    driver.submit()
    assert driver.state == IDLE


@pytest.mark.parametrize("place", [MISSING, RING + 8, 2**64 - 64])
def test_link_that_cannot_be_read_is_an_error_of_the_next_address(driver, place):
    driver.descriptor(following=place)
    driver.descriptor()
    driver.ring_doorbell()
    driver.bench.work()
    assert (driver.state, driver.errors) == (HALTED, NEXT_ADDRESS)


def test_completion_that_cannot_be_written_is_told_by_register_and_interrupt(driver):
    driver.set_channel(CHANCMP, MISSING, 8)
    driver.submit()
    assert (driver.state, driver.errors) == (HALTED, COMPLETION_ADDRESS)
    assert driver.vectors == [0]
    driver.recover()
    driver.set_channel(CHANCMP, MISSING, 8)
    driver.submit(source=MISSING)
    assert driver.errors == READ_DATA | COMPLETION_ADDRESS


def test_error_is_silent_if_the_driver_did_not_ask(driver):
    driver.set_channel(CHANCTRL, 1, 2)
    driver.submit(source=MISSING)
    assert (driver.errors, driver.written_back, driver.vectors) == (READ_DATA, 0, [])


def test_masked_error_halts_in_silence(driver):
    driver.set_channel(CHANERRMSK, READ_DATA, 4)
    driver.set_config(CHANERRMSK_INT, READ_DATA)
    driver.submit(source=MISSING)
    assert (driver.state, driver.errors) == (HALTED, READ_DATA)
    assert (driver.written_back, driver.vectors, driver.config(CHANERR_INT)) == (0, [], 0)


def test_errors_are_cleared_one_by_one(driver):
    driver.submit(source=MISSING)
    driver.restart()
    driver.submit(size=0)
    assert driver.errors == READ_DATA | LENGTH
    driver.set_channel(CHANERR, LENGTH, 4)
    assert driver.errors == READ_DATA
    driver.set_config(CHANERR_INT, READ_DATA)
    assert driver.config(CHANERR_INT) == LENGTH


def test_parity_error_register_takes_its_write(driver):
    driver.set_config(DMAUNCERRSTS, 0x10)
    assert driver.config(DMAUNCERRSTS) == 0


def test_one_channel_halted_leaves_the_others_alone():
    first = Driver(0)
    second = Driver(1, first.bench, first.mdev, first.ram)
    first.enable()
    second.enable()
    first.submit(source=MISSING)
    second.submit()
    assert (first.state, second.state) == (HALTED, IDLE)
    assert (first.errors, second.errors) == (READ_DATA, 0)
    first.close()


def test_accelerator_without_a_copy_engine_says_control_error():
    spec = BASE | {"engine": [{"name": "none", "operations": ["nop"]}]}
    driver = Driver(bench=Bench(spec))
    driver.enable()
    driver.submit(control=NULL)
    assert driver.errors == 0
    driver.submit()
    assert driver.errors == CONTROL
    driver.close()


# Suspend and reset.


def test_suspend_stops_between_descriptors_and_clearing_it_goes_on(driver):
    driver.descriptor(destination=DATA + 0x1000)
    last = driver.descriptor(destination=DATA + 0x2000)
    driver.ring_doorbell()
    driver.set_channel(CHANCMD, SUSPEND, 1)
    assert driver.state == ACTIVE
    driver.bench.work()
    assert driver.state == SUSPENDED
    assert driver.ram.read(DATA + 0x2000, 64) == bytes(64)
    driver.ring_doorbell()
    driver.bench.work()
    assert driver.state == SUSPENDED
    driver.set_channel(CHANCMD, 0, 1)
    driver.bench.work()
    assert driver.channel(CHANSTS, 8) == last | IDLE


def test_suspend_of_an_idle_channel_is_immediate(driver):
    driver.submit()
    driver.set_channel(CHANCMD, SUSPEND, 1)
    assert driver.state == SUSPENDED
    driver.set_channel(CHANCMD, 0, 1)
    assert driver.state == IDLE


def test_suspend_during_the_last_descriptor_ends_suspended(driver):
    driver.descriptor()
    driver.ring_doorbell()
    assert driver.bench.parent.step(), "its data is copied"
    driver.set_channel(CHANCMD, SUSPEND, 1)
    driver.bench.work()
    assert driver.state == SUSPENDED


def test_counters_tell_descriptors_from_other_errors(driver):
    for fields in ({}, {"control": NULL}, {"source": MISSING}):
        driver.submit(**fields)
    driver.set_channel(CHANCMD, SUSPEND | RESET, 1)
    assert driver.mdev.personality.counts() == {
        "completed": 2,
        "failed": 1,
        "bytes-read": 64,
        "bytes-written": 64,
        "interrupts": 1,
        "doorbells": 3,
        "faults": 2,
    }


def test_suspend_leaves_a_halted_channel_halted_and_holds_a_new_chain_back(driver):
    driver.submit(source=MISSING)
    driver.set_channel(CHANCMD, SUSPEND, 1)
    assert driver.state == HALTED
    driver.restart()
    driver.submit()
    assert driver.state == SUSPENDED
    driver.set_channel(CHANCMD, 0, 1)
    driver.bench.work()
    assert driver.state == IDLE


def test_reset_halts_a_working_channel_at_once(driver):
    driver.descriptor(size=PAGE)
    driver.descriptor(destination=DATA + 0x2000)
    driver.ring_doorbell()
    driver.bench.parent.step()
    driver.set_channel(CHANCMD, RESET, 1)
    assert driver.channel(CHANCMD, 1) == 0
    assert driver.channel(CHANSTS, 8) == HALTED
    assert (driver.channel(DMACOUNT, 2), driver.channel(CHANCMP, 8)) == (0, 0)
    driver.bench.work()
    assert driver.ram.read(DATA + 0x2000, 64) == bytes(64)
    driver.restart()
    driver.submit()
    assert driver.state == IDLE


def test_reset_keeps_errors_for_the_driver_to_clear(driver):
    driver.submit(source=MISSING)
    driver.set_channel(CHANCMD, RESET, 1)
    assert driver.errors == READ_DATA


def test_suspend_and_reset_at_once_is_a_command_error(driver):
    driver.submit()
    driver.set_channel(CHANCMD, SUSPEND | RESET, 1)
    assert (driver.state, driver.errors) == (HALTED, COMMAND)
    assert driver.channel(CHANCMD, 1) == 0
    driver.recover()
    driver.submit()
    assert driver.state == IDLE


def test_function_reset_forgets_registers_in_both_places(driver):
    driver.submit(source=MISSING)
    driver.set_config(CHANERRMSK_INT, 1)
    driver.function.reset()
    assert (driver.state, driver.errors, driver.get(INTRCTRL, 1)) == (HALTED, 0, 0)
    assert (driver.config(CHANERR_INT), driver.config(CHANERRMSK_INT)) == (0, 0)
    assert not any(driver.mdev.personality.counts().values())


# Hostile drivers.


def test_loop_in_the_chain_ends_where_the_count_does_and_lets_others_work(driver):
    victim = Driver(bench=driver.bench)
    victim.enable()
    at = driver.descriptor(size=1, control=NULL, following=RING)
    driver.count = 0xFFFF
    driver.ring_doorbell()
    for _ in range(100):
        assert driver.bench.parent.step()
    victim.descriptor()
    victim.ring_doorbell()
    for _ in range(10):
        driver.bench.parent.step()
    assert victim.state == IDLE, "a loop next door is one more customer"
    driver.bench.work(limit=70_000)
    assert driver.channel(CHANSTS, 8) == at | IDLE
    assert driver.mdev.personality.counts()["completed"] == 0xFFFF
    victim.close()


def test_loop_in_the_chain_is_stopped_by_a_reset(driver):
    driver.descriptor(size=1, control=NULL, following=RING)
    driver.count = 0xFFFF
    driver.ring_doorbell()
    for _ in range(10):
        driver.bench.parent.step()
    driver.set_channel(CHANCMD, RESET, 1)
    assert not driver.bench.parent.step()


places = st.sampled_from([0, RING, RING + 64, DATA, DATA + 1, RAM - 64, MISSING, 2**64 - 64])
descriptors = st.fixed_dictionaries(
    {
        "size": st.sampled_from([0, 1, 64, 4096, 1 << 20, 2**32 - 1]),
        "control": st.sampled_from([0, 1, 8, 9, 0x29, 0x39]) | st.integers(0, 2**32 - 1),
        "source": places,
        "destination": places,
        "following": st.none() | places,
    }
)
registers = st.tuples(
    st.just("register"), st.integers(0, 0x280), st.integers(0, 2**64 - 1), st.integers(1, 8)
)
moves = st.one_of(
    st.tuples(st.just("descriptor"), descriptors),
    st.tuples(st.just("command"), st.sampled_from([0, RESET, SUSPEND, RESET | SUSPEND, 0xFF])),
    st.tuples(st.just("doorbell"), st.integers(0, 40)),
    st.tuples(st.just("chain"), places),
    st.tuples(st.just("completion"), places),
    st.tuples(st.just("work"), st.integers(1, 20)),
    registers,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(moves, max_size=40))
def test_hostile_driver_can_always_start_again(script):
    driver = Driver()
    driver.enable()
    for move in script:
        match move:
            case ("descriptor", fields):
                driver.descriptor(**fields)
                driver.ring_doorbell()
            case ("command", command):
                driver.set_channel(CHANCMD, command, 1)
            case ("doorbell", count):
                driver.set_channel(DMACOUNT, count, 2)
            case ("chain", place):
                driver.set_channel(CHAINADDR, place, 8)
            case ("completion", place):
                driver.set_channel(CHANCMP, place, 8)
            case ("register", offset, value, length):
                driver.put(offset, value & (1 << 8 * length) - 1, length)
            case ("work", steps):
                for _ in range(steps):
                    driver.bench.parent.step()
        assert driver.state in (ACTIVE, IDLE, SUSPENDED, HALTED, ARMED)
    driver.set_channel(CHANCMD, RESET, 1)
    driver.set_channel(CHANERR, 0xFFFF_FFFF, 4)
    driver.set_channel(CHANERRMSK, 0, 4)
    driver.put(INTRDELAY, 0, 2)
    driver.enable()
    driver.ram.write(DATA, CONTENT)
    for number in range(1, 4):
        driver.put(0x80 * (number + 1) + CHANCMD, RESET, 1)
    driver.vectors.clear()
    at = driver.submit(control=COMPLETION | INTERRUPT)
    assert driver.written_back == at | IDLE
    assert driver.ram.read(DATA + 0x1000, 64) == CONTENT[:64]
    assert driver.vectors == [0]
    driver.close()
