"""Checks of a device: each finds facts, and leaves the verdict to whoever asked.

A check is a module with ``run(bench, arguments, run) -> facts``.  The same code runs in a
guest through VFIO and on the host over a vfio-user socket.
"""

from importlib import import_module

from guest.arguments import Arguments
from guest.bench import Bench, Run
from guest.errors import UnknownCommand
from guest.protocol import Message

CHECKS = ("identity", "operations", "chains", "trespass", "plant", "hunt", "load", "pasids")


def run_check(
    name: str, bench: Bench, arguments: Arguments | Message, run: Run | None = None
) -> Message:
    """Run the check called ``name``; gives its facts, JSON-able.

    Raises:
        UnknownCommand: there is no such check.
        InvalidArgument: an argument is wrong; the device was not touched.
        DeviceError: the device does not do what it documents.
    """
    must_exist(name)
    given = arguments if isinstance(arguments, Arguments) else Arguments(arguments)
    # Loaded when asked for: an agent that only runs commands starts faster.
    facts: Message = import_module(f"guest.checks.{name}").run(bench, given, run or Run())
    return facts


def must_exist(name: str) -> None:
    """Raises UnknownCommand if there is no check called ``name``."""
    if name not in CHECKS:
        raise UnknownCommand(f"unknown check {name!r} (accepted: {', '.join(CHECKS)})")
