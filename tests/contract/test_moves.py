"""What every personality that can be moved must do, with whatever comes as its state."""

import copy
import dataclasses
import re
import struct

import crc32c
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mdevemu.accel import saving
from mdevemu.errors import StateError
from mdevemu.personalities import PERSONALITIES
from mdevemu.units import PAGE
from tests.contract.test_personalities import LENT, LENT_AT, contents, driver_moves, noise
from tests.support.bench import CONFIG, Bench, Ram
from tests.support.moving import load, saved, stopped
from tests.support.native import Driver

TYPES = {"adder": "adder", "ioat": "ioat", "native": "native", "rid": "native"}
each = pytest.mark.parametrize("name", sorted(TYPES))
searching = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
SHAPE, HBM, PADDING, BANK, DEVICE, END = range(1, 7)


def test_all_of_them_can_be_moved():
    assert set(TYPES.values()) == set(PERSONALITIES)
    assert all(kind.movable for kind in PERSONALITIES.values())


def records(stream):
    """(kind, payload) of each record."""
    at, found = 16, []
    while at < len(stream):
        kind, length = struct.unpack_from("<II", stream, at)
        found.append((kind, stream[at + 8 : at + 8 + length]))
        at += 8 + length
    return found


def joined(stream, found):
    """A stream of these records, with the head of another; its checksum fits."""
    body = stream[:16]
    for kind, payload in found:
        if kind == END:
            payload = struct.pack("<I", crc32c.crc32c(body))
        body += struct.pack("<II", kind, len(payload)) + payload
    return body


def driven(name, data):
    """An mdev at rest after whatever a driver may do, its memory, and its bench."""
    bench, ram = Bench(), Ram(32 * PAGE)
    mdev = bench.mdev(name)
    bench.lend(mdev, ram, offset=LENT_AT, size=LENT)
    ram.write(LENT_AT, data.draw(st.binary(min_size=256, max_size=256)))
    steps = data.draw(st.lists(noise | driver_moves(TYPES[name]), max_size=30))
    for bar, offset, value in steps:
        mdev.function.write(bar, offset, value)
        bench.parent.step()
    assert stopped(bench, mdev) is None
    return bench, mdev, ram


@each
@searching
@given(st.data())
def test_state_is_the_same_after_a_move_whatever_the_driver_did(name, data):
    _, mdev, ram = driven(name, data)
    state = saved(mdev)
    before, config = contents(mdev), mdev.function.read(CONFIG, 0, 256)
    there = Bench()
    other = there.mdev(name)
    load(there, other, state, size=data.draw(st.integers(1, 5000)))
    assert saved(other) == state
    assert other.function.read(CONFIG, 0, 256) == config
    if name != "native" and name != "rid":  # their weight and time are the host's to tell
        assert contents(other) == before
    ram.close()


@each
@searching
@given(st.data())
def test_hostile_state_is_refused_or_harmless(name, data):
    _, mdev, ram = driven(name, data)
    state = saved(mdev)
    found = records(state)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.sampled_from(range(len(found))))
        kind, payload = found[index]
        spoilt = bytearray(payload)
        for _ in range(data.draw(st.integers(0, 6))):
            if spoilt:
                spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.sampled_from([0, 0, 0, 1, 8]))
        kind = data.draw(st.sampled_from([kind, kind, kind, BANK, DEVICE, HBM, END, 99]))
        found[index] = kind, bytes(spoilt[: len(spoilt) - cut])
    bench = Bench()
    other, neighbour = bench.mdev(name), bench.mdev(name)
    untouched = contents(neighbour)
    bench.lend(other, ram, offset=LENT_AT, size=LENT)
    fresh = copy.copy(contents(other))
    before = ram.read(0, ram.size)
    try:
        load(bench, other, joined(state, found))
    except StateError:
        assert contents(other) == fresh
        assert not any(other.function.read(4, 0, 256))
    other.function.migration.run()
    bench.work()
    for bar, offset, value in data.draw(st.lists(noise | driver_moves(TYPES[name]), max_size=10)):
        other.function.write(bar, offset, value)
        other.function.read(bar, offset, len(value))
        bench.work()
    assert ram.read(0, LENT_AT) == before[:LENT_AT]
    assert ram.read(LENT_AT + LENT, ram.size) == before[LENT_AT + LENT :]
    assert contents(neighbour) == untouched
    ram.close()


@each
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda s: b"MDEV" + s[4:], "begins with"),
        (lambda s: s[:8] + b"\2" + s[9:], "version 2"),
        (lambda s: s[:12] + b"\1" + s[13:], "version 1"),
        (lambda s: s[:16] + struct.pack("<II", 99, 0) + s[16:], "where that of the shape"),
        (lambda s: s[:16] + struct.pack("<II", BANK, 1 << 31) + s[16:], "2147483648 bytes"),
        (lambda s: s[:24] + b"other" + s[29:], "its personality is 'other"),
        (lambda s: s[:56] + b"other" + s[61:], "its type is 'other"),
        (lambda s: s[:120] + b"\1" + s[121:], "its hbm is"),
        (lambda s: s[:128] + b"\1\0" + s[130:], "its operations is"),
        (lambda s: s[:-1], "ends before its end"),
        (lambda s: s + b"\0", "1 bytes after its end"),
        (lambda s: s[:-1] + bytes([s[-1] ^ 1]), "checksum"),
        (lambda s: joined(s, [*records(s)[:-2], records(s)[-1]]), "ends without the device"),
        (lambda s: joined(s, [records(s)[0], *records(s)]), "where that of the shape belongs"),
        (lambda s: joined(s, [*records(s)[:-1], *records(s)[-2:]]), "twice"),
        (lambda s: joined(s, [*records(s)[:2], *records(s)[1:]]), "twice"),
        (lambda s: joined(s, [*records(s)[:-1], (END + 1, b"")]), "a record of kind 7"),
        (
            lambda s: joined(
                s, [*records(s)[:-2], (DEVICE, records(s)[-2][1] + b"\0"), records(s)[-1]]
            ),
            "no use for|ends before RingState",
        ),
    ],
)
def test_state_that_is_none_is_refused_by_what_is_wrong_with_it(name, spoil, says):
    bench = Bench()
    mdev, other = bench.mdev(name), bench.mdev(name)
    assert stopped(bench, mdev) is None
    before = contents(other)
    with pytest.raises(StateError) as wrong:
        load(bench, other, spoil(saved(mdev)))
    assert re.search(says, wrong.value.reason)
    assert contents(other) == before


def native_structs():
    """The native device's state besides registers, one queue enabled, and its stream."""
    driver = Driver()
    driver.queue(1)
    assert stopped(driver.bench, driver.mdev) is None
    structs, stream = list(driver.mdev.personality.save()), saved(driver.mdev)
    driver.close()
    return structs, stream


def place(**values):
    return lambda s: [*s[:11], dataclasses.replace(s[11], **values), *s[12:]]


def setup(**values):
    return lambda s: [*s[:10], dataclasses.replace(s[10], **values), *s[11:]]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (place(sq_tail=17), "head 0 and tail 17 in a ring of 16"),
        (place(sq_head=1), "head 1 and tail 0"),
        (place(cq_tail=17), "17 written and 0 taken in a ring of 16"),
        (place(cq_head=1), "0 written and 1 taken"),
        (setup(log2_entries=13), "QUEUE_CONFIG"),
        (setup(sq_base=1), "QUEUE_CONFIG"),
        (setup(control=99 << 16), "QUEUE_CONFIG"),
        (setup(pasid=1 << 31), "QUEUE_CONFIG"),
        (
            lambda s: [*s[:9], dataclasses.replace(s[9], number=4), *s[10:]],
            "queue 4 twice, or of 4",
        ),
        (lambda s: [*s[:9], dataclasses.replace(s[9], number=2), *s[10:]], "are there"),
        (lambda s: [*s[:9], dataclasses.replace(s[9], number=17), *s[10:]], "queue 0x11"),
        (lambda s: [*s[:12], *s[9:]], "queue 1 twice"),
        (lambda s: [*s[:9], s[12]], r"queues \[1\] are enabled, \[\] are there"),
        (lambda s: [*s[:8], dataclasses.replace(s[8], entries=2), *s[9:]], "page requests"),
        (lambda s: s[1:], "no Count"),
    ],
)
def test_native_state_that_no_driver_could_bring_about_is_refused(change, says):
    structs, stream = native_structs()
    device = saving.save(change(structs))
    found = [(kind, device if kind == DEVICE else data) for kind, data in records(stream)]
    bench = Bench()
    with pytest.raises(StateError, match=says):
        load(bench, bench.mdev(), joined(stream, found))
