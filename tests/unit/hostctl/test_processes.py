"""Processes: they die with us, and no stranger is ever killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hostctl.errors import HostError
from hostctl.processes import (
    Identity,
    boot_id,
    identify,
    shortage,
    spawn,
    start_time,
    stop,
    tail,
    undisturbed,
)

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    child = spawn(SLEEP, log=None)
    yield child
    stop(child, 1)


def test_identity_of_a_running_process_is_alive_until_it_ends(
    sleeper: subprocess.Popen[bytes],
) -> None:
    identity = identify(sleeper.pid)
    assert identity.alive
    assert not identity.wait(0)
    sleeper.kill()
    assert identity.wait(5)
    assert not identity.alive  # a zombie counts as gone


def test_number_of_a_later_process_is_never_touched(sleeper: subprocess.Popen[bytes]) -> None:
    real = identify(sleeper.pid)
    for stranger in (replace(real, start=real.start + 1), replace(real, boot="another boot")):
        assert not stranger.alive
        assert not stranger.send(signal.SIGKILL)
        assert not stranger.end(0.1)
    assert sleeper.poll() is None


def test_end_stops_a_process_that_ignores_sigterm() -> None:
    code = (
        "import signal,time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    )
    child = spawn([sys.executable, "-c", code], log=None, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    assert identify(child.pid).end(0.2)
    assert stop(child, 1) == -signal.SIGKILL


def test_identity_of_no_process_is_refused() -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert start_time(child.pid) is None
    with pytest.raises(HostError):
        identify(child.pid)
    assert Identity(child.pid, 1, boot_id()).wait(0)


def test_start_time_survives_a_hostile_process_name(tmp_path: Path) -> None:
    odd = tmp_path / "a) S 1 1"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "60"])
    try:
        own = start_time(os.getpid())
        found = start_time(child.pid)
        assert own is not None
        assert found is not None
        assert found >= own
    finally:
        child.kill()
        child.wait()


def test_child_dies_when_its_parent_is_killed() -> None:
    code = (
        "import sys, time\n"
        "from hostctl.processes import spawn\n"
        f"print(spawn({SLEEP!r}, log=None).pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = identify(int(parent.stdout.readline()))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert child.wait(5)


def test_child_is_in_a_process_group_of_its_own(sleeper: subprocess.Popen[bytes]) -> None:
    assert os.getpgid(sleeper.pid) == sleeper.pid != os.getpgrp()


def test_program_that_is_not_there_is_the_hosts_fault() -> None:
    with pytest.raises(HostError, match="/no/such/qemu cannot be started"):
        spawn(["/no/such/qemu"], log=None)


def test_stderr_goes_to_the_log_and_tail_cleans_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = spawn(["sh", "-c", "printf 'one\\n\\n\\033[31mtwo\\r\\n' >&2"], log=log)
    child.wait()
    assert tail(log) == ["one", "[31mtwo"]
    assert tail(log, 1) == ["[31mtwo"]
    assert tail(tmp_path / "none") == []


FULL = """
mount -t tmpfs -o size=64k tmpfs "$1"
echo first > "$1/log"
cat /dev/zero > "$1/rest" 2> /dev/null
echo second 2> /dev/null >> "$1/log"
exec "$2" -c '
import json, sys
from pathlib import Path
from hostctl.processes import tail
log = Path(sys.argv[1], "log")
print(json.dumps(tail(log)))
log.with_name("rest").unlink()
print(json.dumps(tail(log)))
' "$1"
"""


def test_log_on_a_full_file_system_is_told_to_be_cut(tmp_path: Path) -> None:
    command = ["unshare", "-Urm", "sh", "-c", FULL, "sh", str(tmp_path), sys.executable]
    if subprocess.run([*command[:2], "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user gets no file system of his own (unshare -Urm)")
    path = str(Path(__file__).parents[3])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    full, fine = map(json.loads, done.stdout.splitlines())
    # A page has room for the second line all the same.
    assert full[0] == f"(no space is left in {tmp_path}: what came last may be missing)"
    assert fine[0] == full[1] == "first"


def test_file_system_that_counts_nothing_is_not_told_to_be_full() -> None:
    assert os.statvfs("/proc").f_blocks == 0
    assert shortage(Path("/proc/log")) is None


def test_undisturbed_block_is_finished_before_a_signal_counts() -> None:
    with undisturbed():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
