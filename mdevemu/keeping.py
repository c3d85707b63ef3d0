"""Saves mdevs to files, and brings them back: on request, and from one run to the next."""

import errno
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from mdevemu.control import Argument, Command
from mdevemu.definitions import Attributes
from mdevemu.durable import Draft
from mdevemu.errors import ConfigError, RequestError, StateError
from mdevemu.mdev import attributes, kept
from mdevemu.mdev.kept import SUFFIX, Definition
from mdevemu.mdev.migration import Migration
from mdevemu.mdev.parent import Mdev, Parent

SAVED, NOT_SAVED = "MDEV_SAVED", "MDEV_NOT_SAVED"


class Keeping:
    """What an accelerator keeps of its mdevs, in a folder or wherever the operator says.

    A save is done in steps between other work; the device rests meanwhile.

    Attributes:
        lost: a line for each save that failed.
    """

    def __init__(
        self,
        parent: Parent,
        folder: Path | None,
        tell: Callable[[str, Mapping[str, object]], None],
        serve: Callable[[Mdev, Attributes], dict[str, object]],
    ) -> None:
        """``folder`` survives us, if there is one.

        ``serve`` gives a new mdev its attributes and its socket.

        Raises:
            ConfigError: the folder cannot be made.
        """
        self._parent = parent
        self._folder = folder
        self._tell = tell
        self._serve = serve
        self.lost: list[str] = []
        self._waiting: set[str] = set()
        self._jobs: deque[Iterator[None]] = deque()
        if folder is not None:
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as wrong:
                raise ConfigError(str(folder), wrong.strerror or str(wrong)) from None

    def commands(self) -> list[Command]:
        """Commands of the control socket."""
        return [
            Command("save-mdev", self._save_one, [Argument("mdev"), Argument("file")]),
            Command("restore-mdev", self._restore_one, [Argument("file")]),
            Command("save-state", self._save_state),
        ]

    # Between other work.

    @property
    def busy(self) -> bool:
        """Something is being saved."""
        return bool(self._waiting)

    def unfinished(self) -> list[str]:
        """A line for each mdev whose save was begun, and is not over."""
        found = (mdev for mdev in self._parent.mdevs.values() if mdev.uuid in self._waiting)
        return [f"{mdev.name}: not saved: there was no time" for mdev in found]

    def step(self) -> bool:
        """Do one step of the oldest save that can go on; False if none can."""
        while self._jobs:
            try:
                next(self._jobs[0])
            except StopIteration:
                self._jobs.popleft()
            else:
                return True
        return False

    # Out.

    def save_all(self, *, last: bool = False) -> None:
        """Save every mdev to the folder; ``last``: they rest afterwards, as we go."""
        if self._folder is not None:
            for mdev in self._parent.mdevs.values():
                if mdev.uuid not in self._waiting:
                    self._save(mdev, self._folder / f"{mdev.uuid}{SUFFIX}", last=last)

    def forget(self, mdev: Mdev) -> None:
        """An mdev was removed for good: it does not come back."""
        if self._folder is not None:
            (self._folder / f"{mdev.uuid}{SUFFIX}").unlink(missing_ok=True)

    def _save(self, mdev: Mdev, path: Path, *, last: bool = False) -> None:
        migration = mdev.function.migration
        facts = {"uuid": mdev.uuid, "name": mdev.name, "file": str(path)}
        if migration is None or migration.loading:
            wrong = "its personality cannot be moved" if migration is None else "it is being loaded"
            self._failed(mdev, facts, wrong)
            return
        self._waiting.add(mdev.uuid)

        def rested(error: RequestError | None) -> None:
            if error is None:
                self._jobs.append(self._write(mdev, migration, path, facts, last))
            else:
                self._failed(mdev, facts, error.reason)

        migration.hold(rested)

    def _write(
        self, mdev: Mdev, migration: Migration, path: Path, facts: dict[str, str], last: bool
    ) -> Iterator[None]:
        """Write the file of an mdev at rest."""
        if mdev.uuid not in self._parent.mdevs:
            self._failed(mdev, facts, "it was removed")
            return
        try:
            draft = Draft(path, mode=0o600)
            definition = Definition(
                *(mdev.uuid, mdev.name, mdev.type.id),
                **asdict(mdev.place),
                attributes=attributes.writable(mdev),
            )
            draft.write(kept.first_line(definition))
            for part in migration.whole(kept.PART):
                draft.write(part)
                yield
                if mdev.uuid not in self._parent.mdevs:
                    draft.discard()
                    self._failed(mdev, facts, "it was removed")
                    return
            draft.publish()
        except OSError as wrong:
            self._failed(mdev, facts, f"{path}: {wrong.strerror or wrong}")
        else:
            self._waiting.discard(mdev.uuid)
            self._tell(SAVED, facts)
        if not last:
            migration.release()

    def _failed(self, mdev: Mdev, facts: dict[str, str], reason: str) -> None:
        self._waiting.discard(mdev.uuid)
        self.lost.append(f"{mdev.name}: not saved: {reason}")
        self._tell(NOT_SAVED, facts | {"reason": reason})

    # In.

    def restore_all(self) -> None:
        """Bring back every mdev of the folder.

        Raises:
            ConfigError: a file cannot be used; it stays as it is.
        """
        if self._folder is not None:
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                self.restore(path, reprogrammed=True)

    def restore(self, path: Path, *, reprogrammed: bool = False) -> dict[str, object]:
        """Bring back the mdev of a file; it rests until a client reaches its BARs.

        ``reprogrammed``: it was here, and engines may do something else since.
        It gets the place that it had, or, if another has that by now, the lowest.
        Everything else waits for as long as reading the file takes.

        Raises:
            ConfigError: the file or its mdev cannot be used; there is no new mdev.
        """
        was, parts = kept.read(path)
        try:
            mdev = self._parent.create(was.type, uuid=was.uuid, name=was.name, place=was.place)
        except ConfigError as wrong:
            raise ConfigError(f"{path}: {wrong.where}", wrong.wrong, wrong.number) from None
        migration = mdev.function.migration
        try:
            if migration is None:
                raise ConfigError("type", f"{was.type} cannot be moved")
            migration.restore(parts, reprogrammed=reprogrammed)
            return self._serve(mdev, was.attributes)
        except StateError as wrong:
            self._parent.remove(mdev)
            raise ConfigError(str(path), wrong.reason) from None
        except ConfigError as wrong:
            self._parent.remove(mdev)
            raise ConfigError(f"{path}: {wrong.where}", wrong.wrong, wrong.number) from None

    # Commands.

    def _save_one(self, mdev: str, file: str) -> dict[str, object]:
        found = self._parent.find(mdev)
        if found.uuid in self._waiting:
            raise ConfigError("mdev", f"{mdev!r} is being saved", errno.EBUSY)
        self._save(found, _absolute(file))
        return {}

    def _save_state(self) -> dict[str, object]:
        if self._folder is None:
            raise ConfigError("save-state", "the emulator runs without --state")
        self.save_all()
        return {}

    def _restore_one(self, file: str) -> dict[str, object]:
        return self.restore(_absolute(file))


def _absolute(file: str) -> Path:
    path = Path(file)
    if not path.is_absolute():
        raise ConfigError("file", f"{file!r} is not an absolute path")
    return path
