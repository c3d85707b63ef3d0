"""Users by name or number, and what is in their way to a socket."""

import os
import pwd
from pathlib import Path

import pytest

from hostctl.control import Control
from hostctl.users import in_the_way, user_id
from mdevemu import acl
from mdevemu.errors import ConfigError
from tests.support.serving import Serving, short_folder
from tests.support.users import STRANGER
from tests.unit.hostctl.command import Hostctl


def test_user_is_named_or_numbered() -> None:
    someone = pwd.getpwall()[-1]
    assert user_id(someone.pw_name) == someone.pw_uid
    assert user_id("123456") == 123456
    with pytest.raises(ConfigError, match="no user 'no such one'"):
        user_id("no such one")


def test_first_closed_folder_is_in_the_way() -> None:
    with short_folder() as top:
        inner = top / "inner"
        inner.mkdir(0o700)
        file = inner / "file"
        assert in_the_way(file, STRANGER) == top
        assert in_the_way(file, os.getuid()) is None
        assert in_the_way(file, 0) is None
        top.chmod(0o701)
        assert in_the_way(file, STRANGER) == inner
        acl.admit(inner, {STRANGER}, acl.EXECUTE)
        assert in_the_way(file, STRANGER) is None
        acl.admit(inner, {STRANGER}, acl.READ)
        inner.chmod(0o771)
        assert in_the_way(file, STRANGER) == inner, "what is said of a user goes before the rest"


def test_mdev_is_created_for_users_and_closed_folders_are_told(tmp_path: Path) -> None:
    hostctl = Hostctl(tmp_path)
    with short_folder() as folder:
        serving = Serving(folder)
        path = str(serving.runtime / "control.sock")
        where = ("--control", path)
        given = ("--user", str(STRANGER), "--user", "123", "--name", "red")
        done = hostctl.run("mdev", "create", "native", *given, *where)
        assert done.returncode == 0
        told = [" ".join(line.split()) for line in done.stderr.split("warning: ")[1:]]
        assert [line.split()[0] for line in told] == [str(folder)] * 2
        folder.chmod(0o711)
        someone = next(each for each in pwd.getpwall() if 0 < each.pw_uid < 65534)
        done = hostctl.run("mdev", "set", "red", f"users={someone.pw_name},123", *where)
        assert (done.returncode, done.stderr) == (0, "")
        control = Control(path)
        (found,) = control.mdevs()
        assert found.users == tuple(sorted((someone.pw_uid, 123)))
        done = hostctl.run("mdev", "set", "red", "weight=9", "users=no-such-one", *where)
        assert (done.returncode, "no user 'no-such-one'" in done.stderr) == (2, True)
        assert control.mdevs() == [found]
        control.close()
        serving.stop()
