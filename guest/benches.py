"""Every device that the agent has bound, each used by one check at a time.

What a check needs is imported when the first one runs: a guest that only runs commands
starts faster.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from guest.arguments import Arguments
from guest.errors import InvalidArgument, NotThere, Occupied
from guest.protocol import Message

TYPE_CHECKING = False  # as typing has it, which takes too long to import
if TYPE_CHECKING:
    from guest.access import Access
    from guest.devices import AnyBench

Opener = Callable[[str | None, int | None], "Access"]


class Run:
    """One run of a check, as whoever asked for it sees it.

    Attributes:
        stopped: gives True once the check should come to its end.
        tell: say how far it is.
    """

    def __init__(
        self,
        stopped: Callable[[], bool] = lambda: False,
        tell: Callable[[Message], None] = lambda facts: None,
    ) -> None:
        self.stopped = stopped
        self.tell = tell


def open_vfio(address: str | None, base: int | None) -> "Access":
    """The device at ``address`` (or the only one that we drive), through VFIO."""
    from guest import pci
    from guest.devices import BENCHES
    from guest.vfio_access import VfioAccess

    return VfioAccess(pci.find(BENCHES, address), base)


class Benches:
    """Devices by PCI address.  Safe to use from several threads."""

    def __init__(self, opener: Opener = open_vfio) -> None:
        """``opener`` reaches the device at an address; None is the only device."""
        self._opener = opener
        self._benches: dict[str, AnyBench] = {}
        self._busy: set[str] = set()
        self._lock = threading.Lock()

    def bind(self, address: str | None, base: int | None) -> Message:
        """Take a device; its buffers get Iovas from ``base`` up.

        Raises:
            Occupied: it is bound already, or being bound.
        """
        with self._lock:
            if (address in self._benches) or (address is None and self._benches):
                raise Occupied(f"{address or 'the device'} is bound already; release it first")
        with self._reserved(address or "any"):
            bench = self._open(address, base)
        return bench.facts()

    def release(self, address: str | None) -> Message:
        """Give a device back, with all that checks left on it."""
        name = self._chosen(address)
        if name is None:
            raise NotThere(f"{address or 'no device'} is not bound")
        with self._reserved(name):
            self._benches.pop(name).close()
        return {"device": name}

    def check(self, name: str, address: str | None, arguments: Arguments, run: Run) -> Message:
        """Run a check on a device, which is bound for that if it is not yet.

        Raises:
            Occupied: another check runs on it.
            InvalidArgument: the check is for devices of another personality.
        """
        from guest.checks import must_exist, run_check

        must_exist(name)
        chosen = self._chosen(address)
        if chosen is None:
            with self._reserved(address or "any"):
                chosen = self._open(address, None).access.name
        with self._reserved(chosen):
            return run_check(name, self._benches[chosen], arguments, run)

    def close(self) -> None:
        """Give every device back."""
        for bench in self._benches.values():
            bench.close()
        self._benches.clear()

    def _open(self, address: str | None, base: int | None) -> "AnyBench":
        from guest.devices import bench_of

        access = self._opener(address, base)
        try:
            bench = bench_of(access)
        except BaseException:
            access.close()
            raise
        self._benches[access.name] = bench
        return bench

    def _chosen(self, address: str | None) -> str | None:
        """Which bound device is meant; None if it is not bound yet."""
        if address is not None:
            return address if address in self._benches else None
        if len(self._benches) > 1:
            raise InvalidArgument(f"device: several are bound: {', '.join(self._benches)}")
        return next(iter(self._benches), None)

    @contextmanager
    def _reserved(self, name: str) -> Iterator[None]:
        with self._lock:
            if name in self._busy:
                raise Occupied(f"a check is running on {name}")
            self._busy.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(name)
