"""scapy layers: what they build and take apart, held against frames put together by hand."""

import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.packet import Packet, Raw, fuzz

from mdevemu.capture import layers
from mdevemu.capture.layers import (
    BOTH,
    REQUESTS,
    Area,
    DeviceFeature,
    DeviceState,
    DmaAccess,
    DmaMap,
    DmaUnmap,
    IoFd,
    LoggingRange,
    LoggingReport,
    LoggingStart,
    MigrationData,
    MigrationInfo,
    OneWrite,
    RegionAccess,
    RegionInfo,
    RegionIoFds,
    SetIrqs,
    SparseMmap,
    VersionData,
    VfioUser,
    WriteMulti,
    dissect,
)
from mdevemu.errors import ProtocolError
from mdevemu.vfio_user.features_wire import Feature
from mdevemu.vfio_user.wire import Command
from tests.support.vfio_user import (
    QEMU_JSON,
    Desk,
    access,
    dma_map,
    dma_unmap,
    frame,
    hello,
    irqs,
    memfd,
)

REPLY, REFUSED = 1, 0x21

MESSAGES = [
    (hello(3), VfioUser(id=3, cmd="VERSION") / VersionData(minor=0, json=QEMU_JSON)),
    (
        frame(4, 2, dma_map(0x1000, 0x2000, 0x3000)),
        VfioUser(id=4, cmd="DMA_MAP") / DmaMap(offset=0x3000, address=0x1000, size=0x2000),
    ),
    (frame(5, 3, dma_unmap(0, 0, 2)), VfioUser(id=5, cmd=3) / DmaUnmap(flags="all", size=0)),
    (
        frame(
            6, 3, dma_unmap(0x1000, 0x1000, 1) + struct.pack("<QQ", 4096, 8) + b"\1" + bytes(7), 1
        ),
        VfioUser(id=6, cmd=3, flags="reply")
        / DmaUnmap(flags=1, address=0x1000, bitmap=b"\1" + bytes(7)),
    ),
    (
        frame(
            7, 5, struct.pack("<IIIIQQHHIIIQQ", 64, 15, 4, 32, 8192, 0, 1, 1, 0, 1, 0, 0, 4096), 1
        ),
        VfioUser(id=7, cmd=5, flags="reply")
        / RegionInfo(
            argsz=64,
            flags="read+write+mmap+caps",
            index="BAR4",
            cap_offset=32,
            size=8192,
            capabilities=[SparseMmap(areas=[Area(size=4096)])],
        ),
    ),
    (
        frame(8, 6, struct.pack("<IIIIQQIIIIQ", 56, 0, 2, 1, 0, 4, 0, 1, 0, 0, 9), 1),
        VfioUser(id=8, cmd=6, flags=1)
        / RegionIoFds(argsz=56, index=2, count=1, fds=[IoFd(size=4, type=1, datamatch=9)]),
    ),
    (
        frame(9, 8, irqs(0x12, 0, 0, 2, b"\1\0")),
        VfioUser(id=9, cmd=8) / SetIrqs(flags="bool+unmask", count=2, switches=b"\1\0"),
    ),
    (
        frame(10, 10, access(0, 4, 2, b"ab"), 0x10),
        VfioUser(id=10, cmd="REGION_WRITE", flags="no_reply")
        / RegionAccess(offset=4, count=2, data=b"ab"),
    ),
    (
        frame(11, 11, struct.pack("<QQ", 0x1000, 3) + b"abc", 1),
        VfioUser(id=11, cmd=11, flags=1) / DmaAccess(address=0x1000, count=3, data=b"abc"),
    ),
    (frame(12, 13), VfioUser(id=12, cmd="DEVICE_RESET")),
    (
        frame(13, 15, struct.pack("<QQII8sQII8s", 2, 0, 0, 4, b"abcd", 8, 1, 1, b"x")),
        VfioUser(id=13, cmd=15)
        / WriteMulti(
            count=2,
            writes=[
                OneWrite(count=4, data=b"abcd"),
                OneWrite(offset=8, region=1, count=1, data=b"x"),
            ],
        ),
    ),
    (
        frame(14, 16, struct.pack("<II", 16, 1 << 16 | 1) + bytes(8), 1),
        VfioUser(id=14, cmd=16, flags=1)
        / DeviceFeature(argsz=16, flags="get")
        / MigrationInfo(states=0),
    ),
    (
        frame(15, 16, struct.pack("<IIII", 16, 2 << 16 | 2, 3, 0)),
        VfioUser(id=15, cmd=16)
        / DeviceFeature(argsz=16, feature="MIG_DEVICE_STATE", flags="set")
        / DeviceState(state="STOP_COPY"),
    ),
    (
        frame(16, 16, struct.pack("<IIQIIQQ", 40, 2 << 16 | 6, 4096, 1, 0, 0x1000, 0x2000)),
        VfioUser(id=16, cmd=16)
        / DeviceFeature(argsz=40, feature=6, flags="set")
        / LoggingStart(num_ranges=1, ranges=[LoggingRange(iova=0x1000, length=0x2000)]),
    ),
    (
        frame(17, 16, struct.pack("<IIQQQQ", 40, 1 << 16 | 8, 0x1000, 0x2000, 4096, 3), 1),
        VfioUser(id=17, cmd=16, flags=1)
        / DeviceFeature(argsz=40, feature=8, flags="get")
        / LoggingReport(iova=0x1000, length=0x2000, bitmap=struct.pack("<Q", 3)),
    ),
    (
        frame(18, 16, struct.pack("<II", 8, 2 << 16 | 7)),
        VfioUser(id=18, cmd=16) / DeviceFeature(feature="DMA_LOGGING_STOP", flags="set"),
    ),
    (
        frame(19, 17, struct.pack("<II", 12, 4) + b"data", 1),
        VfioUser(id=19, cmd=17, flags=1) / MigrationData(argsz=12, size=4, data=b"data"),
    ),
    (
        frame(20, 18, struct.pack("<II", 8, 4) + b"data"),
        VfioUser(id=20, cmd=18) / MigrationData(size=4, data=b"data"),
    ),
]


@pytest.mark.parametrize(("data", "packet"), MESSAGES, ids=[str(n) for n in range(len(MESSAGES))])
def test_message_is_built_and_taken_apart(data, packet):
    assert bytes(packet) == data
    found = dissect(data)
    assert layers.facts(found) | {"size": None} == layers.facts(packet)
    assert type(found.payload) is type(packet.payload)
    assert bytes(found) == data


def test_every_command_has_a_layer():
    assert set(layers.COMMANDS) == set(Command)
    assert set(REQUESTS) == set(Command) - {Command.DEVICE_RESET}
    assert set(BOTH) == set(REQUESTS) - {Command.DMA_MAP, Command.DEVICE_SET_IRQS}
    assert all(layers.COMMANDS[each] == each.name for each in Command)


def test_every_feature_that_has_data_has_a_layer():
    assert set(layers.FEATURES) == set(Feature) - {Feature.DMA_LOGGING_STOP}
    told = layers.payload(dissect(MESSAGES[-6][0]))
    assert told == {"argsz": 16, "feature": 2, "flags": 2, "data": {"state": 3, "data_fd": 0}}


def test_feature_cut_short_stays_raw():
    data = frame(1, 16, struct.pack("<II", 16, 2 << 16 | 2) + b"abc")
    assert layers.payload(dissect(data))["data"] == {"load": b"abc".hex()}


def test_refusal_is_a_header_and_unknown_commands_stay_raw():
    assert dissect(frame(1, 2, b"more", REFUSED)).payload.__class__ is Raw
    assert dissect(frame(1, 99, b"what")).payload.load == b"what"
    assert layers.payload(dissect(frame(1, 2, b"", REFUSED))) == {}


def test_payload_as_data():
    told = layers.payload(dissect(MESSAGES[4][0]))
    assert told["capabilities"] == [
        {
            "id": 1,
            "version": 1,
            "next": 0,
            "nr_areas": 1,
            "reserved": 0,
            "areas": [{"offset": 0, "size": 4096}],
        }
    ]


@settings(max_examples=150, deadline=None)
@given(
    command=st.integers(0, 20),
    flags=st.sampled_from([0, 1, 0x10, 0x21]),
    payload=st.binary(max_size=120),
)
def test_any_message_is_taken_apart_and_put_together_again(command, flags, payload):
    data = frame(1, command, payload, flags)
    packet = dissect(data)
    layers.facts(packet)
    layers.payload(packet)
    assert bytes(packet) == data


# The server, and what fuzz() makes of the layers


def malformed(seed: int, count: int) -> list[bytes]:
    """Messages with any value in any field, each of the size that it says."""
    random.seed(seed)
    made = []
    for _ in range(count):
        command = random.choice(list(REQUESTS))
        packet: Packet = VfioUser(
            id=random.randrange(1 << 16), cmd=command, flags=random.choice([0, 0x10])
        )
        body = bytes(fuzz(REQUESTS[command]()))
        if random.random() < 0.3:
            body = body[: random.randrange(len(body) + 1)]
        made.append(bytes(packet / Raw(body)))
    return made


@pytest.mark.parametrize("seed", range(4))
def test_server_survives_whatever_fuzz_makes(seed):
    desk = Desk()
    desk.tell(hello())
    for data in malformed(seed, 400):
        fds = [memfd(4096) for _ in range(random.randrange(3))]
        try:
            desk.tell(data, fds)
        except ProtocolError:  # garbage: this client is gone, the next one comes
            desk.session.close()
            desk = Desk(desk.device, desk.space)
            desk.tell(hello())
    assert desk.ask(4, struct.pack("<IIII", 16, 0, 0, 0))[0] == REPLY
    desk.close()


def test_fuzzed_messages_reach_every_handler():
    """Otherwise the test above would prove nothing."""
    desk = Desk()
    desk.tell(hello())
    answered = {command for command in REQUESTS if command not in (1, 11, 12)}
    refused = set()
    for data in malformed(1, 400):
        command = struct.unpack_from("<H", data, 2)[0]
        before = len(desk.trace.events)
        desk.tell(data)
        if len(desk.trace.events) > before and desk.trace.events[-1].name == "session.error":
            refused.add(command)
    assert answered <= refused
    desk.close()
