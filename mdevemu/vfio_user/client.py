"""A blocking vfio-user client: what a VMM would do with a device, from Python.

    with Client("/run/demo/mdev.sock") as client:
        memory = os.memfd_create("ram")
        os.ftruncate(memory, 1 << 20)
        client.map_dma(0, 1 << 20, memory)
        client.write_u32(RegionIndex.BAR0, 0x20, 1)
        with client.interrupt(Irq.MSIX, 0) as vector:
            assert vector.wait(1.0)

Everything waits for its reply, ``timeout`` seconds at most.  A refusal is a
RequestError and the session goes on; after any other error it is closed.
"""

import mmap
import os
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Self

from mdevemu.errors import ProtocolError, RequestError
from mdevemu.fds import close_all
from mdevemu.layout import pack, sizeof
from mdevemu.vfio_user import wire
from mdevemu.vfio_user.caller import Caller, FileLike, connect
from mdevemu.vfio_user.client_state import DeviceMigration, DirtyPages, Features
from mdevemu.vfio_user.described import IoSpan, RegionInfo, areas_of, io_spans, reply_struct
from mdevemu.vfio_user.iofds_wire import RegionIoFds
from mdevemu.vfio_user.vector import Vector
from mdevemu.vfio_user.version import OURS, decode_version, encode_version, offered
from mdevemu.vfio_user.wire import (
    ACCESS,
    Command,
    DeviceInfo,
    Irq,
    IrqInfo,
    MapFlags,
    RegionFlags,
    SetFlags,
    UnmapFlags,
)

__all__ = ["Client", "IoSpan", "RegionInfo", "Vector"]


class Client:
    """One connection to a vfio-user server.

    Attributes:
        server: what the server said it can do.
        offered: the same in its own words, whatever the keys.
        minor: the protocol's minor version that both speak.
        features: DEVICE_FEATURE, whatever the feature.
        migration: the device's state as a stream.
        dirty: what the device wrote to.
    """

    def __init__(
        self,
        where: str | os.PathLike[str] | socket.socket,
        *,
        timeout: float = 5.0,
        twin: bool = False,
    ) -> None:
        """Connect to the socket at a path, or own a connected one, and negotiate.

        ``timeout`` is how many seconds each request may take.  ``twin`` offers the
        server a socket of its own for what it asks; see ``Caller.twin``.

        Raises:
            OSError: nobody listens there.
            ConnectionError: the server turned us away, as it does with a second client.
            ProtocolError: the server speaks something else.
            TimeoutError: it says nothing.
        """
        sock = where if isinstance(where, socket.socket) else connect(where, timeout)
        self._caller = Caller(sock, timeout)
        self._infos: dict[int, RegionInfo] = {}
        try:
            ask = encode_version(wire.MINOR, replace(OURS, twin_socket=twin))
            reply, fds = self._caller.exchange(Command.VERSION, ask)
        except RequestError as refusal:
            raise self._caller.broken(f"no agreement: {refusal.reason}") from refusal
        try:
            major, self.minor, self.server = decode_version(reply)
            self.offered = offered(reply)
            if twin and self.server.twin_socket:
                self._caller.adopt(fds, self.offered["twin_socket"].get("fd_index"))
        except RequestError as nonsense:
            raise self._caller.broken(f"no agreement: {nonsense.reason}") from nonsense
        finally:
            close_all(fds)
        if major != wire.MAJOR or self.minor > wire.MINOR:
            raise self._caller.broken(f"server speaks version {major}.{self.minor}")
        self.features = Features(self._caller)
        largest = min(wire.MAX_TRANSFER, self.server.max_data_xfer_size)
        self.migration = DeviceMigration(self._caller, self.features, largest)
        self.dirty = DirtyPages(self._caller, self.features)

    def close(self) -> None:
        """Hang up; the server takes back what we lent it.  Again does nothing."""
        self._caller.close()
        close_all(info.file for info in self._infos.values())
        self._infos.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Information

    def info(self) -> DeviceInfo:
        """What the device is.  Spec: VFIO_USER_DEVICE_GET_INFO."""
        ask = DeviceInfo(sizeof(DeviceInfo), wire.DeviceFlags(0), 0, 0)
        return reply_struct(DeviceInfo, self._caller.request(Command.DEVICE_GET_INFO, pack(ask)))

    def region(self, index: int) -> RegionInfo:
        """What region ``index`` is; asked once, then remembered."""
        if index not in self._infos:
            self._infos[index] = self._ask_region(index)
        return self._infos[index]

    def regions(self) -> list[RegionInfo]:
        """Every region, by number."""
        return [self.region(index) for index in range(self.info().num_regions)]

    def irq_info(self, index: int) -> IrqInfo:
        """How many interrupts an index has, and what may be done with them."""
        ask = IrqInfo(sizeof(IrqInfo), wire.IrqFlags(0), index, 0)
        return reply_struct(IrqInfo, self._caller.request(Command.DEVICE_GET_IRQ_INFO, pack(ask)))

    def _ask_region(self, index: int) -> RegionInfo:
        room = sizeof(wire.RegionInfo)
        while True:
            ask = wire.RegionInfo(room, RegionFlags(0), index, 0, 0, 0)
            reply, fds = self._caller.exchange(Command.DEVICE_GET_REGION_INFO, pack(ask))
            try:
                info = reply_struct(wire.RegionInfo, reply)
                if info.argsz > room:
                    if info.argsz > wire.MAX_TRANSFER:
                        raise ProtocolError(f"region {index} described in {info.argsz} bytes")
                    room = info.argsz
                    continue
                areas = areas_of(info, reply)
                file = fds.pop(0) if fds and RegionFlags.MMAP in info.flags else None
            except ProtocolError:
                self.close()
                raise
            finally:
                close_all(fds)
            return RegionInfo(index, info.size, info.flags, file, info.offset, areas)

    def io_fds(self, region: int) -> list[IoSpan]:
        """What of a region is reached by descriptors; close their files."""
        room = sizeof(RegionIoFds)
        while True:
            ask = RegionIoFds(room, 0, region, 0)
            reply, fds = self._caller.exchange(Command.DEVICE_GET_REGION_IO_FDS, pack(ask))
            spans: list[IoSpan] = []
            try:
                info = reply_struct(RegionIoFds, reply)
                if info.argsz > room:
                    if info.argsz > wire.MAX_TRANSFER:
                        raise ProtocolError(f"descriptors described in {info.argsz} bytes")
                    room = info.argsz
                    continue
                spans = io_spans(reply, fds)
            except ProtocolError:
                self.close()
                raise
            finally:
                used = {span.file for span in spans}
                close_all(fd for fd in fds if fd not in used)
            return spans

    # Regions

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        """``length`` bytes of a region from ``offset`` on."""
        reply = self._caller.request(Command.REGION_READ, ACCESS.pack(offset, region, length))
        if len(reply) != ACCESS.size + length:
            raise self._caller.broken(f"{len(reply)} bytes in reply to a read of {length}")
        return reply[ACCESS.size :]

    def region_write(self, region: int, offset: int, data: bytes, *, posted: bool = False) -> None:
        """Write to a region; ``posted`` does not wait and never hears of a refusal."""
        payload = ACCESS.pack(offset, region, len(data)) + data
        if posted:
            self._caller.post(Command.REGION_WRITE, payload, flags=wire.NO_REPLY)
        else:
            self._caller.request(Command.REGION_WRITE, payload)

    def region_write_multi(
        self, writes: Sequence[tuple[int, int, bytes]], *, posted: bool = False
    ) -> None:
        """Each (region, offset, data of at most 8 bytes), in order, in one message."""
        payload = wire.COUNT.pack(len(writes)) + b"".join(
            wire.MULTI.pack(offset, region, len(data), data) for region, offset, data in writes
        )
        if posted:
            self._caller.post(Command.REGION_WRITE_MULTI, payload, flags=wire.NO_REPLY)
        else:
            self._caller.request(Command.REGION_WRITE_MULTI, payload)

    def read_u8(self, region: int, offset: int) -> int:
        """One byte."""
        return self.region_read(region, offset, 1)[0]

    def read_u16(self, region: int, offset: int) -> int:
        """Two bytes, little-endian."""
        return int.from_bytes(self.region_read(region, offset, 2), "little")

    def read_u32(self, region: int, offset: int) -> int:
        """Four bytes, little-endian."""
        return int.from_bytes(self.region_read(region, offset, 4), "little")

    def read_u64(self, region: int, offset: int) -> int:
        """Eight bytes, little-endian."""
        return int.from_bytes(self.region_read(region, offset, 8), "little")

    def write_u8(self, region: int, offset: int, value: int, *, posted: bool = False) -> None:
        """One byte."""
        self.region_write(region, offset, value.to_bytes(1, "little"), posted=posted)

    def write_u16(self, region: int, offset: int, value: int, *, posted: bool = False) -> None:
        """Two bytes, little-endian."""
        self.region_write(region, offset, value.to_bytes(2, "little"), posted=posted)

    def write_u32(self, region: int, offset: int, value: int, *, posted: bool = False) -> None:
        """Four bytes, little-endian."""
        self.region_write(region, offset, value.to_bytes(4, "little"), posted=posted)

    def write_u64(self, region: int, offset: int, value: int, *, posted: bool = False) -> None:
        """Eight bytes, little-endian."""
        self.region_write(region, offset, value.to_bytes(8, "little"), posted=posted)

    def region_mmap(self, region: int, *, writable: bool = True) -> mmap.mmap:
        """The memory behind a region: all of it, or its one mappable area from its start on.

        The map outlives the client; close it yourself.

        Raises:
            ValueError: the region cannot be mapped, or not in one piece.
        """
        info = self.region(region)
        areas = info.areas or [(0, info.size)]
        if info.file is None or len(areas) != 1:
            raise ValueError(f"region {region} cannot be mapped in one piece")
        ((start, size),) = areas
        rights = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        at = info.offset + start
        try:
            return mmap.mmap(info.file.fileno(), size, mmap.MAP_SHARED, rights, offset=at)
        except (OSError, OverflowError, ValueError) as wrong:
            raise ValueError(f"region {region} cannot be mapped: {wrong}") from None

    # Memory

    def map_dma(
        self,
        iova: int,
        size: int,
        file: FileLike | None,
        offset: int = 0,
        prot: MapFlags = MapFlags.READ | MapFlags.WRITE,
    ) -> None:
        """Lend the device ``size`` bytes of ``file`` from ``offset`` on, at ``iova``.

        Without a file the device asks whenever it wants bytes of it: see ``keep_dma``.
        """
        ask = wire.DmaMap(sizeof(wire.DmaMap), prot, offset, iova, size)
        self._caller.request(Command.DMA_MAP, pack(ask), [] if file is None else [file])

    def keep_dma(
        self,
        iova: int,
        memory: bytearray | memoryview,
        prot: MapFlags = MapFlags.READ | MapFlags.WRITE,
    ) -> None:
        """Let the device reach ``memory`` at ``iova`` by asking, for as long as we ``attend``.

        We also answer while we wait for a reply.
        """
        self._caller.kept.add(iova, memoryview(memory), prot)
        try:
            self.map_dma(iova, len(memory), None, 0, prot)
        except RequestError:
            self._caller.kept.remove(iova)
            raise

    def attend(self, timeout: float) -> int:
        """Answer what the device asks for; how much, once ``timeout`` seconds passed without any.

        Raises:
            ProtocolError, ConnectionError: as for every request.
        """
        return self._caller.attend(timeout)

    def unmap_dma(self, iova: int, size: int) -> None:
        """Take back exactly what one ``map_dma`` or ``keep_dma`` lent."""
        ask = wire.DmaUnmap(sizeof(wire.DmaUnmap), UnmapFlags(0), iova, size)
        self._caller.request(Command.DMA_UNMAP, pack(ask))
        self._caller.kept.remove(iova)

    def unmap_all_dma(self) -> None:
        """Take everything back."""
        ask = wire.DmaUnmap(sizeof(wire.DmaUnmap), UnmapFlags.ALL, 0, 0)
        self._caller.request(Command.DMA_UNMAP, pack(ask))
        self._caller.kept.clear()

    # Interrupts

    def set_irqs(
        self,
        index: int,
        flags: SetFlags,
        start: int = 0,
        count: int = 0,
        *,
        switches: bytes = b"",
        eventfds: Iterable[FileLike] = (),
    ) -> None:
        """One data kind and one action on some vectors.  Spec: VFIO_USER_DEVICE_SET_IRQS.

        ``switches`` is one byte per vector, for BOOL.
        """
        size = sizeof(wire.SetIrqs) + len(switches)
        ask = pack(wire.SetIrqs(size, flags, index, start, count)) + switches
        self._caller.request(Command.DEVICE_SET_IRQS, ask, list(eventfds))

    def interrupt(self, index: int, vector: int) -> Vector:
        """Have the device fire a vector of ours; close it after ``disable_interrupts``."""
        made = Vector()
        try:
            self.assign_interrupts(index, vector, [made])
        except (RequestError, ProtocolError, OSError):
            made.close()
            raise
        return made

    def assign_interrupts(self, index: int, start: int, eventfds: Sequence[FileLike]) -> None:
        """Have the device fire these eventfds from vector ``start`` on.

        They go in chunks of as many descriptors as the server takes.
        """
        flags, most = SetFlags.EVENTFD | SetFlags.TRIGGER, max(1, self.server.max_msg_fds)
        for first in range(0, len(eventfds), most):
            chunk = eventfds[first : first + most]
            self.set_irqs(index, flags, start + first, len(chunk), eventfds=chunk)

    def disable_interrupts(self, index: int) -> None:
        """No vector of this index fires any more."""
        self.set_irqs(index, SetFlags.NONE | SetFlags.TRIGGER)

    def unmask_intx(self) -> None:
        """End of interrupt: let INTx fire again."""
        self.set_irqs(Irq.INTX, SetFlags.NONE | SetFlags.UNMASK, 0, 1)

    def unmask_intx_by(self) -> Vector:
        """An eventfd whose ``fire`` is the end of an interrupt, without a message."""
        made = Vector()
        try:
            flags = SetFlags.EVENTFD | SetFlags.UNMASK
            self.set_irqs(Irq.INTX, flags, 0, 1, eventfds=[made])
        except (RequestError, ProtocolError, OSError):
            made.close()
            raise
        return made

    def ask(self, command: int, payload: bytes = b"", fds: Sequence[FileLike] = ()) -> bytes:
        """Any command, as it is; the reply's payload.

        Raises:
            RequestError: the server refused.
            ProtocolError, ConnectionError, TimeoutError: as for every request.
        """
        return self._caller.request(command, payload, fds)

    def reset(self) -> None:
        """Function-level reset."""
        self._caller.request(Command.DEVICE_RESET)
