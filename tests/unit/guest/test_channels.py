"""The checks of an I/OAT function, over a vfio-user socket."""

import pytest

from guest import ioat
from guest.access import allocated
from guest.checks import run_check
from guest.devices import bench_of
from guest.errors import DeviceError, DeviceTimeout, InvalidArgument
from guest.ioat import ChannelError, ChannelState, Flag
from guest.ioat_driver import Channel, Transfer

CASES = ("copy", "null", "chain", "suspension", "reset")
IOAT = pytest.mark.accel(profile="ioat")


@pytest.fixture
def bench(tenants):
    return bench_of(tenants[0].client)


@IOAT
def test_identity_finds_nothing_wrong(bench):
    facts = run_check("identity", bench, {})
    assert facts["wrong"] == []
    assert (facts["ids"], facts["version"]) == ("8086:2021", "3.2")
    assert (facts["channels"], facts["vectors"], facts["transfer"]) == (4, 4, 1 << 20)


@IOAT
def test_channels_copy_chain_halt_and_start_again(bench):
    facts = run_check("channels", bench, {"seed": 3})
    assert facts["channels"] == [
        {"channel": n, "vector": n, "cases": dict.fromkeys(CASES)} for n in range(4)
    ]
    assert (facts["together"], facts["reset"]) == (None, None)
    assert len(facts["errors"]) == 14
    assert [each for each in facts["errors"] if not each["ok"]] == []


@IOAT
def test_transfers_of_a_driver_are_followed_by_their_links(bench):
    access = bench.access
    with allocated(access, 4096) as memory, Channel(bench.device, 2) as channel:
        memory.view[:4] = b"abcd"
        first, second = (Transfer(2, memory.iova + at, memory.iova + 256 + at) for at in (0, 2))
        at, outcome = channel.run([first, second])
        assert outcome == (ChannelState.IDLE, at, at | ChannelState.IDLE, 0)
        assert channel.interrupts == 1
        assert bytes(memory.view[256:261]) == b"abcd\0"
        _, outcome = channel.run([first._replace(size=0)])
        assert (outcome.state, outcome.errors) == (ChannelState.HALTED, ChannelError.LENGTH)
        channel.begin()
        _, outcome = channel.run([first._replace(flags=Flag.NULL)])
        assert (outcome.state, outcome.errors) == (ChannelState.IDLE, 0)


@IOAT
def test_channel_without_work_to_do_is_late_and_says_how_it_stands(bench):
    with Channel(bench.device, 0) as channel, pytest.raises(DeviceTimeout, match="state=4"):
        channel.wait(0.1)


@IOAT
def test_error_while_parts_of_a_buffer_are_in_use_is_the_one_that_is_told(bench):
    def fail(memory):
        part = memory.view[8:16]
        raise DeviceTimeout(f"{len(part)} bytes")

    with pytest.raises(DeviceTimeout, match="8 bytes"), allocated(bench.access, 4096) as memory:
        fail(memory)
    assert memory not in bench.access.buffers()


@IOAT
def test_check_of_another_personality_is_refused_and_says_what_there_is(bench):
    with pytest.raises(InvalidArgument, match=r"is ioat \(accepted: identity, channels\)"):
        run_check("operations", bench, {})


def test_check_of_i_oat_is_refused_by_a_native_device(bench):
    with pytest.raises(InvalidArgument, match=r"is native \(accepted: identity, operations, "):
        run_check("channels", bench, {})


@pytest.mark.accel(personality="adder")
def test_device_that_nobody_drives_is_named(tenants):
    with pytest.raises(DeviceError, match="accepted: 1234:acc1, 8086:2021"):
        bench_of(tenants[0].client)


@IOAT
def test_function_of_another_version_is_refused(bench):
    access = bench.access

    read = access.read

    def older(bar, offset, size):
        return 0x20 if offset == ioat.VERSION else read(bar, offset, size)

    access.read = older
    with pytest.raises(DeviceError, match="version 0x20"):
        bench_of(access)


@IOAT
def test_bytes_that_change_where_nothing_was_to_be_written_are_found(bench, monkeypatch):
    """Somebody changes every byte of the destination once the channel is done."""
    wait = Channel.wait

    def meddle(self, seconds=30):
        outcome = wait(self, seconds)
        if len(buffers := bench.access.buffers()) > 2:
            buffers[1].view[:] = bytes(byte ^ 1 for byte in buffers[1].view)
        return outcome

    monkeypatch.setattr(Channel, "wait", meddle)
    facts = run_check("channels", bench, {})
    for channel in facts["channels"]:
        cases = channel["cases"]
        assert cases["copy"].startswith("1 bytes: output differs from byte 0: ")
        assert cases["null"] == "it wrote"
        assert cases["chain"] == "the data did not come to piece 0 of 12"
        assert "output differs" in cases["suspension"]
        assert "output differs" in cases["reset"]
    assert facts["together"] == "channel 0: the data did not come to piece 0 of 12"
    assert "output differs" in facts["reset"]
    assert all(each["ok"] for each in facts["errors"]), "which have memory of their own"
