"""``hostctl mdev`` and Debian's mdevctl on the live tree: the same list, the same outcome."""

import errno
import json
import os
import re
import stat
import subprocess

import pytest

from tests.support.mdevctl import PARENT, Ours, Stock, mounted, shipped
from tests.support.serving import LIMIT, ROOT, short_folder

pytestmark = pytest.mark.timeout(600)

A, B, C, D = (f"83b8f4f2-509f-382f-3c1e-e6bfe0fa100{n}" for n in range(1, 5))
SMALL, LARGE = "mdevemu-1g.5gb", "mdevemu-7g.40gb"
MADE_UP = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\n")

FILES = {
    "three": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": "3"}, {"weight": "4"}]},
    "bare": {"mdev_type": SMALL, "start": "whenever"},
    "null": {"mdev_type": SMALL, "start": "manual", "attrs": None},
    "large": {"mdev_type": LARGE, "start": "manual", "attrs": []},
    "unknown": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": "9"}, {"hight": "1"}]},
    "refused": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": "9"}, {"weight": "0"}]},
    "readonly": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": "9"}, {"pasid": "1"}]},
    "typeless": {"start": "auto"},
    "startless": {"mdev_type": SMALL},
    "number": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": 3}]},
    "two": {"mdev_type": SMALL, "start": "auto", "attrs": [{"weight": "3", "name": "x"}]},
    "object": {"mdev_type": SMALL, "start": "auto", "attrs": {"weight": "3"}},
    "text": {"mdev_type": SMALL, "start": "auto", "attrs": [{"name": 'ä"\\\n\u0007'}]},
    "list": [],
}

LOOKS = """
types
list -v
list --dumpjson
list -d -v
list -d --dumpjson
"""

SCENARIO = f"""
{LOOKS}
types --dumpjson
types -p {PARENT}
types -p nobody
types -p nobody --dumpjson
list -u {A} --dumpjson
list -d -u {A} --dumpjson
define -u {A} -p {PARENT} -t {SMALL}
define -u {A} -p {PARENT} -t {SMALL}
list -d -u {A} --dumpjson
list -d -u {B} --dumpjson
list -d -p nobody
list -d -p {PARENT} -v
define -u {B}
define -u {B} -t {SMALL}
define -u {B} -p {PARENT}
define -t {SMALL}
define -u 1-2-3 -p {PARENT} -t {SMALL}
define -u {B} -p elsewhere -t {SMALL} -a
list -d
undefine -u {B} -p nobody
undefine -u {B} -p elsewhere
undefine -u {B}
modify -u {A} --addattr weight --value 3
modify -u {A} --addattr weight --value 2 -i 0
modify -u {A} --addattr weight --value 4 -i 2
modify -u {A} --addattr weight --value 5 -i 9
list -d -v
modify -u {A} --delattr -i 1
modify -u {A} --delattr -i 2
modify -u {A} --delattr
list -d -v
modify -u {A} --delattr
modify -u {A} --delattr
modify -u {A} -a
list -d
modify -u {A} -m -t mdevemu-nothing
list -d
modify -u {A} -t {SMALL}
modify -u {A} -t {SMALL} -m
modify -u {A}
modify -u {A} -a -m
modify -u {A} --addattr weight
modify -u {A} --value 3
modify -u {A} -a -i 1
modify -u {B} -a
modify -u {A} -p nobody -a
modify -u {A} --addattr weight --value 3
modify -u {A} --jsonfile three
modify -u {A} -p {PARENT} --jsonfile three
modify -u {A} -p {PARENT} --jsonfile three -t {LARGE}
modify -u {A} -p {PARENT} --jsonfile typeless
modify -u {A} -p {PARENT} --jsonfile startless
modify -u {A} -p {PARENT} --jsonfile number
modify -u {A} -p {PARENT} --jsonfile two
modify -u {A} -p {PARENT} --jsonfile object
modify -u {A} -p {PARENT} --jsonfile list
modify -u {A} -p {PARENT} --jsonfile nothing
modify -u {A} -p {PARENT} --jsonfile missing
modify -u {A} -p {PARENT} --jsonfile bare
list -d -u {A} --dumpjson
modify -u {A} -p {PARENT} --jsonfile null
list -d -u {A} --dumpjson
modify -u {A} -p {PARENT} --jsonfile text
list -d -u {A} --dumpjson
modify -u {A} -p {PARENT} --jsonfile three
stop -u {A}
start -u {A}
{LOOKS}
list -u {A} --dumpjson
start -u {A}
start -u {A} -p {PARENT} -t {SMALL}
start -u {A} -t {LARGE}
start -u {B}
start -u {B} -t {SMALL}
start -u {B} -p {PARENT}
start -u {B} -p nobody -t {SMALL}
start -u {B} -p {PARENT.upper()} -t {SMALL}
start -u {B} -p {PARENT} -t mdevemu-nothing
start -u {B} -p {PARENT} -t {LARGE}
start -t {SMALL}
start -u {B} -p {PARENT} -t {SMALL}
{LOOKS}
define -u {B} -t {SMALL}
define -u {B} -a
list -d -v
start -u {C} --jsonfile three
start -u {C} -p {PARENT} --jsonfile three -t {SMALL}
start -u {C} -p {PARENT} --jsonfile unknown
start -u {C} -p {PARENT} --jsonfile refused
start -u {C} -p {PARENT} --jsonfile readonly
start -u {C} -p {PARENT} --jsonfile nothing
list
start -u {C} -p {PARENT} --jsonfile three
list -v
define -u {D} --jsonfile three
define -u {D} -p {PARENT} --jsonfile three -t {SMALL}
define -u {D} -p {PARENT} --jsonfile three -a
define -u {D} -p {PARENT} --jsonfile typeless
define -u {D} -p {PARENT} --jsonfile three
define -u {D} -p {PARENT} --jsonfile bare
list -d --dumpjson
modify -u {C} -l
modify -u {C} -l -a
modify -u {C} -l --jsonfile large
modify -u {D} -l --jsonfile bare
modify -u {C} -p nobody -l --jsonfile three
modify -u {C} -l -d --jsonfile three
modify -u {C} -l --jsonfile refused
modify -u {C} -l --jsonfile unknown
modify -u {C} -l --jsonfile readonly
list -v
modify -u {A} -l --jsonfile null
modify -u {A} -l --jsonfile three
modify -u {A} -l -d --jsonfile refused
modify -u {A} -l -d --jsonfile three
{LOOKS}
stop -u {A}
stop -u {A}
stop
list -d
stop -u {B}
stop -u {C}
undefine -u {A}
undefine -u {A}
undefine -u {B}
undefine
undefine -u {D} -p {PARENT}
list -d
"""


@pytest.fixture(scope="module")
def worlds():
    with short_folder() as first, short_folder() as second:
        stock = Stock(first, shipped("hbm-8x"))
        ours = Ours(second, shipped("hbm-8x"))
        yield stock, ours
        ours.close()
        stock.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("json")
    for name, content in FILES.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "nothing").write_text("{")
    return folder


def test_same_list_has_the_same_outcome(worlds, files):
    """Success or refusal, what is printed byte for byte, what is left behind byte for byte."""
    outcomes, different = set(), {}
    for line in filter(None, SCENARIO.splitlines()):
        arguments = line.split()
        if "--jsonfile" in arguments:
            at = arguments.index("--jsonfile") + 1
            arguments[at] = str(files / arguments[at])
        stock, ours = ((world.run(*arguments), world.state()) for world in worlds)
        if ours != stock:
            different[line] = (stock, ours)
        outcomes.add((arguments[0], ours[0][0]))
    assert not different
    verbs = {"define", "undefine", "modify", "start", "stop"}
    assert outcomes == {(verb, ok) for verb in verbs for ok in (True, False)} | {
        ("types", True),
        ("list", True),
    }


def test_uuid_is_made_up_and_printed(worlds):
    for verb in ("define", "start"):
        for world in worlds:
            done, out = world.run(verb, "-p", PARENT, "-t", SMALL)
            assert (done, bool(MADE_UP.fullmatch(out))) == (True, True)
            assert world.run("undefine" if verb == "define" else "stop", "-u", out.strip())[0]


def test_no_more_than_there_is_room_for(worlds):
    for world in worlds:
        assert world.run("start", "-u", A, "-p", PARENT, "-t", LARGE)[0]
        assert not world.run("start", "-u", B, "-p", PARENT, "-t", SMALL)[0]
        assert world.run("stop", "-u", A)[0]


def test_automatic_ones_start_with_the_parent(worlds, files):
    """By mdevctl's own verb, which udev would run; ours when the accelerator comes up."""
    stock, ours = worlds
    for world in worlds:
        for uuid, name in ((A, "refused"), (B, "three"), (C, "null"), (D, "unknown")):
            assert world.run("define", "-u", uuid, "-p", PARENT, "--jsonfile", str(files / name))[0]
    assert stock.run("start-parent-mdevs", PARENT)[0]
    status, _, said = ours.down()
    assert (status, said) == (0, "")
    ours.up()
    assert ours.state() == stock.state()
    assert [line.split()[0] for line in ours.run("list")[1].splitlines()] == [B]
    for world in worlds:
        for uuid in (A, B, C, D):
            assert world.run("undefine", "-u", uuid)[0]
    control = ours.serving.control()
    control("remove-mdev", uuid=B)
    control.close()
    assert stock.run("stop", "-u", B)[0]
    status, _, said = ours.down()
    assert status == 0
    assert [line.split()[1] for line in said.splitlines()] == [A, D]
    ours.up()


def test_tree_whose_server_was_killed_is_told_and_can_be_unmounted(worlds):
    _, ours = worlds
    place = ours.root / "sys"
    server = mounted(ours.root, ours.socket)
    server.kill()
    server.communicate()
    again = subprocess.run(
        server.args,
        cwd=ours.folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
        timeout=LIMIT,
    )
    assert again.returncode == 3
    fix = "umount root/sys, or fusermount3 -u root/sys"
    assert again.stderr == f"error: root/sys is mounted, and who served it is gone\n  fix: {fix}\n"
    subprocess.run(fix.replace(", or", " ||"), shell=True, cwd=ours.folder, check=True)
    assert not os.path.ismount(place)


# The tree itself.


@pytest.fixture
def tree(worlds):
    return worlds[0].root / "sys"


@pytest.fixture
def mdev(worlds, tree):
    assert worlds[0].run("start", "-u", A, "-p", PARENT, "-t", SMALL)[0]
    yield tree / "bus/mdev/devices" / A
    worlds[0].run("stop", "-u", A)


def number(call):
    """The errno with which a call fails."""
    with pytest.raises(OSError) as caught:  # noqa: PT011 (every one)
        call()
    return caught.value.errno


def test_tree_is_the_kernels(tree, mdev, worlds):
    parent = tree / "class/mdev_bus" / PARENT
    assert parent.resolve() == tree / "devices/pci0000:3a" / PARENT
    assert mdev.resolve() == parent.resolve() / A
    kind = parent / "mdev_supported_types" / SMALL
    assert (mdev / "mdev_type").resolve() == kind.resolve()
    assert (kind / "devices" / A).resolve() == mdev.resolve()
    assert sorted(os.listdir(kind)) == [
        "available_instances",
        "create",
        "description",
        "device_api",
        "devices",
        "name",
    ]
    assert (kind / "device_api").read_text() == "vfio-pci\n"
    assert (kind / "available_instances").read_text() == "6\n"
    assert (parent / "numa_node").read_text() == "1\n"
    for path in (kind / "create", mdev / "remove"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o200
    assert (worlds[0].serving.runtime / f"mdev-{A}.sock").is_socket()


def test_errors_are_the_kernels(tree, mdev):
    create = tree / "class/mdev_bus" / PARENT / "mdev_supported_types" / SMALL / "create"
    full = create.parent.with_name(LARGE) / "create"
    assert number(lambda: create.write_text(B[:-1])) == errno.EINVAL
    assert number(lambda: create.write_text(B + "00")) == errno.EINVAL
    assert number(lambda: create.write_bytes(b"\xff" * 36)) == errno.EINVAL
    assert number(lambda: create.write_text(B.replace("-", "_"))) == errno.EINVAL
    assert number(lambda: create.write_text(A)) == errno.EEXIST
    assert number(lambda: full.write_text(B)) == errno.EUSERS
    assert number(create.read_text) == errno.EACCES
    assert number(lambda: (mdev / "pasid").write_text("1")) == errno.EACCES
    assert number(lambda: (mdev / "weight").write_text("1001")) == errno.EINVAL
    assert number(lambda: (mdev / "nothing").read_text()) == errno.ENOENT
    assert number(lambda: os.listdir(mdev / "weight")) == errno.ENOTDIR
    assert number(lambda: (mdev.parent / B / "remove").write_text("1")) == errno.ENOENT
    assert number(lambda: (mdev / "remove").write_text("x")) == errno.EINVAL
    (mdev / "remove").write_text("0")
    assert mdev.exists()


def test_uuid_with_a_newline_is_one_too_and_removal_is_live(tree, mdev):
    create = tree / "class/mdev_bus" / PARENT / "mdev_supported_types" / SMALL / "create"
    create.write_text(B + "\n")
    made = tree / "bus/mdev/devices" / B
    (made / "weight").write_text("12\n")
    assert (made / "weight").read_text() == "12\n"
    (made / "remove").write_text("1")
    assert not made.exists()
    assert sorted(os.listdir(tree / "bus/mdev/devices")) == [A]


def test_mdev_of_a_vm_is_busy(worlds, mdev):
    from mdevemu.vfio_user.client import Client

    client = Client(str(worlds[0].serving.runtime / f"mdev-{A}.sock"), timeout=10)
    try:
        assert number(lambda: (mdev / "remove").write_text("1")) == errno.EBUSY
        assert not worlds[0].run("stop", "-u", A)[0]
    finally:
        client.close()
