"""Level "model": the accelerator in the process of its test, without sockets, in time of its own.

Its clock goes on by a microsecond with each look at it, and to the next alarm when somebody
waits: nothing takes time, and the same test sees the same trace each time.
"""

import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from guest.access import Interrupt
from hostctl.socket_access import HeldAccess
from mdevemu.control import Fed, Feed
from mdevemu.emulator import Emulator
from mdevemu.errors import ConfigError
from mdevemu.fds import Fd
from mdevemu.mdev.parent import Mdev
from mdevemu.profile import AcceleratorSpec
from mdevemu.qmp import QmpError
from mdevemu.vfio_user.client import RegionInfo, Vector
from mdevemu.vfio_user.wire import IrqFlags, IrqInfo, RegionFlags

_TICK = 1000  # nanoseconds between two looks at the clock
_PIECES = 1_000_000  # of work in a row that are too many


class Clock:
    """Time that goes on when somebody looks.

    Attributes:
        now: nanoseconds.
    """

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        self.now += _TICK
        return self.now


class Model:
    """An accelerator that works when it is asked to; carries out commands as ``Qmp`` does.

    Attributes:
        emulator: it.
        clock: its time.
    """

    def __init__(self, accelerator: AcceleratorSpec, runtime: Path) -> None:
        """Make what a profile describes; ``runtime`` is a folder for sockets that nobody uses.

        Raises:
            ConfigError: it cannot be made.
        """
        self.clock = Clock()
        self._feeds: list[Feed] = []
        self.emulator = Emulator(accelerator, runtime, self.clock)

    def execute(self, command: str, **arguments: object) -> object:
        """See ``hostctl.qmp.Qmp.execute``."""
        given = {key.replace("_", "-"): each for key, each in arguments.items() if each is not None}
        try:
            done = self.emulator.control.carry_out(command, given, lambda: None)
        except (ConfigError, QmpError) as refused:
            raise ConfigError(f"emulator, {command}", str(refused)) from None
        finally:
            self.settle()
        if not isinstance(done, Fed):
            return done
        self._feeds.append(done.feed)
        return done.reply

    def settle(self, seconds: float = 0) -> None:
        """Do all the work there is, and that of the alarms within this much time."""
        end = self.clock.now + int(seconds * 1e9)
        while True:
            for _ in range(_PIECES):
                if not self.emulator.work():
                    break
            else:
                raise AssertionError(f"the accelerator still works after {_PIECES} pieces")
            left = self.emulator.parent.scheduler.ring_due()
            if left is None or self.clock.now + left > end:
                self.clock.now = max(end, self.clock.now)
                return
            self.clock.now += left

    def close(self) -> None:
        """Take everything down."""
        for feed in self._feeds:
            feed.close()
        self.emulator.close()


class _ModelInterrupt(Interrupt):
    """A vector; who waits for it lets the model's time go on."""

    def __init__(self, fileno: int, model: Model) -> None:
        super().__init__(fileno)
        self._model = model

    def wait(self, seconds: float) -> int:
        """See ``Interrupt``; the seconds are the model's."""
        count = super().wait(0)
        end = self._model.clock.now + int(seconds * 1e9)
        while not count and self._model.clock.now < end:
            left = self._model.emulator.parent.scheduler.ring_due()
            rest = (end - self._model.clock.now) / 1e9
            self._model.settle(rest if left is None else min(rest, (left + 1) / 1e9))
            count = super().wait(0)
        return count


class _ModelClient:
    """Holds one mdev of a model; see ``hostctl.socket_access.Holder``."""

    def __init__(self, model: Model, name: str) -> None:
        self._model = model
        self._mdev: Mdev = model.emulator.parent.find(name)
        self._function = self._mdev.function

    def region(self, index: int) -> RegionInfo:
        found = self._function.regions[index]
        flags = RegionFlags(0)
        return RegionInfo(
            index, found.size, flags, found.memory, found.memory_offset, tuple(found.areas)
        )

    def irq_info(self, index: int) -> IrqInfo:
        return IrqInfo(16, IrqFlags(0), index, self._function.interrupts[index])

    def region_read(self, region: int, offset: int, length: int) -> bytes:
        self._model.settle()
        return self._function.read(region, offset, length)

    def region_write(self, region: int, offset: int, data: bytes) -> None:
        self._function.write(region, offset, data)
        self._model.settle()

    def region_mmap(self, region: int) -> mmap.mmap:
        found = self._function.regions[region]
        assert found.memory is not None
        return mmap.mmap(found.memory.fileno(), found.size, offset=found.memory_offset)

    def map_dma(self, iova: int, size: int, file: int) -> None:
        lent = Fd(os.dup(file))
        self._mdev.space.map(iova, size, lent, 0, readable=True, writable=True)
        self._model.settle()

    def unmap_dma(self, iova: int, size: int) -> None:
        self._mdev.space.unmap(iova, size)
        self._model.settle()

    def assign_interrupts(self, index: int, start: int, eventfds: Sequence[Vector]) -> None:
        given = [Fd(os.dup(each.fileno())) for each in eventfds]
        self._function.assign(index, start, given)

    def reset(self) -> None:
        self._function.reset()
        self._model.settle()

    def close(self) -> None:
        """Take everything from the device, as if a VMM had hung up."""
        self._function.reset()
        self._function.disconnect()
        self._mdev.space.clear()
        self._model.settle()


class ModelAccess(HeldAccess):
    """A device of a model."""

    def __init__(self, model: Model, name: str, base: int) -> None:
        """``name``: the mdev's; ``base``: the first Iova."""
        super().__init__(name, _ModelClient(model, name), base=base)
        self._model = model

    def _interrupt(self, fileno: int) -> Interrupt:
        return _ModelInterrupt(fileno, self._model)
