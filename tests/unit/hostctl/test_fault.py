"""``hostctl fault`` in front of an emulator."""

import json
import os
import struct

import pytest

from hostctl.cli.main import run
from hostctl.errors import OK, USAGE
from mdevemu.vfio_user.client import Client
from tests.unit.hostctl.command import until

ONES = 0xFFFF_FFFF
CONFIG, COMMAND = 7, 4
DMACOUNT, CHANSTS, CHAINADDR = 0x86, 0x88, 0x90
ACTIVE, IDLE = 0, 1


@pytest.fixture
def mdev(ioat):
    made = ioat.control.create("mdevemu-ioat", name="red", uuid=None, weight=None)
    yield made
    ioat.control.remove("red", force=True)


@pytest.fixture
def ask(ioat, capsys):
    """Runs ``hostctl fault``: (exit status, stdout, stderr)."""

    def command(*arguments):
        status = run(["fault", *map(str, arguments), "--control", str(ioat.control_path)])
        return status, *capsys.readouterr()

    return command


def test_fault_is_injected_listed_and_cleared(ask, mdev):
    status, said, _ = ask("inject", "red", "translation-fault", "--address", "0x1000")
    assert (status, said) == (OK, "1\n")
    _, said, _ = ask("list", "red")
    assert said.splitlines()[1].split() == [
        *("1", "red", "translation-fault", "address=4096", "0", "armed")
    ]
    assert ask("clear", "red", 1)[:2] == (OK, "")
    assert json.loads(ask("list", "--json")[1])["faults"] == []


def test_fault_strikes_the_vmm_that_is_connected(ask, mdev):
    client = Client(mdev.socket, timeout=10)
    made = json.loads(ask("inject", "red", "read-ones", "--count", 2, "--json")[1])["fault"]
    assert [client.read_u32(7, 0) for _ in range(3)] == [ONES, ONES, 0x2021_8086]
    (shown,) = json.loads(ask("list", "--json")[1])["faults"]
    assert shown == {**made, "hits": 2, "spent": True}
    client.close()


def test_emulator_waits_with_a_command_that_hangs(ask, ioat, mdev):
    ask("inject", "red", "command-hung")
    ram = os.memfd_create("ram")
    os.ftruncate(ram, 1 << 16)
    client = Client(mdev.socket, timeout=10)
    client.map_dma(0, 1 << 16, ram)
    client.write_u16(CONFIG, COMMAND, 6)
    os.pwrite(ram, struct.pack("<IIQQQ", 64, 0, 0x2000, 0x3000, 0), 0x1000)
    client.write_u64(0, CHAINADDR, 0x1000)
    client.write_u16(0, DMACOUNT, 1)
    assert until(lambda: json.loads(ask("list", "--json")[1])["faults"][0]["hits"] == 1, 10)
    assert client.read_u64(0, CHANSTS) & 7 == ACTIVE
    ask("clear", "red")
    assert until(lambda: client.read_u64(0, CHANSTS) & 7 == IDLE, 10)
    client.close()
    os.close(ram)


def test_clear_without_a_number_clears_all(ask, mdev):
    for _ in range(2):
        ask("inject", "red", "completion-lost")
    cleared = json.loads(ask("clear", "red", "--json")[1])["cleared"]
    assert len(cleared) == 2
    assert ask("list")[1].splitlines()[1:] == []


def test_mdev_of_the_same_uuid_starts_without_the_faults_of_the_one_before(ask, ioat, mdev):
    ask("inject", "red", "completion-lost")
    ioat.control.remove("red")
    ioat.control.create("mdevemu-ioat", name="red", uuid=mdev.uuid, weight=None)
    assert json.loads(ask("list", "--json")[1])["faults"] == []


def test_kinds_are_listed_with_their_options(ask, mdev):
    _, said, _ = ask("kinds")
    assert "completion-late  --after --count --delay-us* --percent --seed" in said
    kinds = json.loads(ask("kinds", "--json")[1])["kinds"]
    assert {"link-down", "hbm-corrected"} <= {each["kind"] for each in kinds}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("inject", "red", "link-up"), "accepted: "),
        (("inject", "blue", "link-down"), "unknown mdev 'blue'"),
        (("inject", "red", "link-down", "--status", "1"), "means nothing for link-down"),
        (("inject", "red", "completion-error", "--status", "read"), "did you mean 'read-data'?"),
        (("inject", "red", "bandwidth", "--rate", "fast"), "is not a number"),
        (("inject", "red", "hbm-corrected"), "has no HBM"),
        (("clear", "red", "7"), "no fault 7 (accepted: none)"),
    ],
)
def test_refusals_name_what_is_wrong(ask, mdev, arguments, words):
    status, _, said = ask(*arguments)
    assert status == USAGE
    assert words in " ".join(said.split())
