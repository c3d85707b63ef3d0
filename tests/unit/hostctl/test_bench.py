"""The bench: its arithmetic, its conversations, and what it says; how fast it is, is no test."""

import contextlib
import os
import socket
import stat
import threading

import pytest

from hostctl.bench import rows, script
from hostctl.bench.player import Player, compiler
from hostctl.bench.stage import pick_cores
from hostctl.errors import HostError
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.framing import Framer
from tests.unit.hostctl.command import Hostctl

needs_compiler = pytest.mark.skipif(compiler() is None, reason="there is no C compiler")


# Arithmetic.


def test_one_of_several_parts_of_several_clients_turns():
    assert rows.each([[0, 100, 200]], 1) == 100
    assert rows.each([[0, 100, 200]], 4) == 25
    # From the first begin to the last end, whoever it was.
    assert rows.each([[50, 100, 200], [100, 200, 450]], 1) == 100


@pytest.mark.parametrize(
    ("percent", "expected"), [(1, 1), (50, 50), (51, 51), (99, 99), (100, 100)]
)
def test_percentile_is_the_turn_that_so_many_do_not_exceed(percent, expected):
    times = [0]
    for turn in range(100, 0, -1):
        times.append(times[-1] + turn)
    assert rows.percentile(times, percent) == expected


def test_percentile_of_a_single_turn_is_that_turn():
    assert rows.percentile([5, 12], 1) == rows.percentile([5, 12], 99) == 7


def test_relation_is_the_median_of_each_rounds_ratio():
    """A round that was slow for both does not count more than the others."""
    assert rows.relation([20, 2000, 30], [10, 1000, 10]) == 2


def test_aim_is_held_up_to_its_limit():
    assert rows.Aim(1.4, "the floor", 1.4).held
    assert not rows.Aim(1.4, "the floor", 1.41).held


def test_row_has_medians_and_is_shown_in_microseconds():
    made = rows.row("read", 1, [3000, 1000, 2000], [1000, 1000, 4000], None)
    assert (made.ours, made.floor, made.ratio) == (2000, 1000, 1.0)
    assert rows.cells(made) == ("read", "1", "2.00", "1.00", "1.00", "")


@pytest.mark.parametrize(
    ("ratio", "held", "verdict"), [(0.2, True, "held"), (3.0, False, "missed")]
)
def test_row_says_whether_its_aim_was_held(ratio, held, verdict):
    made = rows.row("read", 8, [1500], [500], rows.Aim(2, "alone", ratio))
    assert rows.cells(made)[-1] == f"2 of alone: {ratio:.2f}, {verdict}"
    assert rows.record(made) == {
        "name": "read",
        "clients": 8,
        "ours-ns": 1500,
        "floor-ns": 500,
        "ratio": 3,
        "aim": {"limit": 2, "of": "alone", "ratio": ratio, "held": held},
    }


# Conversations.


def message(line):
    """The message that a line of a script sends."""
    _, data, zeros, *_ = line.split()
    framer = Framer()
    sent = bytes.fromhex(data) + bytes(int(zeros))
    framer.space()[: len(sent)] = sent
    framer.received(len(sent))
    found = framer.next()
    assert found is not None
    assert not framer.inside
    return found


def test_read_is_a_region_read_and_expects_its_bytes():
    send, receive = script.read(0, 0x28, 4)
    assert message(send).command == wire.Command.REGION_READ
    assert wire.ACCESS.unpack(message(send).payload) == (0x28, 0, 4)
    assert receive == f"receive {16 + 16 + 4}"


def test_posted_writes_want_no_reply():
    (line,) = script.posted(2, 8, b"\1\2")
    assert message(line).flags == wire.NO_REPLY
    assert message(line).payload == wire.ACCESS.pack(8, 2, 2) + b"\1\2"
    (line,) = script.write_multi([(0, 8, b"\3")] * 3)
    assert message(line).flags == wire.NO_REPLY
    assert len(message(line).payload) == 8 + 3 * 24


def test_lent_memory_has_a_file_of_its_size_or_none():
    assert script.lend(0, 0x2000, file=True)[0].endswith(" 0 8192")
    assert script.lend(0, 0x2000, file=False)[0].endswith(" 0 0")


def test_answer_to_dma_read_has_room_for_address_and_bytes():
    receive, answer = script.asked(64, b"\7")
    assert receive == "receive 32"
    found = message(answer)
    assert found.flags == wire.REPLY
    assert found.payload == bytes(16) + b"\7" + bytes(63)


def test_script_has_its_setup_before_the_loop():
    assert script.script(("take",), ("receive 16",)) == "take\nloop\nreceive 16\nend\n"


# The player.


@pytest.fixture(scope="module")
def player(tmp_path_factory):
    program = compiler()
    if program is None:
        pytest.skip("there is no C compiler")
    return Player(tmp_path_factory.mktemp("player"), program)


@pytest.fixture
def core():
    return pick_cores().server


def test_player_talks_to_its_mirror_and_says_when(player, core):
    turn = script.read(0, 0, 4) + script.posted(0, 0, b"abcd") * 3 + script.lend(0, 4096, file=True)
    playing = player.alone(script.script((), turn), 20, core, core)
    playing.go()
    times = playing.times()
    assert len(times) == 21
    assert times == sorted(times)
    assert times[0] > 0
    playing.stop()


class Peer:
    """A server that hears so many bytes, and answers what it is told to; keeps what it heard."""

    def __init__(self, path, *answers):
        self.heard = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.settimeout(10)
        self._answers = answers
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        client, _ = self._listener.accept()
        with client:
            client.settimeout(10)
            for length, answer in self._answers:
                heard = b""
                while len(heard) < length:
                    heard += client.recv(length - len(heard))
                self.heard.append(heard)
                client.send(answer)
            with contextlib.suppress(OSError):
                client.recv(4096)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._thread.join()
        self._listener.close()


@pytest.mark.parametrize(
    ("flags", "error", "size", "reason"),
    [
        (wire.REPLY | wire.ERROR, 22, 16, "refused: Invalid argument"),
        (wire.REPLY, 0, 20, "length: wrong"),
    ],
)
def test_player_ends_with_what_was_not_in_the_script(
    player, core, tmp_path, flags, error, size, reason
):
    """A server that refuses would be a fast one."""
    lines = script.script((), script.request(wire.Command.DEVICE_RESET, b"", 0))
    with Peer(f"{tmp_path}/s", (16, wire.HEADER.pack(1, 13, size, flags, error))):
        playing = player.against(f"{tmp_path}/s", lines, 1, core)
        playing.go()
        with pytest.raises(HostError, match=reason):
            playing.times()
        playing.stop()


def test_player_counts_turns_and_repeats_what_it_was_asked_for(player, core, tmp_path):
    asked = wire.HEADER.pack(0x4711, 11, 32, 0, 0) + wire.DMA.pack(0xABC000, 2)
    turn = (*script.count(0, 8, 1), *script.asked(2, b"\5"))
    with Peer(f"{tmp_path}/s", (36, asked), (34 + 36, asked)) as peer:
        playing = player.against(f"{tmp_path}/s", script.script((), turn), 2, core)
        playing.go()
        assert len(playing.times()) == 3
        playing.stop()
    first, second = peer.heard
    assert first[-4:] == bytes(4)
    answer, count = second[:34], second[34:]
    assert wire.HEADER.unpack_from(answer) == (0x4711, 11, 34, wire.REPLY, 0)
    assert answer[16:] == wire.DMA.pack(0xABC000, 2) + b"\5\0"
    assert count[-4:] == (1).to_bytes(4, "little")


def test_player_without_a_server_says_so(player, core, tmp_path):
    with pytest.raises(HostError, match="No such file"):
        player.against(f"{tmp_path}/none", script.script((), script.read(0, 0, 4)), 1, core)


@pytest.mark.parametrize(
    "line", ["dance 3", "receive 3", "send zz", "send 00112233445566778899aabb"]
)
def test_player_refuses_a_script_that_it_does_not_know(player, core, line):
    with pytest.raises(HostError, match="broke off"):
        player.alone(script.script((), (line,)), 1, core, core)


# The commands.


@pytest.fixture
def hostctl(tmp_path):
    return Hostctl(tmp_path)


@needs_compiler
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mmio", {"read of 4 bytes", "posted write", "read beside posted writes, p99"}),
        ("dma", {"map and unmap 1 MiB", "DMA_READ of 64 bytes, a command's"}),
    ],
)
def test_bench_measures_everything_with_one_client_and_eight(hostctl, name, expected):
    facts = hostctl.facts("bench", name, "--rounds", "1", "--count", "100")
    assert facts["schema"] == f"mdevemu.hostctl.bench.{name}/1"
    assert (facts["rounds"], facts["count"], facts["skipped"]) == (1, 100, None)
    found = facts["rows"]
    assert {row["name"] for row in found} >= expected
    assert {row["clients"] for row in found} >= {1, 8}
    for row in found:
        assert row["ratio"] == pytest.approx(row["ours-ns"] / row["floor-ns"])
        if aim := row["aim"]:
            assert aim["held"] == (aim["ratio"] <= aim["limit"])


def test_bench_is_skipped_with_a_reason_where_there_is_no_compiler(tmp_path):
    bare = Hostctl(tmp_path, PATH=str(tmp_path))
    done = bare.run("bench", "mmio")
    assert (done.returncode, done.stdout) == (0, "")
    assert "skipped: there is no C compiler (cc, gcc, clang)" in done.stderr
    facts = bare.facts("bench", "dma")
    assert "no C compiler" in facts["skipped"]
    assert facts["rows"] == []


def test_compiler_that_fails_is_the_machines_fault(tmp_path):
    fake = tmp_path / "cc"
    fake.write_text("#!/bin/sh\necho no headers here >&2\nexit 1\n")
    fake.chmod(stat.S_IRWXU)
    done = Hostctl(tmp_path, PATH=f"{tmp_path}{os.pathsep}{os.defpath}").run("bench", "mmio")
    assert done.returncode == 3
    assert "cannot compile the baseline: no headers here" in done.stderr


@pytest.mark.parametrize("arguments", [("--count", "1"), ("--rounds", "0"), ("--rounds", "many")])
def test_bench_refuses_what_it_cannot_measure(hostctl, arguments):
    done = hostctl.run("bench", "mmio", *arguments)
    assert done.returncode == 2
    assert arguments[0] in done.stderr
