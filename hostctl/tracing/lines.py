"""An event as one line for people."""

from collections.abc import Callable, Mapping

from rich.text import Text

from hostctl.tracing.events import Event

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_red")
"""One for each tenant, by the order in which they come."""

_ADDRESSES = frozenset({"iova", "hpa", "offset", "value", "device_id"})
_BAD = ("fault.", "trace.lost", "session.error")


class Lines:
    """Lines of one trace; the time is in seconds since its first event."""

    def __init__(self) -> None:
        self._started: int | None = None
        self._colours: dict[str, str] = {}

    def text(self, event: Event) -> Text:
        """One event; its tenant has a colour of his own, where there are colours."""
        if self._started is None:
            self._started = event.time
        seconds = (event.time - self._started) / 1e9
        tenant = event.mdev or "-"
        head = f"{seconds:>12.6f} {tenant:<10} {event.kind:<18} "
        line = Text(_printable(head + described(event)))
        if event.mdev:
            following = COLOURS[len(self._colours) % len(COLOURS)]
            line.stylize(self._colours.setdefault(event.mdev, following))
        if event.kind.startswith(_BAD) or event.kind.endswith(".fault"):
            line.stylize("bold")
        line.rstrip()
        return line


def _printable(text: str) -> str:
    """Reasons may come from a VMM: no terminal takes orders from them."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def described(event: Event) -> str:
    """What there is to say of an event beside its kind, mdev and time."""
    return _DESCRIBE.get(event.kind, _plain)(event.facts)


def _plain(facts: Mapping[str, object]) -> str:
    return "  ".join(f"{name}={_value(name, value)}" for name, value in facts.items())


def _value(name: str, value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, Mapping):
        return "{" + " ".join(f"{key}={_value('', each)}" for key, each in value.items()) + "}"
    if type(value) is int:
        return f"{value:#x}" if name in _ADDRESSES or value > 0xFFFF_FFFF else str(value)
    return str(value)


def _register(facts: Mapping[str, object]) -> str:
    name = facts.get("register")
    where = f"{facts.get('region')}+{_value('offset', facts.get('offset'))}"
    place = f"{name}" if name else f"{where}, {facts.get('length')} bytes without a register"
    fields = facts.get("fields")
    shown = _plain(fields) if isinstance(fields, Mapping) else ""
    return f"{place} = {_value('value', facts.get('value'))}  {shown}".rstrip()


def _translation(facts: Mapping[str, object]) -> str:
    who = f"PASID {_value('pasid', facts.get('pasid'))}  {facts.get('access')}"
    found = facts.get("hpa")
    if found is not None:
        what = f"hpa {_value('hpa', found)}"
    elif facts.get("cause") is not None:
        what = f"fault {facts['cause']} {facts.get('cause_name')}"
    else:
        what = str(facts.get("result"))
    return f"{who}  iova {_value('iova', facts.get('iova'))} -> {what}"


def _fault(facts: Mapping[str, object]) -> str:
    who = f"PASID {_value('pasid', facts.get('pasid'))}"
    cause = f"{facts.get('cause')} {facts.get('cause_name')}"
    return f"{who}  iova {_value('iova', facts.get('iova'))}  {cause}"


def _lost(facts: Mapping[str, object]) -> str:
    return f"{facts.get('lost')} events lost"


_DESCRIBE: Mapping[str, Callable[[Mapping[str, object]], str]] = {
    "register.read": _register,
    "register.write": _register,
    "iommu.walk": _translation,
    "iommu.hit": _translation,
    "iommu.fault": _fault,
    "trace.lost": _lost,
}
