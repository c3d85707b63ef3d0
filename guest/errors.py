"""What can go wrong in the guest, with the name that the host sees as the error's class."""


class AgentError(Exception):
    """A command of the host's that cannot be done; nothing was changed by it."""

    kind = "GenericError"


class UnknownCommand(AgentError):
    """No command, check or argument has this name."""

    kind = "CommandNotFound"


class InvalidArgument(AgentError):
    """An argument is missing, unknown, or not what it must be."""

    kind = "InvalidArgument"


class NotThere(AgentError):
    """No such process, device, module or port."""

    kind = "NotFound"


class Occupied(AgentError):
    """Somebody else is using it."""

    kind = "Busy"


class DeviceError(AgentError):
    """The device does not do what it documents; the message holds its registers."""

    kind = "DeviceError"


class DeviceTimeout(DeviceError):
    """The device did not answer in time."""

    kind = "DeviceTimeout"
