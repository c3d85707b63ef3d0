"""Mdevs come and go: what is refused, what is counted, and that nothing is left behind."""

import contextlib
import errno
import gc
import os
import uuid as uuids

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from mdevemu.errors import ConfigError, DmaFault
from mdevemu.fds import Fd
from mdevemu.mdev.tables import Exhausted
from mdevemu.units import HBM_IOVA, MIB, Iova
from tests.support.bench import ALL, CONFIG, Bench, Ram
from tests.support.limits import few_descriptors
from tests.support.native import DATA, DESTINATION_HBM, Driver, descriptor

SPEC = {
    "accelerator": {"name": "bench", "hbm": "16MiB"},
    "engine": [{"name": "all", "operations": ALL}],
    "type": [
        {"name": "large", "hbm": "8MiB", "weight": 2},
        {"name": "small", "hbm": "2MiB", "instances": 3},
        {"name": "bare", "instances": 2},
        {"name": "adder", "personality": "adder"},
    ],
}
UUID = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"


@pytest.fixture(scope="module", autouse=True)
def no_collection_meanwhile():
    """Descriptors are counted, so what earlier tests left goes before or after."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def bench():
    return Bench(SPEC)


@pytest.fixture
def parent(bench):
    return bench.parent


def descriptors():
    """Every descriptor of this process, with what it stands for."""
    numbers = os.listdir("/proc/self/fd")
    links = [f"/proc/self/fd/{number}" for number in numbers]
    return sorted(os.readlink(link) for link in links if os.path.lexists(link))


def state(parent):
    """Everything that a refusal must leave as it was."""
    return (
        dict(parent.mdevs),
        parent.hbm.holes(),
        parent.host.frames.used,
        [parent.available(kind) for kind in parent.types.values()],
        descriptors(),
        len(parent.trace.events),
    )


def refused(parent, number, *args, **wanted):
    before = state(parent)
    with pytest.raises(ConfigError) as caught:
        parent.create(*args, **wanted)
    assert caught.value.number == number
    assert state(parent) == before
    return str(caught.value)


# Creation.


def test_mdev_has_what_its_type_says(parent):
    mdev = parent.create("mdevemu-large", uuid=UUID.upper(), name="red")
    assert (mdev.uuid, mdev.name, mdev.type.name) == (UUID, "red", "large")
    assert (mdev.partition.offset, mdev.partition.size) == (0, 8 * MIB)
    assert mdev.flow.weight == 2
    assert parent.find(UUID) is parent.find("red") is mdev
    assert not mdev.port.enabled


def test_mdev_without_name_has_its_uuid_for_one(parent):
    mdev = parent.create("mdevemu-bare")
    assert mdev.name == mdev.uuid == str(uuids.UUID(mdev.uuid))
    assert parent.create("mdevemu-bare").uuid != mdev.uuid
    assert mdev.partition is None


def test_serial_number_tells_mdevs_apart(parent):
    def serial(mdev):
        at = next(
            at for at in range(0x100, 0x200, 4) if mdev.function.read(CONFIG, at, 2) == b"\x03\x00"
        )
        return mdev.function.read(CONFIG, at + 4, 8)

    first = parent.create("mdevemu-bare", uuid=UUID)
    assert serial(first) == uuids.UUID(UUID).bytes[:8][::-1]
    assert serial(first) != serial(parent.create("mdevemu-bare"))


@pytest.mark.parametrize("kind", ["large", "mdevemu-larg", "", "vfio-large", "mdevemu-Large"])
def test_unknown_type_is_refused_with_what_there_is(parent, kind):
    text = refused(parent, errno.EINVAL, kind)
    assert "mdevemu-adder, mdevemu-bare, mdevemu-large, mdevemu-small" in text
    assert kind != "mdevemu-larg" or "did you mean 'mdevemu-large'?" in text


@pytest.mark.parametrize(
    "uuid",
    [
        "",
        "x",
        UUID[:-1],
        UUID + "0",
        UUID.replace("-", ""),
        "{" + UUID + "}",
        "urn:uuid:" + UUID,
        UUID.replace("8", "g"),
        "٣" * 32,
        UUID + "\n",
        " " + UUID,
    ],
)
def test_uuid_of_another_form_is_refused(parent, uuid):
    assert "is not of the form" in refused(parent, errno.EINVAL, "mdevemu-bare", uuid=uuid)


@pytest.mark.parametrize("weight", [0, -1, 1001, 10**9])
def test_weight_out_of_range_is_refused(parent, weight):
    mdev = parent.create("mdevemu-bare")
    with pytest.raises(ConfigError) as caught:
        parent.set_weight(mdev, weight)
    assert caught.value.number == errno.EINVAL
    assert "1 to 1000" in str(caught.value)
    assert mdev.flow.weight == 1


def test_uuid_or_name_that_is_taken_is_refused(parent):
    parent.create("mdevemu-bare", uuid=UUID, name="red")
    other = str(uuids.uuid4())
    for wanted in (
        {"uuid": UUID},
        {"uuid": UUID.upper(), "name": "blue"},
        {"name": "red"},
        {"name": "red", "uuid": other},
        {"name": UUID},
    ):
        assert "there is an mdev" in refused(parent, errno.EEXIST, "mdevemu-bare", **wanted)


def test_name_that_is_a_later_uuid_is_refused_then(parent):
    parent.create("mdevemu-bare", name=UUID)
    refused(parent, errno.EEXIST, "mdevemu-bare", uuid=UUID)


def test_more_instances_than_a_type_may_have_are_refused(parent):
    for _ in range(3):
        parent.create("mdevemu-small")
    assert "3 of 3 instances are in use" in refused(parent, errno.EUSERS, "mdevemu-small")


def test_slice_for_which_there_is_no_hbm_is_refused(parent):
    parent.create("mdevemu-large")
    parent.create("mdevemu-large")
    text = refused(parent, errno.EUSERS, "mdevemu-small")
    assert text == (
        "type: mdevemu-small: no 2097152 adjacent bytes of HBM (free: none) "
        "(fits now: mdevemu-bare (2), mdevemu-adder (4096))"
    )
    parent.create("mdevemu-bare")


def test_hbm_that_is_free_but_apart_is_no_room(parent):
    small = [parent.create("mdevemu-small") for _ in range(3)]
    parent.create("mdevemu-large")
    parent.remove(small[0])
    parent.remove(small[2])
    text = refused(parent, errno.EUSERS, "mdevemu-large")
    assert "(free: 2097152 at 0x0, 2097152 at 0x400000, 2097152 at 0xe00000)" in text
    parent.remove(small[1])
    parent.remove(parent.create("mdevemu-small"))
    refused(parent, errno.EUSERS, "mdevemu-large")


@pytest.mark.parametrize("left", [0, 1, 2, 3])
def test_accelerator_whose_table_memory_is_used_up_refuses(bench, left):
    """A slice with HBM needs four tables."""
    parent = bench.parent
    parent.remove(parent.create("mdevemu-small"))
    parent.create("mdevemu-bare")
    frames, taken = parent.host.frames, []
    with contextlib.suppress(Exhausted):
        while True:
            taken.append(frames.allocate())
    for _ in range(left):
        frames.release(taken.pop())
    assert "no memory for translation tables" in refused(parent, errno.EUSERS, "mdevemu-small")
    frames.release(taken.pop())
    if left == 3:
        parent.create("mdevemu-small")


@pytest.mark.parametrize("left", [0, 1])
def test_accelerator_that_runs_out_of_descriptors_refuses(parent, left):
    with few_descriptors(left), pytest.raises(ConfigError) as caught:
        parent.create("mdevemu-small")
    assert caught.value.number == errno.EUSERS
    assert parent.hbm.free_bytes == 16 * MIB
    parent.create("mdevemu-small")


@pytest.mark.parametrize("who", ["", "red", UUID])
def test_mdev_that_is_not_there_is_not_found(parent, who):
    parent.create("mdevemu-bare", name="read")
    with pytest.raises(ConfigError) as caught:
        parent.find(who)
    assert caught.value.number == errno.ENOENT
    assert ("did you mean 'read'?" in str(caught.value)) == (who == "red")


# Removal.


def test_removal_gives_everything_back(parent):
    parent.remove(parent.create("mdevemu-small"))  # directories stay once they are made
    before = state(parent)[:-1]
    for kind in ("large", "small", "bare", "adder"):
        ram = Ram(4 * MIB)
        mdev = parent.create(f"mdevemu-{kind}", name=kind)
        eventfds = [Fd(os.eventfd(0)) for _ in range(mdev.function.interrupts[2])]
        mdev.function.assign(2, 0, eventfds)
        for n in range(4):
            mdev.space.map(n * 8 * MIB, 4 * MIB, ram.file(), 0, readable=True, writable=bool(n % 2))
        assert state(parent)[:-1] != before
        parent.remove(mdev)
        ram.close()
        assert state(parent)[:-1] == before


def test_removed_mdev_is_gone_under_every_name(parent):
    mdev = parent.create("mdevemu-small", uuid=UUID, name="red")
    parent.remove(mdev)
    for who in (UUID, "red"):
        with pytest.raises(ConfigError):
            parent.find(who)
    again = parent.create("mdevemu-small", uuid=UUID, name="red")
    assert parent.find("red") is again


def test_port_of_a_removed_mdev_reaches_nothing_whoever_has_its_pasid_now(parent):
    mdev = parent.create("mdevemu-small")
    port, pasid = mdev.port, mdev.space.pasid
    port.enabled = True
    assert port.read(HBM_IOVA, 8) == bytes(8)
    parent.remove(mdev)
    successor = parent.create("mdevemu-small")
    assert successor.space.pasid == pasid, "the lowest is used again"
    with pytest.raises(DmaFault):
        port.read(HBM_IOVA, 8)
    assert not port.enabled


def test_successor_under_the_same_pasid_starts_with_nothing(bench):
    first = Driver(bench, "small")
    first.run("fill", DESTINATION_HBM, length=2 * MIB, operand=2**64 - 1)
    first.run("fill", destination=DATA, length=4096, operand=1)
    bench.parent.remove(first.mdev)
    mdev = bench.mdev("small")
    assert mdev.space.windows == 0
    mdev.port.enabled = True
    assert mdev.port.read(HBM_IOVA, 2 * MIB) == bytes(2 * MIB)
    with pytest.raises(DmaFault):
        mdev.port.read(Iova(DATA), 8)
    first.close()


def test_work_of_a_removed_mdev_ends(bench):
    driver = Driver(bench, "small")
    driver.queue(0).submit(*[descriptor("fill", destination=DATA, length=MIB)] * 8)
    bench.parent.scheduler.step()
    bench.parent.remove(driver.mdev)
    assert not bench.parent.scheduler.step()
    driver.close()


def test_operator_hears_of_creation_and_removal(bench):
    mdev = bench.parent.create("mdevemu-bare", uuid=UUID, name="red")
    bench.parent.remove(mdev)
    created, removed = bench.trace.events[0], bench.trace.events[-1]
    assert created.name == "mdev.created"
    assert created.facts == {
        "mdev": "red",
        "uuid": UUID,
        "type": "mdevemu-bare",
        "pasid": mdev.space.pasid,
    }
    assert (removed.name, removed.facts) == ("mdev.removed", {"mdev": "red", "uuid": UUID})


class Mdevs(RuleBasedStateMachine):
    """What is available is what can be created; PASIDs and HBM are nobody else's."""

    mdevs = Bundle("mdevs")

    def __init__(self):
        super().__init__()
        self.parent = Bench(SPEC).parent
        self.alive = []

    @rule(target=mdevs, kind=st.sampled_from(["large", "small", "bare", "adder"]))
    def create(self, kind):
        kind_id = f"mdevemu-{kind}"
        room = self.parent.available(self.parent.types[kind_id])
        if not room:
            with pytest.raises(ConfigError) as caught:
                self.parent.create(kind_id)
            assert caught.value.number == errno.EUSERS
            return None
        mdev = self.parent.create(kind_id)
        assert self.parent.available(mdev.type) in (room - 1, min(room, mdev.type.instances) - 1)
        self.alive.append(mdev)
        return mdev

    @rule(mdev=consumes(mdevs))
    def remove(self, mdev):
        if mdev is None:
            return
        self.parent.remove(mdev)
        self.alive.remove(mdev)
        assert self.parent.available(mdev.type) >= 1

    @invariant()
    def nothing_is_shared(self):
        assert list(self.parent.mdevs.values()) == self.alive
        pasids = [mdev.space.pasid for mdev in self.alive]
        assert len(set(pasids)) == len(pasids)
        assert 0 not in pasids
        owned = sorted(
            (mdev.partition.offset, mdev.partition.size) for mdev in self.alive if mdev.partition
        )
        end = 0
        for offset, size in owned:
            assert offset >= end
            end = offset + size
        assert end <= self.parent.hbm.size
        assert self.parent.hbm.free_bytes == 16 * MIB - sum(size for _, size in owned)

    @invariant()
    def each_reaches_its_own_hbm(self):
        for mdev in self.alive:
            if mdev.partition:
                walk = self.parent.host.walk(0x100, mdev.space.pasid, HBM_IOVA)
                assert walk.hpa == mdev.partition.base
                last = Iova(HBM_IOVA + mdev.partition.size)
                assert self.parent.host.walk(0x100, mdev.space.pasid, last).hpa is None


TestMdevs = Mdevs.TestCase
TestMdevs.settings = settings(
    max_examples=25, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
