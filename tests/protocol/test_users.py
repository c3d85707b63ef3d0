"""Who may connect to an mdev: what files say, and what the emulator says who looks at peers."""

import errno
import os
import signal
import stat

import pytest

from mdevemu import acl
from tests.support.serving import Serving, short_folder, until
from tests.support.users import STRANGER, root_only, run_as, start_as
from tests.support.vfio_user import hello

NATIVE = "mdevemu-native"
OTHER = STRANGER + 1

CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(10)
    try:
        client.connect(sys.argv[1])
        client.sendall(bytes.fromhex(sys.argv[2]))
        print(len(client.recv(16)), flush=True)
        if len(sys.argv) > 3:
            while client.recv(4096):
                pass
            print("sent away")
    except (BrokenPipeError, ConnectionResetError):
        print(0)
    except OSError as wrong:
        print(wrong.errno)
"""
"""Prints how many bytes of an answer come, or why it cannot connect: errno."""


def attempt(path, uid=STRANGER):
    return int(run_as(uid, CONNECT, path, hello().hex()))


@pytest.fixture
def folder():
    with short_folder() as made:
        made.chmod(0o711)
        yield made


@pytest.fixture
def serving(folder):
    made = Serving(folder)
    yield made
    code, _, err = made.stop()
    assert (code, err) == (0, "")


@pytest.fixture
def control(serving):
    return serving.control()


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def opened(*paths):
    """The users that each file lets in, with their permissions."""
    return [acl.admitted(path) for path in paths]


# What files say


def test_each_socket_is_open_to_its_own_users_and_the_folder_to_all(serving, control):
    red = control("create-mdev", type=NATIVE, name="red", attributes={"users": f"{STRANGER},7"})
    blue = control("create-mdev", type=NATIVE, name="blue", attributes={"users": str(OTHER)})
    green = control("create-mdev", type=NATIVE, name="green")
    assert (red["users"], blue["users"], green["users"]) == ([7, STRANGER], [OTHER], [])
    assert opened(*(each["socket"] for each in (red, blue, green))) == [
        {7: 6, STRANGER: 6},
        {OTHER: 6},
        {},
    ]
    assert opened(serving.runtime, serving.ready["control"]) == [{7: 1, STRANGER: 1, OTHER: 1}, {}]
    assert [mode(each) for each in (green["socket"], serving.ready["control"])] == [0o600] * 2
    control("set-attribute", uuid="red", name="users", value="none")
    assert opened(red["socket"], serving.runtime) == [{}, {OTHER: 1}]
    control("remove-mdev", uuid="blue")
    assert (opened(serving.runtime), mode(serving.runtime)) == ([{}], 0o700)
    assert mode(red["socket"]) == 0o600


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("", "''"),
        ("root", "'root' (accepted: none, or ids"),
        ("-1", "'-1'"),
        ("1,,2", "''"),
        ("none,1", "'none'"),
        ("4294967295", "'4294967295'"),
        ("65534", "everybody who has no id here"),
    ],
)
def test_what_is_no_user_is_refused_and_nothing_changes(serving, control, value, says):
    made = control("create-mdev", type=NATIVE, name="red", attributes={"users": "7, 8"})
    assert says in control.refused("set-attribute", uuid="red", name="users", value=value)[1]
    assert says in control.refused("create-mdev", type=NATIVE, attributes={"users": value})[1]
    assert control("query-mdevs") == [made]
    assert opened(made["socket"], serving.runtime) == [{7: 6, 8: 6}, {7: 1, 8: 1}]


def test_users_come_back_with_the_mdev_and_after_a_kill(folder):
    options = ("--state", str(folder / "state"))
    serving = Serving(folder, *options)
    control = serving.control()
    red = control("create-mdev", type=NATIVE, name="red", attributes={"users": "7"})
    assert serving.stop()[0] == 0
    serving = Serving(folder, *options)
    assert opened(red["socket"], serving.runtime) == [{7: 6}, {7: 1}]
    serving.control()("set-attribute", uuid="red", name="users", value="8")
    serving.process.kill()
    serving.stop()
    serving = Serving(folder, *options)
    assert serving.control()("query-mdevs")[0]["users"] == [7], "as it was saved last"
    assert opened(serving.runtime) == [{7: 1}]
    assert serving.stop()[0] == 0
    assert mode(serving.runtime) == 0o700


# What they mean


@root_only
def test_user_of_one_mdev_connects_to_it_and_to_nothing_else(serving, control):
    red = control("create-mdev", type=NATIVE, attributes={"users": str(STRANGER)})
    blue = control("create-mdev", type=NATIVE, attributes={"users": str(OTHER)})
    assert attempt(red["socket"]) == 16
    for path in (blue["socket"], serving.ready["control"]):
        assert attempt(path) == errno.EACCES
    assert attempt(blue["socket"], OTHER) == 16


@root_only
def test_user_who_may_not_is_turned_away_and_named_whatever_files_say(serving, control):
    red = control("create-mdev", type=NATIVE, name="red", attributes={"users": str(OTHER)})
    os.chmod(serving.runtime, 0o711)
    os.chmod(red["socket"], 0o666)
    assert attempt(red["socket"]) == 0
    told = control.event("CLIENT_REFUSED")
    assert (told["mdev"], told["uid"], told["reason"]) == ("red", STRANGER, "this user may not")
    assert told["pid"] > 0
    assert attempt(red["socket"], OTHER) == 16
    assert attempt(red["socket"], 0) == 16


@root_only
def test_user_who_may_not_any_more_is_sent_away(control):
    red = control("create-mdev", type=NATIVE, name="red", attributes={"users": str(STRANGER)})
    with start_as(STRANGER, CONNECT, red["socket"], hello().hex(), "stay") as client:
        assert client.stdout.readline() == "16\n"
        control("set-attribute", uuid="red", name="users", value=f"{STRANGER},{OTHER}")
        assert control("query-mdevs")[0]["attached"]
        control("set-attribute", uuid="red", name="users", value=str(OTHER))
        assert client.stdout.readline() == "sent away\n"
    until(lambda: not control("query-mdevs")[0]["attached"])
    assert attempt(red["socket"]) == errno.EACCES


@root_only
def test_client_of_ours_stays_whoever_else_may(control, serving):
    red = control("create-mdev", type=NATIVE, name="red")
    with start_as(0, CONNECT, red["socket"], hello().hex(), "stay") as client:
        assert client.stdout.readline() == "16\n"
        control("set-attribute", uuid="red", name="users", value="7")
        assert control("query-mdevs")[0]["attached"]
        client.send_signal(signal.SIGTERM)
