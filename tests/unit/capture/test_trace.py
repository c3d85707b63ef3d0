"""A conversation that is recorded, shown, and had once more."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from hostctl.cli.main import run
from mdevemu.capture.labels import Labels, StandIns
from mdevemu.capture.pcapng import Captured, Writer, read
from mdevemu.capture.proxy import Proxy
from mdevemu.capture.replay import replay
from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.vfio_user import Client, Irq
from tests.support.serving import ROOT, Serving, short_folder, until
from tests.support.vfio_user import OK, frame, hello, memfd, open_fds, served

UUID = "11111111-2222-4333-8444-555555555555"


def play(path):
    """What a driver might do: every kind of message, descriptors, and refusals."""
    with Client(path) as client, memfd(1 << 20) as ram:
        client.regions()
        client.irq_info(2)
        client.region_read(7, 0, 4096)
        client.map_dma(0, 1 << 20, ram)
        client.keep_dma(0x100_0000, bytearray(1 << 16))
        client.write_u16(7, 4, 6)
        with client.interrupt(Irq.MSIX, 0):
            client.write_u32(0, 0x20, 1)
            client.write_u64(0, 0x28, 0x1234, posted=True)
            assert client.read_u64(0, 0x28) == 0x1234
            # A queue in memory that is had by message: the device asks for a descriptor.
            client.write_u64(0, 0x4000, 0x100_0000)
            client.write_u64(0, 0x4008, 0x100_8000)
            client.write_u32(0, 0x4018, 4)
            client.write_u32(0, 0x401C, 1)
            client.write_u32(2, 0, 1)
            client.attend(0.2)
            client.region_write_multi([(0, 0x28, bytes(8))])
            with pytest.raises(RequestError):
                client.unmap_dma(0x5000, 0x1000)
            client.disable_interrupts(Irq.MSIX)
        with pytest.raises(RequestError):
            client.features.get(0x1234)
        for span in client.io_fds(2):
            span.file.close()
        client.reset()
        client.unmap_all_dma()


@contextmanager
def emulator():
    with short_folder() as folder:
        serving = Serving(folder)
        try:
            control = serving.control()
            yield folder, lambda: control("create-mdev", type="mdevemu-native", uuid=UUID)["socket"]
            code, _, err = serving.stop()
            assert (code, err) == (0, "")
        finally:
            serving.process.kill()


def listening(path):
    """Somebody listens there, which comes a moment after the file does (__SO_ACCEPTCON)."""
    rows = [row.split() for row in Path("/proc/net/unix").read_text().splitlines()]
    return any(row[3] == "00010000" and row[-1] == str(path) for row in rows)


@contextmanager
def recording(server, file, listen):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "hostctl", "trace", "record", server, str(file)),
            *("--listen", str(listen), "--json"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: listening(listen) or process.poll() is not None)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A recording of ``play``."""
    file = tmp_path_factory.mktemp("trace") / "talk.pcapng"
    with emulator() as (folder, create), recording(create(), file, folder / "proxy") as process:
        play(folder / "proxy")
        out, err = process.communicate(timeout=20)
        assert process.returncode == 0, err
        totals = json.loads(out)
        assert totals["ended"] == "the client hung up"
        assert not (folder / "proxy").exists()
    messages = list(read(file))
    assert totals["to_server"] + totals["to_client"] == len(messages)
    return file


def test_recording_has_every_message_with_its_descriptors(recorded):
    messages = list(read(recorded))
    assert messages[0].to_server
    commands = {struct.unpack_from("<H", each.data, 2)[0] for each in messages}
    assert commands == {*range(1, 14), 15, 16}
    fds = [each.fds for each in messages if each.fds]
    assert ("memory:1",) in fds  # the HBM aperture, from the server
    assert ("eventfd",) in fds
    assert ("memory:2",) in fds  # guest memory
    assert [each.time for each in messages] == sorted(each.time for each in messages)


def test_recording_is_shown_in_words(recorded, capsys):
    assert run(["trace", "show", str(recorded)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "-> " in lines[0]
    assert "VERSION" in lines[0]
    assert 'json={"capabilities":{"max_msg_fds":16,' in lines[0]
    assert any("<-" in line and "DMA_READ" in line and "request" in line for line in lines)
    assert any("DMA_UNMAP" in line and "refusal" in line and "errno=2" in line for line in lines)
    assert any("DMA_MAP" in line and "fds=memory:2" in line for line in lines)


def test_recording_is_shown_as_data(recorded, capsys):
    assert run(["trace", "show", str(recorded), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.trace.show/1"
    first = said["messages"][0]
    assert (first["command"], first["to"], first["kind"]) == ("VERSION", "server", "request")
    posted = [each for each in said["messages"] if each["kind"] == "posted"]
    assert posted[0]["payload"] == {
        "offset": 0x28,
        "region": 0,
        "count": 8,
        "data": (0x1234).to_bytes(8, "little").hex(),
    }


def test_fresh_device_answers_the_same_bytes(recorded, capsys):
    with emulator() as (_, create):
        assert run(["trace", "replay", str(recorded), create(), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["differences"] == []
    assert said["sent"] + said["compared"] == len(list(read(recorded)))


def test_paced_replay_takes_as_long_as_the_conversation_did(tmp_path, capsys):
    file, answers = tmp_path / "slow.pcapng", []
    with served(tmp_path / "sock") as host:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(host.path))
            client.sendall(hello(1))
            answers.append(client.recv(1000))
        with file.open("wb") as opened:
            writer = Writer(opened)
            writer.add(Captured(0, True, hello(1)))
            writer.add(Captured(10**6, False, answers[0]))
            writer.add(Captured(300 * 10**6, True, frame(2, 13)))
            writer.add(Captured(301 * 10**6, False, frame(2, 13, b"", OK)))
        begun = time.monotonic()
        assert run(["trace", "replay", str(file), str(host.path), "--paced"]) == 0
        assert 0.3 <= time.monotonic() - begun < 5
    capsys.readouterr()


def test_client_with_a_twin_socket_is_replayed(tmp_path):
    offer = hello(json=b'{"capabilities":{"twin_socket":{"supported":true}}}\0')
    asked = frame(1, 9, struct.pack("<QII", 0, 0, 4))
    with served(tmp_path / "s") as host:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.connect(str(host.path))
            plain.sendall(offer)
            told, [twin], _, _ = socket.recv_fds(plain, 4096, 1)
            os.close(twin)
        until(lambda: not host.server.connected)
        answer = frame(1, 9, struct.pack("<QII4x", 0, 0, 4), OK)
        talk = [
            Captured(0, True, offer, ()),
            Captured(1, False, told, ("socket",)),
            Captured(2, True, asked, ()),
            Captured(3, False, answer, ()),
        ]
        went = replay(talk, host.path, 5.0)
    assert (went.sent, went.compared, went.differences) == (2, 2, [])


def test_other_device_is_a_finding(recorded, capsys):
    with emulator() as (folder, _), served(folder / "other.sock") as host:
        assert run(["trace", "replay", str(recorded), str(host.path), "--timeout", "1"]) == 1
    said = capsys.readouterr().out
    assert "message " in said
    assert said.splitlines()[-1].endswith("differ")


def test_changed_byte_is_found_and_named(recorded, tmp_path, capsys):
    messages = list(read(recorded))
    at = next(n for n, each in enumerate(messages) if not each.to_server and len(each.data) > 4000)
    data = bytearray(messages[at].data)
    data[100] ^= 0x40
    messages[at] = Captured(0, False, bytes(data))
    changed = tmp_path / "changed.pcapng"
    with changed.open("wb") as file:
        writer = Writer(file)
        for each in messages:
            writer.add(each)
    with emulator() as (_, create):
        assert run(["trace", "replay", str(changed), create()]) == 1
    assert f"message {at + 1}: byte 100 is" in capsys.readouterr().out


def test_server_that_says_nothing_ends_the_replay(recorded, tmp_path, capsys):
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen(1)
        path = str(tmp_path / "silent")
        assert run(["trace", "replay", str(recorded), path, "--timeout", "0.2"]) == 1
    assert "nothing came in 0.2 s" in capsys.readouterr().out


def test_message_in_addition_is_a_difference(tmp_path, capsys):
    file = tmp_path / "short.pcapng"
    with file.open("wb") as opened:
        Writer(opened).add(Captured(0, True, hello(1)))
    with served(tmp_path / "sock") as host:
        assert run(["trace", "replay", str(file), str(host.path)]) == 1
    assert "a message in addition" in capsys.readouterr().out


@pytest.mark.parametrize("what", ["show", "replay"])
def test_no_recording_is_the_operators_error(what, tmp_path, capsys):
    (tmp_path / "file").write_bytes(b"x" * 100)
    with served(tmp_path / "sock") as host:
        rest = [str(host.path)] if what == "replay" else []
        assert run(["trace", what, str(tmp_path / "file"), *rest]) == 2
        assert run(["trace", what, str(tmp_path / "none"), *rest]) == 2
    assert "no pcapng file" in capsys.readouterr().err


def test_message_that_is_none_is_refused(tmp_path, capsys):
    file = tmp_path / "bad.pcapng"
    with file.open("wb") as opened:
        Writer(opened).add(Captured(0, True, frame(1, 13)[:-1]))
    with served(tmp_path / "sock") as host:
        assert run(["trace", "replay", str(file), str(host.path)]) == 2
    assert run(["trace", "show", str(file)]) == 2
    assert "a packet that is no vfio-user message" in capsys.readouterr().err


def test_recording_is_never_overwritten(tmp_path, capsys):
    file = tmp_path / "there"
    file.write_text("mine")
    with served(tmp_path / "sock") as host:
        listen = str(tmp_path / "listen")
        assert run(["trace", "record", str(host.path), str(file), "--listen", listen]) == 2
    assert "File exists" in capsys.readouterr().err
    assert file.read_text() == "mine"


def test_interrupt_ends_a_recording_whole(tmp_path):
    file, listen = tmp_path / "talk", tmp_path / "listen"
    with served(tmp_path / "sock") as host, recording(str(host.path), file, listen) as process:
        with Client(listen) as client:
            client.info()
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate(timeout=20)
        assert json.loads(out)["ended"] == "interrupted"
    assert process.returncode == 0
    assert len(list(read(file))) == 4


# The proxy


@contextmanager
def between():
    """A client's socket, a server's socket, and a proxy between them; all that it kept."""
    client, near = socket.socketpair()
    server, far = socket.socketpair()
    kept = []
    proxy = Proxy(near, far, kept.append, iter(range(1000)).__next__)
    thread = threading.Thread(target=proxy.run)
    thread.start()
    try:
        yield client, server, kept, proxy
    finally:
        client.close()
        server.close()
        thread.join()


def test_descriptors_go_through_with_their_message():
    before = open_fds()
    with between() as (client, server, kept, _), memfd() as memory:
        socket.send_fds(client, [frame(1, 2, bytes(32))], [memory.fileno(), memory.fileno()])
        data, fds, _, _ = socket.recv_fds(server, 100, 4)
        assert (data, len(fds)) == (frame(1, 2, bytes(32)), 2)
        for fd in fds:
            assert os.fstat(fd).st_ino == os.fstat(memory.fileno()).st_ino
            os.close(fd)
        assert kept[0].fds == ("memory:1", "memory:1")
    assert open_fds() == before


def test_halves_are_passed_on_when_whole():
    with between() as (client, server, kept, _):
        whole = frame(1, 10, bytes(500))
        client.sendall(whole[:100])
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.recv(1)
        client.sendall(whole[100:])
        server.settimeout(5)
        assert server.recv(1000) == whole
        assert [each.data for each in kept] == [whole]


def test_answer_sent_before_hanging_up_still_arrives():
    with between() as (client, server, kept, proxy):
        server.sendall(frame(1, 1, b"bye", OK))
        server.close()
        assert client.recv(100) == frame(1, 1, b"bye", OK)
        assert client.recv(100) == b""
    assert proxy.totals.ended == "the server hung up"
    assert len(kept) == 1


def test_garbage_ends_the_conversation():
    with between() as (client, server, _, proxy):
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert server.recv(100) == b""
    assert proxy.totals.ended.startswith("the client sent message of")


def test_end_that_does_not_read_holds_the_other_back():
    with between() as (client, server, _, _):
        client.settimeout(0.5)
        big = frame(1, 10, bytes(1 << 20))
        with pytest.raises(TimeoutError):
            client.sendall(big * 100)
        got = 0
        server.settimeout(5)
        while got < len(big):
            got += len(server.recv(1 << 20))


# Stand-ins


def test_same_file_has_the_same_number_and_stand_in():
    labels, stand_ins = Labels(), StandIns()
    with memfd() as one, memfd() as other, Fd(os.eventfd(0)) as event:
        assert [labels.of(fd) for fd in (one, other, one, event)] == [
            "memory:1",
            "memory:2",
            "memory:1",
            "eventfd",
        ]
    first, again = stand_ins.of("memory:1", 4096), stand_ins.of("memory:1", 1 << 20)
    assert os.fstat(first.fileno()).st_ino == os.fstat(again.fileno()).st_ino
    assert os.fstat(first.fileno()).st_size == 1 << 20
    for label in ("socket", "other", "eventfd", "unheard of"):
        stand_ins.of(label, 0).close()
    first.close()
    again.close()
    stand_ins.close()


def test_without_scapy_showing_says_what_to_install_and_the_rest_works(recorded, tmp_path):
    missing = tmp_path / "scapy" / "__init__.py"
    missing.parent.mkdir()
    missing.write_text("raise ModuleNotFoundError('No module named scapy', name='scapy')\n")

    def hostctl(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "hostctl", "trace", *arguments],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=30,
        )

    shown = hostctl("show", str(recorded))
    assert shown.returncode == 3
    assert "scapy is not installed" in shown.stderr
    assert "mdevemu[capture]" in shown.stderr
    with served(tmp_path / "sock") as host:
        replayed = hostctl("replay", str(recorded), str(host.path), "--timeout", "1")
    assert replayed.returncode == 1, replayed.stderr
