"""Options, markers and reports of the plugin, and that who does not use it does not notice."""

import json
import os
import re
import subprocess
import sys

import pytest

from hostctl import coverage
from tests.unit.hostctl.command import PROJECT

pytest_plugins = ["pytester"]
pytestmark = pytest.mark.timeout(120)

PLUGIN = ("-p", "hostctl.testing.plugin", "-p", "no:cacheprovider", "--accel-level=model")

TOUCH = """
    import pytest

    def test_reads(vfio_client):
        vfio_client.read(0, 0, 4)

    def test_reads_what_is_not_there(vfio_client):
        for _ in range(3):
            vfio_client.read(0, 0x900, 4)
"""


@pytest.fixture
def inner(pytester, monkeypatch):
    """Run a file of tests; what came of it."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)

    def run(text, *options):
        pytester.makepyfile(text)
        return pytester.runpytest_inprocess(*PLUGIN, *options)

    return run


def section(done):
    """Lines of the first story in a report."""
    lines = done.outlines
    start = next(n for n, line in enumerate(lines) if re.fullmatch("-+ accelerator -+", line))
    end = next(n for n in range(start, len(lines)) if lines[n].startswith("reproduce: "))
    return lines[start + 1 : end + 1]


def test_project_that_does_not_use_it_imports_nothing_of_it(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    pytester.makepyfile(
        """
        import sys
        def test_nothing():
            ours = [name for name in sys.modules if name.split(".")[0] in
                    ("mdevemu", "guest", "images", "hostctl", "qemu", "click", "rich", "elftools")]
            assert sorted(ours) == ["hostctl", "hostctl.testing", "hostctl.testing.plugin"]
        """
    )
    done = pytester.runpytest_subprocess("-p", "hostctl.testing.plugin")
    done.assert_outcomes(passed=1)
    assert "accel" not in done.stdout.str()


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ("personalty='ioat'", "unknown argument 'personalty'; did you mean 'personality'?"),
        ("'ioat'", "takes named arguments only (accepted: personality, types,"),
        ("viommu='amdvi'", "accel.viommu: unknown value 'amdvi'"),
        ("memory='12MiB'", "accel.memory: 12582912 bytes are too few"),
        ("tenants=9", "accel.tenants: 9 is out of range (accepted: 1 to 8)"),
        ("seconds=0", "accel.seconds: 0 is out of range (accepted: more than 0)"),
        ("types=[]", "accel.types: is empty"),
        ("types=[{'hbm': 1}]", "accel.types[0].name: is missing"),
        ("profile='demo', personality='ioat'", "profile and personality exclude each other"),
        ("modules='ioatdma'", "accel.modules: must be a list of texts, not a text"),
    ],
)
def test_marker_that_means_nothing_is_refused_before_any_test(inner, marker, said):
    done = inner(
        f"""
    import pytest
    def test_before(): ...
    @pytest.mark.accel({marker})
    def test_it(): ...
    """
    )
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    text = done.stderr.str()
    assert "::test_it: " in text
    assert said in text


def test_option_that_means_nothing_is_refused(inner):
    done = inner("def test_it(): ...", "--accel-trace=some")
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines(["*invalid choice: 'some'*off*on-failure*all*"])


STORY = """
    import pytest

    def test_story(vfio_client, faults):
        faults.inject("translation-fault", count=1)
        vfio_client.read(0, 0x900, 4)
        vfio_client.read(0, 0x900, 4)
        for _ in range(1500):
            vfio_client.read(0, 0x24, 4)
        from guest.bench import Bench
        from guest.queue import Command
        Bench(vfio_client).open_queue().submit(Command(0))
        assert "this" == "that"
"""


def test_story_of_a_failure(inner):
    done = inner(STORY, "--accel-seed=5")
    done.assert_outcomes(failed=1)
    lines = section(done)
    story = "\n".join(lines)
    assert lines[0] == "accelerator at level model, seed 5; seconds since the test began"
    times = [float(line.split()[0]) for line in lines if re.match(r" +\+\d", line)]
    assert times == sorted(times)
    assert "test        injects translation-fault into device: count=1" in story
    assert re.search(r"device +register.read +status = 0x0  state=DISABLED  \(501 times\)", story)
    assert re.search(r"device +device.spin .*status", story)
    assert re.search(r"fault.injected .*fault=translation-fault", story)
    assert re.search(r"test +fails: test_story_of_a_failure.py:\d+: AssertionError", story)
    assert "device: bar0+0x900 (4 bytes) read 2 times" in story
    assert re.search(r"device: status = 0x0 state=DISABLED  read 1\d{3} times", story)
    assert re.search(r"device PASID \d+ read iova 0x100000000 -> hpa 0x", story)
    assert "device: translation-fault (count=1) struck 1 times" in story
    assert lines[-1] == (
        "reproduce: pytest -p hostctl.testing.plugin -p no:cacheprovider "
        "test_story_of_a_failure.py::test_story "
        "--accel-level=model --accel-seed=5"
    )


def test_story_is_bounded_and_kept_whole(inner, pytester):
    text = """
    def test_long(vfio_client):
        for n in range(2000):
            vfio_client.write(0, 0x28, n, 8)
        assert False
    """
    done = inner(text, "--accel-keep")
    lines = section(done)
    assert len(lines) < 110
    assert max(map(len, lines)) <= 170
    assert any("lines left out; --accel-keep has all" in line for line in lines)
    kept = pytester.path / "accel-kept" / "test_story_is_bounded_and_kept_whole.py__test_long"
    done.stdout.fnmatch_lines([f"kept: {kept}"])
    assert len((kept / "story.txt").read_text().splitlines()) > 2000
    events = [json.loads(line) for line in (kept / "trace.jsonl").read_text().splitlines()]
    assert sum(event["kind"] == "register.write" for event in events) > 2000


def test_stories_are_of_failures_of_all_or_of_nobody(inner):
    assert "reproduce: " not in inner(TOUCH, "-rA").stdout.str()
    assert inner(TOUCH, "-rA", "--accel-trace=all").stdout.str().count("reproduce: ") == 2
    assert "reproduce: " not in inner(STORY, "--accel-trace=off").stdout.str()


def test_strict_forgives_nothing(inner):
    text = (
        TOUCH
        + """
    def test_waits(vfio_client):
        for _ in range(1001):
            vfio_client.read(0, 0x24, 4)

    def faulty(vfio_client):
        from guest.bench import Bench
        from guest.queue import Command
        with Bench(vfio_client).open_queue() as queue:
            queue.run(Command(1, length=4, source=0xdead000, destination=0xdead000), 1)

    def test_does_not_look(vfio_client):
        faulty(vfio_client)

    def test_looks(vfio_client, iommu):
        faulty(vfio_client)
        assert iommu.faults()

    def test_needs_a_guest(vm): ...
    """
    )
    inner(text).assert_outcomes(passed=5, skipped=1)
    done = inner(text, "--accel-strict")
    done.assert_outcomes(passed=2, failed=3, errors=1)
    done.stdout.fnmatch_lines_random(
        [
            "--accel-strict: device: registers that are not modelled were accessed",
            "--accel-strict: device: status was waited for",
            "--accel-strict: 1 IOMMU faults that the test has not looked at",
            "--accel-strict: there are no VMs at level model",
        ]
    )


def test_coverage_is_the_sum_of_all_tests(inner, pytester):
    text = (
        TOUCH
        + """
    @pytest.mark.accel(personality="adder")
    def test_other(vfio_client):
        vfio_client.read(0, 0, 4)
    """
    )
    done = inner(text, "--accel-cover")
    done.stdout.fnmatch_lines(
        ["*= accelerator coverage =*", "native *registers read *1 * and * more", "written: *"]
    )
    found = coverage.read(pytester.path / "accel-coverage.json")
    assert found["native"].registers["bar0.magic"].reads == 1
    assert sorted(found) == ["adder", "native"]
    assert not (pytester.path / "accel-cover").exists()


def test_workers_share_seed_and_coverage_and_nothing_else(pytester, monkeypatch):
    pytest.importorskip("xdist", reason="pytest-xdist is in .ci/constraints.txt")
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    for name in ("one", "two"):
        pytester.makepyfile(**{f"test_{name}": WORKER})
    options = (*PLUGIN[:-1], "--accel-level=socket", "--accel-cover", "-n2", "--dist=loadfile")
    done = pytester.runpytest_subprocess(*options, "-s")
    done.assert_outcomes(passed=4)
    told = [(pytester.path / f"told-{name}").read_text().split() for name in ("one", "two")]
    assert told[0][0] == told[1][0], "one seed"
    assert told[0][1] != told[1][1], "two accelerators"
    found = coverage.read(pytester.path / "accel-coverage.json")
    assert found["native"].registers["bar0.magic"].reads == 4


WORKER = """
    import pytest
    from pathlib import Path

    @pytest.mark.parametrize("n", range(2))
    def test_it(vfio_client, faults, mdev, request, n):
        vfio_client.read(0, 0, 4)
        seed = faults.inject("hbm-corrected").options["seed"]
        name = Path(__file__).stem.removeprefix("test_")
        (Path(__file__).parent / f"told-{name}").write_text(f"{seed} {mdev.socket}")
"""


def test_emulator_that_dies_fails_its_test_and_no_other(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    pytester.makepyfile(
        """
        import os, signal

        def test_dies(accelerator, mdev):
            pid = accelerator.control.ask("query-accelerator")["pid"]
            os.kill(pid, signal.SIGKILL)
            accelerator.control.mdevs()

        def test_lives(accelerator, mdev):
            assert len(accelerator.control.mdevs()) == 1
        """
    )
    done = pytester.runpytest_inprocess(*PLUGIN[:-1], "--accel-level=socket")
    done.assert_outcomes(failed=1, passed=1)
    assert "besides:" in done.stdout.str()


def test_what_is_missing_is_a_skip_with_its_reason_and_the_fix(pytester, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PROJECT), prepend=os.pathsep)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setenv("PATH", "/nowhere")
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.accel(kernel="/nowhere/bzImage")
        def test_kernel(vm): ...

        def test_qemu(vm): ...
        """
    )
    done = pytester.runpytest_inprocess(*PLUGIN[:-1], "-rs")
    done.assert_outcomes(skipped=2)
    done.stdout.fnmatch_lines(
        [
            "SKIPPED * there is no kernel /nowhere/bzImage; fix: build it, or *",
            "SKIPPED * /proc/nowhere*; fix: *",
        ]
    )
    strict = pytester.runpytest_inprocess(*PLUGIN[:-1], "--accel-strict")
    strict.assert_outcomes(errors=2)


def test_plugin_is_found_by_its_entry_point():
    text = (PROJECT / "pyproject.toml").read_text()
    assert '"hostctl.testing.plugin" = "hostctl.testing.plugin"' in text
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "hostctl.testing.plugin", "--markers"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "@pytest.mark.accel(personality=" in done.stdout
