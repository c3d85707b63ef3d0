"""Recordings: what is written is read, by others as well; what is no recording is refused."""

import contextlib
import io
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.utils import RawPcapNgReader

from mdevemu.capture.pcapng import Captured, Writer, read
from mdevemu.errors import ConfigError
from tests.support.vfio_user import frame

SOME = [
    Captured(1_700_000_000_123_456_789, True, frame(1, 13)),
    Captured(1_700_000_000_123_456_790, False, frame(2, 9, b"x"), ("memory:1", "eventfd")),
    Captured(2, True, frame(3, 1, b"abc")),
]
MESSAGES = st.lists(
    st.builds(
        Captured,
        st.integers(0, 2**64 - 1),
        st.booleans(),
        st.binary(max_size=50).map(lambda payload: frame(1, 9, payload)),
        st.lists(st.sampled_from(["eventfd", "memory:3"]), max_size=3).map(tuple),
    ),
    max_size=5,
)


def written(messages):
    file = io.BytesIO()
    writer = Writer(file)
    for each in messages:
        writer.add(each)
    return file.getvalue()


def loaded(data, folder):
    file = folder / "file.pcapng"
    file.write_bytes(data)
    return list(read(file))


@settings(max_examples=30, deadline=None)
@given(messages=MESSAGES)
def test_what_is_written_is_read(tmp_path_factory, messages):
    assert loaded(written(messages), tmp_path_factory.mktemp("pcapng")) == messages


def test_others_read_it_as_well(tmp_path):
    file = tmp_path / "file.pcapng"
    file.write_bytes(written(SOME))
    with RawPcapNgReader(str(file)) as reader:
        found = [(data, meta.linktype, meta.tshigh << 32 | meta.tslow) for data, meta in reader]
    assert found == [(each.data, 147, each.time) for each in SOME]


def test_file_of_the_other_byte_order_with_microseconds_is_read(tmp_path):
    def block(kind, body):
        size = struct.pack(">I", 12 + len(body))
        return struct.pack(">I", kind) + size + body + size

    packet = struct.pack(">IIIII", 0, 0, 7, 16, 16) + frame(1, 13) + struct.pack(">HHI", 2, 4, 2)
    data = (
        block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(0x0BAD, b"not known to us.")
        + block(1, struct.pack(">HHI", 147, 0, 0))
        + block(6, packet)
    )
    assert loaded(data, tmp_path) == [Captured(7000, False, frame(1, 13))]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda data: b"", None),
        (lambda data: b"x", "no pcapng"),
        (lambda data: b"\x7fELF" + data, "no pcapng"),
        (lambda data: data[:-2], "cut off"),
        (lambda data: data + b"abc", "cut off"),
        (lambda data: data[:8] + b"\0\0\0\0" + data[12:], "byte order"),
        (lambda data: data[:4] + b"\xff\xff\xff\x7f" + data[8:], "a block of"),
        (lambda data: data[:4] + b"\x0d\0\0\0" + data[8:], "a block of"),
        (lambda data: data[:-4] + b"\0\0\0\0", "two sizes"),
        (lambda data: data.replace(b"\x93\0\0\0", b"\x01\0\0\0"), "link type 1"),
        (lambda data: data.replace(frame(1, 13), bytes(16)), "no vfio-user message"),
    ],
)
def test_what_is_no_recording_is_refused_by_name(tmp_path, change, wrong):
    data = change(written(SOME))
    if wrong is None:
        assert loaded(data, tmp_path) == []
        return
    with pytest.raises(ConfigError, match=wrong):
        loaded(data, tmp_path)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, 300), byte=st.integers(0, 255))
def test_damaged_file_is_read_or_refused(tmp_path_factory, at, byte):
    data = bytearray(written(SOME))
    data[at % len(data)] = byte
    with contextlib.suppress(ConfigError):
        loaded(bytes(data), tmp_path_factory.getbasetemp())


def test_file_that_is_not_there_is_the_operators_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        list(read(tmp_path / "none"))
