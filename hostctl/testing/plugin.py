"""The pytest plugin: its options, its marker, its fixtures and its hooks.

pytest loads it in every project, so that it imports nothing of ours before a test wants it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from guest.access import Access
    from hostctl.control import Mdev
    from hostctl.testing.guests import VmUnderTest
    from hostctl.testing.rig import Rig
    from hostctl.testing.run import Run
    from hostctl.testing.session import Rigs, Session
    from hostctl.testing.views import Faults, Iommu, Tenant, Trace

LEVELS = ("model", "socket", "qtest", "vm")
TRACES = ("off", "on-failure", "all")
TITLE = "accelerator"
"""Of the section in pytest's reports."""

_MARKER = (
    "accel(personality=, types=, profile=, type=, tenants=, kernel=, tree=, modules=, viommu=, "
    "memory=, cpus=, append=, share=, seconds=, boot_seconds=): what a test wants of its "
    "accelerator and guests (mdevemu)"
)
_SESSION = pytest.StashKey["Session"]()
_RUN = pytest.StashKey["Run"]()
_SEED = pytest.StashKey[int]()
_WORKERS = pytest.StashKey[list[object]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest."""
    group = parser.getgroup("accel", "accelerators under test (mdevemu)")
    group.addoption(
        "--accel-level", choices=LEVELS, default="vm", help="What is real; vm if not given."
    )
    group.addoption(
        "--accel-trace",
        choices=TRACES,
        default="on-failure",
        help="Whose stories are told; on-failure if not given.",
    )
    group.addoption(
        "--accel-seed", type=int, metavar="N", help="Chooses where tests do not; else random."
    )
    group.addoption(
        "--accel-strict",
        action="store_true",
        help="A test fails if its driver reached registers that are not modelled, waited for "
        "one in vain, or had faults that nobody looked at; and so does one that would be "
        "skipped because something is missing.",
    )
    group.addoption(
        "--accel-keep", action="store_true", help="Keep whole stories and logs in accel-kept/."
    )
    group.addoption(
        "--accel-cover",
        action="store_true",
        help="Show what drivers tried of devices; all of it in accel-coverage.json.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """See pytest."""
    config.addinivalue_line("markers", _MARKER)
    given = config.getoption("--accel-seed")
    worker = getattr(config, "workerinput", {})
    chosen = given if given is not None else worker.get("accel_seed")
    config.stash[_SEED] = int.from_bytes(os.urandom(4), "little") if chosen is None else chosen
    config.stash[_WORKERS] = []


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 (pytest-xdist has no types)
    """Give a worker of pytest-xdist the seed."""
    node.workerinput["accel_seed"] = node.config.stash[_SEED]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ANN401
    """Take what a worker of pytest-xdist has collected."""
    if found := getattr(node, "workeroutput", {}).get("accel_coverage"):
        node.config.stash[_WORKERS].append(found)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a marker with arguments that nobody knows, before any test runs."""
    marked = [item for item in items if item.get_closest_marker("accel")]
    if not marked:
        return
    from mdevemu.errors import ConfigError

    for item in marked:
        try:
            _wish(item)
        except ConfigError as wrong:
            raise pytest.UsageError(f"{item.nodeid}: {wrong}") from None


def _wish(item: pytest.Item) -> Any:  # noqa: ANN401 (a Wish, which is not imported yet)
    from hostctl.testing import wish

    marks = reversed(list(item.iter_markers("accel")))
    return wish.parse(wish.gather((mark.args, mark.kwargs) for mark in marks))


def _session(config: pytest.Config) -> Session:
    """What the tests of this run share; made for the first that wants it."""
    if _SESSION not in config.stash:
        from hostctl.testing.session import KEPT, Session, Settings

        keep = config.rootpath / KEPT if config.getoption("--accel-keep") else None
        config.stash[_SESSION] = Session(
            Settings(
                level=config.getoption("--accel-level"),
                trace=config.getoption("--accel-trace"),
                seed=config.stash[_SEED],
                strict=config.getoption("--accel-strict"),
                keep=keep,
                cover=config.getoption("--accel-cover"),
                plugins=[word for pair in _loads(config) for word in pair],
            )
        )
    return config.stash[_SESSION]


def _loads(config: pytest.Config) -> list[tuple[str, str]]:
    """Each ``-p`` of the command line with its plugin."""
    return [pair for pair in itertools.pairwise(config.invocation_params.args) if pair[0] == "-p"]


@contextlib.contextmanager
def _judged(config: pytest.Config) -> Iterator[None]:
    """What cannot be had is a skip, what cannot be meant a failure without a traceback."""
    from hostctl.testing.rig import Unavailable, Wedged
    from mdevemu.errors import ConfigError

    try:
        yield
    except Unavailable as missing:
        if config.getoption("--accel-strict"):
            raise pytest.fail.Exception(f"--accel-strict: {missing}", pytrace=False) from None
        raise pytest.skip.Exception(str(missing).replace("\n  ", "; ")) from None
    except Wedged as lost:
        raise pytest.skip.Exception(str(lost)) from None
    except ConfigError as wrong:
        raise pytest.fail.Exception(str(wrong), pytrace=False) from None


# Fixtures.


@pytest.fixture(scope="module")
def _accel_rigs(request: pytest.FixtureRequest) -> Iterator[Rigs]:
    """Accelerators that the tests of a module share."""
    with _session(request.config).rigs() as rigs:
        yield rigs


@pytest.fixture
def _accel_run(request: pytest.FixtureRequest, _accel_rigs: Rigs) -> Iterator[Run]:
    """The test with its accelerator."""
    from hostctl.testing.run import Run

    config, item = request.config, request.node
    with _judged(config):
        wish = _wish(item)
        run = Run(item.nodeid, _accel_rigs.rig(wish), wish, config.stash[_SEED])
    item.stash[_RUN] = run
    yield run
    del item.stash[_RUN]  # nothing is left that could tell a story
    run.close()


@pytest.fixture
def accelerator(_accel_run: Run) -> Rig:
    """The accelerator: ``control`` has all its commands, ``create`` makes mdevs."""
    return _accel_run.rig


@pytest.fixture
def vms(request: pytest.FixtureRequest, _accel_run: Run) -> list[VmUnderTest]:
    """Guests on one accelerator, as many as the marker's ``tenants``; each has an mdev."""
    with _judged(request.config):
        return _accel_run.guests(_accel_run.wish.tenants)


@pytest.fixture
def vm(request: pytest.FixtureRequest, _accel_run: Run) -> VmUnderTest:
    """A guest with an mdev; the first of ``vms``, if a test has both."""
    with _judged(request.config):
        if "vms" in request.fixturenames:
            given: list[VmUnderTest] = request.getfixturevalue("vms")
            return given[0]
        return _accel_run.guests(1)[0]


@pytest.fixture
def mdev(request: pytest.FixtureRequest, _accel_run: Run) -> Mdev:
    """An mdev of the test's own; that of its guest, if it has one."""
    if "vm" in request.fixturenames:
        vm: VmUnderTest = request.getfixturevalue("vm")
        return vm.mdev
    with _judged(request.config):
        return _accel_run.device()


@pytest.fixture
def vfio_client(request: pytest.FixtureRequest, mdev: Mdev, _accel_run: Run) -> Access:
    """A driver's access to ``mdev`` from the test itself: BARs, memory, interrupts."""
    if "vm" in request.fixturenames:
        pytest.fail("vfio_client: the guest has the mdev (use tenants, or vm.run)", pytrace=False)
    with _judged(request.config):
        return _accel_run.connect(mdev)


@pytest.fixture
def tenants(request: pytest.FixtureRequest, _accel_run: Run) -> list[Tenant]:
    """Several mdevs on one accelerator, each with a client of its own."""
    with _judged(request.config):
        return _accel_run.tenants()


@pytest.fixture
def iommu(_accel_run: Run) -> Iommu:
    """The accelerator's IOMMU: walks, and faults since the test began."""
    return _accel_run.iommu


@pytest.fixture
def trace(_accel_run: Run) -> Trace:
    """Events of the accelerator since the test began."""
    return _accel_run.trace


@pytest.fixture
def faults(_accel_run: Run) -> Faults:
    """Faults on purpose, cleared when the test ends."""
    return _accel_run.faults


# Reports.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Hold a test that passed against --accel-strict."""
    result = yield
    run = item.stash.get(_RUN, None)
    strict = item.config.getoption("--accel-strict")
    if run is not None and strict and (found := run.suspicions()):
        pytest.fail("--accel-strict: " + "; ".join(found), pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the story to the report of a test that failed, or of all that are to tell theirs."""
    report = yield
    run, wanted = item.stash.get(_RUN, None), item.config.getoption("--accel-trace")
    told = report.failed or (wanted == "all" and report.when == "call")
    if run is not None:
        run.failed |= report.failed
    if run is not None and told and wanted != "off":
        session = _session(item.config)
        failure = _failure(report, call) if report.failed else ""
        place = os.path.relpath(item.path, item.config.invocation_params.dir)
        command = session.settings.command("::".join([place, *item.nodeid.split("::")[1:]]))
        report.sections.append((TITLE, session.told(run, failure, command)))
    return report


def _failure(report: pytest.TestReport, call: pytest.CallInfo[None]) -> str:
    """Where it failed, and the first line of why."""
    assert call.excinfo is not None
    why = call.excinfo.exconly(tryshort=True).partition("\n")[0]
    crash = getattr(report.longrepr, "reprcrash", None)
    where = f"{Path(crash.path).name}:{crash.lineno}: " if crash else ""
    return f"{'fails' if report.when == 'call' else f'{report.when} fails'}: {where}{why}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what was covered to whoever sums it up."""
    config = session.config
    output = getattr(config, "workeroutput", None)
    if output is None or not config.getoption("--accel-cover") or _SESSION not in config.stash:
        return
    from hostctl import coverage

    output["accel_coverage"] = coverage.record(coverage.merged(config.stash[_SESSION].covered))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401
    """Show coverage, and write it."""
    if not config.getoption("--accel-cover"):
        return
    from hostctl.testing import session

    own = config.stash[_SESSION].covered if _SESSION in config.stash else []
    terminalreporter.section("accelerator coverage")
    file = config.rootpath / session.COVERAGE
    workers: list[object] = config.stash[_WORKERS]
    for line in session.conclude(own, workers, file):
        terminalreporter.write_line(line)
