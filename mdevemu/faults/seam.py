"""Where faults act: the base of every seam."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar

from mdevemu.errors import ConfigError
from mdevemu.faults.injection import Injection, Kind
from mdevemu.mdev.parent import Mdev

Told = Callable[..., None]


class Seam(ABC):
    """One place of one mdev where faults act; it is joined in only while one of them may."""

    KINDS: ClassVar[tuple[Kind, ...]]

    def __init__(self, mdev: Mdev, told: Told) -> None:
        """``told(injection, **facts)`` hears of strikes."""
        self.mdev = mdev
        self._told = told
        self._armed: list[Injection] = []

    def arm(self, injection: Injection) -> None:
        """Act from now on.

        Raises:
            ConfigError: this mdev cannot have it; nothing has changed.
        """
        self.check(injection)
        self._armed.append(injection)
        self.refresh()

    def disarm(self, injection: Injection) -> None:
        """Forget a fault, spent or not, and end what it holds up."""
        if injection in self._armed:
            self._armed.remove(injection)
        self.refresh()

    def refresh(self) -> None:
        """Join in, or get out of the way, as there are faults or not."""
        self._armed = [each for each in self._armed if not each.spent]
        self.join(bool(self._armed))

    def pick(self, meant: Iterable[Injection], **facts: object) -> Injection | None:
        """There is an occasion for some faults: the one that strikes, if one does.

        For the others it is an occasion that passed.
        """
        struck = None
        for each in meant:
            if each.occurs() and struck is None:
                struck = each
        if struck:
            self.strike(struck, **facts)
        return struck

    def strike(self, injection: Injection, **facts: object) -> None:
        """A fault strikes; one without end is told of once."""
        injection.hits += 1
        if injection.hits == 1 or not injection.kind.endless:
            self._told(injection, **facts)
        self.refresh()

    def of(self, *kinds: Kind) -> list[Injection]:
        """What may strike, of these kinds."""
        return [each for each in self._armed if each.kind in kinds]

    def check(self, injection: Injection) -> None:
        """Refuse what this mdev cannot have.

        Raises:
            ConfigError: it cannot.
        """
        if injection.kind.endless and self.of(injection.kind):
            wrong = f"{self.mdev.name} has a fault {injection.kind.name} already; clear it first"
            raise ConfigError("kind", wrong)

    @abstractmethod
    def join(self, wanted: bool) -> None:
        """Be in the way, or not; doing either twice changes nothing."""
