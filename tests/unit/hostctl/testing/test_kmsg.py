"""A guest's log by the host's clock."""

import time

from hostctl.testing.kmsg import KernelLog


def test_lines_after_the_mark_have_the_hosts_time(tmp_path):
    console = tmp_path / "console"
    console.write_text("[    1.000000] of an earlier test\n")
    log = KernelLog(console)
    mark = log.mark("test_it")
    with console.open("a") as file:
        file.write(f"[   10.500000][  T142] {mark}\r\n")
        file.write("not of the kernel\n[   10.750001] ioatdma: \x1b[1mhello\n[   11")
    log.marked((4_000_000_000, 6_000_000_000))
    (line,) = log.lines()
    assert line.text == "ioatdma: [1mhello", "and nothing that a terminal would obey"
    assert line.time == 5_000_000_000 + 250_001_000


def test_chapter_begins_anew_with_each_mark(tmp_path):
    log = KernelLog(tmp_path / "console")
    for number in range(2):
        mark = log.mark("test")
        with log.console.open("a") as file:
            file.write(f"[    1.000000] {mark}\n[    2.000000] line {number}\n")
        log.marked((0, 0))
    assert [line.text for line in log.lines()] == ["line 1"]


def test_guest_that_never_prints_the_mark_is_not_waited_for_long(tmp_path):
    log = KernelLog(tmp_path / "none")
    log.mark("test")
    begun = time.monotonic()
    log.marked((0, 0))
    assert log.lines() == []
    assert time.monotonic() - begun < 60
