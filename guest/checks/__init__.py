"""Checks of a device: each finds facts, and leaves the verdict to whoever asked.

A check is a module with ``run(bench, arguments, run) -> facts``.  The same code runs in a
guest through VFIO and on the host over a vfio-user socket.
"""

from collections.abc import Mapping
from importlib import import_module

from guest.arguments import Arguments
from guest.benches import Run
from guest.devices import AnyBench
from guest.errors import InvalidArgument, UnknownCommand
from guest.protocol import Message

_NATIVE = (
    "identity",
    "operations",
    "chains",
    "buffers",
    "sharing",
    "trespass",
    "plant",
    "hunt",
    "load",
    "pasids",
)
_MODULES: Mapping[str, Mapping[str, str]] = {
    "native": {name: name for name in _NATIVE},
    "ioat": {"identity": "ioat_identity", "channels": "channels"},
}
"""By personality: the module of each check."""

CHECKS = tuple(dict.fromkeys(name for checks in _MODULES.values() for name in checks))


def run_check(
    name: str, bench: AnyBench, arguments: Arguments | Message, run: Run | None = None
) -> Message:
    """Run the check called ``name``; gives its facts, JSON-able.

    Raises:
        UnknownCommand: there is no such check.
        InvalidArgument: an argument is wrong, or the check is for devices of another
            personality; the device was not touched.
        DeviceError: the device does not do what it documents.
    """
    must_exist(name)
    modules = _MODULES[bench.personality]
    if name not in modules:
        raise InvalidArgument(
            f"name: {name!r} is no check of {bench.access.name}, whose personality is "
            f"{bench.personality} (accepted: {', '.join(modules)})"
        )
    given = arguments if isinstance(arguments, Arguments) else Arguments(arguments)
    # Loaded when asked for: an agent that only runs commands starts faster.
    facts: Message = import_module(f"guest.checks.{modules[name]}").run(bench, given, run or Run())
    return facts


def must_exist(name: str) -> None:
    """Raises UnknownCommand if there is no check called ``name``."""
    if name not in CHECKS:
        raise UnknownCommand(f"unknown check {name!r} (accepted: {', '.join(CHECKS)})")
