"""Users of this machine who shall reach a socket: their ids, and folders that are in their way."""

import os
import pwd
from pathlib import Path

from mdevemu import acl
from mdevemu.errors import ConfigError, shown


def user_id(text: str) -> int:
    """The id of the user of that name, or that number.

    Raises:
        ConfigError: there is no user of that name.
    """
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        wrong = f"there is no user {shown(text)} (accepted: a name, or an id)"
        raise ConfigError("user", wrong) from None


def in_the_way(path: Path, user: int) -> Path | None:
    """The first folder, from the top, that does not let a user through to a file.

    Spec: path_resolution(7); acl(5), "ACCESS CHECK ALGORITHM"; groups' entries in access lists
    are not looked at.
    """
    groups = _groups(user)
    for folder in reversed(path.parents):
        facts = folder.stat()
        if facts.st_uid == user:
            granted = facts.st_mode >> 6
        elif (listed := acl.admitted(folder).get(user)) is not None:
            granted = listed
        elif facts.st_gid in groups:
            granted = facts.st_mode >> 3
        else:
            granted = facts.st_mode
        if user and not granted & acl.EXECUTE:
            return folder
    return None


def _groups(user: int) -> set[int]:
    try:
        found = pwd.getpwuid(user)
    except KeyError:
        return set()
    return set(os.getgrouplist(found.pw_name, found.pw_gid))
