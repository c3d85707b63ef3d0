"""The client's migration, dirty pages, region I/O fds and twin socket, against a real server."""

import asyncio
import errno
import os
import socket
import struct
import threading

import pytest

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.fds import Fd
from mdevemu.units import MIB
from mdevemu.vfio_user import Client, Doorbell, Irq, MigState
from mdevemu.vfio_user.features_wire import Feature, MigrationFlags, Operation
from mdevemu.vfio_user.iofds_wire import IoFdType
from tests.support.movable import Movable, Noting
from tests.support.vfio_user import Host, eventually, hello, open_fds

PAGE = 4096


class Ringing(Movable):
    doorbells = (Doorbell(0, 0x10, 4, 7), Doorbell(0, 0x100, 0x100))


@pytest.fixture
def host(tmp_path):
    made = Host(tmp_path / "s", Ringing(), Noting())
    yield made
    made.close()


@pytest.fixture
def client(host):
    with Client(host.path) as made:
        yield made


def test_features_are_probed_without_harm(client):
    client.features.probe(Feature.MIGRATION, Operation.GET)
    client.features.probe(Feature.MIG_DEVICE_STATE, Operation.GET | Operation.SET)
    with pytest.raises(RequestError) as refused:
        client.features.probe(3, Operation.GET)
    assert refused.value.number == errno.ENOTSUP
    assert client.migration.flags() == MigrationFlags.STOP_COPY | MigrationFlags.PRE_COPY
    assert client.migration.state() is MigState.RUNNING


def test_device_moves_between_two_servers(client, host, tmp_path):
    client.region_write(0, 8, b"the state")
    other = Host(tmp_path / "t", Movable())
    try:
        with Client(other.path) as target:
            client.migration.set_state(MigState.PRE_COPY)
            client.write_u32(0, 0x80, 5)
            client.migration.set_state(MigState.STOP_COPY)
            target.migration.set_state(MigState.RESUMING)
            client.migration.largest = 1000
            target.migration.largest = 77
            for piece in client.migration.stream():
                target.migration.write(piece)
            target.migration.set_state(MigState.RUNNING)
            assert target.region_read(0, 8, 9) == b"the state"
            assert target.read_u32(0, 0x80) == 5
    finally:
        other.close()


def test_device_that_one_client_stopped_stays_so_for_the_next(host):
    with Client(host.path) as client:
        client.migration.set_state(MigState.STOP)
    eventually(lambda: not host.server.connected)
    with Client(host.path) as client:
        assert client.migration.state() is MigState.STOP
        client.reset()
        assert client.migration.state() is MigState.RUNNING


def test_dirty_pages_are_told_by_address(client, host):
    memory = Fd(os.memfd_create("ram"))
    os.ftruncate(memory.fileno(), MIB)
    client.map_dma(MIB, MIB, memory)
    assert client.dirty.start(PAGE, [(MIB, MIB)]) == PAGE
    host.space.note(MIB + 3 * PAGE)
    host.space.note(MIB + 64 * PAGE)
    assert client.dirty.pages(MIB, MIB) == [MIB + 3 * PAGE, MIB + 64 * PAGE]
    assert client.dirty.pages(MIB, MIB) == []
    host.space.note(MIB)
    assert client.dirty.unmap(MIB, MIB) == (1).to_bytes(32, "little")
    client.dirty.stop()
    with pytest.raises(RequestError):
        client.dirty.report(MIB, MIB)
    memory.close()


def test_io_fds_ring_the_device(client, host):
    before = open_fds()
    by_value, any_access = client.io_fds(0)
    assert (by_value.kind, by_value.offset, by_value.value) == (IoFdType.IOEVENTFD, 0x10, 7)
    os.eventfd_write(by_value.file.fileno(), 1)
    eventually(lambda: ("write", 0, 0x10, b"\7\0\0\0") in host.device.log)
    with socket.socket(fileno=any_access.file.release()) as kvm:
        kvm.settimeout(5)
        kvm.send(struct.pack("<I4xQQQ", 2 << 4, any_access.value, 0x20, 0))
        assert len(kvm.recv(64)) == 32
    by_value.file.close()
    assert client.io_fds(1 + 1) == []
    # What the server keeps of its own: an eventfd and both ends of a socket.
    assert open_fds() == before + 3


def test_unmasking_without_a_message(client, host):
    with client.unmask_intx_by() as end_of_interrupt:
        end_of_interrupt.fire()
        eventually(lambda: ("unmask", 0, 0, 1) in host.device.log)
        client.disable_interrupts(Irq.INTX)


def test_interrupt_can_be_awaited(client):
    async def first():
        with client.interrupt(Irq.MSIX, 3) as vector:
            waiting = asyncio.ensure_future(vector.fired())
            await asyncio.sleep(0)
            assert not waiting.done()
            client.set_irqs(Irq.MSIX, 0x21, 3, 1)
            return await asyncio.wait_for(waiting, 5)

    assert asyncio.run(first()) == 1


# The twin socket


def test_what_the_device_asks_goes_over_the_twin_socket(host):
    with Client(host.path, twin=True) as client:
        assert client.offered["twin_socket"] == {"supported": True, "fd_index": 0}
        memory = bytearray(MIB)
        memory[16:20] = b"data"
        client.keep_dma(0, memory)
        answers = []
        lender = host.space.client
        # From the loop's own thread, as the device would.
        host.device.reset = lambda: lender.fetch(16, 4, answers.append)
        client.reset()
        client.attend(0.2)
        assert answers == [b"data"]
        host.device.reset = lambda: lender.store(32, b"back", answers.append)
        client.reset()
        client.attend(0.2)
        assert (bytes(memory[32:36]), answers[1:]) == (b"back", [b""])


def test_request_and_question_may_wait_for_each_other(host):
    """The device only finishes a reset once its question was answered."""
    asked = []

    def quiesce(done):
        host.space.client.fetch(0, 4, lambda answer: (asked.append(answer), done(None)))

    with Client(host.path, twin=True) as client:
        client.keep_dma(0, bytearray(b"1234" * 1024))
        host.device.quiesce = quiesce
        client.reset()
    assert asked == [b"1234"]


def test_nobody_who_did_not_ask_gets_a_twin_socket(client):
    assert "twin_socket" not in client.offered
    assert not client.server.twin_socket


def test_twin_socket_goes_with_its_connection(host):
    before = open_fds()
    with Client(host.path, twin=True):
        pass
    eventually(lambda: not host.server.connected)
    assert open_fds() == before


def twin_of(host):
    """A plain client's two sockets."""
    main = socket.socket(socket.AF_UNIX)
    main.settimeout(5)
    main.connect(str(host.path))
    main.sendall(hello(json=b'{"capabilities":{"twin_socket":{"supported":true}}}\0'))
    _, fds, _, _ = socket.recv_fds(main, 4096, 4)
    [number] = fds
    twin = socket.socket(fileno=number)
    twin.settimeout(5)
    return main, twin


@pytest.mark.parametrize(
    "nonsense",
    [b"", struct.pack("<HHIII", 1, 9, 16, 0, 0), struct.pack("<HHIII", 1, 11, 16, 1, 0), bytes(16)],
    ids=["closed", "a request", "a reply to nothing", "no message"],
)
def test_nonsense_on_the_twin_socket_ends_the_connection(host, nonsense):
    main, twin = twin_of(host)
    with main, twin:
        twin.sendall(nonsense)
        if not nonsense:
            twin.close()
        assert main.recv(16) == b""


def test_answer_beside_the_twin_socket_ends_the_connection(host):
    main, twin = twin_of(host)
    with main, twin:
        host.loop.after(0, lambda: host.space.client.fetch(0, 4, lambda answer: None))
        os.eventfd_write(host.nudge.fileno(), 1)
        question = twin.recv(64)
        main.sendall(question[:8] + b"\1" + question[9:] + b"data")
        assert main.recv(16) == b""


def test_client_refuses_a_twin_socket_that_is_none():
    before = open_fds()
    ours, theirs = socket.socketpair()
    reply = b'\0\0\1\0{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}\0'

    def serve():
        with theirs, Fd(os.memfd_create("no socket")) as wrong:
            theirs.recv(4096)
            head = struct.pack("<HHIII", 1, 1, 16 + len(reply), 1, 0)
            socket.send_fds(theirs, [head + reply], [wrong.fileno()])
            theirs.recv(1)

    thread = threading.Thread(target=serve)
    thread.start()
    with pytest.raises(ProtocolError, match="twin socket"):
        Client(ours, twin=True)
    thread.join()
    assert open_fds() == before
