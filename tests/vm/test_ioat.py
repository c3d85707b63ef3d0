"""Linux's own driver of I/OAT, as Debian ships it: it binds only if a copy with an interrupt works.

Its self-test is one null descriptor and one copy of 2000 bytes, on the first channel.
"""

import base64
import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from hostctl.control import Control
from hostctl.spec import SHIPPED
from images import dmatest
from mdevemu.profile import locate
from tests.unit.hostctl.command import Hostctl

pytestmark = [pytest.mark.vm, pytest.mark.timeout(600)]

ADDRESS = "0000:01:00.0"
DEVICE = f"/sys/bus/pci/devices/{ADDRESS}"
DRIVER = "/sys/bus/pci/drivers/ioatdma"
CHANNELS = [f"dma0chan{n}" for n in range(4)]
SELF_TEST_BYTES = 2000
TESTS = 100
"""Copies of dmatest's on each channel, of up to 16 KiB."""
SPLITTING = "virtio"
"""Where the device takes no more than a page at once."""
OUT_OF_TREE = 1 << 12 | 1 << 13
"""Taint of a module that is not signed.  Spec: Linux, admin-guide/tainted-kernels.rst"""
LAB = (SHIPPED / "ioat.toml").read_text()
ACCELERATOR = locate("ioat").read_text()


@dataclass
class Guest:
    """A VM with one I/OAT device, and no driver loaded yet."""

    hostctl: Hostctl
    iommu: str

    def run(self, line: str, status: int = 0) -> str:
        """What a line of shell writes in the guest."""
        done = self.hostctl.run("run", "guest", "--", "sh", "-c", line)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def log(self) -> list[str]:
        """What the driver told the kernel log since the last look."""
        lines = self.run("dmesg -c").splitlines()
        return [line for line in lines if "ioat" in line and "Adding to iommu group" not in line]

    def load(self, *parameters: str, status: int = 0) -> None:
        self.run(f"modprobe ioatdma {shlex.join(parameters)}", status)

    def unload(self) -> None:
        self.run("modprobe -r ioatdma; rmmod dca 2> /dev/null; true")

    def channels(self) -> list[str]:
        return self.run("ls /sys/class/dma").split()

    def interrupts(self, kind: str) -> list[int]:
        """How often each of the driver's vectors of this kind was raised."""
        lines = self.run("cat /proc/interrupts").splitlines()
        return [int(line.split()[1]) for line in lines if line.endswith(kind)]

    def faults(self) -> list[object]:
        return list(self.hostctl.facts("iommu", "faults")["faults"])


def guest(text: str) -> Iterator[Guest]:
    """The VM of a lab; it is gone afterwards, with everything that belonged to it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="hc-") as name:
        folder = Path(name)
        (folder / "lab.toml").write_text(text)
        small = ACCELERATOR.replace("queues = 4", 'queues = 4\nmax-transfer = "4KiB"')
        (folder / "small.toml").write_text(small)
        (folder / "incapable.toml").write_text(ACCELERATOR.replace('"copy"', '"nop"'))
        hostctl = Hostctl(folder)
        session = hostctl.up(str(folder / "lab.toml"))
        [iommu] = re.findall('iommu = "(.*)"', text)
        yield Guest(hostctl, iommu)
        session.close()
        assert hostctl.left_nothing()


@pytest.fixture(scope="module", params=["none", "intel", "amd", "virtio"])
def idle(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest for several tests, with each kind of IOMMU of its own in turn."""
    lab = LAB.replace('"none"', f'"{request.param}"')
    if request.param == SPLITTING:
        lab = lab.replace('accelerator = "ioat"', 'accelerator = "./small.toml"')
    yield from guest(lab)


@pytest.fixture
def ready(idle: Guest) -> Iterator[Guest]:
    """The guest before its driver is loaded; unloaded again afterwards."""
    idle.log()
    yield idle
    idle.unload()
    assert idle.faults() == []
    tainted = int(idle.run("cat /proc/sys/kernel/tainted"))
    assert tainted & ~OUT_OF_TREE == 0, "nothing warned or crashed"


def test_stock_driver_binds_and_passes_its_self_test(ready: Guest) -> None:
    ready.load()
    assert ready.channels() == CHANNELS
    assert ready.run(f"basename $(readlink {DEVICE}/driver)") == "ioatdma\n"
    about = ready.run(f"cd {DEVICE}/dma/dma0chan3/quickdata; cat version cap").splitlines()
    assert about == ["3.2", "copy intr"]
    first, *others = ready.interrupts("ioat-msix")
    assert (first > 0, others) == (True, [0, 0, 0]), "the self-test uses the first channel"
    (said,) = ready.log()
    assert "Intel(R) QuickData Technology Driver" in said, "and it has no complaint"


def test_guest_translates_the_drivers_dma_if_it_has_an_iommu(ready: Guest) -> None:
    ready.load()
    group = ready.run(f"cat {DEVICE}/iommu_group/type 2> /dev/null || echo none").strip()
    assert group in (["none"] if ready.iommu == "none" else ["DMA", "DMA-FQ"])


def test_self_test_is_a_copy_that_the_accelerator_did(ready: Guest) -> None:
    before = counters(ready)
    ready.load()
    after = counters(ready)
    did = {name: after[name] - before[name] for name in after}
    assert did["bytes_read"] == did["bytes_written"] == SELF_TEST_BYTES
    assert (did["completed"], did["failed"]) == (2, 0)
    assert did["interrupts"] > 0


def counters(ready: Guest) -> dict[str, int]:
    """What the mdev counted since its reset."""
    [socket] = ready.hostctl.runtime.glob("mdevemu/*/emulator/control.sock")
    with contextlib.closing(Control(socket)) as control:
        return asdict(control.counters()["copier"])


@pytest.fixture(scope="module")
def built() -> str:
    """dmatest for the guest's kernel, in base64."""
    return base64.b64encode(dmatest.ensure().read_bytes()).decode()


def test_dmatest_copies_on_all_channels_without_a_failure(ready: Guest, built: str) -> None:
    ready.load()
    ready.log()
    before = counters(ready)
    ready.hostctl.run("run", "guest", "--", "sh", "-c", "base64 -d > /dmatest.ko", data=built)
    ready.run(f"insmod /dmatest.ko timeout=10000 iterations={TESTS}")
    channels = "; ".join(f"echo {name} > channel" for name in CHANNELS)
    ready.run(f"cd /sys/module/dmatest/parameters; {channels}; echo 1 > run; cat wait")
    said = ready.run("dmesg -c; rmmod dmatest")
    summaries = re.findall(r"dmatest: (\w+)-copy0: summary (\d+) tests, (\d+) failures", said)
    assert sorted(summaries) == [(name, str(TESTS), "0") for name in CHANNELS], said
    after = counters(ready)
    copies = after["completed"] - before["completed"]
    assert copies >= TESTS * len(CHANNELS)
    assert (copies > 1.5 * TESTS * len(CHANNELS)) == (ready.iommu == SPLITTING)
    assert after["failed"] == before["failed"]


def test_driver_binds_again_after_unbind_and_function_level_reset(ready: Guest) -> None:
    ready.load()
    assert ready.run(f"cat {DEVICE}/reset_method").split()[0] == "flr"
    for _ in range(2):
        ready.run(f"echo {ADDRESS} > {DRIVER}/unbind")
        assert ready.channels() == []
        ready.run(f"echo 1 > {DEVICE}/reset")
        ready.run(f"echo {ADDRESS} > {DRIVER}/bind")
        assert ready.channels() == CHANNELS
    said = [line for line in ready.log() if "Removing dma and dca services" not in line]
    assert len(said) == 1, said


def test_reset_under_a_bound_driver_is_survived(ready: Guest) -> None:
    ready.load()
    ready.run(f"echo 1 > {DEVICE}/reset")
    ready.run(f"echo {ADDRESS} > {DRIVER}/unbind; echo {ADDRESS} > {DRIVER}/bind")
    assert ready.channels() == CHANNELS


def test_driver_works_by_interrupt_line_too(ready: Guest) -> None:
    ready.load("ioat_interrupt_style=intx")
    assert ready.channels() == CHANNELS
    (raised,) = ready.interrupts("ioat-intx")
    assert raised > 0


def test_coalescing_interval_is_taken(ready: Guest) -> None:
    ready.load()
    attribute = f"{DEVICE}/dma/dma0chan0/quickdata/intr_coalesce"
    assert ready.run(f"echo 10 > {attribute}; cat {attribute}") == "10\n"


def test_channel_that_halts_is_reset_and_started_again_by_the_driver() -> None:
    lab = LAB.replace('accelerator = "ioat"', 'accelerator = "./incapable.toml"')
    for ready in guest(lab):
        ready.log()
        ready.load()
        said = "\n".join(ready.log())
        recovery = ("Channel halted (400)", "Descriptor Control Error", "Reset channel...")
        places = [said.index(line) for line in (*recovery, "Restart channel...")]
        assert places == sorted(places)
        assert re.search(r"CHANSTS: 0x[0-9a-f]+1 CHANERR: 0x0\n", said), "idle, without errors"
        assert "Failed to reset" not in said
        assert "Self-test copy timed out" in said
        assert ready.channels() == []
        assert ready.run("cat /proc/sys/kernel/tainted") == "0\n"
