"""What commands say: data for pipes, tables for terminals, phases on the side."""

import io
import json

import pytest
from rich.console import Console

from hostctl.output import Output, size
from hostctl.steps import Steps


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "60")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "CI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (1000, "1000 B"),
        (4096, "4 KiB"),
        (32 << 20, "32 MiB"),
        (3 << 30, "3 GiB"),
        ((1 << 20) + 1, "1.0 MiB"),
    ],
)
def test_size_is_exact_where_it_can_be(number: int, text: str) -> None:
    assert size(number) == text


def test_rows_for_a_pipe_are_aligned_and_have_no_escapes() -> None:
    out = io.StringIO()
    Output(out=out).rows("Title", ("name", "size"), [("red", 5), ("a longer name", 12345)])
    assert out.getvalue() == (
        "NAME           SIZE\n"  # as wide as the widest cell
        "red            5\n"
        "a longer name  12345\n"
    )


def test_no_rows_for_a_pipe_are_the_header_alone() -> None:
    out = io.StringIO()
    Output(out=out).rows("", ("name",), [])
    assert out.getvalue() == "NAME\n"


def test_rows_for_a_narrow_terminal_lose_no_data() -> None:
    out = Terminal()
    cells = [f"{letter * 40}" for letter in "abc"]
    Output(out=out).rows("Title", ("one", "two", "three"), [cells])
    assert "Title" in out.getvalue()
    assert all(cell in out.getvalue() for cell in cells)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    output = Output(out=out)
    output.console.print("text", style="red")
    assert "\x1b[31m" not in out.getvalue()


def test_markup_in_data_stays_text() -> None:
    out = Terminal()
    Output(out=out).rows("", ("name",), [("[bold]x[/bold]",)])
    assert "[bold]x[/bold]" in out.getvalue()


def test_record_has_a_schema_first() -> None:
    out = io.StringIO()
    Output(json=True, out=out).record("ps", {"labs": []})
    assert list(json.loads(out.getvalue()).items()) == [
        ("schema", "mdevemu.hostctl.ps/1"),
        ("labs", []),
    ]


def test_steps_are_timed_and_told_in_one_plain_line_each() -> None:
    err = io.StringIO()
    times = iter((10.0, 10.5))
    steps = Steps(Console(file=err), clock=lambda: next(times))
    with steps("boot") as note:
        note.say("two VMs")
    assert [(step.name, step.seconds, step.note) for step in steps.done] == [
        ("boot", 0.5, "two VMs")
    ]
    assert err.getvalue() == "    ok    0.50 s  boot  two VMs\n"


def test_step_that_fails_is_told_and_not_done() -> None:
    err = io.StringIO()
    times = iter((1.0, 3.0))
    steps = Steps(Console(file=err), clock=lambda: next(times))
    with pytest.raises(ValueError, match="no"), steps("boot"):
        raise ValueError("no")
    assert steps.done == []
    assert err.getvalue() == "failed    2.00 s  boot\n"
