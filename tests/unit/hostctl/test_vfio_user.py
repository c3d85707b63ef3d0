"""``hostctl vfio-user`` against our server, and against servers that do what they like."""

import gc
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hostctl.cli.main import run
from tests.support.movable import Movable, Noting
from tests.support.serving import Serving, short_folder
from tests.support.vfio_user import QEMU_JSON, Host, frame

VERSION, GET_INFO, REGION_INFO, IRQ_INFO, READ = 1, 4, 5, 7, 9
REPLY = 1


@pytest.fixture(scope="module")
def device() -> Iterator[str]:
    with short_folder() as folder:
        serving = Serving(folder)
        yield serving.control()("create-mdev", type="mdevemu-native")["socket"]
        code, _, err = serving.stop()
        assert (code, err) == (0, "")


def test_lspci_prints_the_device_with_its_sizes(device, capsys):
    assert run(["vfio-user", "lspci", device]) == 0
    said = capsys.readouterr().out
    assert said.startswith("00:00.0 Processing accelerators [1200]: Device [1234:acc1]\n")
    assert "[size=64K]" in said
    assert "Address Translation Service (ATS)" in said


def test_lspci_as_data(device, capsys):
    assert run(["vfio-user", "lspci", device, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.vfio-user.lspci/1"
    assert [bar["size"] for bar in said["bars"]] == [0x10000, 0x1000, 0x10000, 0x400000]


def test_probe_tells_what_our_server_has(device, capsys):
    assert run(["vfio-user", "probe", device, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["schema"] == "mdevemu.hostctl.vfio-user.probe/1"
    assert said["capabilities"]["max_msg_fds"] == 16
    assert said["flags"] == ["RESET", "PCI"]
    assert said["regions"][4]["areas"] == [{"offset": 0, "size": 0x400000}]
    assert [irq["count"] for irq in said["irqs"]] == [1, 0, 5, 1, 1]
    answers = {(each["command"], each["request"]): each["outcome"] for each in said["answers"]}
    assert answers["DMA_MAP", "without a descriptor"] == "ok"
    assert answers["REGION_WRITE_MULTI", "no writes"] == "ok"
    assert answers["DMA_UNMAP", "with a dirty bitmap"] == "EINVAL"  # nothing is being logged
    assert answers["DEVICE_GET_REGION_IO_FDS", "of BAR 0"] == "ok"
    assert answers["MIG_DATA_WRITE", "while running"] in ("ENOTSUP", "EINVAL")
    assert answers["command 127", "that nobody knows"] == "ENOTSUP"
    assert said["capabilities"]["twin_socket"] == {"supported": True, "fd_index": 0}
    assert said["limits"]["twin_socket"]


def test_probe_tells_of_migration_and_logging(tmp_path, capsys):
    host = Host(tmp_path / "s", Movable(), Noting())
    try:
        assert run(["vfio-user", "probe", str(host.path), "--json"]) == 0
    finally:
        host.close()
    said = json.loads(capsys.readouterr().out)
    answers = {(each["command"], each["request"]): each["outcome"] for each in said["answers"]}
    asked = [outcome for (command, _), outcome in answers.items() if command == "DEVICE_FEATURE"]
    assert set(asked) == {"ok"}
    assert answers["MIG_DATA_READ", "while running"] == "EINVAL"
    assert said["limits"]["migration"] == 4096
    assert host.device.migration.calls == []


def test_probe_leaves_the_device_as_it_was(device, capsys):
    for _ in range(2):
        assert run(["vfio-user", "probe", device]) == 0
    tables = capsys.readouterr().out.split("version ")
    assert tables[1] == tables[2]


@pytest.mark.parametrize("command", ["lspci", "probe"])
def test_no_socket_is_the_operators_error(command, tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert run(["vfio-user", command, str(tmp_path / "none")]) == 2
    assert run(["vfio-user", command, str(file)]) == 2
    assert run(["vfio-user", command, "\0"]) == 2
    said = capsys.readouterr().err
    assert "No such file" in said
    assert "is no socket" in said


@pytest.mark.parametrize("command", ["lspci", "probe"])
def test_socket_that_nobody_listens_on_is_the_machines_error(command, tmp_path, capsys):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "left"))
    assert run(["vfio-user", command, str(tmp_path / "left")]) == 3
    assert "nobody listens there" in capsys.readouterr().err


# Servers of which anything may be expected

Script = Callable[[int, bytes], bytes | None]
"""Payload of the reply to a command, or None to hang up."""


class Stranger:
    """A server that answers by a script, to any number of clients in turn."""

    def __init__(self, path: Path, script: Script) -> None:
        self.path = path
        self._script = script
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(8)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            client, _ = self._socket.accept()
            with client:
                try:
                    if not self._talk(client):
                        return
                except ConnectionError:
                    continue  # it has had enough of us

    def _talk(self, client: socket.socket) -> bool:
        """Answer until it is over; False once the test is."""
        while len(head := client.recv(16, socket.MSG_WAITALL)) == 16:
            number, command, size, _, _ = struct.unpack("<HHIII", head)
            if command == 0xFFFF:
                return False
            payload = client.recv(size - 16, socket.MSG_WAITALL) if size > 16 else b""
            answer = self._script(command, payload)
            if answer is None:
                return True
            if answer[:3] == b"RAW":
                client.sendall(answer[3:])
            elif answer != b"SILENT":
                client.sendall(frame(number, command, answer, REPLY))
        return True

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(str(self.path))
            last.sendall(frame(0, 0xFFFF))
            self._thread.join()
        self._socket.close()


def decent(command: int, payload: bytes) -> bytes:
    """A server with one BAR and a config space that is all zeros."""
    if command == VERSION:
        return struct.pack("<HH", 0, 1) + QEMU_JSON
    if command == GET_INFO:
        return struct.pack("<IIII", 16, 3, 9, 5)
    if command == REGION_INFO:
        index = struct.unpack_from("<I", payload, 8)[0]
        size = {0: 4096, 7: 256}.get(index, 0)
        return struct.pack("<IIIIQQ", 32, 3, index, 0, size, 0)
    if command == IRQ_INFO:
        return struct.pack("<IIII", 16, 1, struct.unpack_from("<I", payload, 8)[0], 1)
    if command == READ:
        return payload + bytes(struct.unpack_from("<QII", payload)[2])
    return payload


def but(command: int, answer: bytes | Script | None) -> Script:
    """Decent, but for one command."""

    def script(asked: int, payload: bytes) -> bytes | None:
        if asked != command:
            return decent(asked, payload)
        return answer(asked, payload) if callable(answer) else answer

    return script


@pytest.fixture
def stranger(tmp_path: Path) -> Iterator[Callable[[Script], str]]:
    made: list[Stranger] = []

    def listen(script: Script) -> str:
        made.append(Stranger(tmp_path / "sock", script))
        return str(made[-1].path)

    yield listen
    for each in made:
        each.close()


def test_decent_stranger_is_listed_and_probed(stranger, capsys):
    path = stranger(decent)
    assert run(["vfio-user", "lspci", path]) == 0
    assert run(["vfio-user", "probe", path]) == 0
    assert "Region 0" in capsys.readouterr().out


FLOOD = b"RAW" + frame(9, 11, struct.pack("<QQ", 0, 4)) * 200
HOSTILE: dict[str, Script] = {
    "hangs up at once": lambda command, payload: None,
    "says nothing": lambda command, payload: b"SILENT",
    "is no vfio-user server": lambda command, payload: b"RAWHTTP/1.1 400 Bad Request\r\n\r\n",
    "is of another version": but(VERSION, struct.pack("<HH", 1, 0) + QEMU_JSON),
    "has JSON without end": but(VERSION, struct.pack("<HH", 0, 1) + b"[" * 5000 + b"\0"),
    "has capabilities that are none": but(VERSION, struct.pack("<HH", 0, 1) + b"[]\0"),
    "hangs up at information": but(GET_INFO, None),
    "has no information": but(GET_INFO, b""),
    "answers another command": but(GET_INFO, b"RAW" + frame(2, 5, bytes(16), REPLY)),
    "announces a message of 4 GiB": but(
        GET_INFO, b"RAW" + struct.pack("<HHIII", 2, 4, 2**32 - 1, 1, 0)
    ),
    "only asks": but(GET_INFO, FLOOD),
    "says nothing about regions": but(REGION_INFO, b"SILENT"),
    "needs 4 GiB for a region": but(REGION_INFO, struct.pack("<IIIIQQ", 2**32 - 1, 15, 0, 0, 1, 0)),
    "has capabilities of regions in a circle": but(
        REGION_INFO,
        struct.pack("<IIIIQQ", 64, 15, 0, 32, 4096, 0)
        + struct.pack("<HHIIIQQ", 9, 1, 32, 0, 0, 0, 0),
    ),
    "reads too little": but(READ, lambda command, payload: payload),
}


@pytest.mark.parametrize("command", ["lspci", "probe"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_server_is_a_named_error_in_time(name, command, stranger, capsys):
    if (name, command) == ("reads too little", "probe"):
        pytest.skip("the config space is not read")
    path = stranger(HOSTILE[name])
    begun = time.monotonic()
    status = run(["vfio-user", command, path, "--timeout", "0.3", "--json"])
    assert time.monotonic() - begun < 5
    assert status in (4, 124)
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["kind"] in ("ProtocolError", "RequestError", "TimedOut")
    assert path in error["message"] or error["kind"] == "RequestError" or error["message"]


def test_server_with_a_billion_regions_is_looked_at_for_so_long(stranger, capsys):
    info = struct.pack("<IIII", 16, 3, 2**32 - 1, 2**32 - 1)
    path = stranger(but(GET_INFO, info))
    assert run(["vfio-user", "probe", path, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (len(said["regions"]), len(said["irqs"])) == (32, 16)


def test_server_that_hangs_up_at_what_it_does_not_know_is_asked_on(stranger, capsys):
    path = stranger(lambda command, payload: None if command > 9 else decent(command, payload))
    assert run(["vfio-user", "probe", path, "--json", "--timeout", "0.5"]) == 0
    said = json.loads(capsys.readouterr().out)
    outcomes = {each["command"]: each["outcome"] for each in said["answers"]}
    assert outcomes["REGION_WRITE_MULTI"] == outcomes["command 127"] == "closes the connection"
    assert outcomes["REGION_READ"] == "ok"


def test_names_from_a_server_cannot_move_the_cursor(stranger, capsys):
    evil = b'{"capabilities": {"\\u001b[2J": "\\u001b[31m"}}\0'
    path = stranger(but(VERSION, struct.pack("<HH", 0, 1) + evil))
    assert run(["vfio-user", "probe", path]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_no_descriptor_is_left_open(stranger, capsys):
    path = stranger(HOSTILE["reads too little"])
    gc.collect()  # what earlier tests left is not ours
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        run(["vfio-user", "lspci", path])
        run(["vfio-user", "probe", path])
    capsys.readouterr()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= before
