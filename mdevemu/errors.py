"""Every error, sorted by who is to blame.

    MdevError
     +-- ConfigError      the operator: a CLI line, exit status 2
     +-- ProtocolError    the VMM broke vfio-user: the session closes
     +-- RequestError     the VMM asked for something we refuse: an error reply
     |    +-- StateError      a saved state that cannot be this device's
     +-- GuestFault       the guest's driver misused the device
          +-- DmaFault        an access that the IOMMU did not allow
          |    +-- Elsewhere   bytes that a client keeps: to be asked for
          +-- CommandFault    a command that the device cannot execute

A bug of ours is an AssertionError, and nothing catches it.
"""

import contextlib
import difflib
import errno
import os
import sys
from collections.abc import Iterable


class MdevError(Exception):
    """Base of everything that this package raises on purpose."""


class ConfigError(MdevError):
    """What the operator wrote cannot be used; nothing was changed.

    Attributes:
        where: file, key or argument that is wrong, as the operator would name it.
        wrong: what is wrong with it.
        number: the errno that the kernel's mdev ABI has for this.
    """

    def __init__(self, where: str, wrong: str, number: int = errno.EINVAL) -> None:
        super().__init__(f"{where}: {wrong}")
        self.where = where
        self.wrong = wrong
        self.number = number


class ProtocolError(MdevError):
    """The byte stream of a session cannot be trusted any more; close it."""


class RequestError(MdevError):
    """One request is refused; the session goes on.

    Attributes:
        number: the errno of the reply.
        reason: what was asked for and why it is refused.
    """

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{errno.errorcode[number]}: {reason} ({os.strerror(number)})")
        self.number = number
        self.reason = reason


class StateError(RequestError):
    """A saved state that is none, is damaged, or is another device's (EINVAL)."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EINVAL, f"saved state: {reason}")


class GuestFault(MdevError):
    """The guest's driver made the device do something illegal."""


class DmaFault(GuestFault):
    """A device access that the IOMMU or the memory behind it refused; no byte was written.

    Attributes:
        address: the Iova that failed.
        length: bytes from ``address`` to the end of the access.
        cause: the RISC-V IOMMU's CAUSE code (see ``mdevemu.iommu``).
        write: the access would have written.
    """

    def __init__(self, address: int, length: int, cause: int, *, write: bool) -> None:
        kind = "write to" if write else "read of"
        super().__init__(f"DMA {kind} {address:#x}+{length:#x} refused, cause {cause}")
        self.address = address
        self.length = length
        self.cause = cause
        self.write = write


class Elsewhere(DmaFault):
    """The access is allowed, and its bytes are with a client, who can be asked for them.

    Work that can wait asks (``mdevemu.accel.reach``).  To whoever cannot wait this is
    a fault as every other.
    """


class CommandFault(GuestFault):
    """A command that the device cannot execute.

    Attributes:
        code: the personality's own status or fault code.
        reason: what was wrong with the command.
        result: what the completion's result field shows, 0 for most.
    """

    def __init__(self, code: int, reason: str, result: int = 0) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.result = result


LONGEST_SHOWN = 80
"""Characters that a message spends on one value."""


def shown(value: object) -> str:
    """A value as a message shows it: in one line, cut where it gets long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits; lists without end
        text = f"this {type(value).__name__}"
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 3] + "..."


def complain(line: str) -> None:
    """Tell the operator on stderr while we go on, also if that is a log that cannot grow."""
    with contextlib.suppress(OSError, AttributeError):  # full, or closed before we began
        # Past Python's buffer, where it would wait for us to end, and fail again.
        os.write(sys.stderr.fileno(), f"mdevemu: {line}\n".encode(errors="backslashreplace"))


def unknown(what: str, given: object, accepted: Iterable[str]) -> str:
    """Refuse a name, naming the nearest match and everything that is accepted."""
    names = sorted(accepted)
    near = difflib.get_close_matches(given, names, n=1) if isinstance(given, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown {what} {shown(given)}{hint} (accepted: {', '.join(names) or 'none'})"
