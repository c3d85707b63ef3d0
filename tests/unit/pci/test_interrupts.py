"""INTx, MSI-X and MSI, with the VMM's eventfds."""

import os
import time

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mdevemu.errors import RequestError
from mdevemu.fds import Fd
from mdevemu.pci.messages import MessageKind
from tests.unit.pci import (
    COMMAND,
    DEVICE_CONTROL,
    ERR,
    FLR,
    INTERRUPT_DISABLE,
    INTX,
    MSI,
    MSIX,
    POWER_CONTROL,
    REQ,
    STATUS,
    Board,
    Listener,
    functional,
    get,
    put,
)

MSIX_CONTROL = 0x92
FUNCTION_MASK, ENABLE = 1 << 14, 1 << 15
MSI_CONTROL, MSI_ENABLE = 0xA2, 1


def pending(function, vector: int) -> bool:
    return bool(function.read(1, 0x800 + vector // 8, 1)[0] >> vector % 8 & 1)


@pytest.fixture
def board():
    return Board(vectors=70)


@pytest.fixture
def function(board):
    function = functional(board)
    yield function
    function.disconnect()


# MSI-X


def test_msix_with_eventfd_signals_its_vector_only(function, board):
    listeners = [Listener() for _ in range(3)]
    function.assign(MSIX, 0, [listener.lend() for listener in listeners])
    function.interrupt(1)
    assert [listener.count() for listener in listeners] == [0, 1, 0]
    assert not pending(function, 1)
    assert not board.pending_intx


@pytest.mark.parametrize("vector", [0, 63, 64, 69])
def test_msix_without_eventfd_is_pending_and_fires_on_assign(function, vector):
    put(function, MSIX_CONTROL, ENABLE)
    function.interrupt(vector)
    function.interrupt(vector)
    assert pending(function, vector)
    listener = Listener()
    function.assign(MSIX, vector, [listener.lend()])
    assert listener.count() == 1
    assert not pending(function, vector)


def test_msix_function_mask_keeps_vectors_pending_until_it_is_lifted(function):
    listener = Listener()
    function.assign(MSIX, 3, [listener.lend()])
    put(function, MSIX_CONTROL, ENABLE | FUNCTION_MASK)
    function.interrupt(3)
    assert listener.count() == 0
    assert pending(function, 3)
    put(function, MSIX_CONTROL, ENABLE)
    assert listener.count() == 1
    assert not pending(function, 3)


def test_msix_masked_by_the_vmm_waits_for_unmask(function):
    one, two = Listener(), Listener()
    function.assign(MSIX, 0, [one.lend(), two.lend()])
    function.mask(MSIX, 0, 1)
    function.interrupt(0)
    function.interrupt(1)
    assert (one.count(), two.count()) == (0, 1)
    function.unmask(MSIX, 0, 1)
    assert one.count() == 1


def test_msix_in_d3hot_waits_for_d0(function):
    listener = Listener()
    function.assign(MSIX, 0, [listener.lend()])
    put(function, POWER_CONTROL, 3)
    function.interrupt(0)
    assert listener.count() == 0
    put(function, POWER_CONTROL, 0)
    assert listener.count() == 1


@pytest.mark.parametrize("reset", ["message", "flr"])
def test_reset_clears_pending_and_keeps_eventfds(function, reset):
    listener = Listener()
    function.assign(MSIX, 0, [listener.lend()])
    function.interrupt(5)
    assert pending(function, 5)
    if reset == "flr":
        put(function, DEVICE_CONTROL, FLR)
    else:
        function.reset()
    assert not pending(function, 5)
    function.interrupt(0)
    assert listener.count() == 1


def test_reset_in_d3hot_ends_in_d0(function):
    listener = Listener()
    function.assign(MSIX, 0, [listener.lend()])
    put(function, POWER_CONTROL, 3)
    function.reset()
    function.interrupt(0)
    assert listener.count() == 1


def test_eventfd_that_is_replaced_is_closed(function):
    before = len(os.listdir("/proc/self/fd"))
    listener = Listener()
    for _ in range(3):
        function.assign(MSIX, 0, [listener.lend()])
    assert len(os.listdir("/proc/self/fd")) == before + 2


def test_msix_disabled_index_and_deassigned_vector_signal_nobody(function):
    one, two = Listener(), Listener()
    put(function, MSIX_CONTROL, ENABLE)
    function.assign(MSIX, 0, [one.lend(), two.lend()])
    function.assign(MSIX, 0, [None])
    function.interrupt(0)
    function.interrupt(1)
    assert (one.count(), two.count()) == (0, 1)
    function.disable(MSIX)
    function.interrupt(1)
    assert two.count() == 0
    assert pending(function, 1)


def test_msix_table_is_storage_for_the_guest(function):
    entry = bytes(range(0x10, 0x1C)) + b"\0\0\0\0"
    function.write(1, 16 * 7, entry)
    assert function.read(1, 16 * 7, 16) == entry
    function.write(1, 0x800, b"\xff" * 16)
    assert function.read(1, 0x800, 16) == bytes(16)
    assert function.read(1, 16 * 70, 16) == bytes(16)


def test_vector_that_does_not_exist_is_lost(function, board):
    for enable in (0, ENABLE):
        put(function, MSIX_CONTROL, enable)
        function.interrupt(70)
        function.interrupt(0xFFFF)
    assert board.status == 0
    assert function.read(1, 0x800, 16) == bytes(16)


def test_disconnect_drops_eventfds_and_keeps_later_interrupts_pending(function):
    before = len(os.listdir("/proc/self/fd"))
    listener = Listener()
    put(function, MSIX_CONTROL, ENABLE)
    function.assign(MSIX, 0, [listener.lend()])
    function.assign(INTX, 0, [listener.lend()])
    function.assign(ERR, 0, [listener.lend()])
    function.assign(REQ, 0, [listener.lend()])
    function.disconnect()
    assert len(os.listdir("/proc/self/fd")) == before + 1
    function.interrupt(0)
    assert listener.count() == 0
    function.assign(MSIX, 0, [listener.lend()])
    assert listener.count() == 1


# Eventfds


def test_descriptor_of_another_kind_is_refused_and_closed(function):
    read, write = os.pipe()
    keep = Listener()
    function.assign(MSIX, 0, [keep.lend()])
    given = [Listener().lend(), Fd(write)]
    with pytest.raises(RequestError, match="eventfd"):
        function.assign(MSIX, 0, given)
    os.set_blocking(read, False)
    assert os.read(read, 8) == b""  # the write end is closed
    os.close(read)
    function.interrupt(0)
    assert keep.count() == 1


@pytest.mark.parametrize(("index", "start", "count"), [(MSIX, 69, 2), (INTX, 1, 1), (MSI, 0, 1)])
def test_vectors_that_do_not_exist_are_refused(function, index, start, count):
    with pytest.raises(RequestError):
        function.assign(index, start, [Listener().lend() for _ in range(count)])
    with pytest.raises(RequestError):
        function.trigger(index, start, count)
    with pytest.raises(RequestError):
        function.mask(index, start, count)
    with pytest.raises(RequestError):
        function.unmask(index, start, count)


def test_index_that_does_not_exist_is_refused_and_descriptors_closed(function):
    before = len(os.listdir("/proc/self/fd"))
    lent = Listener().lend()
    with pytest.raises(RequestError):
        function.assign(5, 0, [lent])
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RequestError):
        function.disable(-1)


@pytest.mark.parametrize("flags", [0, os.EFD_NONBLOCK, os.EFD_SEMAPHORE])
def test_full_counter_neither_waits_nor_fails(function, flags):
    lent = Fd(os.eventfd(0, flags))
    os.eventfd_write(lent.fileno(), 0xFFFF_FFFF_FFFF_FFFE)
    function.assign(MSIX, 0, [lent])
    start = time.monotonic()
    for _ in range(10):
        function.interrupt(0)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize("index", [INTX, MSIX, ERR, REQ])
def test_trigger_signals_what_is_assigned(function, index):
    listener = Listener()
    function.assign(index, 0, [listener.lend()])
    function.trigger(index, 0, 1)
    function.trigger(index, 0, 1)
    assert listener.count() == 2


@pytest.mark.parametrize("index", [ERR, REQ])
def test_index_without_masks_refuses_them(function, index):
    with pytest.raises(RequestError, match="cannot be masked"):
        function.mask(index, 0, 1)


# INTx


@pytest.fixture
def line(function):
    listener = Listener()
    function.assign(INTX, 0, [listener.lend()])
    return listener


def acknowledge(function, bits: int) -> None:
    function.write(0, 0, bits.to_bytes(8, "little"))


def test_intx_signals_once_until_unmasked(function, board, line):
    function.interrupt(0)
    function.interrupt(1)
    assert line.count() == 1
    assert board.status == 0b11
    acknowledge(function, 0b11)
    function.interrupt(2)
    assert line.count() == 0
    function.unmask(INTX, 0, 1)
    assert line.count() == 1


def test_intx_unmasked_with_level_still_up_signals_again(function, line):
    function.interrupt(0)
    assert line.count() == 1
    function.unmask(INTX, 0, 1)
    assert line.count() == 1


def test_intx_unmasked_with_level_down_is_silent(function, line):
    function.interrupt(0)
    assert line.count() == 1
    acknowledge(function, 1)
    function.unmask(INTX, 0, 1)
    assert line.count() == 0


def test_intx_masked_by_the_vmm_waits_for_unmask(function, line):
    function.mask(INTX, 0, 1)
    function.interrupt(0)
    assert line.count() == 0
    function.unmask(INTX, 0, 1)
    assert line.count() == 1


def test_intx_disable_bit_holds_the_line_and_status_still_tells(function, line):
    put(function, COMMAND, INTERRUPT_DISABLE)
    function.interrupt(0)
    assert line.count() == 0
    assert get(function, STATUS, 2) & 8
    put(function, COMMAND, 0)
    assert line.count() == 1
    acknowledge(function, 1)
    assert not get(function, STATUS, 2) & 8


@pytest.fixture
def masks(function):
    listener = Listener()
    function.assign_masks(INTX, 0, [listener.lend()])
    return listener


def test_intx_tells_when_it_masks_itself_and_when_the_vmm_does(function, line, masks):
    function.interrupt(0)
    assert (line.count(), masks.count()) == (1, 1)
    function.mask(INTX, 0, 1)
    assert masks.count() == 0
    acknowledge(function, 1)
    function.unmask(INTX, 0, 1)
    assert masks.count() == 0
    function.mask(INTX, 0, 1)
    assert masks.count() == 1


def test_intx_tells_when_the_guest_masks_it(function, line, masks):
    put(function, COMMAND, INTERRUPT_DISABLE)
    put(function, COMMAND, INTERRUPT_DISABLE)
    assert masks.count() == 1
    put(function, COMMAND, 0)
    assert masks.count() == 0


def test_intx_tells_nobody_whose_eventfd_was_taken_back(function, line, masks):
    function.assign_masks(INTX, 0, [None])
    function.mask(INTX, 0, 1)
    function.unmask(INTX, 0, 1)
    function.assign_masks(INTX, 0, [masks.lend()])
    function.disable(INTX)
    function.mask(INTX, 0, 1)
    assert masks.count() == 0


@pytest.mark.parametrize(("index", "start"), [(MSIX, 0), (MSI, 0), (9, 0), (INTX, 1)])
def test_vector_that_cannot_tell_of_masks_refuses_and_closes(function, index, start):
    listener = Listener()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RequestError):
        function.assign_masks(index, start, [listener.lend()])
    assert len(os.listdir("/proc/self/fd")) == before


def test_vector_that_cannot_tell_of_masks_is_not_masked_either(function):
    listener = Listener()
    with pytest.raises(RequestError):
        function.assign_masks(MSIX, 0, [Listener().lend()])
    function.assign(MSIX, 0, [listener.lend()])
    function.interrupt(0)
    assert listener.count() == 1


def test_only_an_eventfd_tells_of_masks(function):
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RequestError, match="eventfds"):
        function.assign_masks(INTX, 0, [Fd(os.memfd_create("file"))])
    assert len(os.listdir("/proc/self/fd")) == before


def test_intx_raised_before_assign_fires_on_assign(function):
    function.interrupt(0)
    listener = Listener()
    function.assign(INTX, 0, [listener.lend()])
    assert listener.count() == 1


def test_intx_is_silent_while_msix_is_on_and_resumes_after(function, board, line):
    put(function, MSIX_CONTROL, ENABLE)
    board.pend(0)
    function.update()
    assert line.count() == 0
    assert not get(function, STATUS, 2) & 8
    put(function, MSIX_CONTROL, 0)
    assert line.count() == 1


def test_intx_in_d3hot_waits_for_d0(function, line):
    put(function, POWER_CONTROL, 3)
    function.interrupt(0)
    assert line.count() == 0
    put(function, POWER_CONTROL, 0)
    assert line.count() == 1


def test_intx_after_reset_is_down(function, line):
    function.interrupt(0)
    assert line.count() == 1
    function.reset()
    function.unmask(INTX, 0, 1)
    assert line.count() == 0


def test_device_without_vectors_interrupts_with_its_line():
    board = Board(vectors=0)
    function = functional(board)
    listener = Listener()
    function.assign(INTX, 0, [listener.lend()])
    function.interrupt(0)
    assert listener.count() == 1
    assert not function.messages_enabled
    function.disconnect()


# MSI


@pytest.fixture
def msi():
    """A function that would like five vectors, as MSI."""
    function = functional(Board(vectors=5), MessageKind.MSI)
    yield function
    function.disconnect()


@pytest.mark.parametrize(("vectors", "offered"), [(1, 1), (2, 2), (5, 8), (32, 32), (70, 32)])
def test_msi_offers_a_power_of_two_of_vectors_and_no_msix(vectors, offered):
    function = functional(Board(vectors), MessageKind.MSI)
    assert function.interrupts == [1, offered, 0, 1, 1]


@pytest.mark.parametrize(
    ("order", "signalled"),
    [(0, [5, 0, 0, 0]), (1, [3, 2, 0, 0]), (2, [2, 1, 1, 1]), (7, [1, 1, 1, 1, 1])],
)
def test_msi_vectors_that_are_not_allowed_share_those_that_are(msi, order, signalled):
    listeners = [Listener() for _ in signalled]
    put(msi, MSI_CONTROL, order << 4 | MSI_ENABLE)
    msi.assign(MSI, 0, [listener.lend() for listener in listeners])
    for vector in range(5):
        msi.interrupt(vector)
    assert [listener.count() for listener in listeners] == signalled


def test_msi_of_a_client_that_writes_no_config_space_uses_every_vector(msi):
    listeners = [Listener() for _ in range(8)]
    msi.assign(MSI, 0, [listener.lend() for listener in listeners])
    for vector in range(6):
        msi.interrupt(vector)
    assert [listener.count() for listener in listeners] == [1, 1, 1, 1, 1, 0, 0, 0]


def test_msi_without_eventfd_waits_for_one(msi):
    put(msi, MSI_CONTROL, MSI_ENABLE)
    msi.interrupt(0)
    listener = Listener()
    msi.assign(MSI, 0, [listener.lend()])
    assert listener.count() == 1


def test_msi_in_d3hot_waits_for_d0(msi):
    listener = Listener()
    put(msi, MSI_CONTROL, MSI_ENABLE)
    msi.assign(MSI, 0, [listener.lend()])
    put(msi, POWER_CONTROL, 3)
    msi.interrupt(0)
    assert listener.count() == 0
    put(msi, POWER_CONTROL, 0)
    assert listener.count() == 1


def test_reset_forgets_a_message_that_waits(msi):
    put(msi, MSI_CONTROL, MSI_ENABLE)
    msi.interrupt(0)
    msi.reset()
    listener = Listener()
    msi.assign(MSI, 0, [listener.lend()])
    assert listener.count() == 0


def test_msi_that_is_on_keeps_the_line_down(msi):
    line = Listener()
    msi.assign(INTX, 0, [line.lend()])
    put(msi, MSI_CONTROL, MSI_ENABLE)
    msi.interrupt(0)
    assert line.count() == 0
    put(msi, MSI_CONTROL, 0)
    msi.interrupt(0)
    assert line.count() == 1


class NoInterruptIsLost(RuleBasedStateMachine):
    """Whatever the VMM and the guest do: what the device raised is seen, or still waits."""

    VECTORS = 3

    @initialize()
    def start(self):
        self.function = functional(Board(self.VECTORS))
        put(self.function, MSIX_CONTROL, ENABLE)
        self.listeners = [Listener() for _ in range(self.VECTORS)]
        self.owed = [False] * self.VECTORS

    def teardown(self):
        self.function.disconnect()

    @rule(vector=st.integers(0, VECTORS - 1))
    def interrupt(self, vector):
        self.function.interrupt(vector)
        self.owed[vector] = True

    @rule(vector=st.integers(0, VECTORS - 1), given=st.booleans())
    def assign(self, vector, given):
        eventfd = self.listeners[vector].lend() if given else None
        self.function.assign(MSIX, vector, [eventfd])

    @rule(vector=st.integers(0, VECTORS - 1), masked=st.booleans())
    def mask(self, vector, masked):
        (self.function.mask if masked else self.function.unmask)(MSIX, vector, 1)

    @rule(masked=st.booleans(), power=st.sampled_from([0, 3]))
    def hold(self, masked, power):
        put(self.function, MSIX_CONTROL, ENABLE | (FUNCTION_MASK if masked else 0))
        put(self.function, POWER_CONTROL, power)

    @rule(gone=st.booleans())
    def disable(self, gone):
        if gone:
            self.function.disconnect()
        else:
            self.function.disable(MSIX)

    @invariant()
    def seen_or_pending(self):
        for vector, listener in enumerate(self.listeners):
            seen = listener.count() > 0
            assert not seen or self.owed[vector], "nobody raised this"
            waits = pending(self.function, vector)
            assert not self.owed[vector] or seen or waits, "lost"
            self.owed[vector] = waits


TestNoInterruptIsLost = NoInterruptIsLost.TestCase
TestNoInterruptIsLost.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
