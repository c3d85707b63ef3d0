"""Config spaces in words: ours, made-up ones, nonsense; and pciutils' opinion of the same bytes."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostctl.device.config_space import ConfigSpace, decode
from hostctl.device.lspci import facts, text
from tests.support.bench import Bench
from tests.support.pciutils import facts as facts_of_text
from tests.support.pciutils import shown

SIZES = [0x10000, 0x1000, 0x10000, 0, 0x400000, 0, 0]
RANDOM = st.binary(max_size=4096)


def ours(kind: str = "native") -> bytes:
    """The config space of a device of ours, as it comes up."""
    return Bench().mdev(kind).function.read(7, 0, 4096)


def made(**words: tuple[int, int, int]) -> bytes:
    """A config space with some words: (offset, bytes, value)."""
    data = bytearray(4096)
    data[0:4] = b"\x34\x12\x01\xaa"
    for at, size, value in words.values():
        data[at : at + size] = value.to_bytes(size, "little")
    return bytes(data)


def lines(data: bytes, sizes: list[int] | None = None) -> list[str]:
    return list(text(decode(data), sizes or [0] * 7))


def words(space: ConfigSpace, id: int, name: str) -> dict[str, object]:
    [each] = [each for each in space.capabilities if each.id == id]
    return {field.name: value for line in each.groups[name] for field, value in line}


def test_our_device_has_its_capabilities_in_order():
    found = [(each.name, each.version) for each in decode(ours()).capabilities]
    assert found == [
        ("Power Management", None),
        ("Express", None),
        ("MSI-X", None),
        ("Address Translation Service (ATS)", 1),
        ("Process Address Space ID (PASID)", 1),
        ("Device Serial Number", 1),
    ]


def test_our_device_reads_as_it_does_in_a_guest():
    told = lines(ours(), SIZES)
    assert told[0] == "00:00.0 Processing accelerators [1200]: Device [1234:acc1]"
    assert "\tRegion 0: Memory at <unassigned> (32-bit, non-prefetchable) [size=64K]" in told
    assert "\tRegion 4: Memory at <unassigned> (64-bit, prefetchable) [size=4M]" in told
    assert "\tCapabilities: [90] MSI-X: Enable- Count=5 Masked-" in told
    assert "\t\tPBA: BAR=1 offset=00000800" in told
    assert "\t\tPASIDCap: Exec- Priv- Max PASID Width: 14" in told


def test_facts_are_the_same_as_data():
    found = facts(decode(ours()), SIZES)
    assert (found["vendor"], found["device"], found["pin"]) == (0x1234, 0xACC1, 1)
    bars = found["bars"]
    assert isinstance(bars, list)
    assert [(bar["index"], bar["size"], bar["wide"]) for bar in bars] == [
        (0, 0x10000, False),
        (1, 0x1000, False),
        (2, 0x10000, True),
        (4, 0x400000, True),
    ]


def test_msi_with_mask_is_read_to_its_end():
    space = decode(
        made(
            status=(6, 2, 0x10),
            first=(0x34, 1, 0x40),
            head=(0x40, 4, 0x01B7_0005),
            address=(0x44, 8, 0x1_FEE0_0000),
            data=(0x4C, 2, 0x4021),
            mask=(0x50, 4, 0b10),
            pending=(0x54, 4, 0b1),
        )
    )
    [msi] = space.capabilities
    assert msi.title == "Enable+ Count=8/8 Maskable+ 64bit+"
    assert words(space, 5, "Address") == {"Address": "00000001fee00000", "Data": "4021"}
    assert words(space, 5, "Masking") == {"Mask": "00000002", "Pending": "00000001"}


def test_error_reporting_names_each_error():
    space = decode(
        made(head=(0x100, 4, 0x0002_0001), severity=(0x10C, 4, 1 << 18), ce=(0x110, 4, 1))
    )
    assert space.capabilities[0].name == "Advanced Error Reporting"
    severity = words(space, 1, "UESvrt")
    assert [name for name, value in severity.items() if value] == ["MalfTLP"]
    assert words(space, 1, "CESta")["RxErr"]


def test_mapped_bar_of_ports_and_disabled_memory():
    data = made(command=(4, 2, 1), ports=(0x10, 4, 0xC001), memory=(0x14, 4, 0xFEB0_0000))
    told = lines(data, [32, 4096, 0, 0, 0, 0, 0])
    assert "\tRegion 0: I/O ports at 0000c000 [size=32]" in told
    assert "\tRegion 1: Memory at feb00000 (32-bit, non-prefetchable) [disabled] [size=4K]" in told


@pytest.mark.parametrize(
    ("first", "next_", "complaint"),
    [(0x40, 0x40, "0x40"), (0x40, 0x20, "0x20"), (0x10, 0, "0x10")],
    ids=["in a circle", "into the header", "begins in the header"],
)
def test_list_that_leads_nowhere_is_told_and_ends(first, next_, complaint):
    data = made(status=(6, 2, 0x10), first=(0x34, 1, first), head=(0x40, 2, next_ << 8 | 9))
    space = decode(data)
    assert complaint in space.complaints[0]
    assert lines(data)[-1] == f"\t<{space.complaints[0]}>"


def test_extended_list_in_a_circle_is_told_and_ends():
    space = decode(made(head=(0x100, 4, 0x110_1_0003), other=(0x110, 4, 0x100_1_000F)))
    assert [each.id for each in space.capabilities] == [3, 15]
    assert "goes to 0x100" in space.complaints[0]


@settings(max_examples=60, deadline=None)
@given(data=RANDOM, status=st.booleans())
def test_any_bytes_are_decoded(data, status):
    if status and len(data) > 7:
        data = data[:6] + bytes([data[6] | 0x10]) + data[7:]
    space = decode(data)
    assert all(line.isprintable() or line.startswith("\t") for line in text(space, [4097] * 7))
    assert facts(space, [4097] * 7)["vendor"] == space.vendor


@pytest.mark.parametrize("kind", ["native", "adder", "rid"])
def test_pciutils_agrees(kind, tmp_path: Path):
    program = shutil.which("lspci")
    if program is None:
        pytest.skip("pciutils is not installed")
    agrees([program], ours(kind), tmp_path)


def agrees(program: list[str], data: bytes, folder: Path) -> None:
    """Everything that we say of a config space, pciutils says as well."""
    theirs = facts_of_text(shown(program, data, folder))
    mine = facts_of_text("\n".join(lines(data, [0] * 7)))
    assert set(mine) == set(theirs)
    for part, told in mine.items():
        assert not told - theirs[part], part
