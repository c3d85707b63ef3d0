"""The guest's driver of buffers, and what is shown of them, over vfio-user sockets."""

import pytest

from guest import native
from guest.bench import Bench
from guest.buffers import Buffers, Refused
from guest.checks import run_check
from guest.driver import Device
from guest.errors import DeviceTimeout, InvalidArgument
from guest.native import HbmStatusCode
from hostctl.cli.mdev import row
from tests.unit.guest.model import Model

pytestmark = pytest.mark.accel(
    types=[{"name": "half", "hbm": "4MiB", "queues": 2, "instances": 3}], tenants=3
)
TEXT = b"from red to blue".hex()


@pytest.fixture
def benches(tenants):
    return [Bench(tenant.client) for tenant in tenants]


def do(bench, step, **arguments):
    return run_check("sharing", bench, {"do": step, **arguments})


def test_check_of_buffers_finds_nothing_wrong(benches):
    facts = run_check("buffers", benches[0], {"seed": 3})
    assert facts["skipped"] is None
    assert (facts["scrubbed"], facts["scattered"]) == (True, True)
    assert facts["usage"]["high_water"] == 4 << 20
    assert facts["left"] == 0
    assert [each for each in facts["errors"] if not each["ok"]] == []
    assert len(facts["errors"]) == 15


@pytest.mark.parametrize("mapped", [False, True])
def test_guests_share_a_buffer_until_it_is_revoked_and_a_third_never_does(benches, mapped):
    red, blue, green = benches
    numbers = [do(each, "join")["number"] for each in benches]
    lent = do(red, "export", peer=numbers[1], content=TEXT, mapped=mapped)
    assert (lent["address"] >= native.MMU_AT) is mapped
    assert do(green, "import", handle=lent["handle"]) == {"refused": "denied"}
    taken = do(blue, "import", handle=lent["handle"])
    assert taken["size"] == lent["size"] == 4096
    found = do(blue, "read", address=taken["address"], length=16)
    assert (found["status"], found["content"]) == ("success", TEXT)
    assert do(blue, "write", address=taken["address"], content="00")["status"] == "write-fault"
    seen = do(green, "read", address=taken["address"], length=16)
    assert (seen["status"], seen["fault"]) == ("hbm-unmapped", taken["address"])
    assert do(red, "revoke", handle=lent["handle"])["refused"] is None
    after = do(blue, "read", address=taken["address"], length=16)
    assert (after["status"], after["fault"]) == ("hbm-unmapped", taken["address"])
    assert after["content"] == bytes(16).hex()
    assert do(red, "read", address=lent["address"], length=16)["content"] == TEXT
    assert do(red, "free", address=lent["address"])["refused"] is None


def test_importer_writes_what_the_exporter_reads(benches):
    red, blue, _ = benches
    lent = do(red, "export", peer=do(blue, "join")["number"], content=TEXT, writable=True)
    taken = do(blue, "import", handle=lent["handle"])
    assert do(blue, "write", address=taken["address"], content="11" * 8)["status"] == "success"
    found = do(red, "read", address=lent["address"], length=16)["content"]
    assert found == "11" * 8 + TEXT[16:]
    assert do(blue, "release", address=taken["address"])["refused"] is None
    assert do(blue, "release", address=taken["address"])["refused"] == "no-buffer"


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        ({"do": "steal"}, "unknown step 'steal' \\(accepted: join, export"),
        ({"do": "read", "address": 0, "length": 1 << 20}, "length: must be at most 65536"),
        ({"do": "export", "peer": 1, "content": ""}, "content: must be 1 to 65536 bytes"),
        ({"do": "join", "peer": 1}, "unknown argument 'peer'"),
    ],
)
def test_step_that_makes_no_sense_touches_nothing(benches, arguments, wrong):
    with pytest.raises(InvalidArgument, match=wrong):
        run_check("sharing", benches[0], arguments)
    assert Buffers(benches[0].device).usage == (0, 0, 0, 0)


def test_refusal_says_what_was_asked_and_changes_nothing(benches):
    buffers = Buffers(benches[0].device)
    with pytest.raises(Refused, match="ALLOCATE 0x800000: NO_ROOM") as refused:
        buffers.allocate(8 << 20)
    assert refused.value.status is HbmStatusCode.NO_ROOM
    assert buffers.usage == (0, 0, 0, 0)


def test_scrubbing_that_takes_too_long_is_told():
    model = Model()
    device = Device(model)
    model.registers[native.HBM_SCRUBBING : native.HBM_SCRUBBING + 8] = (77).to_bytes(8, "little")
    with pytest.raises(DeviceTimeout, match="77 bytes are not scrubbed after 0 s"):
        Buffers(device).wait_scrubbed(0)


def test_operator_sees_what_is_used_shared_and_most(benches, accelerator):
    red, blue, _ = benches
    lent = do(red, "export", peer=do(blue, "join")["number"], content=TEXT)
    do(blue, "import", handle=lent["handle"])
    buffers = Buffers(red.device)
    buffers.free(buffers.allocate(8192))
    buffers.wait_scrubbed()
    shown = accelerator.control.mdevs()
    told = sorted((each.hbm_used, each.hbm_high_water, each.hbm_imported) for each in shown)
    assert told == [(0, 0, 0), (0, 0, 4096), (4096, 12288, 0)]
    assert sorted(row(each)[6] for each in shown) == [
        "-",
        "4 KiB imported",
        "4 KiB, at most 12 KiB",
    ]
    mine = next(each for each in shown if each.hbm_used)
    values = {each.name: each.value for each in accelerator.control.attributes(mine.name)}
    shown_as = [values[f"hbm_{name}"] for name in ("used", "high_water", "scrubbing", "imported")]
    assert shown_as == ["4096", "12288", "0", "0"]
