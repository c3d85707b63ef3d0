"""docs/add-a-personality.md shows code that is there, and that code is a device that works."""

import re
import struct
import tomllib
from pathlib import Path

import pytest

from hostctl.project.write import contents
from mdevemu.layout import pack
from mdevemu.personalities.adder import Add, AdderRegs
from tests.support.bench import BASE, Bench, Ram

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/add-a-personality.md").read_text()
LISTINGS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
SOURCES = [
    (ROOT / "mdevemu/personalities" / name).read_text() for name in ("adder.py", "__init__.py")
]


@pytest.mark.parametrize("listing", LISTINGS, ids=[text.split("\n")[0] for text in LISTINGS])
def test_listing_is_taken_from_the_source(listing):
    assert any(listing in source for source in SOURCES)


def test_page_has_listings_of_all_four_parts():
    assert len(LISTINGS) >= 7


def test_adder_is_about_a_hundred_lines():
    assert len(SOURCES[0].splitlines()) <= 130


class Driver:
    """A driver of the adder, as its page describes the device."""

    def __init__(self):
        self.bench, self.ram = Bench(), Ram()
        self.mdev = self.bench.mdev("adder")
        self.bench.lend(self.mdev, self.ram)
        self.put(AdderRegs.ring_base, 0x1000)
        self.put(AdderRegs.ring_size, 3)
        self.put(AdderRegs.control, 1)

    def put(self, register, value):
        data = value.to_bytes(register.length, "little")
        self.mdev.function.write(0, register.offset, data)
        self.bench.work()

    @property
    def status(self):
        return self.mdev.personality.regs.status


def test_adder_adds_and_counts():
    driver = Driver()
    driver.ram.write(0x1000, pack(Add(0x2000, 3, 5)) + pack(Add(0x2004, 1, 1)))
    driver.ram.write(0x2000, struct.pack("<3I", 1, 0xFFFFFFFF, 7))
    driver.put(AdderRegs.doorbell, 2)
    assert struct.unpack("<3I", driver.ram.read(0x2000, 12)) == (6, 5, 12)
    assert driver.status.done == 2
    assert not driver.status.fault


@pytest.mark.parametrize(
    ("command", "tail"),
    [
        (Add(0x2000, 1025, 1), 1),
        (Add(1 << 40, 1, 1), 1),
        (Add(0x2000, 1, 1), 9),
    ],
    ids=["too many numbers", "address that is not mapped", "tail beyond the ring"],
)
def test_adder_shows_what_its_driver_did_wrong(command, tail):
    driver = Driver()
    driver.ram.write(0x1000, pack(command))
    driver.put(AdderRegs.doorbell, tail)
    assert driver.status.fault
    driver.put(AdderRegs.status, 0b10)
    assert not driver.status.fault
    driver.put(AdderRegs.control, 1)
    driver.ram.write(0x1000, pack(Add(0x2000, 1, 1)))
    driver.put(AdderRegs.doorbell, 1)
    assert driver.status.done == 1


def test_entry_point_of_the_page_is_the_one_that_new_personality_writes():
    [listing, _] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    assert listing in contents("blinker")["pyproject.toml"]


def test_type_of_the_page_makes_an_mdev():
    [_, listing] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    bench = Bench(BASE | tomllib.loads(listing))
    assert bench.mdev("sum").personality.identity.device == 0xADD0
