"""What two guests do to share a buffer, a step at a time; whoever asks has the steps of both."""

from collections.abc import Callable, Mapping

from guest.access import PAGE
from guest.arguments import Arguments
from guest.bench import Bench, Run, status_name
from guest.buffers import Buffers, HbmBuffer, Refused
from guest.errors import InvalidArgument
from guest.native import Flag, Operation
from guest.protocol import Message
from guest.queue import Command

_LIMIT = 64 << 10  # bytes that are read or written in one step


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Do one step, which is named by ``do``; what it leaves stays until the device is reset.

    * ``join``: the ``number`` that others export to.
    * ``export`` a new buffer that holds ``content`` (hexadecimal) to ``peer``, ``writable`` or
      not, ``mapped`` or not: its ``handle``, ``address`` and ``size``.
    * ``import`` a ``handle``: ``address`` and ``size``.
    * ``read`` ``length`` bytes at an ``address``: ``status``, ``fault`` address, ``content``.
    * ``write`` ``content`` to an ``address``: ``status``, ``fault`` address.
    * ``revoke`` a ``handle``; ``free`` a buffer, or ``release`` an import, at an ``address``.

    A step that the device refuses has ``refused``, why, which is None otherwise.
    """
    name = arguments.text("do")
    step = _STEPS.get(name)
    if step is None:
        raise InvalidArgument(f"do: unknown step {name!r} (accepted: {', '.join(_STEPS)})")
    try:
        return {"refused": None, **step(bench, Buffers(bench.device), arguments)}
    except Refused as refused:
        return {"refused": refused.status.name.lower().replace("_", "-")}


def _join(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    arguments.finish()
    return {"number": buffers.join()}


def _export(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    content, peer = _content(arguments), arguments.number("peer")
    writable, mapped = arguments.flag("writable", False), arguments.flag("mapped", True)
    arguments.finish()
    made = buffers.allocate(len(content), mapped=mapped)
    try:
        handle = buffers.export(made, peer, writable=writable)
    except Refused:
        buffers.free(made)
        raise
    _move(bench, content, made.address, write=True)
    return {"handle": handle, **made._asdict()}


def _import(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    handle = arguments.number("handle")
    arguments.finish()
    return buffers.take(handle)._asdict()


def _read(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    address, length = arguments.number("address"), arguments.number("length", PAGE, least=1)
    arguments.finish()
    if length > _LIMIT:
        raise InvalidArgument(f"length: must be at most {_LIMIT}, not {length}")
    return _move(bench, bytes(length), address, write=False)


def _write(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    content, address = _content(arguments), arguments.number("address")
    arguments.finish()
    return _move(bench, content, address, write=True)


def _revoke(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    handle = arguments.number("handle")
    arguments.finish()
    buffers.revoke(handle)
    return {}


def _free(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    address = arguments.number("address")
    arguments.finish()
    buffers.free(HbmBuffer(address, 0))
    buffers.wait_scrubbed()
    return {}


def _release(bench: Bench, buffers: Buffers, arguments: Arguments) -> Message:
    address = arguments.number("address")
    arguments.finish()
    buffers.release(HbmBuffer(address, 0))
    return {}


_STEPS: Mapping[str, Callable[[Bench, Buffers, Arguments], Message]] = {
    "join": _join,
    "export": _export,
    "import": _import,
    "read": _read,
    "write": _write,
    "revoke": _revoke,
    "free": _free,
    "release": _release,
}


def _content(arguments: Arguments) -> bytes:
    content = arguments.data("content")
    if not 0 < len(content) <= _LIMIT:
        raise InvalidArgument(f"content: must be 1 to {_LIMIT} bytes, not {len(content)}")
    return content


def _move(bench: Bench, content: bytes, address: int, *, write: bool) -> Message:
    """Copy from or to HBM, by the device."""
    with bench.memory(len(content)) as memory, bench.open_queue(0) as queue:
        memory.view[: len(content)] = content
        ends = (memory.iova, address) if write else (address, memory.iova)
        flag = Flag.DESTINATION_HBM if write else Flag.SOURCE_HBM
        done = queue.run(Command(Operation.COPY, len(content), *ends, flags=flag))
        found: Message = {"status": status_name(done.status), "fault": done.address}
        return found if write else found | {"content": memory.view[: len(content)].hex()}
