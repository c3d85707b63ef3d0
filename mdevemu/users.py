"""Who may connect to an mdev, besides the user whose accelerator it is, and root."""

from collections.abc import Iterator
from pathlib import Path

from mdevemu import acl
from mdevemu.errors import ConfigError
from mdevemu.mdev.parent import Mdev, Parent
from mdevemu.vfio_user.server import Server


class Users:
    """The users of an accelerator's mdevs.

    The folder of the sockets lets through whoever may connect to one of them; who that is,
    each socket says by itself.
    """

    def __init__(self, parent: Parent, folder: Path) -> None:
        self._parent = parent
        self._folder = folder
        self._through: frozenset[int] = frozenset()

    def admit(self, mdev: Mdev, server: Server, users: frozenset[int]) -> None:
        """Let these users and no others connect to an mdev.

        Raises:
            ConfigError: folder or socket cannot be opened to them; nothing was changed.
        """
        before = self._through
        self._let_through(before | users)
        try:
            server.admit(users)
        except ConfigError:
            self._let_through(before)
            raise
        self._let_through(users.union(*self._of_others(mdev)))

    def forget(self, mdev: Mdev) -> None:
        """An mdev's socket is gone: nobody needs the folder for it."""
        if mdev.users:
            self._let_through(frozenset[int]().union(*self._of_others(mdev)))

    def _of_others(self, mdev: Mdev) -> Iterator[frozenset[int]]:
        return (each.users for each in self._parent.mdevs.values() if each is not mdev)

    def _let_through(self, users: frozenset[int]) -> None:
        if users == self._through:
            return
        try:
            acl.admit(self._folder, users, acl.EXECUTE)
        except OSError as wrong:
            raise ConfigError("users", f"{self._folder}: {wrong.strerror}") from None
        self._through = users
