"""Commands that the host runs in the guest: their input, output, signals and exit status."""

import base64
import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector

from guest.errors import InvalidArgument, NotThere
from guest.protocol import CHUNK, Message, event, failure, reply

_LEFT = 1 << 20  # bytes read at most from a pipe after its process ended

Send = Callable[[Message], None]


class _Input:
    """Bytes on their way to a process, and which command they came with."""

    __slots__ = ("data", "eof", "number")

    def __init__(self, number: object, data: bytes, eof: bool) -> None:
        self.number = number
        self.data = data
        self.eof = eof


class _Process:
    """One running command.

    Attributes:
        owned: the host that started it still listens.
        outputs: descriptor by stream name, of those not at their end.
    """

    def __init__(self, popen: "subprocess.Popen[bytes]") -> None:
        self.popen = popen
        self.pid = popen.pid
        self.pidfd = os.pidfd_open(popen.pid)
        self.owned = True
        self.inputs: deque[_Input] = deque()
        self.outputs: dict[str, int] = {}
        for name, pipe in (("stdout", popen.stdout), ("stderr", popen.stderr)):
            if pipe is not None:
                os.set_blocking(pipe.fileno(), False)
                self.outputs[name] = pipe.fileno()
        if popen.stdin is not None:
            os.set_blocking(popen.stdin.fileno(), False)


class Processes:
    """Every running command; driven by the agent's selector, whose data are callables."""

    def __init__(self, selector: BaseSelector, send: Send) -> None:
        self._selector = selector
        self._send = send
        self._running: dict[int, _Process] = {}
        self._paused = False

    def start(
        self, argv: list[str], env: Mapping[str, str], cwd: str | None, *, with_input: bool
    ) -> int:
        """Run ``argv`` in a session of its own; gives its process id.

        ``env`` is added to the agent's environment.  Without input it reads an empty file.

        Raises:
            NotThere: there is no such program or folder.
        """
        if not argv:
            raise InvalidArgument("argv: must name a program")
        try:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE if with_input else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=cwd,
                env={**os.environ, **env},
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise NotThere(f"cannot run {argv[0]!r}: {error}") from None
        process = _Process(popen)
        self._running[process.pid] = process
        self._selector.register(process.pidfd, EVENT_READ, lambda: self._exited(process))
        if not self._paused:
            self._watch(process)
        return process.pid

    def feed(self, pid: int, number: object, data: bytes, *, eof: bool) -> None:
        """Give ``data`` to the process; the answer to ``number`` goes out when it took all.

        Raises:
            NotThere: no such process, or it was started without input.
        """
        process = self._find(pid)
        stdin = process.popen.stdin
        if stdin is None or stdin.closed:
            raise NotThere(f"process {pid} takes no input")
        process.inputs.append(_Input(number, data, eof))
        if len(process.inputs) == 1:
            self._selector.register(stdin, EVENT_WRITE, lambda: self._give(process))

    def signal(self, pid: int, number: int) -> None:
        """Send signal ``number`` to the process and what it started.

        Raises:
            NotThere: no such process.
        """
        process = self._find(pid)
        try:
            os.killpg(process.pid, signal.Signals(number))
        except ValueError:
            raise InvalidArgument(f"signal: {number} is no signal") from None
        except ProcessLookupError:
            pass  # it ended; its exit is about to be told

    def pause(self, paused: bool) -> None:
        """Stop or go on reading what the processes say, while the host is slow to take it."""
        if paused == self._paused:
            return
        self._paused = paused
        for process in self._running.values():
            if paused:
                for fileno in process.outputs.values():
                    self._selector.unregister(fileno)
            else:
                self._watch(process)

    def hang_up(self) -> None:
        """The host that started them is gone: SIGHUP to all, and their output goes nowhere."""
        for process in self._running.values():
            process.owned = False
            self._end_input(process, "the host went away")
            self.signal(process.pid, signal.SIGHUP)

    def end(self) -> None:
        """Kill all that still runs, and wait for it."""
        for process in list(self._running.values()):
            process.owned = False
            self.signal(process.pid, signal.SIGKILL)
            self._exited(process)

    def _find(self, pid: int) -> _Process:
        process = self._running.get(pid)
        if process is None:
            raise NotThere(f"no running command has process id {pid}")
        return process

    def _watch(self, process: _Process) -> None:
        for name, fileno in process.outputs.items():
            self._selector.register(
                fileno,
                EVENT_READ,
                lambda name=name, fileno=fileno: self._take(process, name, fileno),
            )

    def _take(self, process: _Process, name: str, fileno: int) -> int:
        """Pass on what is there; gives the number of bytes, 0 at the end or if there is none."""
        try:
            data = os.read(fileno, CHUNK)
        except BlockingIOError:
            return 0
        if not data:
            if not self._paused:
                self._selector.unregister(fileno)
            del process.outputs[name]
        elif process.owned:
            text = base64.b64encode(data).decode("ascii")
            self._send(event("output", {"pid": process.pid, "stream": name, "data": text}))
        return len(data)

    def _give(self, process: _Process) -> None:
        stdin = process.popen.stdin
        assert stdin is not None
        first = process.inputs[0]
        try:
            written = os.write(stdin.fileno(), first.data) if first.data else 0
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._end_input(process, f"process {process.pid} closed its input")
            return
        first.data = first.data[written:]
        if first.data:
            return
        if process.owned:
            self._send(reply({}, first.number))
        process.inputs.popleft()
        if first.eof:
            self._end_input(process, "its end was given before")
        elif not process.inputs:
            self._selector.unregister(stdin)

    def _end_input(self, process: _Process, reason: str) -> None:
        stdin = process.popen.stdin
        if stdin is None or stdin.closed:
            return
        if stdin.fileno() in self._selector.get_map():
            self._selector.unregister(stdin)
        stdin.close()
        for waiting in process.inputs:
            if process.owned:
                self._send(failure("BrokenPipe", reason, waiting.number))
        process.inputs.clear()

    def _exited(self, process: _Process) -> None:
        status = process.popen.wait()
        self._selector.unregister(process.pidfd)
        os.close(process.pidfd)
        self._end_input(process, f"process {process.pid} ended")
        # What it started may hold its pipes open: take what is there, wait for no end.
        for name, fileno in list(process.outputs.items()):
            taken = 0
            while taken < _LEFT and (count := self._take(process, name, fileno)):
                taken += count
            if name in process.outputs and not self._paused:
                self._selector.unregister(fileno)
        for pipe in (process.popen.stdout, process.popen.stderr):
            if pipe is not None:
                pipe.close()
        del self._running[process.pid]
        if process.owned:
            facts: Message = {"pid": process.pid, "status": status}
            if status < 0:  # as a shell tells it
                facts.update(status=128 - status, signal=-status)
            self._send(event("exit", facts))
