"""The agent's end of the line."""

import os
import socket
import tty

import pytest

from guest.errors import NotThere
from guest.link import Link, find_port
from guest.protocol import Garbage, encode


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    link = Link(theirs.detach())
    yield link, ours
    link.close()
    ours.close()


def make_port(tmp_path, entry, name):
    folder = tmp_path / "sys/class/virtio-ports" / entry
    folder.mkdir(parents=True)
    if name is not None:
        (folder / "name").write_text(name + "\n")


def test_find_port_without_udev_uses_sysfs_names(tmp_path):
    make_port(tmp_path, "vport0p0", None)
    make_port(tmp_path, "vport0p1", "org.other")
    make_port(tmp_path, "vport1p3", "org.wanted")
    found = find_port("org.wanted", f"{tmp_path}/dev", f"{tmp_path}/sys")
    assert found == f"{tmp_path}/dev/vport1p3"


def test_find_port_with_udev_uses_its_link(tmp_path):
    (tmp_path / "dev/virtio-ports").mkdir(parents=True)
    (tmp_path / "dev/virtio-ports/org.wanted").touch()
    found = find_port("org.wanted", f"{tmp_path}/dev", f"{tmp_path}/sys")
    assert found == f"{tmp_path}/dev/virtio-ports/org.wanted"


def test_find_port_unknown_names_those_there_are(tmp_path):
    make_port(tmp_path, "vport0p1", "org.other")
    with pytest.raises(NotThere, match=r"org\.wanted.*org\.other"):
        find_port("org.wanted", f"{tmp_path}/dev", f"{tmp_path}/sys")


def test_find_port_on_a_machine_without_ports_says_so(tmp_path):
    with pytest.raises(NotThere, match="none"):
        find_port("org.wanted", f"{tmp_path}/dev", f"{tmp_path}/sys")


def test_receive_nothing_there_does_not_wait(ends):
    link, _ = ends
    assert list(link.receive()) == []
    assert link.connected
    assert not link.ended


def test_receive_messages_and_garbage_in_order(ends):
    link, ours = ends
    ours.sendall(encode({"execute": "ping"}) + b"what?\n")
    first, second = link.receive()
    assert first == {"execute": "ping"}
    assert isinstance(second, Garbage)


def test_receive_end_of_a_socket_ends_the_link(ends):
    link, ours = ends
    ours.close()
    assert list(link.receive()) == []
    assert link.ended
    assert not link.connected


def test_send_without_a_host_goes_nowhere(ends):
    link, ours = ends
    ours.close()
    list(link.receive())
    link.send({"event": "x", "data": {}})
    assert link.pending == 0
    assert link.flush()


def test_flush_full_line_keeps_the_rest_for_later(ends):
    link, ours = ends
    message = {"event": "x", "data": {"text": "y" * 500_000}}
    link.send(message)
    assert not link.flush()
    assert 0 < link.pending < len(encode(message))
    taken = b""
    while len(taken) < len(encode(message)):
        taken += ours.recv(1 << 20)
        link.flush()
    assert taken == encode(message)
    assert link.pending == 0


def test_drop_half_written_line_is_ended_before_the_next(ends):
    link, ours = ends
    link.send({"event": "x", "data": {"text": "y" * 500_000}})
    assert not link.flush()
    link.drop()
    link.send({"return": {}, "id": 1})
    taken = b""
    while not taken.endswith(b'"id":1}\n'):
        link.flush()
        taken += ours.recv(1 << 20)
    assert taken.splitlines()[-1] == b'{"return":{},"id":1}'
    assert link.pending == 0


def test_character_device_survives_its_host():
    master, slave = os.openpty()
    tty.setraw(slave)
    link = Link(slave)
    os.write(master, encode({"execute": "ping"}))
    assert list(link.receive()) == [{"execute": "ping"}]
    assert list(link.receive()) == []
    assert link.connected
    assert not link.ended
    link.close()
    os.close(master)
