"""Messages between host and agent: JSON objects, one a line, QEMU-guest-agent-like.

    host   {"execute": NAME, "arguments": {...}, "id": N}
    agent  {"return": VALUE, "id": N}
           {"error": {"class": KIND, "desc": TEXT}, "id": N}
           {"event": NAME, "data": {...}}             any time

A host begins with ``sync``: whatever the agent had to say to an earlier host is dropped,
and what it ran for that host is hung up.
"""

import json
from collections.abc import Iterator

PORT = "org.mdevemu.agent.0"
LINE_LIMIT = 1 << 20  # bytes of one message, newline included
CHUNK = 32 << 10  # bytes of a command's output or input in one message, before base64

Message = dict[str, object]


class Garbage:
    """A line that is no message.

    Attributes:
        reason: what is wrong with it.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"Garbage({self.reason!r})"


def encode(message: Message) -> bytes:
    """One line of ASCII with its newline."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def command(name: str, arguments: Message, number: int) -> Message:
    """What a host sends."""
    return {"execute": name, "arguments": arguments, "id": number}


def reply(value: object, number: object) -> Message:
    """The answer to command ``number``."""
    return {"return": value, "id": number}


def failure(kind: str, text: str, number: object = None) -> Message:
    """The refusal of command ``number``; None for a line that was no command."""
    message: Message = {"error": {"class": kind, "desc": text}}
    if number is not None:
        message["id"] = number
    return message


def event(name: str, data: Message) -> Message:
    """Something the agent says unasked."""
    return {"event": name, "data": data}


class Lines:
    """Cuts a byte stream into messages; survives any bytes in bounded memory."""

    def __init__(self, limit: int = LINE_LIMIT) -> None:
        """A line of more than ``limit`` bytes is dropped whole and counts as garbage."""
        self._limit = limit
        self._partial = bytearray()
        self._skipping = False

    def reset(self) -> None:
        """Forget a half-arrived line."""
        self._partial.clear()
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[Message | Garbage]:
        """Take the next bytes and give the messages that they complete; empty lines are nothing."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0:
            whole = bytes(self._partial) + data[start:end]
            skipping = self._skipping
            self.reset()
            start = end + 1
            if skipping or len(whole) >= self._limit:
                yield Garbage(f"line longer than {self._limit} bytes")
            elif stripped := whole.strip():
                yield _decode(stripped)
        if not self._skipping:
            self._partial += data[start:]
            if len(self._partial) >= self._limit:
                self._partial.clear()
                self._skipping = True


def _decode(line: bytes) -> Message | Garbage:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Garbage(f"not JSON: {error}")
    if not isinstance(message, dict):
        return Garbage("not a JSON object")
    return message
