"""A kernel, a module, a command in a throw-away VM, and every way in which it may go wrong.

The module is docs/examples/probe, built against the headers of the guests' kernel.
"""

import errno
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from hostctl.errors import ModuleRefused, TimedOut
from hostctl.output import Output
from hostctl.vm.modules import Module
from hostctl.vm.run import Request, guest
from images.sysroot import Sysroot
from tests.unit.hostctl.command import PROJECT, Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

SECONDS = 300
MAGIC = "magic 0x31434341, version 0x10002"


@pytest.fixture
def hostctl() -> Iterator[Hostctl]:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        found = Hostctl(Path(name))
        yield found
        assert found.left_nothing()


def sources(folder: Path) -> Path:
    """A copy of the module's sources."""
    return Path(shutil.copytree(PROJECT / "docs/examples/probe", folder / "probe"))


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module."""
    folder = sources(tmp_path_factory.mktemp("module"))
    built = Hostctl(folder).facts("module", "build", str(folder), timeout=SECONDS)
    assert built["release"] == Sysroot.ensure().kernel_release
    assert built["modules"] == [str(folder / "probe.ko")]
    return folder / "probe.ko"


@pytest.fixture(scope="module")
def kernel() -> list[str]:
    """Options for a kernel as an operator has it: an image, and the folder of its modules."""
    found = Sysroot.ensure()
    return ["--kernel", str(found.kernel), "--modules", str(found.path / "usr")]


def test_module_finds_the_device_and_the_command_the_shared_folder(
    hostctl: Hostctl, probe: Path, tmp_path: Path
) -> None:
    (tmp_path / "given").write_text("from the host\n")
    line = "cat given; cat > taken; lsmod | grep -c ^probe; echo on stderr >&2; exit 7"
    options = ("--module", f"{probe} fail=0", "--share", str(tmp_path), "--viommu", "intel")
    done = hostctl.run("vm", "run", *options, "--", "sh", "-c", line, data="typed", timeout=SECONDS)
    assert done.returncode == 7, done.stderr
    assert done.stdout == "from the host\n1\n"
    assert (tmp_path / "taken").read_text() == "typed"
    command, log = done.stderr.split("the guest's log ends with:\n")
    assert command.endswith("on stderr\n")
    assert re.search(rf"probe 0000:01:00.0: probe: {MAGIC}", log)


def test_kernel_of_the_operators_with_all_its_modules(hostctl: Hostctl, kernel: list[str]) -> None:
    line = "modprobe e1000e; lsmod | grep -c ^e1000e; ls /sys/class/dma; uname -r;"
    line += "grep -o 'word=[0-9]*' /proc/cmdline"
    device = ("--personality", "ioat", "--viommu", "virtio", "--module", "ioatdma")
    done = hostctl.run(
        *("vm", "run", *kernel, *device, "--append", "word=1 word=2", "--json"),
        *("--", "sh", "-c", line),
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    channels = [f"dma0chan{number}" for number in range(4)]
    assert facts["stdout"].splitlines() == [
        "1",
        *channels,
        Sysroot.ensure().kernel_release,
        "word=1",
        "word=2",
    ]
    assert (facts["schema"], facts["status"]) == ("mdevemu.hostctl.vm.run/1", 0)


@pytest.fixture
def output(hostctl: Hostctl, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Narration for nobody, and labs where ``hostctl`` looks for leftovers."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(hostctl.runtime))
    return Output(out=io.StringIO(), err=io.StringIO())


def test_what_goes_wrong_is_told_with_the_guests_last_words(probe: Path, output: Output) -> None:
    def module(*parameters: str) -> Module:
        return Module.parse(shlex.join([str(probe), *parameters]), debian=True)

    with guest(Request(seconds=SECONDS), output) as vm:
        with pytest.raises(ModuleRefused, match=r"does not load: .*No such device") as refused:
            vm.load(module(f"fail={errno.ENODEV}"))
        assert "probe: told to fail with 19" in refused.value.evidence["guest's console"][-1]
        with pytest.raises(ModuleRefused, match="module probe does not load: ") as refused:
            vm.load(module("fail=no-number"))
        assert "`no-number' invalid for parameter" in refused.value.evidence["guest's console"][-1]
        with pytest.raises(ModuleRefused, match=r"module nosuch does not load: .*nosuch not found"):
            vm.load(Module("nosuch"))
        with pytest.raises(TimedOut, match="command 'sleep 1000': not done after 1 s") as late:
            vm.run(["sleep", "1000"], seconds=1)
        with pytest.raises(TimedOut, match="command 'sleep 1000': not done after 1 s"):
            vm.stream(["sleep", "1000"], lambda stream, data: None, seconds=1)
        assert late.value.evidence["guest's console"]
        assert "sleep 1000" not in vm.run(["ps"]).stdout.decode()
        with pytest.raises(TimedOut, match="load of module probe: not done after 3 s") as late:
            vm.load(module("spin=1"), seconds=3)
        assert "probe: told to spin" in "\n".join(late.value.evidence["guest's console"])


def test_panic_is_told_from_any_other_end(hostctl: Hostctl) -> None:
    line = "echo begun; sleep 1; echo c > /proc/sysrq-trigger; sleep 1000"
    done = hostctl.run("vm", "run", "--", "sh", "-c", line, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (4, "begun\n")
    assert "guest: the guest's kernel panicked: sysrq triggered crash" in done.stderr
    assert "reproduce: " in done.stderr


def test_kernel_that_says_nothing_is_given_up_in_time(hostctl: Hostctl, tmp_path: Path) -> None:
    # A setup code that jumps to itself, where a boot loader jumps to.
    image = bytearray(0x8000)
    image[0x1F1] = 4
    image[0x1FE:0x206] = b"\x55\xaa\xeb\xfeHdrS"
    image[0x206:0x208] = (0x020C).to_bytes(2, "little")
    image[0x20E:0x210] = (0x300).to_bytes(2, "little")
    image[0x211] = 1
    image[0x22C:0x230] = (0x7FFF_FFFF).to_bytes(4, "little")
    image[0x500:0x50A] = b"6.99-spins"
    (tmp_path / "bzImage").write_bytes(image)
    given = ("--kernel", str(tmp_path / "bzImage"), "--timeout", "4")
    done = hostctl.run("vm", "run", *given, "--", "true")
    assert done.returncode == 124, done.stderr
    assert "guest: boot, until the agent answers: not done after " in done.stderr
    assert "reproduce: " in done.stderr


def test_debugger_finds_the_guest_before_its_first_instruction(hostctl: Hostctl) -> None:
    with hostctl.start("vm", "run", "--gdb", "--", "echo", "done") as process:
        assert process.stderr is not None
        try:
            line = next(line for line in process.stderr if "target remote" in line)
            *_, place = shlex.split(line)[-1].split()
            with Debugger(place) as debugger:
                assert debugger.ask(b"?").startswith(b"T05"), "why it stopped"
                assert debugger.ask(b"p10").startswith(b"f0ff"), "the reset vector"
                assert debugger.ask(b"D") == b"OK", "detached"
                assert process.communicate(timeout=SECONDS)[0] == "done\n"
        finally:
            process.terminate()
    assert process.returncode == 0


class Debugger:
    """The little of a debugger that shows that one can work.

    Spec: GDB manual, Remote Serial Protocol.
    """

    def __init__(self, place: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(place)
        self._stream = self._socket.makefile("rwb", buffering=0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, command: bytes) -> bytes:
        """The answer to a packet."""
        self._stream.write(b"$%b#%02x" % (command, sum(command) & 0xFF))
        answer = b""
        while not re.fullmatch(rb"\+*\$(.*)#..", answer):
            answer += self._stream.read(1)
        self._stream.write(b"+")
        return answer.lstrip(b"+")[1:-3]


def test_unknown_personality_is_refused_with_all_that_there_are(hostctl: Hostctl) -> None:
    done = hostctl.run("vm", "run", "--personality", "copyist", "--", "true", timeout=SECONDS)
    assert done.returncode == 2
    assert "personality: unknown value 'copyist' (accepted: adder, ioat, native" in done.stderr


def test_full_disk_is_named(hostctl: Hostctl, kernel: list[str]) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a small file system of our own needs user namespaces, which are off")
    words = shlex.join(hostctl.argv("vm", "run", *kernel, "--", "true"))
    script = f"mount -t tmpfs -o size=2m,mode=700 tmpfs {hostctl.runtime} && {words}"
    given = {"XDG_RUNTIME_DIR": str(hostctl.runtime), "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 3, done.stderr
    assert "No space left on device" in done.stderr
    assert "fix: free some, or point" in done.stderr
