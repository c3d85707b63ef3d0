"""What a session refuses, with which errno, and that a refusal changes nothing."""

import errno
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mdevemu.errors import ProtocolError
from mdevemu.fds import Fd
from mdevemu.vfio_user.session import State
from mdevemu.vfio_user.wire import MAX_MAPS, MAX_TRANSFER, MAX_WRITES
from tests.support.vfio_user import (
    DMA_MAP,
    DMA_UNMAP,
    GET_INFO,
    GET_IRQ_INFO,
    GET_REGION_INFO,
    NO_REPLY,
    OK,
    READ,
    REFUSED,
    RESET,
    SET_IRQS,
    VERSION,
    WRITE,
    WRITE_MULTI,
    Desk,
    access,
    dma_map,
    dma_unmap,
    eventfds,
    frame,
    hello,
    irqs,
    memfd,
    message,
    open_fds,
    refused,
)

PAGE = 0x1000


# States


@pytest.mark.parametrize("command", [0, *range(2, 20), 0xFFFF])
def test_command_before_version_is_refused_and_ends_the_session(command):
    desk = Desk()
    assert desk.ask(command, bytes(64)) == refused(errno.EINVAL)
    assert desk.session.state is State.OVER
    desk.close()


def test_second_version_is_refused_and_the_session_goes_on(desk):
    assert desk.ask(VERSION, struct.pack("<HH", 0, 0)) == refused(errno.EINVAL)
    assert desk.session.state is State.READY
    assert desk.ask(READ, access(0, 0, 4))[0] == OK


@pytest.mark.parametrize("command", [17, 18, 0, 14, 19, 0xFFFF])
def test_what_is_not_offered_or_unknown_is_refused_as_unsupported(desk, command):
    assert desk.ask(command, bytes(64)) == refused(errno.ENOTSUP)


@pytest.mark.parametrize("command", [11, 12])
def test_commands_of_the_other_direction_are_refused(desk, command):
    assert desk.ask(command, bytes(16)) == refused(errno.EINVAL)


@pytest.mark.parametrize("flags", [0x1, 0x21, 0x2, 0xF])
def test_a_reply_to_nothing_ends_the_session(desk, flags):
    with pytest.raises(ProtocolError):
        desk.session.answer(message(READ, access(0, 0, 4), flags=flags))
    assert desk.device.log == []


@pytest.mark.parametrize(
    "command", [GET_INFO, GET_REGION_INFO, GET_IRQ_INFO, DMA_UNMAP, READ, WRITE, RESET, WRITE_MULTI]
)
def test_descriptors_where_none_belong_are_refused_and_closed(desk, command):
    before = open_fds()
    assert desk.ask(command, bytes(64), [memfd(), memfd()]) == refused(errno.EINVAL)
    assert open_fds() == before


@pytest.mark.parametrize(
    ("command", "least"),
    [
        (DMA_MAP, 32),
        (DMA_UNMAP, 24),
        (GET_INFO, 16),
        (GET_REGION_INFO, 32),
        (GET_IRQ_INFO, 16),
        (SET_IRQS, 20),
        (READ, 16),
        (WRITE, 16),
        (WRITE_MULTI, 8),
    ],
)
def test_short_payload_is_refused(desk, command, least):
    for length in range(least):
        assert desk.ask(command, b"\xff" * length) == refused(errno.EINVAL)


@pytest.mark.parametrize(
    ("command", "least"),
    [(DMA_MAP, 32), (DMA_UNMAP, 24), (GET_INFO, 16), (GET_REGION_INFO, 32), (GET_IRQ_INFO, 16)],
)
def test_argsz_too_small_for_the_reply_is_refused(desk, command, least):
    payload = struct.pack("<I", least - 1) + bytes(60)
    assert desk.ask(command, payload[:least]) == refused(errno.EINVAL)


def test_no_reply_gets_none_even_for_a_refusal(desk):
    assert desk.ask(WRITE, access(0, 0, 1, b"x"), flags=NO_REPLY) is None
    assert desk.device.bytes[0][0] == ord("x")
    assert desk.ask(WRITE, access(0, PAGE, 1, b"x"), flags=NO_REPLY) is None
    assert desk.ask(0xFFFF, flags=NO_REPLY) is None
    assert desk.ask(READ, access(0, 0, 1)) == (OK, 0, access(0, 0, 1, b"x"))


def test_refusals_are_traced_with_errno_and_reason(desk):
    desk.ask(READ, access(0, PAGE, 1))
    [event] = [event for event in desk.trace.events if event.name == "session.error"]
    assert event.facts["errno"] == errno.EINVAL
    assert event.facts["command"] == READ
    assert "0x1000" in event.facts["reason"]


# Regions


@pytest.mark.parametrize(
    ("region", "offset", "count"),
    [
        (0, PAGE - 3, 4),
        (0, PAGE, 1),
        (0, 2**64 - 1, 4),
        (0, 2**64 - 4, 4),
        (0, 0, PAGE + 1),
        (1, 0, 1),
        (8, 0, 1),
        (9, 0, 1),
        (2**32 - 1, 0, 1),
        (4, 0, MAX_TRANSFER + 1),
        (4, 0, 2**32 - 1),
    ],
)
def test_access_outside_of_a_region_is_refused(desk, region, offset, count):
    assert desk.ask(READ, access(region, offset, count)) == refused(errno.EINVAL)
    if count <= PAGE:
        data = bytes(count)
        assert desk.ask(WRITE, access(region, offset, count, data)) == refused(errno.EINVAL)
    assert desk.device.log == []


def test_access_of_everything_is_allowed(desk):
    _, _, payload = desk.ask(READ, access(7, 0, PAGE))
    assert len(payload) == 16 + PAGE
    _, _, payload = desk.ask(READ, access(4, 0, MAX_TRANSFER))
    assert len(payload) == 16 + MAX_TRANSFER


def test_write_to_read_only_region_is_refused(desk):
    assert desk.ask(READ, access(6, 0, 4))[0] == OK
    assert desk.ask(WRITE, access(6, 0, 4, bytes(4))) == refused(errno.EINVAL)


@pytest.mark.parametrize("data", [b"", b"abc", b"abcde"])
def test_write_with_another_length_than_announced_is_refused(desk, data):
    assert desk.ask(WRITE, access(0, 0, 4, data)) == refused(errno.EINVAL)
    assert desk.device.log == []


def test_access_of_nothing_succeeds_without_asking_the_device(desk):
    assert desk.ask(READ, access(0, 0, 0)) == (OK, 0, access(0, 0, 0))
    assert desk.ask(WRITE, access(0, 0, 0)) == (OK, 0, access(0, 0, 0))
    assert desk.device.log == []


def test_refusal_by_the_device_becomes_the_errno(desk):
    assert desk.ask(WRITE, access(0, 0xF00, 4, bytes(4))) == refused(errno.EIO)


def write(region, offset, count, data=bytes(8)):
    return access(region, offset, count, data)


@pytest.mark.parametrize(
    ("count", "writes"),
    [
        (2, [write(0, 0, 4)]),
        (0, [write(0, 0, 4)]),
        (1, [write(0, 0, 9)]),
        (2, [write(0, 0, 4), write(0, PAGE, 1)]),
        (2, [write(0, 0, 4), write(9, 0, 1)]),
        (2**64 - 1, [write(0, 0, 4)]),
    ],
)
def test_bad_write_multi_is_refused_before_any_of_its_writes(desk, count, writes):
    flags, _, _ = desk.ask(WRITE_MULTI, struct.pack("<Q", count) + b"".join(writes))
    assert flags == REFUSED
    assert desk.device.log == []


def test_write_multi_has_a_limit(desk):
    most = struct.pack("<Q", MAX_WRITES) + write(0, 0, 4) * MAX_WRITES
    assert desk.ask(WRITE_MULTI, most) == (OK, 0, struct.pack("<Q", MAX_WRITES))
    more = struct.pack("<Q", MAX_WRITES + 1) + write(0, 0, 4) * (MAX_WRITES + 1)
    assert desk.ask(WRITE_MULTI, more) == refused(errno.E2BIG)


@pytest.mark.parametrize("index", [9, 100, 2**32 - 1])
def test_unknown_region_and_interrupt_indexes_are_refused(desk, index):
    region = struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0)
    assert desk.ask(GET_REGION_INFO, region) == refused(errno.EINVAL)
    assert desk.ask(GET_IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0)) == refused(errno.EINVAL)


def test_client_that_receives_no_descriptors_is_told_of_no_mappable_region():
    desk = Desk()
    desk.tell(hello(json=b'{"capabilities":{"max_msg_fds":0}}\0'))
    region = struct.pack("<IIIIQQ", 4096, 0, 2, 0, 0, 0)
    reply, passed = desk.tell(frame(1, GET_REGION_INFO, region))
    assert struct.unpack_from("<II", reply, 16) == (32, 3)
    assert passed == []
    desk.close()


# DMA windows


@pytest.mark.parametrize(
    "payload",
    [
        dma_map(0, 0),
        dma_map(0, PAGE - 1),
        dma_map(1, PAGE),
        dma_map(0x800, PAGE),
        dma_map(0, PAGE, flags=4),
        dma_map(0, PAGE, flags=0x80000001),
        dma_map(2**64 - PAGE, 2 * PAGE),
        dma_map(PAGE, 2**64 - PAGE + PAGE // 2),
        dma_map(0, PAGE, argsz=31),
    ],
)
def test_bad_window_is_refused_before_it_is_mapped(desk, payload):
    for fds in ([], [memfd()]):
        assert desk.ask(DMA_MAP, payload, fds) == refused(errno.EINVAL)
    assert desk.space.windows == {}


@pytest.mark.parametrize("offset", [1, 0x800, 2**63 - PAGE, 2**64 - PAGE])
def test_window_at_a_bad_file_offset_is_refused(desk, offset):
    before = open_fds()
    assert desk.ask(DMA_MAP, dma_map(0, PAGE, offset), [memfd()]) == refused(errno.EINVAL)
    assert open_fds() == before


def test_window_without_a_file_may_have_any_offset(desk):
    assert desk.ask(DMA_MAP, dma_map(0, PAGE, 2**64 - 1)) == (OK, 0, b"")
    assert desk.space.windows == {0: (PAGE, None, 0, True, True)}


def test_window_with_two_files_is_refused_and_both_are_closed(desk):
    before = open_fds()
    assert desk.ask(DMA_MAP, dma_map(0, PAGE), [memfd(), memfd()]) == refused(errno.EINVAL)
    assert open_fds() == before


def test_giant_window_is_refused_before_it_is_mapped(desk):
    assert desk.ask(DMA_MAP, dma_map(0, 2**43 + PAGE)) == refused(errno.ENOSPC)
    assert desk.space.windows == {}
    assert desk.ask(DMA_MAP, dma_map(0, 2**43))[0] == OK


def test_rights_of_a_window_are_what_the_flags_say(desk):
    for flags in range(4):
        desk.ask(DMA_MAP, dma_map(flags * PAGE, PAGE, flags=flags))
    assert [window[3:] for _, window in sorted(desk.space.windows.items())] == [
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_window_up_to_the_last_byte_of_all_does_not_wrap(desk):
    assert desk.ask(DMA_MAP, dma_map(2**64 - PAGE, PAGE))[0] == OK


@pytest.mark.parametrize(
    ("iova", "size"), [(4, 4), (3, 2), (7, 2), (5, 1), (3, 6), (4, 1), (7, 1), (0, 100)]
)
def test_overlapping_window_is_refused_and_its_file_closed(desk, iova, size):
    assert desk.ask(DMA_MAP, dma_map(4 * PAGE, 4 * PAGE), [memfd()])[0] == OK
    before = open_fds()
    overlap = dma_map(iova * PAGE, size * PAGE)
    assert desk.ask(DMA_MAP, overlap, [memfd()]) == refused(errno.EEXIST)
    assert open_fds() == before
    assert list(desk.space.windows) == [4 * PAGE]


def test_adjacent_windows_are_fine(desk):
    for page in (4, 2, 3, 5):
        assert desk.ask(DMA_MAP, dma_map(page * PAGE, PAGE))[0] == OK


def test_window_that_the_address_space_refuses_is_not_remembered(desk):
    desk.space.refuse = errno.ENOSPC
    before = open_fds()
    assert desk.ask(DMA_MAP, dma_map(0, PAGE), [memfd()]) == refused(errno.ENOSPC)
    assert open_fds() == before
    desk.space.refuse = None
    assert desk.ask(DMA_MAP, dma_map(0, PAGE))[0] == OK


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (dma_unmap(0, PAGE), errno.ENOENT),
        (dma_unmap(6 * PAGE, PAGE), errno.ENOENT),
        (dma_unmap(4 * PAGE, PAGE), errno.EINVAL),
        (dma_unmap(5 * PAGE, PAGE), errno.EINVAL),
        (dma_unmap(3 * PAGE, 2 * PAGE), errno.EINVAL),
        (dma_unmap(4 * PAGE, 0), errno.EINVAL),
        (dma_unmap(4 * PAGE, 2 * PAGE, flags=2), errno.EINVAL),
        (dma_unmap(0, PAGE, flags=2), errno.EINVAL),
        (dma_unmap(4 * PAGE, 2 * PAGE, flags=1), errno.EINVAL),
        (dma_unmap(4 * PAGE, 2 * PAGE, flags=1) + struct.pack("<QQ", PAGE, 8), errno.ENOTSUP),
        (dma_unmap(0, 0, flags=3), errno.EINVAL),
        (dma_unmap(4 * PAGE, 2 * PAGE, flags=4), errno.EINVAL),
        (dma_unmap(4 * PAGE, 2 * PAGE, argsz=23), errno.EINVAL),
    ],
)
def test_unmap_of_anything_but_windows_is_refused(desk, payload, error):
    desk.ask(DMA_MAP, dma_map(4 * PAGE, 2 * PAGE))
    assert desk.ask(DMA_UNMAP, payload) == refused(error)
    assert list(desk.space.windows) == [4 * PAGE]


def test_unmap_all_closes_every_file(desk):
    before = open_fds()
    for page in range(10):
        desk.ask(DMA_MAP, dma_map(page * PAGE, PAGE), [memfd()])
    assert open_fds() == before + 10
    assert desk.ask(DMA_UNMAP, dma_unmap(0, 0, flags=2)) == (OK, 0, dma_unmap(0, 0, flags=2))
    assert open_fds() == before
    assert desk.ask(DMA_MAP, dma_map(0, 10 * PAGE))[0] == OK


def test_remap_after_unmap_is_fine(desk):
    for _ in range(3):
        assert desk.ask(DMA_MAP, dma_map(0, PAGE), [memfd()])[0] == OK
        assert desk.ask(DMA_UNMAP, dma_unmap(0, PAGE))[0] == OK


def test_windows_have_a_limit(desk):
    requests = b"".join(
        frame(0, DMA_MAP, dma_map(2 * n * PAGE, PAGE), NO_REPLY) for n in range(MAX_MAPS)
    )
    assert desk.tell(requests) == (b"", [])
    assert len(desk.space.windows) == MAX_MAPS
    assert desk.ask(DMA_MAP, dma_map(PAGE, PAGE)) == refused(errno.ENOSPC)
    assert desk.ask(DMA_UNMAP, dma_unmap(4 * PAGE, PAGE))[0] == OK
    assert desk.ask(DMA_MAP, dma_map(PAGE, PAGE))[0] == OK


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 12), st.integers(1, 4)), min_size=1, max_size=40
    )
)
def test_windows_behave_as_a_list_that_is_searched_would(moves):
    desk = Desk()
    desk.tell(hello())
    model = {}
    for mapping, start, size in moves:
        if mapping:
            clash = any(start < s + n and s < start + size for s, n in model.items())
            expected = errno.EEXIST if clash else 0
            answer = desk.ask(DMA_MAP, dma_map(start * PAGE, size * PAGE))
            if not clash:
                model[start] = size
        else:
            end = start + size
            hit = {s: n for s, n in model.items() if start < s + n and s < end}
            inside = all(start <= s and s + n <= end for s, n in hit.items())
            expected = (0 if inside else errno.EINVAL) if hit else errno.ENOENT
            answer = desk.ask(DMA_UNMAP, dma_unmap(start * PAGE, size * PAGE))
            if not expected:
                for s in hit:
                    del model[s]
        assert answer[1] == expected
        mapped = {iova // PAGE: window[0] // PAGE for iova, window in desk.space.windows.items()}
        assert mapped == model
    desk.close()


# Interrupts

NONE, BOOL, EVENTFD, MASK, UNMASK, TRIGGER = 1, 2, 4, 8, 0x10, 0x20


@pytest.mark.parametrize(
    ("payload", "done"),
    [
        (irqs(NONE | TRIGGER, 0), ("disable", 0)),
        (irqs(NONE | TRIGGER, 2), ("disable", 2)),
        (irqs(NONE | TRIGGER, 1), ("disable", 1)),
        (irqs(NONE | TRIGGER, 2, 3, 5), ("trigger", 2, 3, 5)),
        (irqs(NONE | MASK, 0, 0, 1), ("mask", 0, 0, 1)),
        (irqs(NONE | UNMASK, 0, 0, 1), ("unmask", 0, 0, 1)),
        (irqs(BOOL | UNMASK, 0, 0, 1, b"\1"), ("unmask", 0, 0, 1)),
        (irqs(EVENTFD | TRIGGER, 2, 0, 1), ("assign", 2, 0, [False])),
        (irqs(EVENTFD | TRIGGER, 3, 0, 1), ("assign", 3, 0, [False])),
        (irqs(EVENTFD | TRIGGER, 2, 0, 40), ("assign", 2, 0, [False] * 40)),
    ],
)
def test_set_irqs_does_what_it_says(desk, payload, done):
    assert desk.ask(SET_IRQS, payload) == (OK, 0, b"")
    assert desk.device.log == [done]


def test_set_irqs_with_switches_acts_where_they_are_on(desk):
    assert desk.ask(SET_IRQS, irqs(BOOL | TRIGGER, 2, 5, 4, b"\1\0\0\xff"))[0] == OK
    assert desk.device.log == [("trigger", 2, 5, 1), ("trigger", 2, 8, 1)]


def test_eventfds_are_fired_through_the_clients_own_file(desk):
    ours = os.eventfd(0)
    desk.ask(SET_IRQS, irqs(EVENTFD | TRIGGER, 2, 3, 1), [Fd(os.dup(ours))])
    desk.ask(SET_IRQS, irqs(NONE | TRIGGER, 2, 3, 1))
    assert os.eventfd_read(ours) == 1
    os.close(ours)


def test_eventfds_come_in_chunks_and_can_be_taken_away(desk):
    before = open_fds()
    for start in (0, 16, 32):
        count = min(16, 40 - start)
        assert desk.ask(SET_IRQS, irqs(EVENTFD | TRIGGER, 2, start, count), eventfds(count))[0] == 1
    assert len(desk.device.eventfds) == 40
    assert desk.ask(SET_IRQS, irqs(EVENTFD | TRIGGER, 2, 8, 16))[0] == OK
    assert len(desk.device.eventfds) == 24
    assert desk.ask(SET_IRQS, irqs(NONE | TRIGGER, 2))[0] == OK
    assert open_fds() == before


@pytest.mark.parametrize(
    ("payload", "fds", "error"),
    [
        (irqs(0, 2, 0, 1), 0, errno.EINVAL),
        (irqs(NONE, 2, 0, 1), 0, errno.EINVAL),
        (irqs(TRIGGER, 2, 0, 1), 0, errno.EINVAL),
        (irqs(NONE | BOOL | TRIGGER, 2, 0, 1, b"\1"), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER | MASK, 2, 0, 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER | 0x40, 2, 0, 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 5), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2**32 - 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2, 40, 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2, 39, 2), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2, 1, 2**32 - 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2, 2**32 - 1, 2**32 - 1), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 1, 0, 1), 0, errno.EINVAL),
        (irqs(NONE | MASK, 0), 0, errno.EINVAL),
        (irqs(BOOL | TRIGGER, 2), 0, errno.EINVAL),
        (irqs(EVENTFD | TRIGGER, 2), 0, errno.EINVAL),
        (irqs(BOOL | TRIGGER, 2, 0, 2, b"\1"), 0, errno.EINVAL),
        (irqs(BOOL | TRIGGER, 2, 0, 2, b"\1\1\1"), 0, errno.EINVAL),
        (irqs(BOOL | TRIGGER, 2, 0, 2**32 - 1, b"\1"), 0, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2, 0, 1), 1, errno.EINVAL),
        (irqs(NONE | TRIGGER, 2), 1, errno.EINVAL),
        (irqs(BOOL | TRIGGER, 2, 0, 1, b"\1"), 1, errno.EINVAL),
        (irqs(EVENTFD | TRIGGER, 2, 0, 2), 1, errno.EINVAL),
        (irqs(EVENTFD | TRIGGER, 2, 0, 1), 2, errno.EINVAL),
        (irqs(EVENTFD | TRIGGER, 2, 39, 2), 2, errno.EINVAL),
        (irqs(EVENTFD | TRIGGER, 3, 0, 2), 2, errno.EINVAL),
        (irqs(EVENTFD | UNMASK, 2, 0, 1), 1, errno.EINVAL),
        (irqs(EVENTFD | MASK, 0, 0, 1), 1, errno.ENOTSUP),
        (irqs(NONE | TRIGGER, 2, 0, 1, argsz=19), 0, errno.EINVAL),
    ],
)
def test_bad_set_irqs_is_refused_and_its_eventfds_closed(desk, payload, fds, error):
    before = open_fds()
    assert desk.ask(SET_IRQS, payload, eventfds(fds)) == refused(error)
    assert open_fds() == before
    assert desk.device.log == []


# The end


def test_close_gives_windows_and_eventfds_back_and_keeps_the_device(desk):
    before = open_fds()
    desk.ask(DMA_MAP, dma_map(0, PAGE), [memfd()])
    desk.ask(SET_IRQS, irqs(EVENTFD | TRIGGER, 2, 0, 2), eventfds(2))
    desk.ask(WRITE, access(0, 8, 4, b"kept"))
    desk.session.close()
    assert open_fds() == before
    assert desk.space.windows == {}
    assert desk.device.bytes[0][8:12] == b"kept"
    assert ("reset",) not in desk.device.log


def test_reset_with_a_payload_is_refused(desk):
    assert desk.ask(RESET, b"now") == refused(errno.EINVAL)
    assert desk.device.log == []
