"""How an mdev moves: it comes to rest, becomes a stream, and goes on in another slice.

Spec: Linux, VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE; vfio-user, VFIO_USER_MIG_DATA_READ
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import crc32c

from mdevemu.accel import Personality, Saved
from mdevemu.accel import saving as structs
from mdevemu.accel.hbm import Partition
from mdevemu.accel.rest import Done
from mdevemu.errors import StateError
from mdevemu.mdev import stream
from mdevemu.mdev.contents import LOOKED_AT_ONCE, Contents
from mdevemu.mdev.stream import Incoming, Shape
from mdevemu.pci.function import Function
from mdevemu.profile.types import MdevType
from mdevemu.registers import Bank, saving

CLIENT, OPERATOR, LEAVING, RESTORED = "client", "operator", "leaving", "restored"
"""Who may want the device at rest."""

OF_THE_FUNCTION = ("pci", "config")
"""Banks in configuration space: of these, only what a guest can change moves along."""


class Outgoing:
    """The stream of one mdev as it goes out.

    Attributes:
        live: the device runs; the end of the stream is not told before it is at rest.
        state: all that is no memory, once it was told.
    """

    def __init__(
        self, migration: "Migration", *, live: bool, at_once: int = LOOKED_AT_ONCE
    ) -> None:
        """``at_once``: blocks of memory that one step looks at, at most."""
        self.live = live
        self.state = b""
        self._migration = migration
        part = migration.partition
        self._contents = Contents(part, at_once) if part else None
        self._waiting = bytearray()
        self._checksum = 0
        self._steps = self._pass()
        self._put(stream.head(migration.shape))

    def read(self, size: int) -> bytes:
        """The next bytes; fewer than ``size`` end a pass, or the stream.

        The loop must not wait while much HBM is looked at in vain: then padding comes.
        """
        while len(self._waiting) < size and self._advance(size):
            pass
        found = bytes(self._waiting[:size])
        del self._waiting[:size]
        return found

    def step(self) -> bytes | None:
        """What one short step finds, or nothing; None ends a pass, or the stream."""
        if not self._advance(0) and not self._waiting:
            return None
        found = bytes(self._waiting)
        self._waiting.clear()
        return found

    def digest(self) -> bytes:
        """Tells the memory that was told from any other."""
        return self._contents.digest() if self._contents else b""

    def _advance(self, size: int) -> bool:
        """One step, with padding up to ``size`` bytes if it finds nothing; False after the last."""
        step = next(self._steps, None)
        if step is None:
            if self.live:
                self._steps = self._pass()
            return False
        self._put(step or stream.padding(size - len(self._waiting)))
        return True

    def rest(self) -> None:
        """The device is at rest: what is left is one pass, and all that is no memory."""
        self.live = False
        self._steps = self._last()

    def _put(self, found: bytes) -> None:
        self._waiting += found
        self._checksum = crc32c.crc32c(found, self._checksum)

    def _pass(self) -> Iterator[bytes]:
        return self._contents.tell() if self._contents else iter(())

    def _last(self) -> Iterator[bytes]:
        yield from self._pass()
        # In one step, so that no access of a client comes in between.
        self.state = self._migration.state()
        yield self.state
        yield stream.end(self._checksum)


class Migration:
    """The state of one mdev, out and in.

    Attributes:
        loading: a stream is coming in.
        loads: how many streams came in.
    """

    def __init__(
        self,
        personality: Personality[Any],
        function: Function,
        kind: MdevType,
        partition: Partition | None,
    ) -> None:
        self.personality = personality
        self.partition = partition
        self.loads = 0
        self._kind = kind
        self._function = function
        self._out: Outgoing | None = None
        self._in: Incoming | None = None

    @property
    def shape(self) -> Shape:
        """What it is: engines may be reprogrammed."""
        return shape_of(self.personality, self._kind)

    @property
    def banks(self) -> Mapping[str, Bank[Any]]:
        """Every register bank, by name."""
        return {**self._function.banks, **self.personality.banks}

    @property
    def loading(self) -> bool:
        return self._in is not None

    def stop(self, done: Done) -> None:
        """Come to rest; ``done`` gets None, or what kept the device from it: then it runs."""
        self.personality.rest.stop(CLIENT, done)

    def run(self) -> None:
        """Go on from where it stands."""
        self._function.deliver()
        self.personality.rest.run(CLIENT)

    # For the operator, who need not know what a client is at.

    def hold(self, done: Done, *, last: bool = False) -> None:
        """See ``stop``; until ``release``, whatever the client says; ``last``: for good."""
        self.personality.rest.stop(LEAVING if last else OPERATOR, done)

    def release(self) -> None:
        """Go on, unless the client stopped the device."""
        self.personality.rest.run(OPERATOR)

    def outgoing(self) -> Outgoing:
        """A stream of its own that begins while the device works, in steps of a block."""
        return Outgoing(self, live=True, at_once=1)

    def state(self) -> bytes:
        """Of the stream of a device at rest, all that is no memory."""
        return b"".join(
            stream.bank(name, saving.save(bank, writable_only=name in OF_THE_FUNCTION))
            for name, bank in self.banks.items()
        ) + stream.device(structs.save(self.personality.save()))

    def restore(self, parts: Iterable[bytes], *, reprogrammed: bool = False) -> None:
        """Be what a stream says, and rest until a client first reaches a BAR: it lends memory.

        ``reprogrammed``: it was here, and engines may have been made to do something else
        since, of which the driver is told as if it had been there.

        Raises:
            StateError: the stream is not one of such a device, which is as reset.
        """
        self.personality.rest.stop(RESTORED, lambda _: None)
        self.load(reprogrammed=reprogrammed)
        for part in parts:
            self.write(part)
        self.finish()
        self._function.when_reached(lambda: self.personality.rest.run(RESTORED))

    # Out.

    def save(self, *, live: bool) -> None:
        """A stream begins; one of the device at rest may be the rest of a live one."""
        if self._out is None or live or not self._out.live:
            self._out = Outgoing(self, live=live)
        if not live:
            assert self.personality.rest.holders, "the rest of a stream is of a device at rest"
            self._out.rest()

    def read(self, size: int) -> bytes:
        """The next ``size`` bytes; fewer are all that there is now."""
        assert self._out is not None, "no stream was begun"
        return self._out.read(size)

    def end(self) -> None:
        """The stream is over, read or not."""
        self._out = None

    # In.

    def load(self, *, reprogrammed: bool = False) -> None:
        """A stream comes in; the device is as reset from now on, and its HBM is empty."""
        self.loads += 1
        self._reset()
        sizes = {name: saving.size_saved(bank.kind) for name, bank in self.banks.items()}
        self._in = Incoming(self.shape, sizes, self._store, reprogrammed)

    def write(self, data: bytes) -> None:
        """The next bytes.

        Raises:
            StateError: they cannot be of such a stream; the device is as reset.
        """
        assert self._in is not None, "no stream comes in"
        try:
            self._in.write(data)
        except StateError:
            self._reset()
            raise

    def finish(self) -> None:
        """The stream is whole: be what it says, at rest.

        Raises:
            StateError: it is not, or no driver could have brought the device there; the
                device is as reset.
        """
        found, self._in = self._in, None
        assert found is not None, "no stream comes in"
        try:
            self._become(found)
        except StateError:
            self._reset()
            raise

    def _become(self, found: Incoming) -> None:
        if not found.over or found.device is None:
            raise StateError("it ends before its end")
        banks = self.banks
        values = {
            name: saving.check(bank.kind, found.contents[name]) for name, bank in banks.items()
        }
        for name, bank in banks.items():
            saving.put(bank, values[name], writable_only=name in OF_THE_FUNCTION)
        saved = Saved(found.device)
        self.personality.load(saved)
        if saved.left:
            raise StateError(f"{saved.left} bytes that the device has no use for")
        self._function.restored()

    def _store(self, offset: int, contents: bytes) -> None:
        assert self.partition is not None
        self.partition.backing.write(offset, contents)

    def _reset(self) -> None:
        self._function.reset()
        if self.partition is not None:
            self.partition.scrub(0, self.partition.size)


def shape_of(personality: Personality[Any], kind: MdevType) -> Shape:
    """What a slice is, as its guest sees it."""
    given = personality.slice
    return Shape(
        personality=kind.personality.encode().ljust(32, b"\0")[:32],
        type=kind.id.encode().ljust(64, b"\0")[:64],
        hbm=kind.hbm,
        operations=sum(1 << operation for operation in given.engines.operations),
        queues=kind.queues,
        pasid_bits=kind.pasid_bits or 0,
        max_transfer=kind.max_transfer or 0,
    )
