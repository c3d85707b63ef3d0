"""Messages and the lines they travel in."""

from hypothesis import given, settings
from hypothesis import strategies as st

from guest.protocol import Garbage, Lines, command, encode, event, failure, reply


def everything(lines, *parts):
    return [message for part in parts for message in lines.feed(part)]


def test_encode_any_text_is_one_ascii_line():
    line = encode(reply("zwei\nZeilen \N{SNOWMAN}", 1))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert everything(Lines(), line) == [{"return": "zwei\nZeilen \N{SNOWMAN}", "id": 1}]


def test_failure_without_number_has_no_id():
    assert failure("InvalidRequest", "what?") == {
        "error": {"class": "InvalidRequest", "desc": "what?"}
    }


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_feed_cut_anywhere_gives_the_same_messages(data):
    messages = [command("ping", {"text": "x" * n}, n) for n in range(5)] + [event("e", {})]
    stream = b"".join(encode(message) for message in messages)
    lines, found, at = Lines(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 60))
        found += lines.feed(stream[at : at + size])
        at += size
    assert found == messages


def test_feed_garbage_between_messages_keeps_the_messages():
    lines = Lines()
    found = everything(lines, b"\xff\xfe\0nonsense\n[1]\n\n  \r\n" + encode({"execute": "ping"}))
    assert [type(message) for message in found] == [Garbage, Garbage, dict]
    assert found[2] == {"execute": "ping"}


def test_feed_deep_nesting_is_garbage():
    (found,) = everything(Lines(), b"[" * 200_000 + b"\n")
    assert isinstance(found, Garbage)


def test_feed_line_over_the_limit_is_dropped_whole_and_the_next_is_taken():
    lines = Lines(limit=64)
    found = everything(lines, b"x" * 40, b"y" * 40, b"z" * 1000, b"\n" + encode({"execute": "a"}))
    assert isinstance(found[0], Garbage)
    assert "64" in found[0].reason
    assert found[1:] == [{"execute": "a"}]


def test_feed_endless_line_keeps_memory_bounded():
    lines = Lines(limit=64)
    for _ in range(100):
        assert everything(lines, b"x" * 100) == []
    assert len(lines._partial) < 64


def test_reset_half_a_line_is_forgotten():
    lines = Lines()
    assert everything(lines, b'{"execute": "pi') == []
    lines.reset()
    assert everything(lines, encode({"execute": "ping"})) == [{"execute": "ping"}]
