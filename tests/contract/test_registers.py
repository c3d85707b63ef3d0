"""Access rules, checked against every declared register of every personality and of PCI."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.layout import Access
from mdevemu.layout.words import access_mask, put_raw
from mdevemu.pci.config import ConfigSpace
from mdevemu.personalities import PERSONALITIES
from mdevemu.registers import Bank, slots

MAPS = {ConfigSpace} | {
    registers for kind in PERSONALITIES.values() for registers in kind.interface.maps.values()
}
MAPS |= {kind.interface.config for kind in PERSONALITIES.values() if kind.interface.config}
PLACES = [
    (registers, slot)
    for registers in sorted(MAPS, key=lambda kind: kind.__name__)
    for slot in slots(registers)
    if slot.index in (0, 1)
]
NAMES = [f"{registers.__name__}.{slot}" for registers, slot in PLACES]


@pytest.mark.parametrize(("registers", "slot"), PLACES, ids=NAMES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_guest_write_then_read(registers, slot, data):
    any_value = st.integers(0, 2 ** (8 * slot.length) - 1)
    before, written = data.draw(any_value), data.draw(any_value)
    bank = Bank(registers)
    put_raw(bank.word(slot), before)
    bank.write(slot.offset, written.to_bytes(slot.length, "little"))
    seen = int.from_bytes(bank.read(slot.offset, slot.length), "little")
    expected = {
        Access.RO: before,
        Access.RC: before,
        Access.RW: written,
        Access.WO: 0,
        Access.W1C: before & ~written,
        Access.W1S: before | written,
    }
    named = 0
    for access, value in expected.items():
        mask = access_mask(slot.word, access)
        named |= mask
        assert seen & mask == value & mask
        if access is Access.RC:
            assert int(bank.word(slot)) & mask == 0
    unnamed = (1 << 8 * slot.length) - 1 & ~named
    assert (seen ^ before) & unnamed == 0, "a reserved bit changed"
