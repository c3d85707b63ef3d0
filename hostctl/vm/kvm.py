"""Does KVM run our guests here?  It is tried with the guest's own kernel.

That /dev/kvm opens says little: under some hypervisors no stock kernel gets past
its first instructions, and some emulate KVM, slower than QEMU's own translation.  So
the kernel is started with no root file system; where KVM is of use, it ends in its
well-known panic within a second or two.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hostctl.processes import boot_id, spawn, stop, tail
from hostctl.vm.spec import Machine
from images import cache

DEVICE = Path("/dev/kvm")
_SECONDS = 3.0
_SURE = 1e9  # seconds, and so for as long as the machine is up
_DOUBT = 3600.0  # seconds that a verdict is kept which a busy machine may have caused
_PAUSE = 0.05
_PROOF = "Unable to mount root fs"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether KVM can be used.

    Attributes:
        usable: it ran the guest's kernel.
        why: what was seen, for people.
    """

    usable: bool
    why: str

    @property
    def accelerator(self) -> str:
        """QEMU's name of what to use."""
        return "kvm" if self.usable else "tcg"


def probe(machine: Machine) -> Verdict:
    """Find out, or remember what was found since this boot with this QEMU and this kernel.

    Raises:
        HostError: QEMU cannot be started.
    """
    if not DEVICE.exists():
        return Verdict(False, f"there is no {DEVICE}")
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return Verdict(False, f"{DEVICE} is not for this user")
    with _remembered(machine) as memory:
        if memory.verdict is None:
            memory.verdict, memory.seconds = _try(machine)
        return memory.verdict


def _try(machine: Machine) -> tuple[Verdict, float]:
    """Run the kernel; returns the verdict and for how many seconds to rely on it."""
    with tempfile.TemporaryDirectory(prefix="mdevemu-kvm-") as name:
        console, log = Path(name) / "console", Path(name) / "log"
        argv = [
            *machine.qemu,
            *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-machine", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256M"),
            *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
            *("-kernel", str(machine.kernel)),
            *("-append", "console=ttyS0 earlyprintk=ttyS0 panic=-1"),
        ]
        child = spawn(argv, log=log, environment=machine.environment)
        end = time.monotonic() + _SECONDS
        try:
            while time.monotonic() < end:
                # Looked at first: what it said before it ended is there by then.
                status = child.poll()
                if _proven(console):
                    return Verdict(True, "KVM runs the guest's kernel"), _SURE
                said = tail(log, 40)
                if failed := [line for line in said if "internal error" in line]:
                    return Verdict(False, f"KVM opens but runs no guest: {failed[0]}"), _SURE
                if status is not None:
                    last = said[-1] if said else f"QEMU ended with status {status}"
                    return Verdict(False, f"QEMU cannot use KVM: {last}"), _SURE
                time.sleep(_PAUSE)
        finally:
            stop(child, 0.5)
    return Verdict(False, f"KVM did not get the guest's kernel up in {_SECONDS:g} s"), _DOUBT


def _proven(console: Path) -> bool:
    """The kernel came to the end that it can come to without a root file system."""
    return any(_PROOF in line for line in tail(console, 200))


@dataclass
class _Memory:
    verdict: Verdict | None
    seconds: float = 0.0


@contextlib.contextmanager
def _remembered(machine: Machine) -> Iterator[_Memory]:
    """What is known already; what is found within the block is kept."""
    key = hashlib.sha256(boot_id().encode())
    for word in (*machine.qemu, str(machine.kernel)):
        key.update(word.encode() + b"\0")
        with contextlib.suppress(OSError):
            found = os.stat(word)
            key.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    file = cache.folder() / "kvm.json"
    memory = _Memory(_recall(file, key.hexdigest()))
    yield memory
    if memory.seconds and memory.verdict is not None:
        verdict = memory.verdict
        facts = {
            "key": key.hexdigest(),
            "until": time.time() + memory.seconds,
            "usable": verdict.usable,
            "why": verdict.why,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as fresh:
            json.dump(facts, fresh)
        Path(fresh.name).replace(file)


def _recall(file: Path, key: str) -> Verdict | None:
    """What the cache says for this key; None if it says nothing, or nothing sensible."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    match found:
        case {
            "key": str(known),
            "until": float(until),
            "usable": bool(usable),
            "why": str(why),
        } if known == key and until > time.time():
            return Verdict(usable, why)
    return None
