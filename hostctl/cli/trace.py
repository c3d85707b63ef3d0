"""``hostctl trace``: what an emulator does, followed; and conversations between a VMM and a
device, recorded, shown and replayed."""

import contextlib
import dataclasses
import os
import selectors
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import click

from hostctl.cli.follow import follow
from hostctl.cli.options import Commands, json_option
from hostctl.device.server import check_socket
from hostctl.errors import FINDING, OK, HostError
from hostctl.output import Output
from mdevemu.capture import pcapng, proxy
from mdevemu.capture.pcapng import Captured
from mdevemu.capture.replay import Replayed
from mdevemu.capture.replay import replay as replay_messages
from mdevemu.errors import ConfigError
from mdevemu.fds import listen_privately

LONGEST = 160
"""Characters that a line spends on one value."""

MESSAGES_TOLD = 10
"""Differences that are told one by one."""


class TraceCommands(Commands):
    """With ``--follow`` in front of everything it is the command ``follow``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See ``click.Group``."""
        if args and args[0].startswith("-") and "--follow" in args:
            args = ["follow", *(each for each in args if each != "--follow")]
        return super().parse_args(ctx, args)


@click.group(cls=TraceCommands)
def trace() -> None:
    """Follow what an emulator does; or record what a VMM and a device say, and replay it.

    `trace --follow MDEV` is `trace follow MDEV`.
    """


trace.add_command(follow)


@trace.command()
@click.argument("socket_path", metavar="SOCKET")
@click.argument("file", metavar="OUT.pcapng", type=click.Path(path_type=Path))
@click.option(
    "--listen", required=True, metavar="SOCKET2", help="Where the VMM is to connect instead."
)
@json_option
def record(socket_path: str, file: Path, listen: str, as_json: bool) -> None:
    """Stand between a VMM and the server behind SOCKET, and write what they say to OUT.pcapng.

    One conversation is recorded, from when the VMM connects to SOCKET2 until one of the two
    hangs up, or Ctrl-C.  Any client and any server will do.
    """
    output = Output(json=as_json)
    check_socket(socket_path)
    with _created(file) as writer, _listening(Path(listen)) as listener:
        output.say(f"waiting for a client on {listen}")
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            selector.select()
        client, _ = listener.accept()
        server = _connected(client, socket_path)
        output.say(f"recording to {file}")
        conversation = proxy.Proxy(client, server, writer.add)
        with contextlib.suppress(KeyboardInterrupt):
            conversation.run()
        totals = conversation.totals
    totals.ended = totals.ended or "interrupted"
    if output.json:
        output.record("trace.record", {"file": str(file), **dataclasses.asdict(totals)})
    else:
        output.line(
            f"{totals.to_server} messages to the server, {totals.to_client} to the client,"
            f" {totals.bytes} bytes: {totals.ended}"
        )


@trace.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Print every message of a recording, field by field."""
    output = Output(json=as_json)
    layers = _layers()
    started: int | None = None
    told = []
    for number, each in enumerate(pcapng.read(file), 1):
        started = each.time if started is None else started
        facts = _facts(layers, number, each, each.time - started)
        if output.json:
            told.append(facts)
        else:
            output.line(_line(facts))
    if output.json:
        output.record("trace.show", {"messages": told})


@trace.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("socket_path", metavar="SOCKET")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0.01, max=3600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may take over each message.",
)
@click.option(
    "--paced",
    is_flag=True,
    help="Let as much time pass between messages as the client did: for reads whose answer "
    "depends on work that the device does meanwhile.",
)
@json_option
def replay(file: Path, socket_path: str, timeout: float, paced: bool, as_json: bool) -> int:
    """Say to the server behind SOCKET what the recorded client said; exit status 1 unless it
    answers the same bytes.

    The device should be as fresh as the recorded one was, and have its UUID (the serial number
    comes from that).
    """
    output = Output(json=as_json)
    check_socket(socket_path)
    try:
        found = replay_messages(pcapng.read(file), socket_path, timeout, paced=paced)
    except OSError as wrong:
        raise HostError(f"{socket_path}: {wrong.strerror or wrong}") from None
    if output.json:
        output.record("trace.replay", _replayed(found))
    else:
        for each in found.differences[:MESSAGES_TOLD]:
            output.line(f"message {each.at}: {each.what}")
        if len(found.differences) > MESSAGES_TOLD:
            output.line(f"and {len(found.differences) - MESSAGES_TOLD} more")
        output.line(
            f"{found.sent} messages sent, {found.compared} compared,"
            f" {len(found.differences)} differ"
        )
    return FINDING if found.differences else OK


@contextlib.contextmanager
def _created(file: Path) -> Iterator[pcapng.Writer]:
    """A new recording; one that is there is not overwritten.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        opened = file.open("xb")
    except (OSError, ValueError) as wrong:
        raise ConfigError(str(file), getattr(wrong, "strerror", None) or str(wrong)) from None
    with opened:
        yield pcapng.Writer(opened)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """A socket for one client.

    Raises:
        ConfigError: nobody can listen there.
    """
    listener = listen_privately(path)
    try:
        with listener:
            yield listener
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _connected(client: socket.socket, path: str) -> socket.socket:
    """The server; ``client`` is sent away if it is not there.

    Raises:
        HostError: nobody listens.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        server.connect(path)
    except OSError as wrong:
        server.close()
        client.close()
        raise HostError(f"{path}: {wrong.strerror or wrong}") from None
    return server


def _layers() -> ModuleType:
    """What knows the fields of messages.

    Raises:
        HostError: scapy is not installed.
    """
    try:
        from mdevemu.capture import layers
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] != "scapy":
            raise
        raise HostError("scapy is not installed", "pip install 'mdevemu[capture]'") from None
    return layers


def _facts(layers: ModuleType, number: int, each: Captured, since: int) -> dict[str, Any]:
    """One message as data; ``since`` is nanoseconds after the first one."""
    packet = layers.dissect(each.data)
    header = layers.facts(packet)
    command = header["cmd"]
    return {
        "number": number,
        "seconds": since / 1e9,
        "to": "server" if each.to_server else "client",
        "id": header["id"],
        "command": layers.COMMANDS.get(command, f"command {command}"),
        "kind": _kind(header["flags"] or 0),
        "error": header["error"],
        "size": len(each.data),
        "fds": list(each.fds),
        "payload": layers.payload(packet),
    }


def _kind(flags: int) -> str:
    if flags & 0xF == 0:
        return "posted" if flags & 0x10 else "request"
    return "refusal" if flags & 0x20 else "reply"


def _line(facts: Mapping[str, Any]) -> str:
    arrow = "->" if facts["to"] == "server" else "<-"
    parts = [f"{name}={_value(value)}" for name, value in facts["payload"].items()]
    if facts["kind"] == "refusal":
        parts.insert(0, f"errno={facts['error']}")
    if facts["fds"]:
        parts.append(f"fds={','.join(facts['fds'])}")
    head = f"{facts['number']:>6} {facts['seconds']:>12.6f} {arrow} {facts['id']:>5}"
    return f"{head} {facts['command']:<24} {facts['kind']:<8} {' '.join(parts)}".rstrip()


def _value(value: object) -> str:
    if isinstance(value, int):
        return str(value) if value < 10 else f"{value:#x}"
    if isinstance(value, dict):
        return "{" + " ".join(f"{name}={_value(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + " ".join(_value(each) for each in value) + "]"
    text = str(value)
    return ascii(text)[1:-1] if len(text) <= LONGEST else f"{ascii(text[: LONGEST - 3])[1:-1]}..."


def _replayed(found: Replayed) -> dict[str, object]:
    return {
        "sent": found.sent,
        "compared": found.compared,
        "differences": [
            {
                "message": each.at,
                "what": each.what,
                "expected": each.expected.hex(),
                "got": None if each.got is None else each.got.hex(),
            }
            for each in found.differences
        ],
    }
