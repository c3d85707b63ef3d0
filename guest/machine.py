"""The guest as a machine: what it is, its modules, its power switch."""

import os
import subprocess
import sys

from guest import __version__
from guest.errors import InvalidArgument, NotThere
from guest.protocol import Message


def info() -> Message:
    """Kernel, cpus, memory in KiB, uptime in seconds, modules, versions."""
    return {
        "agent": __version__,
        "python": sys.version.split()[0],
        "kernel": os.uname().release,
        "hostname": os.uname().nodename,
        "cpus": os.cpu_count(),
        "memory-kib": _memory(),
        "uptime": float(_text("/proc/uptime").split()[0]),
        "modules": sorted(line.split()[0] for line in _text("/proc/modules").splitlines()),
    }


def load_module(name: str) -> None:
    """Load a kernel module and what it needs; loading it again does nothing.

    Raises:
        InvalidArgument: no module can have that name.
        NotThere: the kernel refused it, or the image does not hold it.
    """
    if not name.replace("-", "_").isidentifier():
        raise InvalidArgument(f"name: {name!r} is not a module's name")
    done = subprocess.run(["modprobe", name], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise NotThere(f"module {name}: {said or f'modprobe exited with {done.returncode}'}")


def power_off() -> None:
    """Write back what is dirty, then ask the kernel to turn the machine off."""
    os.sync()
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("o")


def _memory() -> int:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    return 0


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except FileNotFoundError:
        return ""  # a kernel without modules has no /proc/modules
