"""Migration: the state machine, and the stream."""

import errno
import itertools
import struct

import pytest

from mdevemu.errors import RequestError
from tests.protocol.libvfio_user.mobile import MobileDesk, mig_data
from tests.protocol.test_migration import (
    ERROR,
    FEATURE,
    GET,
    MIG_READ,
    MIG_WRITE,
    MIGRATION,
    P2P,
    PRE_COPY,
    PRE_COPY_P2P,
    PROBE,
    REPORT,
    RESUMING,
    RUNNING,
    SET,
    STATE,
    STOP,
    STOP_COPY,
    feature,
)
from tests.support.movable import MARK
from tests.support.vfio_user import OK, refused

STATES = (STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY)
ARCS = {
    (RUNNING, STOP): ["stop"],
    (STOP, RUNNING): ["run"],
    (STOP, STOP_COPY): ["save"],
    (STOP_COPY, STOP): ["end"],
    (STOP, RESUMING): ["load"],
    (RESUMING, STOP): ["finish"],
    (RUNNING, PRE_COPY): ["save live"],
    (PRE_COPY, RUNNING): ["end"],
    (PRE_COPY, STOP_COPY): ["stop", "save"],
}
"""What a device does on each direct transition."""

SMALL = b'{"capabilities":{"max_data_xfer_size":4}}\0'
EINVAL = refused(errno.EINVAL)


@pytest.fixture
def desk():
    """A client that takes four bytes at a time."""
    desk = MobileDesk(SMALL)
    yield desk
    desk.close()


def ask(desk, flags, data=b"", argsz=None):
    """(flags, errno, payload) of the reply to a DEVICE_FEATURE."""
    return desk.ask(FEATURE, feature(flags, data, argsz))


def shortest(source, target):
    """What a device does on the shortest way, with no saving states inside of it."""
    for between in range(len(STATES)):
        for inner in itertools.permutations({STOP, RUNNING, RESUMING}, min(between, 3)):
            steps = list(itertools.pairwise([source, *inner, target]))
            if all(step in ARCS for step in steps):
                return [verb for step in steps for verb in ARCS[step]]
    return None


def put(desk, state):
    """Bring a running device to a state, and forget how."""
    if state != RUNNING:
        assert desk.go(state) == (OK, 0)
    desk.stream.calls.clear()


@pytest.mark.parametrize("source", STATES)
@pytest.mark.parametrize("target", STATES)
def test_migration_shortest_state_transition_paths(desk, source, target):
    put(desk, source)
    if source == RESUMING:
        desk.stream.incoming = MARK + bytes(desk.device.bytes[0])
    if (source, target) == (STOP_COPY, PRE_COPY):
        return  # the next test's
    assert desk.go(target) == (OK, 0)
    assert desk.stream.calls == ([] if source == target else shortest(source, target))
    assert desk.state == target


def test_migration_stop_copy_to_pre_copy_rejected(desk):
    put(desk, STOP_COPY)
    assert desk.go(PRE_COPY) == EINVAL[:2]
    assert desk.stream.calls == []
    assert desk.state == STOP_COPY


@pytest.mark.parametrize("state", [ERROR, P2P, PRE_COPY_P2P, 8, 0xABCD, 2**32 - 1])
def test_migration_nonexistent_state(desk, state):
    """Nobody can ask for ERROR, nor for states that vfio-user does not use."""
    assert desk.go(state) == EINVAL[:2]
    assert desk.state == RUNNING


def test_migration_failed_callback(desk):
    """What the device refuses becomes the errno, and it stays where it was."""
    desk.stream.refusal = RequestError(errno.EIO, "it will not stop")
    for wanted in (STOP, STOP_COPY, RESUMING):
        assert desk.go(wanted) == refused(errno.EIO)[:2]
        assert desk.state == RUNNING
    desk.stream.refusal = None
    assert desk.go(STOP) == (OK, 0)


def test_migration_get_state(desk):
    reply = struct.pack("<IIII", 16, GET | STATE, RUNNING, 0)
    assert ask(desk, GET | STATE, argsz=16) == (OK, 0, reply)


@pytest.mark.parametrize("state", STATES)
def test_handle_mig_data_read(desk, state):
    """Only where there is a stream to read; fewer bytes than asked for are its end."""
    put(desk, state)
    desk.stream.outgoing = b"\0\1\2\3\4\5"
    if state in (PRE_COPY, STOP_COPY):
        assert desk.ask(MIG_READ, mig_data(4)) == (OK, 0, mig_data(4, b"\0\1\2\3"))
        assert desk.ask(MIG_READ, mig_data(4)) == (OK, 0, mig_data(2, b"\4\5"))
        assert desk.ask(MIG_READ, mig_data(4)) == (OK, 0, mig_data(0))
    else:
        assert desk.ask(MIG_READ, mig_data(4)) == EINVAL
        assert len(desk.stream.outgoing) == 6


def test_handle_mig_data_read_too_long(desk):
    """No more at a time than the client said it takes, nor than it has room for."""
    put(desk, PRE_COPY)
    whole = desk.stream.outgoing
    assert desk.ask(MIG_READ, mig_data(5)) == EINVAL
    assert desk.ask(MIG_READ, mig_data(4, argsz=11)) == EINVAL
    assert desk.stream.outgoing == whole


def test_handle_mig_data_read_failed_callback(desk):
    """What the device refuses becomes the errno, and the stream is still there."""
    put(desk, PRE_COPY)

    def broken(size):
        raise RequestError(errno.EIO, "it cannot be read now")

    desk.stream.read, read = broken, desk.stream.read
    assert desk.ask(MIG_READ, mig_data(4)) == refused(errno.EIO)
    assert desk.state == PRE_COPY
    desk.stream.read = read
    assert desk.ask(MIG_READ, mig_data(4)) == (OK, 0, mig_data(4, MARK[:4]))


def test_handle_mig_data_read_short_write(desk):
    put(desk, PRE_COPY)
    whole = desk.stream.outgoing
    assert desk.ask(MIG_READ, mig_data(4)[:-1]) == EINVAL
    assert desk.stream.outgoing == whole


def test_handle_mig_data_write(desk):
    put(desk, RESUMING)
    for data in (MARK[:4], MARK[4:5]):
        assert desk.ask(MIG_WRITE, mig_data(len(data), data)) == (OK, 0, b"")
    assert desk.stream.incoming == MARK[:5]


@pytest.mark.parametrize("state", [STOP, RUNNING, STOP_COPY, PRE_COPY])
def test_handle_mig_data_write_invalid_state(desk, state):
    put(desk, state)
    assert desk.ask(MIG_WRITE, mig_data(4, MARK[:4])) == EINVAL
    assert desk.stream.incoming == b""


def test_handle_mig_data_write_too_long(desk):
    put(desk, RESUMING)
    assert desk.ask(MIG_WRITE, mig_data(5, MARK[:5])) == EINVAL
    assert desk.stream.incoming == b""


def test_handle_mig_data_write_failed_callback(desk):
    """A stream that makes no sense to the device is refused as it comes."""
    put(desk, RESUMING)
    assert desk.ask(MIG_WRITE, mig_data(4, b"what")) == EINVAL
    assert desk.state == RESUMING


@pytest.mark.parametrize("length", [0, 3, 5])
def test_handle_mig_data_write_short_write(desk, length):
    put(desk, RESUMING)
    assert desk.ask(MIG_WRITE, mig_data(4, MARK[:length])) == EINVAL
    assert desk.stream.incoming == b""


def test_device_feature_migration_get(desk):
    """STOP_COPY and PRE_COPY."""
    reply = struct.pack("<IIQ", 16, GET | MIGRATION, 1 | 4)
    assert ask(desk, GET | MIGRATION, argsz=16) == (OK, 0, reply)


def test_device_feature_short_write(desk):
    for length in range(8):
        assert desk.ask(FEATURE, feature(GET | MIGRATION, argsz=16)[:length]) == EINVAL


def test_device_feature_unsupported_operation(desk):
    """What one only can ask for cannot be set."""
    assert ask(desk, SET | MIGRATION, bytes(8)) == EINVAL
    assert ask(desk, MIGRATION, argsz=16) == EINVAL
    assert ask(desk, GET | SET | MIGRATION, argsz=16) == EINVAL


def test_device_feature_bad_argsz_probe(desk):
    assert ask(desk, PROBE | MIGRATION, argsz=2) == EINVAL


def test_device_feature_bad_argsz_get_migration(desk):
    """Without room the reply says how much is needed, as everywhere."""
    needed = struct.pack("<II", 16, GET | MIGRATION)
    assert ask(desk, GET | MIGRATION, argsz=8) == (OK, 0, needed)


def test_device_feature_bad_argsz_get_dma(logger):
    """Likewise for a bitmap, and then nothing of it counts as told."""
    logger.start()
    logger.dirty(2)
    needed = 8 + 24 + 8
    for room in (8, needed - 1):
        assert logger.ask(logger.at, 0x20000, room=room) == (
            OK,
            0,
            struct.pack("<II", needed, GET | REPORT),
        )
    assert logger.report() == 1 << 2


def test_device_feature_bad_argsz_set(desk):
    stop = struct.pack("<II", STOP, 0)
    assert ask(desk, SET | STATE, stop, argsz=8) == EINVAL
    assert desk.state == RUNNING


def test_device_feature_probe(desk):
    """It succeeds if all of the methods are there, and the reply repeats the request."""
    for methods in (0, GET):
        request = feature(PROBE | methods | MIGRATION)
        assert desk.ask(FEATURE, request) == (OK, 0, request)
    for methods in (SET, GET | SET):
        assert ask(desk, PROBE | methods | MIGRATION) == EINVAL
    both = feature(PROBE | GET | SET | STATE)
    assert desk.ask(FEATURE, both) == (OK, 0, both)
