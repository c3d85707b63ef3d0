"""The agent in a guest, spoken to through QEMU's socket: commands, checks, processes.

    with Agent(path) as agent:
        print(agent.info()["kernel"])
        done = agent.run(["uname", "-a"])
        facts = agent.check("operations", {"seed": 7})

Everything waits for its answer, unless it is begun with ``start``.  One thread uses it.
"""

import base64
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from guest.protocol import CHUNK, Message
from hostctl.errors import TimedOut
from hostctl.guest_line import AgentGone, AgentRefused, Line, Pending, Progress
from mdevemu.errors import MdevError

__all__ = ["Agent", "AgentGone", "AgentRefused", "Completed", "Pending", "Process", "answers"]

_AGAIN = 1.0  # seconds that an agent has for the answer to a greeting
_LAST = 3.0  # seconds that an agent has to kill what did not end in time
_STALE = 64  # events of processes that nobody knows yet, or any more, that are kept at most

Output = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended in the guest.

    Attributes:
        status: its exit status; 128 + the signal's number if a signal ended it.
        stdout, stderr: all that it wrote.
    """

    status: int
    stdout: bytes
    stderr: bytes


class Process:
    """A command that runs in the guest.

    Attributes:
        pid: its process id there.
        status: its exit status; None while it runs.
    """

    def __init__(self, agent: "Agent", pid: int, output: Output) -> None:
        self._agent = agent
        self._output = output
        self.pid = pid
        self.status: int | None = None

    def event(self, name: str, data: Message) -> None:
        """What the agent says about it."""
        if name == "exit":
            self.status = int(str(data["status"]))
        else:
            self._output(str(data["stream"]), base64.b64decode(str(data["data"])))

    def give(self, data: bytes, *, eof: bool = False) -> Pending:
        """Send it input, at most ``CHUNK`` bytes; answered when it took all of it."""
        text = base64.b64encode(data).decode("ascii")
        return self._agent.start("exec-input", {"pid": self.pid, "data": text, "eof": eof})

    def signal(self, number: int, *, timeout: float = 30.0) -> None:
        """Send it, and what it started, a signal."""
        asked: Message = {"pid": self.pid, "signal": number}
        self._agent.call("exec-signal", asked, timeout=timeout)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it ended and all its output was handed on.

        Raises:
            TimedOut: it still runs after ``timeout`` seconds.
        """
        self._agent.wait(lambda: self.status is not None, timeout, f"process {self.pid}")
        assert self.status is not None
        return self.status


class Agent:
    """A connection to the agent in one guest.

    Attributes:
        version: of the agent.
    """

    def __init__(self, path: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        """Connect to QEMU's socket at ``path`` and wait for the agent to answer.

        Raises:
            TimedOut: nobody listens, or no agent answers, within ``timeout`` seconds.
            AgentGone: QEMU ended meanwhile.
        """
        begun = time.monotonic()
        self._processes: dict[int, Process] = {}
        self._early: list[tuple[int, str, Message]] = []  # events that came before their reply
        self._line = Line(os.fspath(path), timeout, self._hear)
        try:
            self._line.end_line()
            self.version = self._meet(begun + timeout)
        except MdevError:
            self.close()
            raise

    def _meet(self, end: float) -> str:
        """Have the agent forget earlier hosts; gives its version.

        The guest's kernel may learn that an earlier host went when our first words have
        arrived already, and the answer to them is lost: so they are said again.
        """
        while True:
            pending = self.start("sync", {"token": secrets.token_hex(8)})
            left = end - time.monotonic()
            try:
                return str(_object(pending.result(min(_AGAIN, left))).get("version"))
            except TimedOut:
                if left <= _AGAIN:
                    raise

    def close(self) -> None:
        """Hang up; what still runs in the guest for us is hung up too.  Again does nothing."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Commands

    def start(
        self, name: str, arguments: Message | None = None, progress: Progress | None = None
    ) -> Pending:
        """Send a command and do not wait; ``progress`` gets what it says on the way."""
        return self._line.start(name, arguments or {}, progress)

    def call(self, name: str, arguments: Message | None = None, *, timeout: float = 30.0) -> object:
        """Send a command and wait for its answer."""
        return self.start(name, arguments).result(timeout)

    def ping(self, *, timeout: float = 10.0) -> float:
        """Seconds that the agent takes to answer."""
        begun = time.monotonic()
        self.call("ping", timeout=timeout)
        return time.monotonic() - begun

    def info(self) -> Message:
        """Kernel, cpus, memory, modules, uptime."""
        return _object(self.call("info"))

    def devices(self) -> list[Message]:
        """The guest's PCI functions."""
        found = self.call("devices")
        assert isinstance(found, list)
        return [_object(one) for one in found]

    def load_module(self, name: str) -> None:
        """Load a kernel module."""
        self.call("load-module", {"name": name}, timeout=120)

    def bind(
        self, device: str | None = None, base: int | None = None, *, timeout: float = 60.0
    ) -> Message:
        """Take a device through VFIO; its buffers get Iovas from ``base`` up.  Gives what it is."""
        arguments: Message = {"device": device, "base": base}
        return _object(self.call("bind", _present(arguments), timeout=timeout))

    def release(self, device: str | None = None) -> None:
        """Give a device back, with what checks left on it."""
        self.call("release", _present({"device": device}), timeout=60)

    def start_check(
        self,
        name: str,
        arguments: Message | None = None,
        *,
        device: str | None = None,
        progress: Progress | None = None,
    ) -> Pending:
        """Begin a check; its ``result`` is the facts."""
        asked: Message = {"name": name, "device": device, "arguments": arguments or {}}
        return self.start("check", _present(asked), progress)

    def check(
        self,
        name: str,
        arguments: Message | None = None,
        *,
        device: str | None = None,
        timeout: float = 300.0,
        progress: Progress | None = None,
    ) -> Message:
        """Run a check (see ``guest.checks``) and give its facts."""
        pending = self.start_check(name, arguments, device=device, progress=progress)
        return _object(pending.result(timeout))

    def stop(self, check: Pending) -> None:
        """Ask a check to come to its end; its result follows."""
        self.call("stop", {"check": check.number})

    def power_off(self) -> None:
        """Turn the guest off; it answers before it does."""
        self.call("poweroff")

    # Processes

    def launch(
        self,
        argv: Sequence[str],
        output: Output,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        with_input: bool = False,
    ) -> Process:
        """Run a command; ``output`` gets (``stdout`` or ``stderr``, bytes) as they come.

        Raises:
            AgentRefused: the guest has no such program.
        """
        arguments: Message = {"argv": list(argv), "env": dict(env or {}), "input": with_input}
        reply = _object(self.call("exec", _present({**arguments, "cwd": cwd})))
        process = Process(self, int(str(reply["pid"])), output)
        self._processes[process.pid] = process
        early, self._early = self._early, []
        try:
            for pid, name, data in early:
                self._tell(pid, name, data)
        except KeyboardInterrupt:
            process.signal(signal.SIGINT)
            raise
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        data: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = 60.0,
    ) -> Completed:
        """Run a command to its end, with ``data`` as its input.

        Raises:
            TimedOut: it did not end in time, and was killed.
        """
        streams: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
        left = [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]
        process = self.launch(
            argv,
            lambda stream, part: streams[stream].append(part),
            env=env,
            cwd=cwd,
            with_input=bool(data),
        )
        status = self._follow(
            process, lambda: left.pop(0) if left else b"", None, bool(data), timeout
        )
        return Completed(status, b"".join(streams["stdout"]), b"".join(streams["stderr"]))

    def stream(
        self,
        argv: Sequence[str],
        output: Output,
        *,
        stdin: int | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: float | None = None,
    ) -> int:
        """Run a command to its end and pass everything on as it comes; gives its exit status.

        ``stdin`` is the descriptor whose bytes it reads; None gives it an empty input.  An
        interrupt of ours (Ctrl-C) interrupts it too.
        """
        with_input = stdin is not None
        process = self.launch(argv, output, env=env, cwd=cwd, with_input=with_input)

        def read() -> bytes:
            assert stdin is not None
            return os.read(stdin, CHUNK)

        return self._follow(process, read, stdin, with_input, timeout)

    def _follow(
        self,
        process: Process,
        read: Callable[[], bytes],
        source: int | None,
        with_input: bool,
        timeout: float | None,
    ) -> int:
        """Feed a process what ``read`` gives, a piece at a time, until it ends.

        With a descriptor ``source``, ``read`` is called when that has something.
        """
        end = None if timeout is None else time.monotonic() + timeout
        taken: Pending | None = None
        try:
            while process.status is None:
                if with_input and taken is not None and taken.done:
                    # A refusal says that it reads no more, which is its right.
                    with_input, taken = "error" not in (taken.answer or {}), None
                hungry = with_input and taken is None
                ready = self._line.look(
                    source if hungry else None, end, now=hungry and source is None
                )
                if hungry and ready:
                    part = read()
                    taken = process.give(part, eof=not part)
                if end is not None and time.monotonic() > end and process.status is None:
                    # Of a guest that hangs as a whole nobody answers.
                    with contextlib.suppress(TimedOut):
                        process.signal(signal.SIGKILL, timeout=_LAST)
                    assert timeout is not None
                    raise TimedOut(f"process {process.pid} in the guest", timeout)
        except KeyboardInterrupt:
            process.signal(signal.SIGINT)
            raise
        finally:
            self._processes.pop(process.pid, None)
        return process.status

    def wait(self, holds: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Take messages until ``holds`` does.

        Raises:
            TimedOut: naming ``what`` is waited for.
            AgentGone: the line is cut.
        """
        self._line.wait(holds, timeout, what)

    def _hear(self, name: str, data: Message) -> None:
        pid = data.get("pid")
        if isinstance(pid, int):
            self._tell(pid, name, data)

    def _tell(self, pid: int, name: str, data: Message) -> None:
        process = self._processes.get(pid)
        if process is not None:
            process.event(name, data)
        else:
            self._early = [*self._early[-_STALE:], (pid, name, data)]


def answers(path: Path, seconds: float = 2.0) -> bool:
    """Whether an agent answers at QEMU's socket; waits up to ``seconds`` for it."""
    try:
        Agent(path, timeout=seconds).close()
    except (AgentGone, TimedOut):
        return False
    return True


def _object(value: object) -> Message:
    if not isinstance(value, dict):
        raise AgentRefused("InvalidReply", f"the agent answers {value!r}, not an object")
    return value


def _present(arguments: Message) -> Message:
    return {name: value for name, value in arguments.items() if value is not None}
