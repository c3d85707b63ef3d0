"""Config space: sizing, lists of capabilities, access rules, and what lspci makes of it."""

import os
import re
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.layout import Access, Word, bits
from mdevemu.layout.words import access_mask, guest_view, reset_value
from mdevemu.pci.config import MSI, Bar, ConfigSpace, Identity
from mdevemu.pci.function import CONFIG
from mdevemu.pci.messages import MessageKind
from mdevemu.registers import Reg, RegisterMap, Slot, declared, slots
from tests.unit.pci import (
    BARS,
    COMMAND,
    POWER_CONTROL,
    Board,
    functional,
    get,
    put,
)


@pytest.mark.parametrize(
    ("bar", "low", "high"),
    [
        (Bar(0, 16), 0xFFFF_FFF0, None),
        (Bar(0, 0x1000), 0xFFFF_F000, None),
        (Bar(0, 1 << 31, prefetchable=True), 0x8000_0008, None),
        (Bar(2, 0x10000, wide=True), 0xFFFF_0004, 0xFFFF_FFFF),
        (Bar(4, 1 << 30, wide=True, prefetchable=True), 0xC000_000C, 0xFFFF_FFFF),
        (Bar(4, 1 << 32, wide=True, prefetchable=True), 0x0000_000C, 0xFFFF_FFFF),
        (Bar(4, 1 << 36, wide=True, prefetchable=True), 0x0000_000C, 0xFFFF_FFF0),
    ],
)
def test_bar_written_with_ones_tells_its_size(bar, low, high):
    function = functional(Board(bars=[bar]))
    at = 0x10 + 4 * bar.index
    put(function, at, 0xFFFF_FFFF_FFFF_FFFF, 8)
    assert get(function, at) == low
    if high is not None:
        assert get(function, at + 4) == high
    put(function, at, 0, 8)
    assert get(function, at) == low & 0xF


def test_bar_keeps_an_aligned_address():
    function = functional(Board())
    put(function, 0x20, 0x38_2000_0000, 8)
    assert get(function, 0x20, 8) == 0x38_2000_000C


def test_bar_written_byte_by_byte_is_like_one_write():
    function = functional(Board())
    for at, byte in enumerate(b"\xff\xff\x12\xfe"):
        put(function, 0x10 + at, byte, 1)
    assert get(function, 0x10) == 0xFE12_0000


def test_missing_bar_and_rom_read_zero_after_sizing():
    function = functional(Board(vectors=0, bars=[Bar(0, 0x1000)]))
    for at in (0x14, 0x18, 0x1C, 0x20, 0x24, 0x30):
        put(function, at, 0xFFFF_FFFF, 4)
        assert get(function, at) == 0


def test_bars_that_overlap_are_refused():
    with pytest.raises(AssertionError, match="taken twice"):
        functional(Board(bars=[Bar(0, 0x1000, wide=True)]))
    with pytest.raises(AssertionError):
        Bar(0, 0x1800)


class Extra(Word, width=32):
    """A register of a device's own."""

    errors = bits(7, 0, Access.W1C)
    mode = bits(15, 8)


class ExtraConfig(RegisterMap, size=0x1000):
    extra = Reg(0x148, Extra)


def test_config_registers_of_the_device_are_between_those_of_the_function():
    board = Board(config=ExtraConfig)
    function = functional(board)
    board.config.regs.extra.errors = 0x21
    assert get(function, 0x148) == 0x21
    put(function, 0x148, 0xFF01, 4)
    assert get(function, 0x144, 12) == 0xFF20 << 32
    assert get(function, 0x00) == 0xACC1_1234
    assert function.read(CONFIG, 0, 4096) == b"".join(
        function.read(CONFIG, at, 8) for at in range(0, 4096, 8)
    )


def test_config_registers_on_top_of_the_functions_are_refused():
    class Over(RegisterMap, size=0x1000):
        extra = Reg(0x104, Extra)

    class Large(RegisterMap, size=0x2000):
        extra = Reg(0x148, Extra)

    with pytest.raises(AssertionError, match=r"Over\.extra is taken at 0x104"):
        functional(Board(config=Over))
    with pytest.raises(AssertionError, match="larger"):
        functional(Board(config=Large))


def test_identity_shows_in_the_header():
    identity = Identity(0x8086, 0x2021, 0x088001, 0x1AF4, 0x1100, 7)
    function = functional(Board(identity=identity))
    assert get(function, 0x00) == 0x2021_8086
    assert get(function, 0x08) == 0x0880_0107
    assert get(function, 0x2C) == 0x1100_1AF4
    assert get(function, 0x0E, 1) == 0
    assert get(function, 0x3D, 1) == 1


def test_subsystem_without_its_own_ids_is_the_function():
    assert get(functional(Board()), 0x2C) == 0xACC1_1234


def chain(function):
    """(id, offset) of each capability, in order."""
    found, at = [], get(function, 0x34, 1)
    while at:
        assert at % 4 == 0
        assert 0x40 <= at < 0x100
        found.append((get(function, at, 1), at))
        at = get(function, at + 1, 1)
        assert len(found) < 48
    return found


def extended_chain(function):
    found, at = [], 0x100
    while at:
        assert at % 4 == 0
        assert 0x100 <= at < 0x1000
        head = get(function, at)
        assert head >> 16 & 0xF == 1
        found.append((head & 0xFFFF, at))
        at = head >> 20
        assert len(found) < 960
    return found


def test_capability_list_names_power_express_and_msix():
    assert [number for number, _ in chain(functional(Board()))] == [0x01, 0x10, 0x11]


def test_capability_list_without_vectors_ends_before_msix():
    function = functional(Board(vectors=0))
    assert [number for number, _ in chain(function)] == [0x01, 0x10]
    assert get(function, 0x90, 12) == 0


def test_capability_list_with_msi_has_it_in_the_place_of_msix():
    function = functional(Board(vectors=3), MessageKind.MSI)
    assert [number for number, _ in chain(function)] == [0x01, 0x10, 0x05]
    assert [region.size for region in function.regions[:2]] == [0x10000, 0]
    at = dict(chain(function))[0x05]
    # 64-bit addresses, no masks, up to four vectors.
    assert get(function, at + 2, 2) == 0x0084


def test_msi_message_is_remembered_as_far_as_it_can_be():
    function = functional(Board(vectors=3), MessageKind.MSI)
    at = dict(chain(function))[0x05]
    for offset, length in ((2, 2), (4, 4), (8, 4), (12, 4)):
        put(function, at + offset, 0xFFFF_FFFF >> 32 - 8 * length, length)
    assert get(function, at + 2, 2) == 0x00F5
    assert get(function, at + 4, 8) == 0xFFFF_FFFF_FFFF_FFFC
    assert get(function, at + 12) == 0xFFFF


def test_extended_list_names_ats_and_pasid():
    function = functional(Board())
    assert [number for number, _ in extended_chain(function)] == [0x0F, 0x1B]
    assert get(function, 0x120, 12) == 0


def test_extended_list_with_serial_ends_with_it():
    identity = Identity(0x1234, 0xACC1, 0x120000, serial=0x1122_3344_5566_7788)
    function = functional(Board(identity=identity))
    assert [number for number, _ in extended_chain(function)] == [0x0F, 0x1B, 0x03]
    assert get(function, 0x124, 8) == 0x1122_3344_5566_7788
    function.reset()
    assert get(function, 0x124, 8) == 0x1122_3344_5566_7788


def test_functions_of_a_kind_share_their_declaration_and_not_their_numbers():
    kinds, numbers = set(), []
    for serial in (1, 1 << 40):
        function = functional(Board(identity=Identity(0x1234, 0xACC1, 0x120000, serial=serial)))
        kinds.add(function.config)
        numbers.append(get(function, 0x124, 8))
    assert len(kinds) == 1
    assert numbers == [1, 1 << 40]


def test_msix_capability_points_into_its_bar():
    function = functional(Board(vectors=17))
    at = dict(chain(function))[0x11]
    assert get(function, at + 2, 2) == 16
    assert get(function, at + 4) == 0x001
    assert get(function, at + 8) == 0x801


def test_msix_table_is_in_the_bar_that_the_device_leaves_to_it():
    board = Board(vectors=2, bars=[Bar(0, 0x4000, wide=True)])
    board.msix_bar = 2
    function = functional(board)
    at = dict(chain(function))[0x11]
    assert get(function, at + 4) == 0x002
    assert get(function, at + 8) == 0x802
    assert [region.size for region in function.regions[:3]] == [0x4000, 0, 0x1000]
    function.write(2, 0x08, b"\x21\x43")
    assert function.read(2, 0x08, 2) == b"\x21\x43"
    function.write(1, 0x08, b"\xff")
    assert function.read(1, 0x08, 1) == b"\0"


def test_pasid_is_20_bits_without_execute_or_privilege():
    function = functional(Board())
    at = dict(extended_chain(function))[0x1B]
    assert get(function, at + 4, 2) == 20 << 8
    put(function, at + 6, 0xFFFF)
    assert get(function, at + 6, 2) == 1


def test_ats_control_is_remembered():
    function = functional(Board())
    at = dict(extended_chain(function))[0x0F]
    put(function, at + 6, 0x8001)
    assert get(function, at + 6, 2) == 0x8001


PLACES = slots(functional(Board(identity=Identity(1, 2, 3, serial=0))).config)


@settings(max_examples=200)
@given(place=st.sampled_from(PLACES), data=st.data())
def test_every_config_register_obeys_its_access_bits(place: Slot, data):
    function = functional(Board(identity=Identity(1, 2, 3, serial=0)))
    before = get(function, place.offset, place.length)
    assert before == reset_value(place.word)
    value = data.draw(st.integers(0, (1 << 8 * place.length) - 1))
    if place.name == "device_control":
        value &= 0x7FFF
    if place.name == "power_control" and value & 3 in (1, 2):
        value &= ~3
    put(function, place.offset, value, place.length)
    writable = access_mask(place.word, Access.RW)
    assert get(function, place.offset, place.length) == before & ~writable | value & writable
    function.reset()
    assert get(function, place.offset, place.length) == before


@settings(max_examples=100)
@given(
    accesses=st.lists(
        st.tuples(st.integers(0, 4095), st.binary(max_size=40) | st.integers(0, 4096)), max_size=12
    )
)
def test_config_space_accessed_anywhere_keeps_what_is_read_only(accesses):
    function = functional(Board())
    for offset, what in accesses:
        if isinstance(what, bytes):
            function.write(CONFIG, offset, what)
        else:
            assert len(function.read(CONFIG, offset, what)) == what
    assert get(function, 0x00) == 0xACC1_1234
    assert [number for number, _ in chain(function)] == [0x01, 0x10, 0x11]
    function.reset()
    assert function.read(CONFIG, 0, 4096) == functional(Board()).read(CONFIG, 0, 4096)


def test_config_space_read_in_pieces_is_the_whole():
    function = functional(Board())
    whole = function.read(CONFIG, 0, 4096)
    assert b"".join(function.read(CONFIG, at, 1) for at in range(4096)) == whole


@pytest.mark.parametrize("state", [1, 2])
def test_power_state_that_does_not_exist_is_discarded(state):
    function = functional(Board())
    put(function, POWER_CONTROL, state)
    assert get(function, POWER_CONTROL, 2) == 8
    put(function, POWER_CONTROL, 3)
    put(function, POWER_CONTROL, state)
    assert get(function, POWER_CONTROL, 2) == 0xB


def test_return_from_d3hot_keeps_every_register():
    board = Board()
    function = functional(board)
    put(function, 0x10, 0xFE00_0000, 4)
    put(function, COMMAND, 6)
    before = function.read(CONFIG, 0, 4096)
    put(function, POWER_CONTROL, 3)
    put(function, POWER_CONTROL, 0)
    assert function.read(CONFIG, 0, 4096) == before
    assert "reset" not in board.told


def test_every_declared_register_says_what_it_is():
    for reg in declared(ConfigSpace):
        assert reg.word.__doc__, reg.name


def test_derived_map_keeps_documentation_and_offsets():
    made = functional(Board(identity=Identity(1, 2, 3, serial=4))).config
    assert made.__doc__ == ConfigSpace.__doc__
    assert {reg.name: reg.offset for reg in declared(made)} == {
        reg.name: reg.offset for reg in declared(ConfigSpace) if reg.name not in MSI
    }
    assert guest_view(made().vendor) == 1


@pytest.mark.skipif(not shutil.which("lspci"), reason="lspci is not installed")
@pytest.mark.parametrize(
    ("vectors", "messages", "line"),
    [
        (0, MessageKind.MSIX, None),
        (17, MessageKind.MSIX, "MSI-X: Enable- Count=17 Masked-"),
        (17, MessageKind.MSI, "MSI: Enable- Count=1/32 Maskable- 64bit+"),
    ],
)
@pytest.mark.parametrize("serial", [None, 0x1122_3344_5566_7788])
def test_lspci_reads_the_config_space_without_complaint(tmp_path, vectors, messages, line, serial):
    identity = Identity(0x1234, 0xACC1, 0x120000, serial=serial)
    function = functional(Board(vectors, BARS, identity), messages)
    put(function, COMMAND, 6)
    for index, address in ((0, 0xFE00_0000), (2, 0xFD00_0000), (4, 0xC000_0000)):
        put(function, 0x10 + 4 * index, address, 4)
    config = function.read(CONFIG, 0, 4096)
    lines = [f"{at:02x}: {config[at : at + 16].hex(' ')}\n" for at in range(0, 4096, 16)]
    dump = tmp_path / "dump.txt"
    dump.write_text("01:00.0 Device: accelerator\n" + "".join(lines) + "\n")

    done = subprocess.run(
        ["lspci", "-vvv", "-n", "-F", str(dump)],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
        timeout=20,
    )

    assert done.returncode == 0
    # Some builds look for kernel modules even here; that is not about the device.
    assert [line for line in done.stderr.splitlines() if "libkmod" not in line] == []
    said = done.stdout
    complaints = re.findall(r"<[a-z ?]|!!!|[Uu]nknown|\?\?|invalid|broken|ignored", said)
    assert complaints == []
    assert "Express (v2) Endpoint" in said
    assert "FLReset+" in said
    assert "Power Management version 3" in said
    assert "Speed 5GT/s, Width x16" in said
    assert "Address Translation Service (ATS)" in said
    assert "Process Address Space ID (PASID)" in said
    assert re.findall("MSI.*", said) == ([line] if line else [])
    assert ("Device Serial Number 11-22-33-44-55-66-77-88" in said) == (serial is not None)
