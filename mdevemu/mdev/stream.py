"""The state of an mdev as a stream of bytes: docs/migration.md has it in a table.

Who reads one has it from anybody, and takes nothing in it for granted.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Annotated, TypeVar

import crc32c

from mdevemu.errors import StateError
from mdevemu.layout import U32, Scalar, Struct, pack, sizeof, u32, u64, unpack
from mdevemu.units import KIB, MIB

S = TypeVar("S", bound=Struct)

MAGIC = b"mdevemu\0"
VERSION = 1
BLOCK = 64 * KIB
"""HBM travels in blocks of this many bytes."""
LONGEST = MIB
"""Most bytes of one record."""


class Kind(enum.IntEnum):
    """What a record holds."""

    SHAPE = 1
    HBM = 2
    PADDING = 3
    BANK = 4
    DEVICE = 5
    END = 6


class StreamHead(Struct):
    """What a stream begins with."""

    magic: Annotated[bytes, Scalar("8s")]
    version: u32
    reserved: u32


class RecordHead(Struct):
    """What each record begins with; ``length`` bytes follow."""

    kind: Annotated[int, U32]
    length: u32


class Shape(Struct):
    """What a slice is, as its guest sees it: it moves only to one that is the same.

    ``operations`` has a bit for each that the engines do, ``pasid_bits`` is 0 if the
    guest has no PASIDs, ``max_transfer`` (bytes) if the type leaves it open.  Names are
    UTF-8, filled up with zeros.
    """

    personality: Annotated[bytes, Scalar("32s")]
    type: Annotated[bytes, Scalar("64s")]
    hbm: u64
    operations: u64
    queues: u32
    pasid_bits: u32
    max_transfer: u64


class HbmPlace(Struct):
    """Where in the HBM a block lies, in bytes."""

    offset: u64


class BankName(Struct):
    """Which register bank the bytes after it are of."""

    name: Annotated[bytes, Scalar("32s")]


class Checksum(Struct):
    """CRC-32C of all that was before the last record."""

    crc32c: u32


def record(kind: Kind, *parts: bytes) -> bytes:
    """One record."""
    payload = b"".join(parts)
    assert len(payload) <= LONGEST
    return pack(RecordHead(kind, len(payload))) + payload


def head(shape: Shape) -> bytes:
    """What comes before anything else."""
    return pack(StreamHead(MAGIC, VERSION, 0)) + record(Kind.SHAPE, pack(shape))


def device(contents: bytes) -> bytes:
    """The record of what the device has besides registers."""
    return record(Kind.DEVICE, contents)


def bank(name: str, contents: bytes) -> bytes:
    """The record of a register bank."""
    return record(Kind.BANK, pack(BankName(name.encode())), contents)


def block(offset: int, contents: bytes) -> bytes:
    """The record of a block of HBM."""
    return record(Kind.HBM, pack(HbmPlace(offset)), contents)


def padding(room: int) -> bytes:
    """A record of at most ``room`` bytes that means nothing; none if there is too little room."""
    length = min(room - sizeof(RecordHead), LONGEST)
    return record(Kind.PADDING, bytes(length)) if length >= 0 else b""


def end(checksum: int) -> bytes:
    """The last record."""
    return record(Kind.END, pack(Checksum(checksum)))


@dataclass
class Incoming:
    """A stream as it comes in.

    Attributes:
        shape: of the slice that it has to be for.
        banks: size in bytes of each register bank's contents.
        store: puts a block into the HBM, which it lies in: (offset, contents).
        reprogrammed: engines may have done something else when it was made.
        contents: of the banks that came.
        device: what the device has besides, once it came.
        over: the stream has come to its end, whole.
    """

    shape: Shape
    banks: dict[str, int]
    store: Callable[[int, bytes], None]
    reprogrammed: bool = False
    contents: dict[str, bytes] = field(default_factory=dict)
    device: bytes | None = None
    over: bool = False
    _began: bool = False
    _shaped: bool = False
    _checksum: int = 0
    _waiting: bytearray = field(default_factory=bytearray)

    def write(self, data: bytes) -> None:
        """The next bytes.

        Raises:
            StateError: no stream has them there, or it is not for this slice.
        """
        if self.over and data:
            raise StateError(f"{len(data)} bytes after its end")
        self._waiting += data
        while (size := self._whole()) is not None:
            found = bytes(self._waiting[:size])
            del self._waiting[:size]
            if self._began:
                self._take(found)
            self._began = True
            self._checksum = crc32c.crc32c(found, self._checksum)
            if self.over and self._waiting:
                raise StateError(f"{len(self._waiting)} bytes after its end")

    def _whole(self) -> int | None:
        """How many bytes the next thing has, if all of it is there."""
        there = len(self._waiting)
        if not self._began:
            if there < sizeof(StreamHead):
                return None
            self._check_head()
            return sizeof(StreamHead)
        if there < sizeof(RecordHead):
            return None
        length = unpack(RecordHead, self._waiting).length
        if length > LONGEST:
            raise StateError(f"a record of {length} bytes, at most {LONGEST}")
        size = sizeof(RecordHead) + length
        return size if there >= size else None

    def _check_head(self) -> None:
        found = unpack(StreamHead, self._waiting)
        if found.magic != MAGIC:
            raise StateError(f"it begins with {found.magic!r}, not {MAGIC!r}")
        if found.version != VERSION or found.reserved:
            raise StateError(f"version {found.version}, this is version {VERSION}")

    def _take(self, found: bytes) -> None:
        """One record."""
        kind, payload = unpack(RecordHead, found).kind, found[sizeof(RecordHead) :]
        if self._shaped == (kind == Kind.SHAPE):
            raise StateError(f"a record of kind {kind} where that of the shape belongs")
        match kind:
            case Kind.SHAPE:
                theirs = _exactly(Shape, payload)
                if self.reprogrammed:
                    theirs = replace(theirs, operations=self.shape.operations)
                check_shape(self.shape, theirs)
                self._shaped = True
            case Kind.HBM:
                at = unpack(HbmPlace, payload.ljust(sizeof(HbmPlace), b"\0")).offset
                self._store(at, payload[sizeof(HbmPlace) :])
            case Kind.PADDING:
                pass
            case Kind.BANK:
                self._bank(payload)
            case Kind.DEVICE:
                if self.device is not None:
                    raise StateError("the device's own state twice")
                self.device = payload
            case Kind.END:
                self._end(_exactly(Checksum, payload).crc32c)
            case _:
                raise StateError(f"a record of kind {kind}")

    def _store(self, offset: int, contents: bytes) -> None:
        if len(contents) != BLOCK or offset % BLOCK or offset + BLOCK > self.shape.hbm:
            where = f"{offset:#x}+{len(contents):#x}"
            raise StateError(f"HBM {where} in a slice of {self.shape.hbm:#x} bytes")
        self.store(offset, contents)

    def _bank(self, payload: bytes) -> None:
        raw, contents = payload[: sizeof(BankName)], payload[sizeof(BankName) :]
        name = raw.rstrip(b"\0").decode("ascii", "replace")
        if name not in self.banks or name in self.contents:
            raise StateError(f"registers {name!r} twice, or not of this device")
        if len(contents) != self.banks[name]:
            raise StateError(f"registers {name!r} in {len(contents)} bytes, not {self.banks[name]}")
        self.contents[name] = contents

    def _end(self, checksum: int) -> None:
        if checksum != self._checksum:
            raise StateError("its checksum does not fit: it was damaged")
        missing = [name for name in self.banks if name not in self.contents]
        if missing or self.device is None:
            raise StateError(f"it ends without {', '.join([*missing, 'the device'])}")
        self.over = True


def check_shape(ours: Shape, theirs: Shape) -> None:
    """See that a state is of the same kind of slice.

    Raises:
        StateError: it is not; what differs is named.
    """
    for name, value in vars(ours).items():
        found = getattr(theirs, name)
        if found != value:
            raise StateError(f"its {name} is {_shown(found)}, this slice's is {_shown(value)}")


def _shown(value: int | bytes) -> str:
    if isinstance(value, bytes):
        return repr(value.rstrip(b"\0").decode("utf-8", "replace"))
    return hex(value)


def _exactly(kind: type[S], payload: bytes) -> S:
    """A record that is one struct."""
    if len(payload) != sizeof(kind):
        raise StateError(f"{kind.__name__} in {len(payload)} bytes, not {sizeof(kind)}")
    return unpack(kind, payload)
