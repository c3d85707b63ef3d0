"""An emulator in a process of its own, its control socket, and a VMM that talks to it."""

import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
LIMIT = 20
"""Seconds that anything here may take."""

ACCELERATOR = """
[accelerator]
name = "test"
address = "0000:01:04.3"
hbm = "16MiB"
[[engine]]
name = "all"
operations = ["nop", "copy", "fill", "compare", "crc32c", "sha256"]
[[type]]
name = "native"
description = "A quarter"
hbm = "4MiB"
weight = 2
instances = 3
[[type]]
name = "adder"
personality = "adder"
"""


def serve(folder, *options, text=ACCELERATOR, prefix=()):
    """The process, not yet ready; its files are in ``folder``."""
    file = folder / "accelerator.toml"
    file.write_text(text)
    command = [
        sys.executable,
        "-m",
        "mdevemu",
        "serve",
        str(file),
        "--runtime",
        str(folder / "run"),
    ]
    return subprocess.Popen(
        [*prefix, *command, *options],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def readiness(process):
    """The line that says it is ready."""
    assert select.select([process.stdout], [], [], LIMIT)[0], "not ready in time"
    return json.loads(process.stdout.readline())


def ended(process):
    """(exit status, rest of stdout, stderr) once it has ended by itself."""
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    return process.returncode, out, err


class Control:
    """A blocking client of the control socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        self.socket.connect(str(path))
        self.lines = self.socket.makefile("rb")
        self.events = []
        self.greeting = self._message()
        self("qmp_capabilities")

    def _message(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionResetError("the emulator hung up")
        return json.loads(line)

    def ask(self, name, /, **arguments):
        """The whole reply; events that come before it are kept."""
        given = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.socket.sendall(json.dumps({"execute": name, "arguments": given}).encode())
        while "event" in (message := self._message()):
            self.events.append(message)
        return message

    def __call__(self, name, /, **arguments):
        """What the command returns."""
        reply = self.ask(name, **arguments)
        assert "return" in reply, reply
        return reply["return"]

    def refused(self, name, /, **arguments):
        """(class, description) of the refusal."""
        error = self.ask(name, **arguments)["error"]
        return error["class"], error["desc"]

    def event(self, name):
        """The next event of this name, with everything before it dropped."""
        while True:
            message = self.events.pop(0) if self.events else self._message()
            if message.get("event") == name:
                return message["data"]

    def close(self):
        self.lines.close()
        self.socket.close()


class Serving:
    """An emulator that is up."""

    def __init__(self, folder, *options, **wanted):
        self.folder = folder
        self.process = serve(folder, *options, **wanted)
        self.ready = readiness(self.process)
        self.runtime = folder / "run"
        self.controls = []

    def control(self):
        """One more control client."""
        made = Control(self.ready["control"])
        self.controls.append(made)
        return made

    def descriptors(self):
        """How many the process has."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self):
        """End it if it still runs; everything as in ``ended``."""
        for control in self.controls:
            control.close()
        if self.process.returncode is None:
            self.process.terminate()
        return ended(self.process)


@contextmanager
def short_folder():
    """A new folder whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory(prefix="mdevemu-", dir="/tmp") as folder:
        yield Path(folder)


def until(condition):
    """Wait for something to come true."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)
