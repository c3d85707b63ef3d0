"""A device as ``lspci -vvv`` would show it in a VM."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

from hostctl.device.capabilities import Field, Value
from hostctl.device.config_space import Bar, Capability, ConfigSpace
from hostctl.output import size as readable

ROM = 6


def facts(space: ConfigSpace, sizes: Sequence[int]) -> dict[str, object]:
    """A device as data; ``sizes`` are bytes by region."""
    plain = asdict(space) | {
        "class_name": space.class_name,
        "bars": [asdict(bar) | {"size": sizes[bar.index]} for bar in _present(space, sizes)],
        "rom_size": sizes[ROM],
        "capabilities": [
            {
                "at": each.at,
                "id": each.id,
                "version": each.version,
                "name": each.name,
                "title": each.title,
                "words": {
                    name: {field.name: value for line in lines for field, value in line}
                    for name, lines in each.groups.items()
                },
            }
            for each in space.capabilities
        ],
    }
    if space.subsystem:
        plain["subsystem"] = {"vendor": space.subsystem[0], "device": space.subsystem[1]}
    return plain


def text(space: ConfigSpace, sizes: Sequence[int]) -> Iterator[str]:
    """A device in lines; ``sizes`` are bytes by region."""
    kind = f"{space.class_name} [{space.class_code >> 8:04x}]"
    interface = space.class_code & 0xFF
    revision = f" (rev {space.revision:02x})" if space.revision else ""
    programmed = f" (prog-if {interface:02x})" if interface else ""
    name = f"Device [{space.vendor:04x}:{space.device:04x}]"
    yield f"00:00.0 {kind}: {name}{revision}{programmed}"
    if space.subsystem and any(space.subsystem):
        yield f"\tSubsystem: Device [{space.subsystem[0]:04x}:{space.subsystem[1]:04x}]"
    yield f"\tControl: {_flags(space.command)}"
    yield f"\tStatus: {_status(space.status)}"
    if space.command["BusMaster"]:
        yield f"\tLatency: {space.latency}"
    if space.pin:
        yield f"\tInterrupt: pin {chr(ord('A') + space.pin - 1)} routed to IRQ 0"
    for bar in _present(space, sizes):
        yield f"\tRegion {bar.index}: {_bar(bar, sizes[bar.index], space.command)}"
    if sizes[ROM]:
        yield f"\tExpansion ROM at <unassigned> [disabled] [size={_size(sizes[ROM])}]"
    for each in space.capabilities:
        yield from _capability(each)
    for complaint in space.complaints:
        yield f"\t<{complaint}>"


def _present(space: ConfigSpace, sizes: Sequence[int]) -> list[Bar]:
    """The BARs that there is something behind."""
    return [bar for bar in space.bars if sizes[bar.index]]


def _bar(bar: Bar, size: int, command: Mapping[str, bool]) -> str:
    address = f"{bar.address:0{16 if bar.wide else 8}x}" if bar.address else "<unassigned>"
    decoded = command["I/O" if bar.io else "Mem"]
    disabled = "" if decoded or not bar.address else " [disabled]"
    if bar.io:
        return f"I/O ports at {address}{disabled} [size={_size(size)}]"
    width = "64-bit" if bar.wide else "32-bit"
    fetch = "prefetchable" if bar.prefetchable else "non-prefetchable"
    return f"Memory at {address} ({width}, {fetch}){disabled} [size={_size(size)}]"


def _size(number: int) -> str:
    """Bytes as lspci has them: 4K, 64M; whatever is no such number stays one."""
    told = readable(number)
    value, _, unit = told.partition(" ")
    return value + unit.removesuffix("iB").removesuffix("B") if "." not in value else str(number)


def _status(status: Mapping[str, bool]) -> str:
    names = list(status)
    first, rest = names[:5], names[5:]
    return " ".join(
        [*(_flag(name, status[name]) for name in first), "DEVSEL=fast"]
        + [_flag(name, status[name]) for name in rest]
    )


def _flags(flags: Mapping[str, bool]) -> str:
    return " ".join(_flag(name, value) for name, value in flags.items())


def _flag(name: str, value: bool) -> str:
    return name + ("+" if value else "-")


def _capability(each: Capability) -> Iterator[str]:
    if each.version is None:
        colon = ":" if each.id in (0x05, 0x09, 0x11) else ""
        head = f"[{each.at:02x}] {each.name}{colon}"
    else:
        head = f"[{each.at:03x} v{each.version}] {each.name}"
    yield f"\tCapabilities: {head} {each.title}".rstrip()
    for name, lines in each.groups.items():
        for at, line in enumerate(lines):
            before = f"\t\t{name}: " if not at else "\t\t\t"
            yield before + _line(line)


def _line(line: Sequence[tuple[Field, Value]]) -> str:
    parts: list[str] = []
    wakes = ",".join(
        _flag(field.name.removeprefix("PME-"), bool(value))
        for field, value in line
        if field.name.startswith("PME-D")
    )
    for at, (field, value) in enumerate(line):
        if field.name.startswith("PME-D"):
            continue
        if isinstance(value, bool):
            parts.append(_flag(field.name, value))
            continue
        told = str(value) if field.joint is None else f"{field.name}{field.joint}{value}"
        comma = "," if field.joint in (" ", ": ") and at + 1 < len(line) else ""
        parts.append(told + comma)
    if wakes:
        parts.append(f"PME({wakes})")
    return " ".join(parts)
