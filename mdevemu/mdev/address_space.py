"""An mdev's address space: windows become table entries, and vanish with their translations.

The host driver's half of the IOMMU.  A window is mapped in the largest pages
that its place allows.  When it goes, its entries are cleared, the IOMMU is told
and has answered before anything that it led to is given back.
"""

import errno
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.iommu import Port
from mdevemu.mdev.attachment import Attachment, SharedDevice
from mdevemu.mdev.dirty import DirtyLog, Place
from mdevemu.mdev.host_iommu import HostIommu
from mdevemu.mdev.tables import LOWER, Exhausted
from mdevemu.memory import Backing, Far, Lender, inspect, open_backing
from mdevemu.units import PAGE, Hpa

LIMIT = LOWER << 39
"""Windows end here: the lower canonical half of Sv48."""
MAX_WINDOWS = 65535
MAX_FILES = 256
MAX_LENT = 1 << 40
"""Bytes of all files that one VMM lends: they take room that the others need as well."""

FileId = tuple[int, int, bool]


@dataclass(slots=True)
class _Lent:
    """A file that a VMM lent, in physical memory.

    Attributes:
        name: which file it is.
        base: physical address of its first byte.
        windows: that lead to it.
        returned: its VMM has it back.
    """

    name: FileId
    base: Hpa
    backing: Backing
    windows: int = 0
    returned: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """A range that a VMM mapped; without a file it is far, or nothing is behind it.

    ``offset`` is where in its file it starts, in bytes.
    """

    size: int
    lent: _Lent | None
    offset: int = 0
    far: bool = False

    @property
    def mapped(self) -> bool:
        """Table entries lead to it."""
        return self.far or self.lent is not None


class AddressSpace:
    """What one mdev can reach: its windows below, its HBM above.

    Attributes:
        attached: how the IOMMU knows it.
        dirty: which pages of the windows the device has written.
        windows: how many there are.
    """

    def __init__(
        self,
        host: HostIommu,
        device_id: int,
        attach: Callable[[HostIommu, int], Attachment] = SharedDevice,
    ) -> None:
        """Attach with nothing behind it.

        Raises:
            RequestError: the host has no PASID or no memory for tables left (ENOSPC).
        """
        self._host = host
        try:
            self.attached = attach(host, device_id)
        except Exhausted:
            raise _exhausted() from None
        self._table = self.attached.table
        self._starts: list[int] = []
        self._windows: dict[int, _Window] = {}
        self._lent: dict[FileId, _Lent] = {}
        self._files = 0
        self._bytes = 0
        self._hbm = 0
        self._far = Far(LIMIT)
        self._far_base: Hpa | None = None
        self.dirty = DirtyLog(host.memory, self._far, self._places)

    @property
    def device_id(self) -> int:
        """The requester id of its accesses."""
        return self.attached.device_id

    @property
    def pasid(self) -> int | None:
        """The PASID of its accesses; None if those are the guest's own."""
        return self.attached.pasid

    @property
    def windows(self) -> int:
        return len(self._starts)

    def port(self) -> Port:
        """Memory as this mdev sees it; not enabled yet."""
        return self._host.port(self.device_id, self.pasid)

    def attach(self, client: Lender | None) -> None:
        """Whom to ask for the bytes of windows without a file, from now on; None is nobody."""
        self._far.client = client

    def map(
        self,
        iova: int,
        size: int,
        file: Fd | None,
        offset: int,
        *,
        readable: bool,
        writable: bool,
    ) -> None:
        """Let the device reach ``size`` bytes of ``file`` at ``iova``; owns ``file``.

        Without a file its bytes stay with the client that is attached, which is asked
        for them; if nobody is, the window is only remembered, and the device faults there.

        Raises:
            RequestError: nothing was mapped.
        """
        try:
            at = self._place(iova, size, offset)
            if file is None or not readable:
                if file is not None and writable:
                    # Spec: RISC-V Privileged, Sv39: W without R is a reserved encoding.
                    raise RequestError(errno.EINVAL, "a window cannot be write-only")
                far = readable and self._map_far(iova, size, writable=writable)
                self._remember(at, iova, _Window(size, None, far=far))
                return
            lent = self._lend(file, offset + size, writable=writable)
            try:
                self._table.map(iova, lent.base + offset, size, writable=writable)
            except Exhausted:
                # Some of it was there for a while, for the device to see.
                self._take_away([(iova, size)], lent)
                raise _exhausted() from None
            lent.windows += 1
            self._remember(at, iova, _Window(size, lent, offset))
        finally:
            if file is not None:
                file.close()

    def unmap(self, iova: int, size: int) -> None:
        """Take a window away; nothing of it is reachable or cached on return.

        Raises:
            RequestError: ENOENT, no window is exactly there; nothing changed.
        """
        window = self._windows.get(iova)
        if window is None or window.size != size:
            raise RequestError(errno.ENOENT, f"no window is {iova:#x}+{size:#x}")
        self.dirty.unmapping()
        del self._windows[iova], self._starts[bisect_left(self._starts, iova)]
        if window.lent is not None:
            window.lent.windows -= 1
        if window.mapped:
            self._take_away([(iova, size)], window.lent)

    def clear(self) -> None:
        """Take every window away; the HBM stays, and is reachable throughout.

        However many there are, it is one step: the device moves to a fresh root that
        has the HBM alone.  That takes no frame, so it cannot fail.
        """
        mapped = any(window.mapped for window in self._windows.values())
        self.dirty.unmapping()
        lent = self._forget_windows()
        if not mapped:
            return
        retired = self._table.renew()

        def give_back() -> None:
            self._table.release(retired)
            for each in lent:
                self._return(each)

        self.attached.replace(give_back)

    def map_hbm(self, hpa: Hpa, size: int) -> None:
        """Let the device reach its slice of the HBM; ``size`` is whole pages.

        Raises:
            RequestError: ENOSPC, no memory for tables is left; nothing was mapped.
        """
        assert not self._hbm, "HBM is mapped once"
        assert not (hpa | size) % PAGE
        try:
            self._table.map(self.attached.hbm_at, hpa, size, writable=True)
        except Exhausted:
            self._take_away([(self.attached.hbm_at, size)])
            raise _exhausted() from None
        self._hbm = size

    def map_runs(self, at: int, runs: Iterable[tuple[Hpa, int]], *, writable: bool) -> None:
        """Let the device reach runs of HBM, one after the other.

        ``at`` is where, in bytes from the start of its own HBM; a run is (address, bytes),
        whole pages.

        Raises:
            RequestError: ENOSPC, no memory for tables is left; nothing was mapped.
        """
        end = at
        try:
            for hpa, size in runs:
                start, end = end, end + size
                self._table.map(self.attached.hbm_at + start, hpa, size, writable=writable)
        except Exhausted:
            self.unmap_runs([(at, end - at)])
            raise _exhausted() from None

    def unmap_runs(self, mapped: Collection[tuple[int, int]]) -> None:
        """Take what was mapped at addresses, so many bytes at each, away again in one step.

        Nothing of it is reachable or cached on return.
        """
        if mapped:
            self._take_away([(self.attached.hbm_at + at, size) for at, size in mapped])

    def close(self) -> None:
        """Give up windows, HBM and place at the IOMMU; every access faults from now on."""
        lent = self._forget_windows()

        self._far.close()

        def give_back() -> None:
            for each in lent:
                self._return(each)
            if self._far_base is not None:
                self._host.memory.remove(self._far_base)
                self._host.restore_far(self._far_base)
                self._far_base = None

        self.attached.detach(give_back)
        self._hbm = 0

    def _map_far(self, iova: int, size: int, *, writable: bool) -> bool:
        """Let the device ask the client for a window; False if nobody can be asked.

        Raises:
            RequestError: no memory for tables is left; nothing was mapped.
        """
        if self._far.client is None:
            return False
        if self._far_base is None:
            self._far_base = self._host.reserve_far(self._far.size)
            if self._far_base is None:
                return False
            self._host.memory.add(self._far_base, self._far, self._far.size)
        try:
            self._table.map(iova, Hpa(self._far_base + iova), size, writable=writable)
        except Exhausted:
            self._take_away([(iova, size)])
            raise _exhausted() from None
        return True

    def _take_away(self, mapped: Collection[tuple[int, int]], lent: _Lent | None = None) -> None:
        """Clear entries; tables and file are given back after the IOMMU forgot them."""
        emptied = [table for at, size in mapped for table in self._table.unmap(at, size)]
        iova, size = next(iter(mapped))
        # More than one, or a table that went, leave more behind than one address can name.
        single = len(mapped) == 1 and not emptied and not size & size - 1 and not iova & size - 1

        def give_back() -> None:
            self._table.release(emptied)
            if lent is not None:
                self._return(lent)

        self._host.submit(self.attached.invalidation(iova, size if single else 0), then=give_back)

    def _forget_windows(self) -> list[_Lent]:
        """Have no windows; the files that some led to."""
        lent: dict[int, _Lent] = {}
        for window in self._windows.values():
            if window.lent is not None:
                window.lent.windows -= 1
                lent[id(window.lent)] = window.lent
        self._starts.clear()
        self._windows.clear()
        return list(lent.values())

    def _places(self) -> Iterator[Place]:
        for iova, window in self._windows.items():
            if window.lent is not None:
                yield iova, window.size, Hpa(window.lent.base + window.offset)

    def _place(self, iova: int, size: int, offset: int) -> int:
        """Where a new window belongs among the others."""
        if size <= 0 or offset < 0 or (iova | size | offset) % PAGE:
            raise RequestError(
                errno.EINVAL, f"{iova:#x}+{size:#x} of offset {offset:#x} is not whole 4 KiB pages"
            )
        if iova < 0 or iova + size > LIMIT:
            raise RequestError(errno.EINVAL, f"{iova:#x}+{size:#x} does not end below {LIMIT:#x}")
        if len(self._starts) >= MAX_WINDOWS:
            raise RequestError(errno.ENOSPC, f"{MAX_WINDOWS} windows are mapped")
        at = bisect_left(self._starts, iova)
        if at < len(self._starts) and self._starts[at] < iova + size:
            raise self._overlap(iova, size, self._starts[at])
        if at and self._starts[at - 1] + self._windows[self._starts[at - 1]].size > iova:
            raise self._overlap(iova, size, self._starts[at - 1])
        return at

    def _overlap(self, iova: int, size: int, other: int) -> RequestError:
        there = self._windows[other].size
        reason = f"{iova:#x}+{size:#x} overlaps the window {other:#x}+{there:#x}"
        return RequestError(errno.EEXIST, reason)

    def _remember(self, at: int, iova: int, window: _Window) -> None:
        self._starts.insert(at, iova)
        self._windows[iova] = window

    def _lend(self, file: Fd, end: int, *, writable: bool) -> _Lent:
        """The lent file behind a descriptor, at least ``end`` bytes of it."""
        facts = inspect(file)
        if writable and not facts.writable:
            reason = "the file cannot be written through this descriptor"
            raise RequestError(errno.EACCES, reason)
        if end > facts.size:
            reason = f"the window ends at {end:#x} of a file of {facts.size:#x} bytes"
            raise RequestError(errno.EINVAL, reason)
        name = facts.device, facts.inode, facts.writable
        known = self._lent.get(name)
        if known is not None and end <= known.backing.size:
            return known
        # A file that grew is lent once more; the windows that it has keep what they have.
        if self._files >= MAX_FILES:
            raise RequestError(errno.ENOSPC, f"{MAX_FILES} files are lent")
        if self._bytes + facts.size > MAX_LENT:
            raise RequestError(errno.ENOSPC, f"more than {MAX_LENT:#x} bytes of files are lent")
        backing = open_backing(file, facts)
        try:
            base = self._host.reserve(backing.size)
        except Exhausted:
            backing.close()
            reason = f"{facts.size:#x} bytes of file fit nowhere in physical memory"
            raise RequestError(errno.ENOSPC, reason) from None
        self._host.memory.add(base, backing, backing.size)
        self.dirty.lent(base, backing)
        lent = self._lent[name] = _Lent(name, base, backing)
        self._files += 1
        self._bytes += backing.size
        return lent

    def _return(self, lent: _Lent) -> None:
        """Give a file back to its VMM once no window leads to it."""
        if lent.windows or lent.returned:
            return
        lent.returned = True
        self.dirty.returned(lent.base)
        self._host.memory.remove(lent.base)
        self._host.restore(lent.base)
        lent.backing.close()
        self._files -= 1
        self._bytes -= lent.backing.size
        if self._lent.get(lent.name) is lent:
            del self._lent[lent.name]


def _exhausted() -> RequestError:
    return RequestError(errno.ENOSPC, "no memory for translation tables is left")
