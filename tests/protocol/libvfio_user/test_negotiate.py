"""VERSION: the first message, what its JSON may be, and what the answer says."""

import errno
import json
import struct

import pytest

from mdevemu.vfio_user.session import State
from tests.support.vfio_user import OK, VERSION, Desk, Raw, frame, open_fds, refused


@pytest.fixture
def desk():
    """A session that waits for VERSION."""
    before = open_fds()
    desk = Desk()
    yield desk
    desk.close()
    assert open_fds() == before


def offer(text=b"", major=0, minor=1, end=b"\0"):
    return struct.pack("<HH", major, minor) + (text + end if text else b"")


def refuses(desk, payload, command=VERSION):
    """It is refused, and there is no second try."""
    assert desk.ask(command, payload) == refused(errno.EINVAL)
    assert desk.session.state is State.OVER


def agreed(desk, payload):
    """The capabilities that we tell."""
    flags, error, reply = desk.ask(VERSION, payload)
    assert (flags, error) == (OK, 0)
    assert reply[:4] == struct.pack("<HH", 0, 1)
    assert reply.endswith(b"}\0")
    return json.loads(reply[4:-1])["capabilities"]


def test_short_write(desk):
    refuses(desk, b"")


def test_long_write(host):
    """A size that no message may have ends the connection as soon as the header is there."""
    with Raw(host.path) as raw:
        raw.send(frame(1, VERSION)[:4] + struct.pack("<III", (1 << 20) + (1 << 16), 0, 0))
        assert raw.reply() is None


def test_bad_command(desk):
    refuses(desk, offer(), command=999)


def test_invalid_major(desk):
    refuses(desk, offer(major=999))


def test_invalid_json_missing_NUL(desk):
    refuses(desk, offer(b"{}", end=b""))


def test_invalid_json_missing_closing_brace(desk):
    refuses(desk, offer(b"{"))


def test_invalid_json_missing_closing_quote(desk):
    refuses(desk, offer(b'"'))


def test_invalid_json_bad_capabilities_object(desk):
    refuses(desk, offer(b'{ "capabilities": "23" }'))


def test_invalid_json_bad_max_fds(desk):
    refuses(desk, offer(b'{ "capabilities": { "max_msg_fds": "foo" } }'))


def test_invalid_json_bad_max_fds2(desk):
    refuses(desk, offer(b'{ "capabilities": { "max_msg_fds": -1 } }'))


def test_invalid_json_bad_max_fds3(desk):
    refuses(desk, offer(b'{ "capabilities": { "max_msg_fds": 1025 } }'))


def test_invalid_json_bad_migration_object(desk):
    refuses(desk, offer(b'{ "capabilities": { "migration": "23" } }'))


def test_invalid_json_bad_pgsize(desk):
    refuses(desk, offer(b'{ "capabilities": { "migration": { "pgsize": "foo" } } }'))


def test_invalid_json_bad_pgsize2(desk):
    refuses(desk, offer(b'{ "capabilities": { "migration": { "pgsize": 4095 } } }'))


def test_valid_negotiate_no_json(desk):
    """Whoever offers nothing is told our limits all the same."""
    told = agreed(desk, offer())
    assert told["max_msg_fds"] == 16
    assert told["max_data_xfer_size"] == 1 << 20


def test_valid_negotiate_empty_json(desk):
    assert agreed(desk, offer(b"{}"))["max_msg_fds"] == 16


def test_valid_negotiate_json(desk):
    """The largest that libvfio-user takes."""
    text = b'{ "capabilities": { "max_msg_fds": 1024, "max_data_xfer_size": 1048576 } }'
    assert agreed(desk, offer(text))["max_data_xfer_size"] == 1 << 20
    assert desk.session.peer.max_msg_fds == 1024
