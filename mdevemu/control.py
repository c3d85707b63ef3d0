"""The control socket: QMP's shape, so that QMP's tools work on it.

A client is greeted, negotiates with ``qmp_capabilities``, then sends commands
and reads replies and events.

Spec: QEMU docs/interop/qmp-spec.rst; ``query-schema`` answers as QAPI introspection does.  An
error has one member more, ``errno``: the name of the number that the kernel's mdev ABI has for it.
"""

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol

from mdevemu.errors import ConfigError, shown, unknown
from mdevemu.fds import Listener
from mdevemu.loop import Loop
from mdevemu.qmp import VERSION, QmpError, decode, encoded, event, take_command

MAX_LINE = 1 << 20
"""Bytes of one command; a client that sends more is closed."""

MAX_BACKLOG = 16 << 20
"""Bytes of replies and events that a client may leave unread before it is closed."""

READ_SIZE = 1 << 16

KINDS: dict[str, type] = {
    "str": str,
    "int": int,
    "bool": bool,
    "object": dict,
    "[str]": list,
}


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a command."""

    name: str
    kind: Literal["str", "int", "bool", "object", "[str]"] = "str"
    optional: bool = False


class Feed(Protocol):
    """Events for one client, made as it takes them: one that does not read costs nothing.

    Attributes:
        waiting: there is something to take.
    """

    @property
    def waiting(self) -> bool: ...

    def take(self) -> tuple[str, Mapping[str, object]]:
        """Name and data of the next event."""

    def close(self) -> None:
        """The client is gone, or has asked for another feed."""


@dataclass(frozen=True, slots=True)
class Fed:
    """What a command returns that begins to feed its client: its reply, and the feed."""

    reply: object
    feed: Feed


@dataclass(frozen=True, slots=True)
class Command:
    """A command: what it takes, and the function that carries it out.

    ``run`` is called with the arguments by name (``-`` turned into ``_``), returns
    something JSON can hold, and raises ConfigError to refuse.  That of one that ``feeds``
    gets ``wake`` too, to be called when there is something to take again, and returns Fed.
    """

    name: str
    run: Callable[..., object]
    arguments: Sequence[Argument] = ()
    feeds: bool = False


@dataclass(eq=False)
class _Client:
    """One connection."""

    socket: socket.socket
    received: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    negotiated: bool = False
    feed: Feed | None = None

    @property
    def hungry(self) -> bool:
        """Everything was sent to it, and there is more to take."""
        return not self.unsent and self.feed is not None and self.feed.waiting


class Control:
    """Listens on a socket and carries out commands."""

    def __init__(self, path: Path, loop: Loop, commands: Sequence[Command]) -> None:
        """Serve ``commands``, and those that every QMP server has, on a socket at ``path``."""
        own = [
            Command("query-version", lambda: VERSION),
            Command("query-commands", self._names),
            Command("query-schema", self._schema),
        ]
        self._commands = {command.name: command for command in [*own, *commands]}
        self._loop = loop
        self._clients: list[_Client] = []
        self._listener = Listener(path)
        loop.watch(self._listener.fileno(), self._accept, last=True)

    def event(self, name: str, data: Mapping[str, object]) -> None:
        """Tell every client that has negotiated."""
        message = event(name, data)
        for client in list(self._clients):
            if client.negotiated:
                self._send(client, message)

    def close(self) -> None:
        """Close every client and the socket, and remove it."""
        for client in list(self._clients):
            self._drop(client)
        self._loop.forget(self._listener.fileno())
        self._listener.close()

    # Connections.

    def _accept(self) -> None:
        try:
            connection = self._listener.accept()
        except OSError:
            return  # it was turned away
        if connection is None:
            return
        client = _Client(connection)
        self._clients.append(client)
        self._loop.watch(connection.fileno(), lambda: self._receive(client))
        self._send(client, {"QMP": {"version": VERSION, "capabilities": []}})

    def _receive(self, client: _Client) -> None:
        try:
            data = client.socket.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return
        client.received += data
        while client in self._clients and (command := take_command(client.received)):
            self._send(client, self._answer(client, command))
        if len(client.received) > MAX_LINE:
            self._drop(client)

    def _send(self, client: _Client, message: Mapping[str, object]) -> None:
        client.unsent += encoded(message)
        if len(client.unsent) > MAX_BACKLOG:
            self._drop(client)
        else:
            self._flush(client)

    def _flush(self, client: _Client) -> None:
        if client.hungry and client.feed:
            client.unsent += encoded(event(*client.feed.take()))
        try:
            sent = client.socket.send(client.unsent, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(client)
            return
        del client.unsent[:sent]
        self._watch(client)

    def _watch(self, client: _Client) -> None:
        """Hear of commands, and of room for what is to be sent."""
        if client in self._clients:
            flush = partial(self._flush, client) if client.unsent or client.hungry else None
            self._loop.watch(client.socket.fileno(), partial(self._receive, client), flush)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            self._clients.remove(client)
            _feed(client, None)
            self._loop.forget(client.socket.fileno())
            client.socket.close()

    # Commands.

    def _answer(self, client: _Client, command: bytes) -> dict[str, object]:
        """Carry out one command."""
        reply: dict[str, object] = {}
        try:
            request = decode(command)
            if "id" in request:
                reply["id"] = request["id"]
            return {"return": self._execute(client, request)} | reply
        except QmpError as refused:
            return {"error": {"class": refused.kind, "desc": str(refused)}} | reply
        except ConfigError as refused:
            kind = "DeviceNotFound" if refused.number == errno.ENOENT else "GenericError"
            name = errno.errorcode[refused.number]
            return {"error": {"class": kind, "desc": str(refused), "errno": name}} | reply

    def _execute(self, client: _Client, request: Mapping[str, Any]) -> object:
        name = request.get("execute")
        if not isinstance(name, str):
            raise QmpError("GenericError", "a command has a member 'execute' with its name")
        given = request.get("arguments", {})
        if not isinstance(given, dict):
            raise QmpError("GenericError", f"{name}: 'arguments' is not an object")
        if name == "qmp_capabilities":
            if client.negotiated:
                raise QmpError("CommandNotFound", "capabilities are negotiated already")
            if given.get("enable"):
                wanted = shown(given["enable"])
                raise QmpError("GenericError", f"capabilities {wanted} are not offered")
            client.negotiated = True
            return {}
        if not client.negotiated:
            raise QmpError("CommandNotFound", "expecting 'qmp_capabilities' first")
        done = self.carry_out(name, given, partial(self._watch, client))
        if not isinstance(done, Fed):
            return done
        _feed(client, done.feed)
        return done.reply

    def carry_out(
        self, name: str, given: Mapping[str, Any], wake: Callable[[], None]
    ) -> object | Fed:
        """Carry out a command, whoever wants it, and give what it returns.

        ``wake`` is for commands that feed: it is called when there is something to take.

        Raises:
            QmpError, ConfigError: it is refused; nothing was changed.
        """
        command = self._commands.get(name)
        if command is None:
            raise QmpError("CommandNotFound", unknown("command", name, self._commands))
        arguments = _checked(command, given)
        if not command.feeds:
            return command.run(**arguments)
        fed = command.run(**arguments, wake=wake)
        assert isinstance(fed, Fed), f"{name} feeds nothing"
        return fed

    def _names(self) -> list[dict[str, str]]:
        return [{"name": name} for name in sorted([*self._commands, "qmp_capabilities"])]

    def _schema(self) -> list[dict[str, object]]:
        """The commands, as QAPI's SchemaInfo."""
        infos: list[dict[str, object]] = [
            {"name": "any", "meta-type": "builtin", "json-type": "value"},
            {"name": "str", "meta-type": "builtin", "json-type": "string"},
            {"name": "int", "meta-type": "builtin", "json-type": "int"},
            {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
            {"name": "object", "meta-type": "builtin", "json-type": "object"},
            {"name": "[str]", "meta-type": "array", "element-type": "str"},
        ]
        for command in self._commands.values():
            members = [
                {"name": each.name, "type": each.kind}
                | ({"default": None} if each.optional else {})
                for each in command.arguments
            ]
            arguments = f"{command.name}-arg"
            infos.append({"name": arguments, "meta-type": "object", "members": members})
            infos.append(
                {
                    "name": command.name,
                    "meta-type": "command",
                    "arg-type": arguments,
                    "ret-type": "any",
                    "allow-oob": False,
                }
            )
        return infos


def _feed(client: _Client, feed: Feed | None) -> None:
    """Feed a client by this from now on."""
    if client.feed:
        client.feed.close()
    client.feed = feed


def _checked(command: Command, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments, each known, present and of its kind."""
    accepted = {argument.name: argument for argument in command.arguments}
    for name in given:
        if name not in accepted:
            raise QmpError("GenericError", f"{command.name}: {unknown('argument', name, accepted)}")
    for argument in accepted.values():
        value = given.get(argument.name)
        if value is None:
            if not argument.optional:
                raise QmpError("GenericError", f"{command.name}: '{argument.name}' is missing")
        elif not _fits(value, argument.kind):
            raise QmpError(
                "GenericError",
                f"{command.name}: '{argument.name}' is {shown(value)}, not {argument.kind}",
            )
    return {name.replace("-", "_"): value for name, value in given.items() if value is not None}


def _fits(value: object, kind: str) -> bool:
    """A value is of that kind of arguments."""
    of_texts = not isinstance(value, list) or all(isinstance(each, str) for each in value)
    return type(value) is KINDS[kind] and of_texts
