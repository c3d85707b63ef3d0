"""Narration: a bar for a person, plain lines for a log."""

import io

from images.progress import Console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_console_in_a_log_has_one_line_at_each_end_of_a_phase():
    stream = io.StringIO()
    console = Console(stream)
    console.phase("packages")
    console.advance(0.5, "libc6")
    console.phase("image")
    console.done()
    lines = stream.getvalue().splitlines()
    assert [line.split(": done in ")[0] for line in lines] == [
        "packages ...",
        "packages",
        "image ...",
        "image",
    ]
    assert "\r" not in stream.getvalue()


def test_console_on_a_terminal_draws_a_bar_and_ends_the_line():
    stream = Terminal()
    console = Console(stream)
    console.phase("packages")
    console.done()
    assert "[............................]   0%" in stream.getvalue()
    assert stream.getvalue().endswith("\n")


def test_console_with_a_share_out_of_range_stays_in_its_bar():
    stream = Terminal()
    console = Console(stream)
    console.phase("packages")
    console._drawn = 0.0
    console.advance(7.0)
    assert "#" * Console.WIDTH + "]" in stream.getvalue()


def test_console_done_twice_says_it_once():
    stream = io.StringIO()
    console = Console(stream)
    console.phase("packages")
    console.done()
    console.done()
    assert stream.getvalue().count("done in") == 1
