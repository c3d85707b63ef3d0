"""QEMU without a CPU: whoever speaks its qtest protocol is the CPU.

Spec: QEMU, docs/devel/testing/qtest.rst and the comment on its protocol in system/qtest.c; PCI
Local Bus 3.0 §3.2.2.3 (config space by ports), §6.7 (capabilities)
"""

import itertools
import os
import socket
from pathlib import Path

from hostctl.errors import TimedOut, VmError
from hostctl.processes import spawn, stop, tail
from images.programs import Program

SLOT = 4
"""Where the function is on the first bus."""

_CONFIG_ADDRESS, _CONFIG_DATA = 0xCF8, 0xCFC
_CAPABILITIES = 0x34
_SECONDS = 20.0
_WORDS = {1: "b", 2: "w", 4: "l", 8: "q"}
_numbers = itertools.count()


def command(program: Program, *options: str) -> list[str]:
    """A command line of QEMU with the pc machine and nothing else."""
    nothing = ("-nodefaults", "-no-user-config", "-display", "none", "-accel", "qtest")
    return [*program.argv_prefix, *nothing, "-machine", "pc", *options]


def function(path: Path | str, **properties: object) -> dict[str, object]:
    """What QEMU wants to know of the device behind a vfio-user socket, in ``SLOT``."""
    where = {"type": "unix", "path": str(path)}
    return {"driver": "vfio-user-pci", "socket": where, "addr": f"{SLOT:02x}.0", **properties}


class Machine:
    """A pc machine."""

    def __init__(self, program: Program, folder: Path, *options: str) -> None:
        """Start it with these options, and files of its own in ``folder``.

        Raises:
            VmError: it ended.
            TimedOut: it does not answer.
        """
        name = f"qtest{next(_numbers)}"
        path, self._log = folder / f"{name}.sock", folder / f"{name}.log"
        own = ("-qtest", f"unix:{path}", "-qtest-log", "none")
        self._argv = command(program, *own, *options)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.fspath(path))
            listener.listen(1)
            listener.settimeout(_SECONDS)
            self._child = spawn(self._argv, log=self._log, environment=program.env)
            try:
                self._socket, _ = listener.accept()
            except TimeoutError:
                stop(self._child, 1.0)
                raise self._failed("does not start") from None
        self._socket.settimeout(_SECONDS)
        self._answers = self._socket.makefile("r")

    def _failed(self, wrong: str) -> VmError:
        return VmError("QEMU", wrong, self._argv, {"its stderr": tail(self._log)})

    def tell(self, *words: object) -> list[str]:
        """One command of the qtest protocol; what it answers.

        Raises:
            VmError: QEMU is gone, or refuses.
            TimedOut: it does not answer.
        """
        line = " ".join(hex(each) if isinstance(each, int) else str(each) for each in words)
        try:
            self._socket.sendall(line.encode() + b"\n")
            answer = self.heard()
        except TimeoutError:
            raise TimedOut(f"QEMU's answer to {line!r}", _SECONDS) from None
        except OSError as error:
            raise self._failed(f"hung up: {error}") from None
        if answer[:1] != ["OK"]:
            raise self._failed(f"{line!r}: {' '.join(answer) or 'hung up'}")
        return answer[1:]

    def heard(self) -> list[str]:
        """The words of the next line that QEMU sends; none when it hung up."""
        return self._answers.readline().split()

    def read(self, at: int, length: int) -> bytes:
        """Read memory or registers, by one access if there is one of that length."""
        if word := _WORDS.get(length):
            return int(self.tell(f"read{word}", at)[0], 16).to_bytes(length, "little")
        return bytes.fromhex(self.tell("read", at, length)[0][2:])

    def write(self, at: int, data: bytes) -> None:
        """Write memory or registers, by one access if there is one of that length."""
        if word := _WORDS.get(len(data)):
            self.tell(f"write{word}", at, int.from_bytes(data, "little"))
        else:
            self.tell("write", at, len(data), "0x" + data.hex())

    def config(
        self, at: int, value: int | None = None, *, length: int = 4, slot: int = SLOT
    ) -> int:
        """Read config space of the first bus, or write ``value``; within four aligned bytes."""
        self.tell("outl", _CONFIG_ADDRESS, 1 << 31 | slot << 11 | at & ~3)
        word, port = _WORDS[length], _CONFIG_DATA + at % 4
        if value is None:
            return int(self.tell(f"in{word}", port)[0], 16)
        self.tell(f"out{word}", port, value)
        return value

    def capability(self, wanted: int) -> int:
        """Where the function has a capability; 0 if it has none."""
        at = self.config(_CAPABILITIES, length=1)
        while at and self.config(at, length=1) != wanted:
            at = self.config(at + 1, length=1)
        return at

    def close(self) -> None:
        """End QEMU and reap it."""
        self._answers.close()
        self._socket.close()
        stop(self._child, 3.0)
