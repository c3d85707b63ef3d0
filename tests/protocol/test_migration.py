"""Device features: migration states, its stream, and who may do what when."""

import errno
import itertools
import struct

import pytest

from mdevemu.errors import RequestError
from mdevemu.vfio_user import Session
from mdevemu.vfio_user.migration import ARCS, PATHS, Mover
from mdevemu.vfio_user.pending import LIMIT
from mdevemu.vfio_user.session import State
from tests.support.movable import MARK, Movable, Noting
from tests.support.vfio_user import (
    DMA_MAP,
    OK,
    READ,
    REFUSED,
    RESET,
    SET_IRQS,
    WRITE,
    WRITE_MULTI,
    Courier,
    Desk,
    access,
    dma_map,
    hello,
    irqs,
    refused,
    split,
)

FEATURE, MIG_READ, MIG_WRITE = 16, 17, 18
GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
MIGRATION, STATE, START, STOP_LOG, REPORT = 1, 2, 6, 7, 8
ERROR, STOP, RUNNING, STOP_COPY, RESUMING, P2P, PRE_COPY, PRE_COPY_P2P = range(8)


def feature(flags, data=b"", argsz=None):
    return struct.pack("<II", 8 + len(data) if argsz is None else argsz, flags) + data


def set_state(desk, state):
    """(flags, errno) of the reply."""
    request = feature(STATE | SET, struct.pack("<II", state, 0))
    answer = desk.ask(FEATURE, request)
    if answer is None:
        return None
    flags, error, payload = answer
    assert payload == (b"" if error else request)
    return flags, error


def state(desk):
    flags, _, payload = desk.ask(FEATURE, feature(STATE | GET, argsz=16))
    assert flags == OK
    argsz, echoed, found, unused = struct.unpack("<IIII", payload)
    assert (argsz, echoed, unused) == (16, STATE | GET, 0)
    return found


@pytest.fixture
def desk():
    made = Desk(Movable(), Noting())
    made.tell(hello())
    yield made
    made.close()


def test_device_without_a_stream_has_no_migration_and_says_so():
    plain = Desk()
    plain.tell(hello())
    for flags in (MIGRATION | GET, STATE | GET, MIGRATION | PROBE, START | SET | PROBE):
        assert plain.ask(FEATURE, feature(flags, argsz=64)) == refused(errno.ENOTSUP)
    assert plain.ask(MIG_READ, struct.pack("<II", 16, 8)) == refused(errno.ENOTSUP)
    plain.close()


def test_migration_offers_stop_copy_and_pre_copy(desk):
    assert desk.ask(FEATURE, feature(MIGRATION | GET, argsz=16)) == (
        OK,
        0,
        struct.pack("<IIQ", 16, MIGRATION | GET, 1 | 4),
    )


def test_get_without_room_says_how_much_it_takes(desk):
    assert desk.ask(FEATURE, feature(MIGRATION | GET, argsz=15)) == (
        OK,
        0,
        struct.pack("<II", 16, MIGRATION | GET),
    )


@pytest.mark.parametrize(
    "flags",
    [
        MIGRATION | PROBE,
        MIGRATION | GET | PROBE,
        STATE | GET | SET | PROBE,
        START | SET | PROBE,
        STOP_LOG | SET | PROBE,
        REPORT | GET | PROBE,
    ],
)
def test_probe_of_what_is_there_is_echoed_and_does_nothing(desk, flags):
    assert desk.ask(FEATURE, feature(flags)) == (OK, 0, feature(flags))
    assert desk.device.migration.calls == []


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", errno.EINVAL),
        (bytes(7), errno.EINVAL),
        (feature(MIGRATION | GET, argsz=7), errno.EINVAL),
        (feature(MIGRATION), errno.EINVAL),
        (feature(STATE | GET | SET, bytes(8)), errno.EINVAL),
        (feature(MIGRATION | GET | 1 << 19), errno.EINVAL),
        (feature(0 | PROBE), errno.ENOTSUP),
        (feature(3 | PROBE), errno.ENOTSUP),
        (feature(0xFFFF | GET, argsz=64), errno.ENOTSUP),
        (feature(MIGRATION | SET, bytes(8)), errno.EINVAL),
        (feature(MIGRATION | SET | PROBE), errno.EINVAL),
        (feature(START | GET, argsz=64), errno.EINVAL),
        (feature(REPORT | SET, bytes(24)), errno.EINVAL),
        (feature(STATE | SET), errno.EINVAL),
        (feature(STATE | SET, bytes(7)), errno.EINVAL),
        (feature(STATE | SET, struct.pack("<II", STOP, 0), argsz=15), errno.EINVAL),
        (feature(MIGRATION | PROBE, bytes(8), argsz=8), errno.EINVAL),
    ],
)
def test_bad_feature_request_is_refused_and_nothing_is_done(desk, payload, error):
    assert desk.ask(FEATURE, payload) == refused(error)
    assert desk.device.migration.calls == []
    assert state(desk) == RUNNING


# The state machine

WAYS = {
    (RUNNING, STOP): ["stop"],
    (RUNNING, PRE_COPY): ["save live"],
    (RUNNING, STOP_COPY): ["stop", "save"],
    (RUNNING, RESUMING): ["stop", "load"],
    (STOP, RUNNING): ["run"],
    (STOP, STOP_COPY): ["save"],
    (STOP, RESUMING): ["load"],
    (STOP, PRE_COPY): ["run", "save live"],
    (STOP_COPY, STOP): ["end"],
    (STOP_COPY, RUNNING): ["end", "run"],
    (STOP_COPY, RESUMING): ["end", "load"],
    (STOP_COPY, PRE_COPY): None,
    (PRE_COPY, RUNNING): ["end"],
    (PRE_COPY, STOP): ["end", "stop"],
    (PRE_COPY, STOP_COPY): ["stop", "save"],
    (PRE_COPY, RESUMING): ["end", "stop", "load"],
    (RESUMING, STOP): ["finish"],
    (RESUMING, RUNNING): ["finish", "run"],
    (RESUMING, STOP_COPY): ["finish", "save"],
    (RESUMING, PRE_COPY): ["finish", "run", "save live"],
}
VALID = [STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY]


def bring(desk, wanted):
    """Into a state, with what it takes to leave it again."""
    assert set_state(desk, wanted) == (OK, 0)
    if wanted == RESUMING:
        stream = MARK + bytes(4096)
        assert desk.ask(MIG_WRITE, struct.pack("<II", 8, len(stream)) + stream) == (OK, 0, b"")
    desk.device.migration.calls.clear()


@pytest.mark.parametrize(("start", "end"), WAYS)
def test_way_between_states_does_what_each_arc_does(desk, start, end):
    if start != RUNNING:
        bring(desk, start)
    if WAYS[start, end] is None:
        assert set_state(desk, end) == (REFUSED, errno.EINVAL)
        assert (state(desk), desk.device.migration.calls) == (start, [])
    else:
        assert set_state(desk, end) == (OK, 0)
        assert (state(desk), desk.device.migration.calls) == (end, WAYS[start, end])


@pytest.mark.parametrize("start", VALID)
def test_same_state_again_does_nothing(desk, start):
    if start != RUNNING:
        bring(desk, start)
    assert set_state(desk, start) == (OK, 0)
    assert (state(desk), desk.device.migration.calls) == (start, [])


@pytest.mark.parametrize("start", VALID)
@pytest.mark.parametrize("end", [ERROR, P2P, PRE_COPY_P2P, 8, 2**32 - 1])
def test_what_is_no_state_to_go_to_is_refused(desk, start, end):
    if start != RUNNING:
        bring(desk, start)
    assert set_state(desk, end) == (REFUSED, errno.EINVAL)
    assert (state(desk), desk.device.migration.calls) == (start, [])


def test_every_path_is_made_of_arcs_and_passes_no_saving_state():
    assert {pair for pair in PATHS if pair[0] != pair[1]} == {
        pair for pair, way in WAYS.items() if way
    }
    for (start, end), path in PATHS.items():
        for here, there in itertools.pairwise([start, *path]):
            assert there in ARCS[here]
        assert not {STOP_COPY, PRE_COPY} & set(path[:-1])
        assert not path or path[-1] == end


def test_device_that_cannot_stop_says_why_and_runs_on(desk):
    desk.device.migration.refusal = RequestError(errno.EBUSY, "a command does not end")
    assert set_state(desk, STOP_COPY) == (REFUSED, errno.EBUSY)
    assert (state(desk), desk.device.migration.calls) == (RUNNING, ["stop"])
    assert desk.ask(READ, access(0, 0, 4))[0] == OK


def test_state_is_told_only_once_the_device_is_at_rest(desk):
    stream = desk.device.migration
    stream.slow = True
    assert set_state(desk, STOP_COPY) is None
    assert desk.session.state is State.WAITING
    stream.stopping(None)
    [(data, _)] = desk.courier.late
    assert split(data)[0][1:4] == (FEATURE, OK, 0)
    assert (state(desk), stream.calls) == (STOP_COPY, ["stop", "save"])


def test_device_that_comes_to_rest_too_late_is_made_to_run_again(desk):
    stream = desk.device.migration
    stream.slow = True
    set_state(desk, STOP)
    assert desk.courier.alarms[-1].due == LIMIT
    desk.courier.ring()
    assert split(desk.courier.late[0][0])[0][2:4] == (REFUSED, errno.ETIMEDOUT)
    assert set_state(desk, STOP) == (REFUSED, errno.EBUSY)
    stream.stopping(None)
    assert stream.calls == ["stop", "run"]
    assert state(desk) == RUNNING
    stream.slow = False
    assert set_state(desk, STOP) == (OK, 0)


# Which requests there are in which state

REQUESTS = {
    "read": (READ, access(0, 0, 4)),
    "write": (WRITE, access(0, 0, 4, b"data")),
    "multi": (WRITE_MULTI, struct.pack("<QQII8s", 1, 0, 0, 4, b"data")),
    "stream out": (MIG_READ, struct.pack("<II", 16, 8)),
    "stream in": (MIG_WRITE, struct.pack("<II", 8, 4) + MARK[:4]),
    "map": (DMA_MAP, dma_map(1 << 30, 4096)),
    "interrupts": (SET_IRQS, irqs(0x21, 2)),
    "info": (4, struct.pack("<IIII", 16, 0, 0, 0)),
}
ACCESSES, ANYTIME = {"read", "write", "multi"}, {"map", "interrupts", "info"}
MAY = {
    STOP: ACCESSES | ANYTIME,
    RUNNING: ACCESSES | ANYTIME,
    STOP_COPY: ANYTIME | {"stream out"},
    RESUMING: ANYTIME | {"stream in"},
    PRE_COPY: ACCESSES | ANYTIME | {"stream out"},
    ERROR: ANYTIME,
}


@pytest.mark.parametrize("where", MAY)
@pytest.mark.parametrize("what", REQUESTS)
def test_request_is_answered_in_the_states_that_allow_it(desk, where, what):
    if where == ERROR:
        set_state(desk, RESUMING)
        assert set_state(desk, STOP) == (REFUSED, errno.EINVAL)
    elif where != RUNNING:
        assert set_state(desk, where) == (OK, 0)
    flags, error, _ = desk.ask(*REQUESTS[what])
    assert (flags, error) == ((OK, 0) if what in MAY[where] else (REFUSED, errno.EINVAL))


# The stream


def mig_read(desk, size):
    flags, error, payload = desk.ask(MIG_READ, struct.pack("<II", 8 + size, size))
    assert (flags, error) == (OK, 0)
    argsz, given = struct.unpack_from("<II", payload)
    assert argsz == 8 + given == len(payload)
    return payload[8:]


def test_state_moves_from_one_device_to_another(desk):
    desk.ask(WRITE, access(0, 100, 6, b"moving"))
    set_state(desk, STOP_COPY)
    pieces = []
    while len(piece := mig_read(desk, 1000)) == 1000:
        pieces.append(piece)
    stream = b"".join([*pieces, piece])
    assert mig_read(desk, 1000) == b""
    other = Desk(Movable())
    other.tell(hello())
    set_state(other, RESUMING)
    for at in range(0, len(stream), 333):
        part = stream[at : at + 333]
        assert other.ask(MIG_WRITE, struct.pack("<II", 8, len(part)) + part) == (OK, 0, b"")
    assert set_state(other, RUNNING) == (OK, 0)
    assert other.ask(READ, access(0, 100, 6))[2][16:] == b"moving"
    other.close()


def test_nonsense_is_refused_and_an_unfinished_stream_leaves_error_until_reset(desk):
    set_state(desk, RESUMING)
    assert desk.ask(MIG_WRITE, struct.pack("<II", 8, 4) + b"evil") == refused(errno.EINVAL)
    assert state(desk) == RESUMING
    assert set_state(desk, RUNNING) == (REFUSED, errno.EINVAL)
    assert state(desk) == ERROR
    assert set_state(desk, RUNNING) == (REFUSED, errno.EINVAL)
    assert desk.ask(RESET) == (OK, 0, b"")
    assert state(desk) == RUNNING
    assert desk.device.migration.calls[-1] == "run"
    assert desk.ask(READ, access(0, 0, 4))[0] == OK


@pytest.mark.parametrize("payload", [b"", bytes(7), bytes(9), struct.pack("<II", 15, 8)])
def test_bad_read_of_the_stream_is_refused(desk, payload):
    set_state(desk, STOP_COPY)
    assert desk.ask(MIG_READ, payload) == refused(errno.EINVAL)
    assert mig_read(desk, 8) == MARK


@pytest.mark.parametrize(
    "payload", [b"", bytes(7), struct.pack("<II", 8, 9) + MARK, struct.pack("<II", 8, 7) + MARK]
)
def test_bad_write_of_the_stream_is_refused(desk, payload):
    set_state(desk, RESUMING)
    assert desk.ask(MIG_WRITE, payload) == refused(errno.EINVAL)
    assert desk.device.migration.incoming == b""


def test_stream_goes_in_pieces_that_the_client_takes():
    desk = Desk(Movable())
    desk.tell(hello(json=b'{"capabilities":{"max_data_xfer_size":4}}\0'))
    set_state(desk, STOP_COPY)
    assert desk.ask(MIG_READ, struct.pack("<II", 13, 5)) == refused(errno.EINVAL)
    assert mig_read(desk, 4) == MARK[:4]
    set_state(desk, RESUMING)
    assert desk.ask(MIG_WRITE, struct.pack("<II", 8, 5) + MARK[:5]) == refused(errno.EINVAL)
    desk.close()


# Resets, and clients that leave


@pytest.mark.parametrize("where", VALID)
def test_reset_ends_the_stream_and_lets_the_device_run(desk, where):
    if where != RUNNING:
        bring(desk, where)
    assert desk.ask(RESET) == (OK, 0, b"")
    assert state(desk) == RUNNING
    assert desk.device.log[-1] == ("reset",)
    ended = {STOP_COPY: ["end"], PRE_COPY: ["end"], RESUMING: ["finish"]}.get(where, [])
    running = [] if where in (RUNNING, PRE_COPY) else ["run"]
    assert desk.device.migration.calls == ended + running


@pytest.mark.parametrize(
    ("where", "then"),
    [(STOP, STOP), (RUNNING, RUNNING), (STOP_COPY, STOP), (PRE_COPY, RUNNING), (RESUMING, ERROR)],
)
def test_device_stays_as_it_is_when_its_client_leaves_and_the_stream_ends(where, then):
    device, mover = Movable(), None
    mover = Mover(device.migration)
    for session in range(2):
        desk = Desk(device)
        desk.session = Session(device, desk.space, desk.trace, "desk", mover)
        desk.courier = desk.session.carrier = Courier(desk.session)
        desk.tell(hello())
        if session == 0:
            set_state(desk, where)
        else:
            assert state(desk) == then
        desk.session.close()
    device.close()


def test_client_that_leaves_while_the_device_comes_to_rest_leaves_it_running(desk):
    stream = desk.device.migration
    stream.slow = True
    set_state(desk, STOP_COPY)
    desk.session.close()
    stream.stopping(None)
    assert stream.calls == ["stop", "run"]
