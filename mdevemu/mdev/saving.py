"""One mdev saved to a file: first while it works, then what is left, at rest.

Nothing here waits for the disk or for the device to come to rest, and each step is short, so
neighbours work on.
"""

import contextlib
import errno
from collections.abc import Callable, Generator
from dataclasses import asdict
from functools import partial
from hashlib import blake2b
from pathlib import Path

from mdevemu.disk import Disk
from mdevemu.durable import Draft
from mdevemu.errors import RequestError
from mdevemu.mdev import attributes, kept
from mdevemu.mdev.contents import Contents
from mdevemu.mdev.kept import Definition
from mdevemu.mdev.migration import Migration
from mdevemu.mdev.parent import Mdev
from mdevemu.units import KIB

PART = 256 * KIB
"""Bytes that the disk gets at a time: more would keep the loop waiting for memory."""

UNWRITTEN = 4
"""Parts that may wait for the disk; with more, the save waits for it."""

DRAFT = ".new"
"""How the name of a file ends that is not whole."""

Steps = Generator[bool, None, None]
"""Each says whether anything was done but waiting."""


class Save:
    """The save of one mdev.

    Attributes:
        over: it has ended.
        wrong: why it failed, once it is over; None if it did not.
        written: there is a new file.
        mark: tells what was saved from any other state of the mdev; empty before it is known.
        work: what engines had done for it before that.
    """

    def __init__(
        self,
        mdev: Mdev,
        migration: Migration,
        path: Path,
        disk: Disk,
        former: bytes,
        *,
        last: bool,
        asked: bool,
    ) -> None:
        """``former`` is the mark of what the file has: nothing is written if that is so still.

        ``last``: the mdev rests from the beginning, and afterwards.  ``asked``: somebody waits.
        """
        self.mdev = mdev
        self.path = path
        self.last = last
        self.asked = asked
        self.over = self.written = False
        self.wrong: str | None = None
        self.mark = b""
        self.work = 0
        self._migration = migration
        self._disk = disk
        self._former = former
        # Another mdev may be saved to the same place at the same time: each has a draft.
        self._file = _File(path, path.with_name(f".{path.name}.{mdev.uuid}{DRAFT}"))
        self._unwritten = 0
        self._steps = self._run()

    def step(self) -> bool:
        """Do what takes about as long as a piece of work; False if it has to wait."""
        try:
            return next(self._steps)
        except StopIteration:
            self.over = True
        except RequestError as refused:
            self._end(refused.reason)
        except OSError as wrong:
            self._end(f"{self.path}: {wrong.strerror or wrong}")
        return True

    def give_up(self) -> None:
        """The mdev was removed."""
        self._steps.close()
        self._disk.do(self._file.discard)
        self.over, self.wrong = True, "it was removed"

    def _end(self, wrong: str) -> None:
        if not self.last:
            self._migration.release()
        self._disk.do(self._file.discard)
        self.over, self.wrong = True, wrong

    def _run(self) -> Steps:
        """Raises: RequestError, OSError: why it cannot be saved."""
        first = self._first_line()
        self.work = self.mdev.flow.work
        if self._former:
            yield from self._look(first)
            if self.mark == self._former:
                return
        out, loads = self._migration.outgoing(), self._migration.loads
        yield from self._append(first)
        if not self.last:
            yield from self._pass(out.step)
        yield from self._rest()
        out.rest()
        yield from self._pass(out.step)
        if self._migration.loads != loads:
            raise RequestError(errno.EBUSY, "its client loaded another state meanwhile")
        self.mark = _mark(first, out.digest(), out.state)
        yield from self._do(self._file.publish)
        self.written = True
        if not self.last:
            self._migration.release()

    def _look(self, first: bytes) -> Steps:
        """Find the mark of the mdev, which works until its memory was looked at."""
        digest = b""
        if self._migration.partition is not None:
            contents = Contents(self._migration.partition, at_once=1)
            for _ in contents.tell():
                yield True
            digest = contents.digest()
        yield from self._rest()
        self.mark = _mark(first, digest, self._migration.state())
        self._migration.release()

    def _first_line(self) -> bytes:
        mdev = self.mdev
        given = attributes.writable(mdev)
        return kept.first_line(
            Definition(mdev.uuid, mdev.name, mdev.type.id, **asdict(mdev.place), attributes=given)
        )

    def _rest(self) -> Steps:
        """Wait until the device rests.

        Raises:
            RequestError: it cannot come to rest.
        """
        found: list[RequestError | None] = []
        self._migration.hold(found.append, last=self.last)
        while not found:
            yield False
        if found[0] is not None:
            raise found[0]

    def _pass(self, step: Callable[[], bytes | None]) -> Steps:
        """Write what the steps find, until they are over."""
        part = bytearray()
        while (found := step()) is not None:
            part += found
            yield True
            if len(part) >= PART:
                yield from self._append(bytes(part))
                part.clear()
        yield from self._append(bytes(part))

    def _append(self, data: bytes) -> Steps:
        while self._unwritten == UNWRITTEN:
            yield False
        self._unwritten += 1
        self._disk.do(partial(self._file.append, data), self._landed)
        if self._file.wrong:
            raise self._file.wrong

    def _landed(self) -> None:
        self._unwritten -= 1

    def _do(self, job: Callable[[], None]) -> Steps:
        """Have something done behind all that waits for the disk, and wait for it."""
        done: list[None] = []
        self._disk.do(job, lambda: done.append(None))
        while not done:
            yield False
        if self._file.wrong:
            raise self._file.wrong


class _File:
    """The file of a save; its methods run where one may wait for the disk.

    Attributes:
        wrong: why it cannot be written; nothing is left of it then.
    """

    def __init__(self, path: Path, scratch: Path) -> None:
        """See ``Draft``."""
        self._path = path
        self._scratch = scratch
        self._draft: Draft | None = None
        self.wrong: OSError | None = None

    def append(self, data: bytes) -> None:
        """Write more of it."""
        if self.wrong is None:
            try:
                self._draft = self._draft or Draft(self._path, 0o600, self._scratch)
                self._draft.write(data)
            except OSError as wrong:
                self.wrong = wrong

    def publish(self) -> None:
        """It is whole, and appears."""
        if self.wrong is None and self._draft is not None:
            try:
                self._draft.publish()
            except OSError as wrong:
                self.wrong = wrong

    def discard(self) -> None:
        """Leave nothing of it, where that can be."""
        if self._draft is not None:
            with contextlib.suppress(OSError):
                self._draft.discard()


def _mark(first_line: bytes, memory: bytes, state: bytes) -> bytes:
    """One for all that a file has."""
    return blake2b(b"".join((first_line, memory, state)), digest_size=16).digest()
