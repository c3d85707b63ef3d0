"""Messages byte for byte, put together from the specification and from QEMU's wire."""

import pytest

from tests.support.vfio_user import QEMU_JSON, Desk, hello, memfd


def talk(desk, request, fds=()):
    reply, passed = desk.tell(bytes.fromhex(request), fds)
    return reply.hex(), passed


def test_qemu_version_is_the_214_bytes_that_were_seen():
    assert len(QEMU_JSON) == 194
    assert len(hello()) == 214


def test_version_reply_fits_qemus_buffer():
    reply, _ = Desk().tell(hello(number=0x1234))
    head = "3412 0100 8f000000 01000000 00000000 0000 0000"
    text = (
        b'{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,'
        b'"max_dma_maps":65535,"pgsizes":4096,"write_multiple":true}}\0'
    )
    assert reply == bytes.fromhex(head) + text
    assert len(reply) <= 214


def test_device_info(desk):
    request = "0100 0400 20000000 00000000 00000000 10000000 00000000 00000000 00000000"
    reply, _ = talk(desk, request)
    assert reply == (
        "0100 0400 20000000 01000000 00000000 10000000 03000000 09000000 05000000"
    ).replace(" ", "")


def test_region_info_of_plain_region(desk):
    request = "0100 0500 30000000 00000000 00000000 20000000 00000000 00000000 00000000" + "00" * 16
    reply, passed = talk(desk, request)
    assert reply == (
        "0100 0500 30000000 01000000 00000000"
        "20000000 03000000 00000000 00000000 0010000000000000 0000000000000000"
    ).replace(" ", "")
    assert passed == []


def test_region_info_of_absent_region_is_empty_and_no_error(desk):
    request = "0100 0500 30000000 00000000 00000000 20000000 00000000 01000000 00000000" + "00" * 16
    reply, _ = talk(desk, request)
    assert reply[32:] == ("20000000 00000000 01000000 00000000" + "00" * 16).replace(" ", "")


def test_region_info_of_mappable_region_brings_the_file_at_once(desk):
    request = "0100 0500 30000000 00000000 00000000 20000000 00000000 02000000 00000000" + "00" * 16
    reply, passed = talk(desk, request)
    assert reply[32:] == (
        "20000000 07000000 02000000 00000000 0000010000000000 0010000000000000"
    ).replace(" ", "")
    assert passed == [desk.device.memory]


def test_region_info_of_partly_mappable_region_takes_two_queries(desk):
    request = "0100 0500 30000000 00000000 00000000 {} 00000000 04000000 00000000" + "00" * 16
    reply, passed = talk(desk, request.format("20000000"))
    assert reply == (
        "0100 0500 30000000 01000000 00000000"
        "50000000 07000000 04000000 00000000 0000100000000000 0000020000000000"
    ).replace(" ", "")
    assert passed == []
    reply, passed = talk(desk, request.format("50000000"))
    assert reply == (
        "0100 0500 60000000 01000000 00000000"
        "50000000 0f000000 04000000 20000000 0000100000000000 0000020000000000"
        "0100 0100 00000000 02000000 00000000"
        "0000000000000000 0020000000000000 0000010000000000 0010000000000000"
    ).replace(" ", "")
    assert passed == [desk.device.memory]


def test_region_info_with_not_quite_enough_room_is_no_larger_than_asked(desk):
    request = "0100 0500 30000000 00000000 00000000 4f000000 00000000 04000000 00000000" + "00" * 16
    reply, passed = talk(desk, request)
    assert reply[32:40] == "50000000"
    assert len(reply) // 2 == 48
    assert passed == []


@pytest.mark.parametrize(
    ("index", "flags", "count"), [(0, 7, 1), (1, 1, 0), (2, 1, 40), (3, 1, 1), (4, 1, 1)]
)
def test_irq_info(desk, index, flags, count):
    request = f"0100 0700 20000000 00000000 00000000 10000000 00000000 {index:02x}000000 00000000"
    reply, _ = talk(desk, request)
    assert reply == (
        f"0100 0700 20000000 01000000 00000000"
        f"10000000 {flags:02x}000000 {index:02x}000000 {count:02x}000000"
    ).replace(" ", "")


def test_dma_map_and_unmap(desk):
    request = (
        "0500 0200 30000000 00000000 00000000"
        "20000000 03000000 0010000000000000 0000000001000000 0000010000000000"
    )
    assert talk(desk, request, [memfd()])[0] == "05000200100000000100000000000000"
    [(iova, (size, file, offset, readable, writable))] = desk.space.windows.items()
    assert (iova, size, offset) == (0x1_0000_0000, 0x10000, 0x1000)
    assert file is not None
    assert (readable, writable) == (True, True)
    body = "18000000 00000000 0000000001000000 0000010000000000"
    reply, _ = talk(desk, "0600 0300 28000000 00000000 00000000" + body)
    assert reply == ("0600 0300 28000000 01000000 00000000" + body).replace(" ", "")
    assert desk.space.windows == {}


def test_region_read_and_write(desk):
    write = "0900 0a00 24000000 00000000 00000000 1000000000000000 00000000 04000000 efbeadde"
    assert talk(desk, write)[0] == (
        "0900 0a00 20000000 01000000 00000000 1000000000000000 00000000 04000000"
    ).replace(" ", "")
    read = "0a00 0900 20000000 00000000 00000000 1000000000000000 00000000 04000000"
    assert talk(desk, read)[0] == (
        "0a00 0900 24000000 01000000 00000000 1000000000000000 00000000 04000000 efbeadde"
    ).replace(" ", "")


def test_write_multi(desk):
    one = "2000000000000000 00000000 04000000 0102030400000000"
    two = "2400000000000000 00000000 02000000 0506aabbccddeeff"
    reply, _ = talk(desk, f"0b00 0f00 48000000 00000000 00000000 0200000000000000 {one} {two}")
    assert reply == "0b00 0f00 18000000 01000000 00000000 0200000000000000".replace(" ", "")
    assert desk.device.bytes[0][0x20:0x28] == bytes([1, 2, 3, 4, 5, 6, 0, 0])


def test_reset_has_no_payload(desk):
    assert talk(desk, "0c00 0d00 10000000 00000000 00000000")[0] == (
        "0c00 0d00 10000000 01000000 00000000"
    ).replace(" ", "")
    assert desk.device.log == [("reset",)]


def test_error_reply_is_a_header_with_an_errno(desk):
    read = "0a00 0900 20000000 00000000 00000000 fe0f000000000000 00000000 04000000"
    assert talk(desk, read)[0] == "0a00 0900 10000000 21000000 16000000".replace(" ", "")
