"""The agent: takes commands from the link, answers them, one loop for all of it.

Whatever takes long (checks, devices, modules) runs in a thread and posts its answer to the
loop, so that a ping is answered and output flows meanwhile.
"""

import base64
import binascii
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

from guest import __version__, machine, pci
from guest.arguments import Arguments
from guest.benches import Benches, Run
from guest.errors import AgentError, InvalidArgument, NotThere, UnknownCommand
from guest.link import Link
from guest.processes import Processes
from guest.protocol import Garbage, Message, event, failure, reply

_BACKLOG = 1 << 20  # bytes the host may leave unread before commands' output is held back
_LAST = 5.0  # seconds that a check gets to stop when the line ends
_ABSENT = 0.1  # seconds between two looks for a host

Work = Callable[[], object]


class Agent:
    """Serves one host after the other.

    Attributes:
        running: False ends ``run``.
    """

    def __init__(
        self,
        link: Link,
        benches: Benches,
        power_off: Callable[[], None] = machine.power_off,
    ) -> None:
        self._link = link
        self._benches = benches
        self._power_off = power_off
        self._selector = DefaultSelector()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._posted: deque[Callable[[], None]] = deque()
        self._host = 0  # counts syncs: an answer for an earlier host is dropped
        self._stops: dict[object, threading.Event] = {}
        self._processes = Processes(self._selector, self._link.send)
        self._threads: list[threading.Thread] = []
        self._watched = 0  # selector events of the link at present
        self._last_words = False
        self.running = True
        self._commands: dict[str, Callable[[Arguments, object], object]] = {
            "sync": self._sync,
            "ping": self._ping,
            "info": self._info,
            "commands": self._list,
            "exec": self._exec,
            "exec-input": self._exec_input,
            "exec-signal": self._exec_signal,
            "devices": self._devices,
            "load-module": self._load_module,
            "bind": self._bind,
            "release": self._release,
            "check": self._check,
            "stop": self._stop,
            "poweroff": self._poweroff,
        }

    def run(self) -> None:
        """Serve until the link ends or the machine is turned off."""
        self._selector.register(self._wake, EVENT_READ, self._collect)
        while self.running:
            self._watch_link()
            self._processes.pause(self._link.pending > _BACKLOG)
            away = not self._link.connected
            for key, _ in self._selector.select(_ABSENT if away else None):
                # An earlier call of this round may have ended what this one is about.
                if self._selector.get_map().get(key.fd) is key:
                    key.data()
            if away:
                self._receive()
        for stop in self._stops.values():
            stop.set()
        self._processes.end()
        self._selector.close()
        for thread in self._threads:
            thread.join(_LAST)

    def _watch_link(self) -> None:
        """Wait for what the link can do now; a port without a host would wake us all the time."""
        wanted = 0
        if self._link.connected:
            wanted = EVENT_READ if self._link.flush() else EVENT_READ | EVENT_WRITE
        if self._last_words and not wanted & EVENT_WRITE:
            self._power_off()
            self.running = False
        if wanted == self._watched:
            return
        if self._watched:
            self._selector.unregister(self._link)
        if wanted:
            self._selector.register(self._link, wanted, self._receive)
        self._watched = wanted

    def _receive(self) -> None:
        was = self._link.connected
        for message in self._link.receive():
            if isinstance(message, Garbage):
                self._link.send(failure("InvalidRequest", message.reason))
            else:
                self._execute(message)
        if was and not self._link.connected:
            self._forget_host()
        if self._link.ended:
            self.running = False

    def _execute(self, message: Message) -> None:
        number = message.get("id")
        if not isinstance(number, (int, str, type(None))):
            self._link.send(failure("InvalidRequest", "id: must be an integer or a string"))
            return
        try:
            name = message.get("execute")
            handler = self._commands.get(name) if isinstance(name, str) else None
            if handler is None:
                known = ", ".join(sorted(self._commands))
                raise UnknownCommand(f"unknown command {name!r} (accepted: {known})")
            value = handler(Arguments(message.get("arguments")), number)
        except AgentError as error:
            self._link.send(failure(error.kind, str(error), number))
            return
        if value is not None:  # None: the answer follows
            self._link.send(reply(value, number))

    def _post(self, call: Callable[[], None]) -> None:
        """Have the loop call ``call``; for other threads."""
        self._posted.append(call)
        os.eventfd_write(self._wake, 1)

    def _collect(self) -> None:
        os.eventfd_read(self._wake)
        while self._posted:
            self._posted.popleft()()

    def _later(self, number: object, work: Work) -> None:
        """Do ``work`` in a thread and answer command ``number`` with what it gives."""
        host = self._host

        def answer(message: Message) -> None:
            self._stops.pop(number, None)
            if host == self._host:
                self._link.send(message)

        def body() -> None:
            message = failure("Crash", "the agent's thread died", number)
            try:
                message = reply(work(), number)
            except AgentError as error:
                message = failure(error.kind, str(error), number)
            except OSError as error:
                message = failure("OSError", str(error), number)
            finally:
                # A bug of ours goes on to the console, but the host must not wait forever.
                if (bug := sys.exc_info()[1]) is not None:
                    import traceback  # costs the agent's start too much

                    text = "".join(traceback.format_exception(bug))
                    message = failure("Crash", text, number)
                self._post(lambda: answer(message))

        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=body, name=f"command {number}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _forget_host(self) -> None:
        self._host += 1
        for stop in self._stops.values():
            stop.set()
        self._stops.clear()
        self._processes.hang_up()
        self._link.drop()

    # The commands.  Each takes its arguments and the command's number; None: answered later.

    def _sync(self, arguments: Arguments, number: object) -> object:
        token = arguments.text("token")
        arguments.finish()
        self._forget_host()
        return {"token": token, "version": __version__}

    def _ping(self, arguments: Arguments, number: object) -> object:
        arguments.finish()
        return {}

    def _info(self, arguments: Arguments, number: object) -> object:
        arguments.finish()
        return machine.info()

    def _list(self, arguments: Arguments, number: object) -> object:
        arguments.finish()
        return sorted(self._commands)

    def _exec(self, arguments: Arguments, number: object) -> object:
        argv = arguments.texts("argv")
        env = arguments.pairs("env")
        cwd = arguments.optional_text("cwd")
        with_input = arguments.flag("input", False)
        arguments.finish()
        return {"pid": self._processes.start(argv, env, cwd, with_input=with_input)}

    def _exec_input(self, arguments: Arguments, number: object) -> object:
        pid = arguments.number("pid")
        text = arguments.text("data", "")
        eof = arguments.flag("eof", False)
        arguments.finish()
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise InvalidArgument(f"data: must be base64: {error}") from None
        self._processes.feed(pid, number, data, eof=eof)
        return None

    def _exec_signal(self, arguments: Arguments, number: object) -> object:
        pid, signal = arguments.number("pid"), arguments.number("signal", least=1)
        arguments.finish()
        self._processes.signal(pid, signal)
        return {}

    def _devices(self, arguments: Arguments, number: object) -> object:
        arguments.finish()
        return [function.facts() for function in pci.functions()]

    def _load_module(self, arguments: Arguments, number: object) -> object:
        name = arguments.text("name")
        arguments.finish()

        def work() -> object:
            machine.load_module(name)
            return {}

        self._later(number, work)
        return None

    def _bind(self, arguments: Arguments, number: object) -> object:
        address = arguments.optional_text("device")
        base = arguments.number("base", 0)
        arguments.finish()
        self._later(number, lambda: self._benches.bind(address, base or None))
        return None

    def _release(self, arguments: Arguments, number: object) -> object:
        address = arguments.optional_text("device")
        arguments.finish()
        self._later(number, lambda: self._benches.release(address))
        return None

    def _check(self, arguments: Arguments, number: object) -> object:
        name = arguments.text("name")
        address = arguments.optional_text("device")
        given = arguments.nested("arguments")
        arguments.finish()
        stop = self._stops[number] = threading.Event()
        host = self._host

        def tell(facts: Message) -> None:
            said = event("progress", {"id": number, **facts})
            self._post(lambda: self._link.send(said) if host == self._host else None)

        run = Run(stop.is_set, tell)
        self._later(number, lambda: self._benches.check(name, address, given, run))
        return None

    def _stop(self, arguments: Arguments, number: object) -> object:
        check = arguments.number("check")
        arguments.finish()
        stop = self._stops.get(check)
        if stop is None:
            raise NotThere(f"no check with id {check} is running")
        stop.set()
        return {}

    def _poweroff(self, arguments: Arguments, number: object) -> object:
        arguments.finish()
        self._last_words = True
        return {}
