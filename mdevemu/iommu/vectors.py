"""Files of recorded answers of an IOMMU: their format, and what is wrong with one that has none.

JSON lines, plain or in xz; tests/vectors/README.md describes them.  Everything in a file
is checked here, so whoever replays it meets numbers that fit and addresses in memory.
"""

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mdevemu.errors import ConfigError
from mdevemu.iommu.causes import Access
from mdevemu.iommu.registers import Capabilities
from mdevemu.iommu.requests import Request
from mdevemu.units import GIB, MIB, PAGE

FORMAT, VERSION = "riscv-iommu-vectors", 1
MAGIC = b"\xfd7zXZ\0"
LONGEST_LINE = 64 * MIB
MEMORY_TO_UNPACK = 512 * MIB
LARGEST_MEMORY = 1024 * GIB
ACCESSES = {"r": Access.READ, "w": Access.WRITE, "x": Access.EXECUTE}
RECORD_FIELDS = {"cause": 12, "did": 24, "pv": 1, "pid": 20, "priv": 1, "ttyp": 6}
PAGE_REQUEST_FIELDS = {"did": 24, "pv": 1, "pid": 20, "priv": 1, "exec": 1}
RESPONSE_FIELDS = {"rid": 16, "dsv": 1, "dseg": 8, "pv": 1, "pid": 20, "code": 4, "prgi": 9}
GRANT_FIELDS = {"pbmt": 2, "r": 1, "w": 1, "x": 1, "priv": 1, "global": 1, "u": 1, "n": 1}

Store = tuple[int, bytes]


@dataclass(frozen=True, slots=True)
class Config:
    """Registers before the first step, and the bytes of memory there are."""

    capabilities: int
    fctl: int
    ddtp: int
    cqb: int
    fqb: int
    pqb: int
    pq_enable: int
    mem_size: int


@dataclass(frozen=True, slots=True)
class Write:
    """The processor stores."""

    stores: Sequence[Store]


@dataclass(frozen=True, slots=True)
class Command:
    """A command of 16 bytes; ``status`` is ok or illegal."""

    raw: bytes
    status: str
    stores: Sequence[Store]


@dataclass(frozen=True, slots=True)
class Translate:
    """A request, and its answer.

    Attributes:
        status: ok, ur (aborted, Unsupported Request) or ca (Completer Abort).
        fields: of an answer, those that are specified; ``cause`` of a fault.
        records: in the fault queue, by field.
        stores: what the IOMMU changes in memory.
    """

    request: Request
    status: str
    fields: dict[str, int]
    records: Sequence[dict[str, int]]
    stores: Sequence[Store]


@dataclass(frozen=True, slots=True)
class Message:
    """A "Page Request" message: its fields, and what comes of it."""

    fields: dict[str, int]
    responses: Sequence[dict[str, int]]
    records: Sequence[dict[str, int]]


@dataclass(frozen=True, slots=True)
class Drain:
    """Software empties the page request queue."""

    records: Sequence[dict[str, int]]
    overflow: int
    memory_fault: int


Action = Write | Command | Translate | Message | Drain


@dataclass(frozen=True, slots=True)
class Scenario:
    """One IOMMU, from its reset on."""

    name: str
    config: Config
    memory: Sequence[Store]
    actions: Sequence[Action]


def scenarios(path: Path) -> Iterator[Scenario]:
    """Every scenario of a file, in order.

    Raises:
        ConfigError: it cannot be read, or something in it is not of the format; the
            scenarios before were.
    """
    name = str(path)
    lines = _lines(path)
    head = _object(next(lines, b""), f"{name}:1")
    if (head.text("format"), head.number("version", 32)) != (FORMAT, VERSION):
        raise ConfigError(f"{name}:1", f"not a file of the format {FORMAT} {VERSION}")
    announced = head.number("scenarios", 32)
    count = 0
    for count, line in enumerate(lines, 1):
        yield _scenario(_object(line, f"{name}:{count + 1}"))
    if count != announced:
        raise ConfigError(name, f"it announces {announced} scenarios and has {count}")


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a plain or compressed file."""
    rest = b""
    for chunk in _chunks(path):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from whole
        if len(rest) > LONGEST_LINE:
            raise ConfigError(str(path), f"a line is longer than {LONGEST_LINE} bytes")
    if rest:
        yield rest


def _chunks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked if need be, a megabyte at a time."""
    try:
        with path.open("rb") as file:
            data = file.read(MIB)
            if not data.startswith(MAGIC):
                while data:
                    yield data
                    data = file.read(MIB)
                return
            unpack = lzma.LZMADecompressor(memlimit=MEMORY_TO_UNPACK)
            while not unpack.eof:
                yield unpack.decompress(data, MIB)
                if unpack.needs_input:
                    data = file.read(MIB)
                    if not data and not unpack.eof:
                        raise ConfigError(str(path), "the compressed data stops in the middle")
                else:
                    data = b""
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except lzma.LZMAError as error:
        raise ConfigError(str(path), f"cannot be unpacked: {error}") from error


class _Fields:
    """A JSON object and where it stands; every access checks kind and range."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise ConfigError(where, f"an object is needed, not {_short(value)}")
        self._fields: dict[str, object] = value
        self.where = where

    def wrong(self, name: str, what: str) -> ConfigError:
        given = _short(self._fields[name]) if name in self._fields else "nothing"
        return ConfigError(f"{self.where} {name}", f"{what} is needed, not {given}")

    def has(self, name: str) -> bool:
        """It is there, and not null."""
        return self._fields.get(name) is not None

    def number(self, name: str, bits: int) -> int:
        value = self._fields.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << bits:
            raise self.wrong(name, f"a number of at most {bits} bits")
        return value

    def numbers(self, widths: dict[str, int]) -> dict[str, int]:
        return {name: self.number(name, bits) for name, bits in widths.items()}

    def hexadecimal(self, name: str, bits: int = 64) -> int:
        value = self._fields.get(name)
        found = _hexadecimal(value)
        if found is None or found >> bits:
            raise self.wrong(name, f"a string with a hexadecimal number of {bits} bits")
        return found

    def text(self, name: str, accepted: Sequence[str] = ()) -> str:
        value = self._fields.get(name)
        if not isinstance(value, str) or (accepted and value not in accepted):
            raise self.wrong(name, f"one of {', '.join(accepted)}" if accepted else "a text")
        return value

    def sub(self, name: str) -> "_Fields":
        return _Fields(self._fields.get(name), f"{self.where} {name}")

    def items(self, name: str) -> list[object]:
        value = self._fields.get(name, [])
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def subs(self, name: str) -> list["_Fields"]:
        where = f"{self.where} {name}"
        return [_Fields(each, f"{where}[{at}]") for at, each in enumerate(self.items(name))]

    def octets(self, name: str, length: int) -> bytes:
        found = _bytes(self._fields.get(name))
        if found is None or len(found) != length:
            raise self.wrong(name, f"{2 * length} hexadecimal digits")
        return found

    def stores(self, name: str, size: int) -> list[Store]:
        """Pairs of address and bytes, all below ``size``."""
        found = []
        for at, pair in enumerate(self.items(name)):
            where = f"{self.where} {name}[{at}]"
            if not isinstance(pair, list) or len(pair) != 2:
                raise ConfigError(where, f"[address, bytes] is needed, not {_short(pair)}")
            address, data = _hexadecimal(pair[0]), _bytes(pair[1])
            if address is None or data is None:
                raise ConfigError(where, f"[address, bytes] is needed, not {_short(pair)}")
            if address + len(data) > size:
                raise ConfigError(where, f"{_short(pair[0])} is not in {size:#x} bytes of memory")
            found.append((address, data))
        return found


def _object(line: bytes, where: str) -> _Fields:
    """The object that a line holds."""
    try:
        return _Fields(json.loads(line), where)
    except (ValueError, RecursionError) as error:
        raise ConfigError(where, f"not JSON: {error}") from error


def _scenario(given: _Fields) -> Scenario:
    name = given.text("id")
    given.where = f"{given.where} ({name[:40]})"
    of = given.sub("config")
    can = Capabilities(of.hexadecimal("capabilities"))
    absent = [bit for bit in ("qosid", "amo_mrif", "msi_mrif") if getattr(can, bit)]
    if absent or can.pas > 56:
        what = " and ".join(absent).upper() or "PAS > 56"
        raise of.wrong("capabilities", f"an IOMMU without {what}")
    size = of.hexadecimal("mem_size")
    if not PAGE <= size <= LARGEST_MEMORY:
        raise of.wrong("mem_size", f"a size from {PAGE:#x} to {LARGEST_MEMORY:#x}")
    config = Config(
        capabilities=int(can),
        fctl=of.hexadecimal("fctl", 32),
        ddtp=of.hexadecimal("ddtp"),
        cqb=of.hexadecimal("cqb"),
        fqb=of.hexadecimal("fqb"),
        pqb=of.hexadecimal("pqb"),
        pq_enable=of.number("pq_enable", 1),
        mem_size=size,
    )
    for queue, entry in (("cqb", 16), ("fqb", 32)):
        base = getattr(config, queue)
        if (base >> 10 << 12) + (entry * 2 << (base & 0x1F)) > size:
            raise of.wrong(queue, f"a queue in {size:#x} bytes of memory")
    actions = [_action(step, size) for step in given.subs("steps")]
    return Scenario(name, config, given.stores("mem", size), actions)


def _action(step: _Fields, size: int) -> Action:
    kind = step.text("op", ("write", "command", "translate", "page_request", "drain_pq"))
    if kind == "write":
        return Write(step.stores("mem", size))
    expected = step.sub("exp")
    if kind == "command":
        status = expected.text("status", ("ok", "illegal"))
        return Command(step.octets("raw", 16), status, expected.stores("mem", size))
    if kind == "translate":
        return _translate(step.sub("req"), expected, size)
    if kind == "page_request":
        message = step.sub("msg")
        fields = message.numbers({"rid": 16, "dsv": 1, "dseg": 8, "pv": 1, "pid": 20})
        fields |= message.numbers({"priv": 1, "exec": 1})
        fields["payload"] = message.hexadecimal("payload")
        responses = [each.numbers(RESPONSE_FIELDS) for each in expected.subs("prgr")]
        return Message(fields, responses, _records(expected))
    queued = [
        {**each.numbers(PAGE_REQUEST_FIELDS), "payload": each.hexadecimal("payload")}
        for each in expected.subs("pq")
    ]
    return Drain(queued, expected.number("pqof", 1), expected.number("pqmf", 1))


def _translate(given: _Fields, expected: _Fields, size: int) -> Translate:
    kind = given.text("at", ("U", "T", "A"))
    if kind == "A":
        access = Access.READ if given.number("nw", 1) else Access.WRITE
    else:
        access = ACCESSES[given.text("op", tuple(ACCESSES))]
    tagged = given.number("pv", 1)
    request = Request(
        device_id=given.number("did", 24),
        process_id=given.number("pid", 20) if tagged else None,
        iova=given.hexadecimal("iova"),
        access=access,
        supervisor=bool(given.number("priv", 1)),
        translated=kind == "T",
        asks=kind == "A",
        execute=bool(given.number("exec", 1)) if kind == "A" else False,
    )
    status = expected.text("status", ("ok", "ur", "ca"))
    fields: dict[str, int] = {}
    if status == "ok":
        if expected.has("pa"):
            fields["pa"] = expected.hexadecimal("pa")
        there = {name: bits for name, bits in GRANT_FIELDS.items() if expected.has(name)}
        fields |= expected.numbers(there)
    else:
        fields["cause"] = expected.number("cause", 12)
    return Translate(request, status, fields, _records(expected), expected.stores("mem", size))


def _records(expected: _Fields) -> list[dict[str, int]]:
    """Fault records, with the mask of what is compared of iotval2."""
    found = []
    for each in expected.subs("fq"):
        wide = {name: each.hexadecimal(name) for name in ("iotval", "iotval2", "iotval2_mask")}
        found.append(each.numbers(RECORD_FIELDS) | wide)
    return found


def _hexadecimal(value: object) -> int | None:
    if not isinstance(value, str) or not value.startswith("0x") or len(value) > 18:
        return None
    try:
        return int(value[2:], 16) if value[2:].isalnum() else None
    except ValueError:
        return None


def _bytes(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return bytes.fromhex(value)
    except ValueError:
        return None


def _short(value: object) -> str:
    """A value of the file, in few characters, for a message."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
