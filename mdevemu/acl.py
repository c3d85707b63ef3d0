"""Files that their owner and some other users may use, and nobody else: POSIX access lists.

Spec: acl(5); Linux, include/uapi/linux/posix_acl.h and posix_acl_xattr.h
"""

import contextlib
import errno
import os
import struct
from collections.abc import Collection
from pathlib import Path

READ, WRITE, EXECUTE = 4, 2, 1

_ATTRIBUTE = "system.posix_acl_access"
_VERSION = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
"""Tag, permissions, user."""
_OWNER, _USER, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20
_NO_ID = 0xFFFF_FFFF


def admit(path: Path, users: Collection[int], permissions: int) -> None:
    """Give a file of ours to these users, too, with these permissions, and to nobody else.

    Our own permissions stay.  Without users its mode is all there is to it.

    Raises:
        OSError: ENOTSUP: its file system has no access lists; nothing was changed.
    """
    own = os.stat(path).st_mode >> 6 & 7
    if not users:
        os.chmod(path, own << 6)
        with contextlib.suppress(OSError):  # it has no list, or cannot have one
            os.removexattr(path, _ATTRIBUTE)
        return
    entries = [
        (_OWNER, own, _NO_ID),
        *((_USER, permissions, user) for user in sorted(users)),
        (_GROUP, 0, _NO_ID),
        (_MASK, permissions, _NO_ID),
        (_OTHER, 0, _NO_ID),
    ]
    packed = b"".join(_ENTRY.pack(*each) for each in entries)
    os.setxattr(path, _ATTRIBUTE, _VERSION.pack(2) + packed)


def admitted(path: Path) -> dict[int, int]:
    """Permissions of the users to whom a file's list gives any, by their ids.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        packed = os.getxattr(path, _ATTRIBUTE)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return {}
        raise
    entries = list(_ENTRY.iter_unpack(packed[_VERSION.size :]))
    mask = next((permissions for tag, permissions, _ in entries if tag == _MASK), 7)
    return {user: permissions & mask for tag, permissions, user in entries if tag == _USER}
