"""The fixtures, by tests that use them: at the levels that need no QEMU."""

import os

import pytest

from tests.unit.hostctl.command import PROJECT

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(120)

PLUGIN = ("-p", "hostctl.testing.plugin", "-p", "no:cacheprovider")

COPY = """
    import pytest
    from guest import native
    from guest.bench import Bench
    from guest.queue import Command

    def copy(client, source=None):
        bench = Bench(client)
        given, taken = client.allocate(4096), client.allocate(4096)
        given.view[:5] = b"bytes"
        with bench.open_queue() as queue:
            at = given.iova if source is None else source
            command = Command(native.Operation.COPY, 5, at, taken.iova)
            done = queue.run(command, 5)
        return done, bytes(taken.view[:5])
"""


@pytest.fixture
def level(request):
    return getattr(request, "param", "model")


BOTH = pytest.mark.parametrize("level", ["model", "socket"], indirect=True)


@pytest.fixture
def inner(pytester, level, monkeypatch):
    """Run a file of tests at a level; what came of it."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)

    def run(text, *options):
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess(*PLUGIN, f"--accel-level={level}", *options)

    return run


@BOTH
def test_client_is_a_driver_of_its_own_mdev(inner):
    inner(
        COPY
        + """
    def test_copy(vfio_client, mdev, trace, accelerator):
        done, moved = copy(vfio_client)
        assert (done.status, moved) == (native.Status.SUCCESS, b"bytes")
        assert mdev.personality == "native"
        assert [each.name for each in accelerator.control.mdevs()] == [mdev.name]
        (ended,) = trace.events("command.end", mdev=mdev.name, operation="copy")
        assert trace.wait("interrupt", seconds=5)
        assert ended.time >= trace.events("command.begin")[0].time

    def test_nothing_is_left_of_the_test_before(accelerator, trace):
        assert accelerator.control.mdevs() == []
        assert trace.events("command") == []
    """
    ).assert_outcomes(passed=2)


@BOTH
def test_iommu_tells_faults_of_this_test_and_walks(inner):
    inner(
        COPY
        + """
    def test_faults(vfio_client, mdev, iommu):
        assert iommu.faults() == []
        done, _ = copy(vfio_client, source=0xdead000)
        assert done.status == native.Status.READ_FAULT
        (fault,) = iommu.faults(mdev)
        assert fault.iova == 0xdead000
        assert iommu.walk(mdev, 0xdead000).hpa is None
        buffer = vfio_client.allocate(4096)
        assert iommu.walk(mdev, buffer.iova).hpa is not None

    def test_not_of_the_next(iommu):
        assert iommu.faults() == []
        assert iommu.counters().faults == 1
    """
    ).assert_outcomes(passed=2)


@BOTH
def test_faults_strike_the_mdev_and_end_with_the_test(inner):
    inner(
        COPY
        + """
    def test_struck(vfio_client, faults, trace):
        fault = faults.inject("completion-error", status="corrupt")
        done, _ = copy(vfio_client)
        assert done.status == native.Status.CORRUPT
        assert (faults.hits(fault), faults.spent(fault)) == (1, True)
        assert trace.wait("fault.injected").facts["fault"] == "completion-error"

    def test_not_struck(vfio_client, faults):
        assert faults.all() == []
        assert copy(vfio_client)[0].status == native.Status.SUCCESS
        with pytest.raises(Exception, match="completion-lost"):
            faults.inject("completion-lsot")

    @pytest.mark.accel(tenants=2)
    def test_whom(tenants, faults):
        with pytest.raises(Exception, match="say which one is meant .there are: red, blue."):
            faults.inject("link-down")
        faults.inject("link-down", tenants[0].mdev)
        assert tenants[1].client.read(0, 0, 4) == native.MAGIC_VALUE
        assert tenants[0].client.read(0, 0, 4) == 0xffffffff
    """
    ).assert_outcomes(passed=3)


def test_seed_decides_where_the_test_does_not(inner):
    text = """
    import pytest

    def test_chance(vfio_client, faults):
        fault = faults.inject("read-ones", percent=50, count=100)
        print("struck", "".join("01"[vfio_client.read(0, 0, 4) == 0xffffffff] for _ in range(40)))
        assert fault.options["seed"] == 7
    """
    first, second = (inner(text, "--accel-seed=7", "-s") for _ in range(2))
    struck = [[line for line in each.outlines if "struck" in line] for each in (first, second)]
    assert struck[0] == struck[1] != []
    assert "0" in struck[0][0]
    assert "1" in struck[0][0]


def test_marker_chooses_the_accelerator(inner):
    inner(
        """
    import pytest
    pytestmark = pytest.mark.accel(personality="adder")

    def test_of_the_module(mdev):
        assert mdev.personality == "adder"

    class TestOfTheClass:
        pytestmark = pytest.mark.accel(personality="ioat")

        def test_it(self, mdev):
            assert mdev.personality == "ioat"
    """
    ).assert_outcomes(passed=2)
    inner(
        """
    import pytest
    TYPES = [{"name": "one", "personality": "adder"}, {"name": "two", "queues": 2, "hbm": "2MiB"}]

    @pytest.mark.accel(types=TYPES)
    def test_first(mdev):
        assert mdev.type == "mdevemu-one"

    @pytest.mark.accel(types=TYPES, type="two")
    def test_chosen(mdev):
        assert (mdev.type, mdev.hbm_size) == ("mdevemu-two", 2 << 20)

    @pytest.mark.accel(profile="ioat", tenants=1)
    def test_profile(tenants):
        assert [each.mdev.personality for each in tenants] == ["ioat"]

    def test_one_accelerator_for_equal_wishes(accelerator, request):
        assert accelerator.control.types()[0].available == 8
    """
    ).assert_outcomes(passed=4)


def test_wish_that_cannot_be_fulfilled_fails_with_what_is_accepted(inner):
    done = inner(
        """
    import pytest

    @pytest.mark.accel(personality="natvie")
    def test_personality(mdev): ...

    @pytest.mark.accel(type="hole")
    def test_type(mdev): ...

    @pytest.mark.accel(profile="dmeo")
    def test_profile(mdev): ...
    """
    )
    done.assert_outcomes(errors=3)
    said = done.stdout.str()
    assert "natvie" in said
    assert "native" in said
    assert "unknown type 'hole' (accepted: whole" in said or "whole" in said
    assert "dmeo" in said
    assert "demo" in said


def test_client_of_a_guests_mdev_is_refused_and_guests_are_a_matter_of_level(inner):
    done = inner(
        """
    def test_vm(vm): ...
    def test_vms(vms): ...
    """,
        "-rs",
    )
    done.assert_outcomes(skipped=2)
    done.stdout.fnmatch_lines(["*there are no VMs at level *; fix: run with --accel-level vm*"])
