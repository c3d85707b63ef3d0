"""Saves mdevs to files, and brings them back: on request, by the clock, from run to run."""

import contextlib
import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from mdevemu.alarms import Alarm
from mdevemu.control import Argument, Command
from mdevemu.definitions import Attributes
from mdevemu.disk import Disk
from mdevemu.errors import ConfigError, StateError, complain, shown
from mdevemu.mdev import kept
from mdevemu.mdev.kept import SUFFIX
from mdevemu.mdev.parent import Mdev, Parent
from mdevemu.mdev.saving import DRAFT, Save

SAVED, NOT_SAVED = "MDEV_SAVED", "MDEV_NOT_SAVED"

AT_ONCE = 4
"""Saves that go on at once: while one waits, the next works."""

OTHERS = 3
"""How many times as long as each step of a save other work has, if there is any."""


class Keeping:
    """What an accelerator keeps of its mdevs, in a folder or wherever the operator says.

    Saves are done in steps between other work.

    Attributes:
        lost: a line for each mdev that should have been saved as we go, and was not.
    """

    def __init__(
        self,
        parent: Parent,
        folder: Path | None,
        tell: Callable[[str, Mapping[str, object]], None],
        serve: Callable[[Mdev, Attributes], dict[str, object]],
        clock: Callable[[], int],
        disk: Disk,
    ) -> None:
        """``folder`` survives us, if there is one; ``clock`` returns nanoseconds.

        ``serve`` gives a new mdev its attributes and its socket.

        Raises:
            ConfigError: the folder cannot be made.
        """
        self._parent = parent
        self._folder = folder
        self._tell = tell
        self._serve = serve
        self._clock = clock
        self._disk = disk
        self.lost: list[str] = []
        self._saves: list[Save] = []
        self._turn = 0
        self._every: Alarm | None = None
        # Of those in the folder: what engines had done for each, and the mark of its file.
        self._marks: dict[str, tuple[int, bytes]] = {}
        self._complaints: dict[str, str] = {}
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
        return bool(self._saves)

    def unfinished(self) -> list[str]:
        """A line for each mdev whose save was begun, and is not over."""
        return [f"{each.mdev.name}: not saved: there was no time" for each in self._saves]

    def step(self, *, others: bool) -> bool:
        """Do one step of the oldest save that can go on; False if none can.

        With other work to do, saves take a part of the time, and no more.
        """
        if not self._saves:
            return False
        begun = self._clock()
        if others and begun < self._turn:
            return True
        for save in self._begun():
            if save.step():
                if save.over:
                    self._over(save)
                now = self._clock()
                self._turn = now + (now - begun) * OTHERS
                return True
        return False

    def _begun(self) -> list[Save]:
        """The saves that go on now, one for each mdev, oldest first."""
        first = {each.mdev.uuid: each for each in reversed(self._saves)}
        return [each for each in self._saves if first[each.mdev.uuid] is each][:AT_ONCE]

    # Out.

    def save_every(self, interval: int) -> None:
        """Save what is not as it is in the folder, again and again after so many nanoseconds."""
        assert self._folder is not None, "there is a folder to save to"
        alarms = self._parent.scheduler.alarms
        self._every = alarms.after(interval, lambda: self._save_changed(interval))

    def _save_changed(self, interval: int) -> None:
        self.save_every(interval)
        for mdev in self._parent.mdevs.values():
            work, mark = self._marks.get(mdev.uuid, (0, b""))
            if not any(each.mdev is mdev for each in self._saves):
                # What has worked since is not as it was: that need not be looked at.
                former = mark if work == mdev.flow.work else b""
                self._save(mdev, self._place(mdev), former, asked=False)

    def leave(self) -> None:
        """Save nothing by the clock any more: what is begun comes to an end."""
        if self._every is not None:
            self._every.cancel()

    def save_all(self, *, last: bool = False) -> None:
        """Save every mdev to the folder; ``last``: they rest afterwards, as we go."""
        if self._folder is not None:
            for mdev in self._parent.mdevs.values():
                self._save(mdev, self._place(mdev), last=last)

    def end(self, mdev: Mdev) -> None:
        """An mdev is no more: nor are its saves."""
        for save in [each for each in self._saves if each.mdev is mdev]:
            save.give_up()
            if save.asked:
                self._over(save)
            else:
                self._saves.remove(save)  # which nobody misses
        self._marks.pop(mdev.uuid, None)
        self._complaints.pop(mdev.uuid, None)

    def forget(self, mdev: Mdev) -> None:
        """An mdev, which is no more, was removed for good: it does not come back."""
        if self._folder is not None:
            path = self._place(mdev)
            _unlink(path)
            self._disk.do(lambda: _unlink(path))  # behind what was on its way there

    def _place(self, mdev: Mdev) -> Path:
        assert self._folder is not None
        return self._folder / f"{mdev.uuid}{SUFFIX}"

    def _save(
        self, mdev: Mdev, path: Path, former: bytes = b"", *, last: bool = False, asked: bool = True
    ) -> None:
        """Begin a save; see ``Save``.  What nobody ``asked`` for is complained of once."""
        migration = mdev.function.migration
        if migration is None or migration.loading:
            wrong = "its personality cannot be moved" if migration is None else "it is being loaded"
            self._failed(mdev, path, wrong, last=last, asked=asked)
        else:
            save = Save(mdev, migration, path, self._disk, former, last=last, asked=asked)
            self._saves.append(save)

    def _over(self, save: Save) -> None:
        self._saves.remove(save)
        mdev = save.mdev
        if save.wrong is not None:
            self._failed(mdev, save.path, save.wrong, last=save.last, asked=save.asked)
            return
        self._complaints.pop(mdev.uuid, None)
        if self._folder is not None and save.path == self._place(mdev):
            self._marks[mdev.uuid] = save.work, save.mark
        if save.written:
            self._tell(SAVED, _facts(mdev, save.path))

    def _failed(self, mdev: Mdev, path: Path, reason: str, *, last: bool, asked: bool) -> None:
        line = f"{mdev.name}: not saved: {reason}"
        if last:
            self.lost.append(line)
        elif not asked:
            if self._complaints.get(mdev.uuid) == reason:
                return
            self._complaints[mdev.uuid] = reason
            complain(line)
        self._tell(NOT_SAVED, _facts(mdev, path) | {"reason": reason})

    # In.

    def restore_all(self) -> None:
        """Bring back every mdev of the folder; what a run that was killed left half is removed.

        Raises:
            ConfigError: a file cannot be used; it stays as it is.
        """
        if self._folder is not None:
            for half in self._folder.glob(f".*{SUFFIX}.*{DRAFT}"):
                _unlink(half)
            for path in sorted(self._folder.glob(f"*{SUFFIX}")):
                uuid = self.restore(path, reprogrammed=True)["uuid"]
                if path.name != f"{uuid}{SUFFIX}":  # it would come back after its removal
                    raise ConfigError(str(path), f"has mdev {uuid}, which is not its name")

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
        path = _absolute(file)
        if any(each.mdev is found and each.path == path for each in self._saves):
            raise ConfigError("mdev", f"{mdev!r} is being saved to {path}", errno.EBUSY)
        self._save(found, path)
        return {}

    def _save_state(self) -> dict[str, object]:
        if self._folder is None:
            raise ConfigError("save-state", "the emulator runs without --state")
        self.save_all()
        return {}

    def _restore_one(self, file: str) -> dict[str, object]:
        return self.restore(_absolute(file))


def _facts(mdev: Mdev, path: Path) -> dict[str, str]:
    """Whose save it is, for events."""
    return {"uuid": mdev.uuid, "name": mdev.name, "file": str(path)}


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _absolute(file: str) -> Path:
    path = Path(file)
    if not path.is_absolute():
        raise ConfigError("file", f"{shown(file)} is not an absolute path")
    try:
        possible = path.name and b"\0" not in os.fsencode(file)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ConfigError("file", f"{shown(file)} cannot be the name of a file")
    return path
