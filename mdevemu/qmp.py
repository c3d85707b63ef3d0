"""What travels over the control socket: QMP's commands, replies and events, as bytes.

Spec: QEMU docs/interop/qmp-spec.rst
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from mdevemu import __version__
from mdevemu.errors import unknown


class QmpError(Exception):
    """A refusal, as the client reads it: QMP's error class and a description."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def take_command(received: bytearray) -> bytes:
    """Take the first command out of what was received; nothing if it is not whole yet.

    A command ends where its JSON ends, as not every client sends a newline behind it;
    what is not JSON ends with the line in which it goes wrong.
    """
    text = received.decode("latin-1")  # a character a byte, so that offsets agree
    start = len(text) - len(text.lstrip())
    end, wrong = start, -1
    try:
        if text[start:]:
            end = json.JSONDecoder().raw_decode(text, start)[1]
    except json.JSONDecodeError as error:
        wrong = error.pos
    except (ValueError, RecursionError):  # a number or a depth out of all proportion
        wrong = start
    if wrong >= 0:
        # What is only cut off ends where the text does, or in a line that may go on.
        end = text.find("\n", wrong) + 1 if text[wrong:].strip() else 0
    command = bytes(received[start:end])
    del received[: end or start]
    return command


def decode(command: bytes) -> dict[str, Any]:
    """A command as an object.

    Raises:
        QmpError: it is none.
    """
    try:
        request = json.loads(command)
        json.dumps(request)  # a reply that repeats its id must not fail
    except (ValueError, RecursionError) as wrong:
        raise QmpError("GenericError", f"not JSON: {wrong}") from None
    if not isinstance(request, dict):
        raise QmpError("GenericError", "a command is a JSON object")
    if excess := set(request) - {"execute", "arguments", "id"}:
        raise QmpError(
            "GenericError", unknown("member", min(excess), ["execute", "arguments", "id"])
        )
    return request


def event(name: str, data: Mapping[str, object]) -> dict[str, object]:
    """An event that happens now."""
    seconds, rest = divmod(time.time_ns(), 10**9)
    stamp = {"seconds": seconds, "microseconds": rest // 1000}
    return {"event": name, "data": dict(data), "timestamp": stamp}


def encoded(message: Mapping[str, object]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\r\n"


def _version() -> dict[str, object]:
    major, minor, micro = (int(part) for part in __version__.split("."))
    return {"qemu": {"major": major, "minor": minor, "micro": micro}, "package": "mdevemu"}


VERSION = _version()
