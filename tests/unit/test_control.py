"""The control socket: QMP as its clients expect it, and clients that are hostile or slow."""

import asyncio
import errno
import json
import os
import socket
import stat
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from qemu.qmp import ExecuteError, QMPClient

from mdevemu import __version__
from mdevemu.control import MAX_BACKLOG, MAX_LINE, Argument, Command, Control, Fed
from mdevemu.errors import ConfigError
from mdevemu.loop import Loop
from tests.support.limits import no_descriptors

NEGOTIATE = b'{"execute": "qmp_capabilities"}'
OWN = ["query-version", "query-commands", "query-schema"]


class Numbers:
    """Feeds so many large events, and more when it is told to."""

    def __init__(self, count, wake):
        self.left, self.wake = count, wake
        self.taken = 0
        self.closed = False

    @property
    def waiting(self):
        return self.left > 0

    def take(self):
        self.left -= 1
        self.taken += 1
        return "FED", {"number": self.taken, "text": "x" * 4096}

    def close(self):
        self.closed = True


class Service:
    """Some commands behind a control socket."""

    def __init__(self, folder):
        self.path = folder / "control.sock"
        self.loop = Loop()
        self.calls = []
        self.clients = []
        self.feeds = []
        self.control = Control(
            self.path,
            self.loop,
            [
                Command("ping", lambda: {"pong": True}),
                Command(
                    "add",
                    self.add,
                    [Argument("a", "int"), Argument("b-c", "int"), Argument("why", optional=True)],
                ),
                Command("flag", self.flag, [Argument("on", "bool", True)]),
                Command("refuse", self.refuse, [Argument("number", "int")]),
                Command("large", lambda: ["x" * 1024] * 1024),
                Command("tell", lambda: self.control.event("HAPPENED", {"n": 5})),
                Command("feed", self.feed, [Argument("count", "int")], feeds=True),
                Command("quit", self.loop.stop),
            ],
        )

    def add(self, a, b_c, why=None):
        self.calls.append((a, b_c, why))
        return a + b_c

    def flag(self, on=False):
        return on

    def refuse(self, number):
        raise ConfigError("there", "not today", number)

    def feed(self, count, wake):
        self.feeds.append(Numbers(count, wake))
        return Fed({"fed": count}, self.feeds[-1])

    def pump(self, turns=30):
        for _ in range(turns):
            self.loop.turn(0)

    def client(self, negotiate=True):
        return Client(self, negotiate)

    def close(self):
        for client in self.clients:
            client.close()
        self.control.close()
        self.loop.close()


class Client:
    """One end of a connection; the service works while we wait."""

    def __init__(self, service, negotiate=True):
        self.service = service
        self.socket = socket.socket(socket.AF_UNIX)
        service.clients.append(self)
        self.socket.settimeout(5)
        self.socket.connect(str(service.path))
        self.socket.setblocking(False)
        self.received = b""
        self.closed = False
        if negotiate:
            assert "QMP" in self.ask(b"")
            assert self.ask(NEGOTIATE) == {"return": {}}

    def send(self, data):
        """Give bytes to the service, which works meanwhile."""
        while data:
            try:
                sent = self.socket.send(data, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                sent = 0
            except OSError:
                self.closed = True
                return
            data = data[sent:]
            self.service.pump(2)

    def messages(self):
        """Everything that has come."""
        self.service.pump()
        while not self.closed:
            try:
                data = self.socket.recv(1 << 20)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            self.closed = not data
            self.received += data
            self.service.pump(2)
        *whole, self.received = self.received.split(b"\r\n")
        return [json.loads(line) for line in whole]

    def ask(self, data):
        """Send, and give the one message that comes back."""
        self.send(data)
        (message,) = self.messages()
        return message

    def execute(self, name, **arguments):
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        return self.ask(json.dumps({"execute": name, "arguments": named}).encode())

    def close(self):
        self.socket.close()


@pytest.fixture
def service(tmp_path):
    made = Service(tmp_path)
    yield made
    made.close()


@pytest.fixture
def client(service):
    return service.client()


def error(reply):
    assert set(reply) <= {"error", "id"}
    assert {"class", "desc"} <= set(reply["error"]) <= {"class", "desc", "errno"}
    return reply["error"]["class"], reply["error"]["desc"]


# Connections.


def test_socket_is_the_owner_s_alone_and_goes_with_the_service(tmp_path):
    service = Service(tmp_path)
    assert stat.S_IMODE(service.path.stat().st_mode) == 0o600
    service.close()
    assert not service.path.exists()


def test_socket_of_a_dead_service_is_replaced_and_of_a_living_one_is_not(tmp_path, service):
    with pytest.raises(ConfigError, match=r"control\.sock"):
        Service(tmp_path)
    assert service.client().execute("ping") == {"return": {"pong": True}}
    dead = socket.socket(socket.AF_UNIX)
    folder = tmp_path / "other"
    folder.mkdir()
    dead.bind(str(folder / "control.sock"))
    dead.close()
    other = Service(folder)
    assert other.client().execute("ping") == {"return": {"pong": True}}
    other.close()


def test_greeting_is_qmp_s(service):
    client = service.client(negotiate=False)
    greeting = client.ask(b"")["QMP"]
    assert greeting["capabilities"] == []
    assert greeting["version"]["package"] == "mdevemu"
    assert list(greeting["version"]["qemu"]) == ["major", "minor", "micro"]
    numbers = greeting["version"]["qemu"].values()
    assert ".".join(str(number) for number in numbers) == __version__


def test_nothing_is_done_before_negotiation(service):
    client = service.client(negotiate=False)
    client.messages()
    for name in ("ping", "query-commands", "nonsense"):
        assert error(client.execute(name))[0] == "CommandNotFound"
    assert client.execute("qmp_capabilities") == {"return": {}}
    assert client.execute("ping") == {"return": {"pong": True}}


def test_second_negotiation_is_refused(client):
    assert error(client.execute("qmp_capabilities"))[0] == "CommandNotFound"


def test_capability_that_is_not_offered_is_refused(service):
    client = service.client(negotiate=False)
    client.messages()
    assert error(client.execute("qmp_capabilities", enable=["oob"]))[0] == "GenericError"
    assert client.execute("qmp_capabilities", enable=[]) == {"return": {}}


def test_two_clients_each_get_their_own_replies_and_all_events(service):
    one, two = service.client(), service.client()
    one.send(b'{"execute": "add", "arguments": {"a": 1, "b-c": 2}, "id": "one"}')
    two.send(b'{"execute": "add", "arguments": {"a": 3, "b-c": 4}, "id": "two"}')
    assert one.messages() == [{"return": 3, "id": "one"}]
    assert two.messages() == [{"return": 7, "id": "two"}]
    service.control.event("HAPPENED", {"n": 1})
    for client in (one, two):
        (event,) = client.messages()
        assert (event["event"], event["data"]) == ("HAPPENED", {"n": 1})


def test_event_has_the_time(client):
    before = time.time()
    client.service.control.event("NOW", {})
    (event,) = client.messages()
    assert set(event) == {"event", "data", "timestamp"}
    assert 0 <= event["timestamp"]["microseconds"] < 10**6
    assert abs(event["timestamp"]["seconds"] - before) < 60


def test_client_that_has_not_negotiated_gets_no_events(service):
    client = service.client(negotiate=False)
    client.messages()
    service.control.event("HAPPENED", {})
    assert client.messages() == []


def test_client_that_goes_away_at_any_moment_is_forgotten(service):
    before = len(os.listdir("/proc/self/fd"))
    for data in (b"", b'{"exe', NEGOTIATE, NEGOTIATE + b'{"execute": "large"}' * 5):
        client = service.client(negotiate=False)
        client.send(data)
        client.close()
        service.pump()
        service.control.event("HAPPENED", {"x": "y" * 100})
    assert len(os.listdir("/proc/self/fd")) <= before
    assert service.client().execute("ping") == {"return": {"pong": True}}


def test_client_is_turned_away_when_descriptors_run_out(service):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        with no_descriptors():
            sock.connect(str(service.path))
            service.pump()
            assert sock.recv(1) == b""
    assert service.client().execute("ping") == {"return": {"pong": True}}


# Commands.


def test_arguments_reach_the_command_by_name(client):
    assert client.execute("add", a=1, b_c=2) == {"return": 3}
    assert client.execute("add", a=1, b_c=2, why="so") == {"return": 3}
    assert client.execute("add", a=1, b_c=2, why=None) == {"return": 3}
    assert client.execute("flag") == {"return": False}
    assert client.execute("flag", on=True) == {"return": True}
    assert client.service.calls == [(1, 2, None), (1, 2, "so"), (1, 2, None)]


@pytest.mark.parametrize("identity", [0, "x", None, 1.5, [1, {"a": []}], {"b": "ü"}, True])
def test_id_comes_back_with_replies_and_errors(client, identity):
    raw = json.dumps(identity).encode()
    assert client.ask(b'{"id": %s, "execute": "ping"}' % raw)["id"] == identity
    assert client.ask(b'{"id": %s, "execute": "nope"}' % raw)["id"] == identity
    assert client.ask(b'{"id": %s}' % raw)["id"] == identity


@pytest.mark.parametrize(
    ("command", "kind", "words"),
    [
        ({}, "GenericError", ["execute"]),
        ({"execute": 7}, "GenericError", ["execute"]),
        ({"execute": ["ping"]}, "GenericError", ["execute"]),
        (
            {"execute": "pong"},
            "CommandNotFound",
            ["'pong'", "mean 'ping'?", "add, feed, flag"],
        ),
        ({"execute": ""}, "CommandNotFound", ["add, feed, flag"]),
        ({"execute": "ping", "argument": {}}, "GenericError", ["'argument'", "'arguments'"]),
        ({"execute": "ping", "arguments": []}, "GenericError", ["ping", "not an object"]),
        ({"execute": "ping", "arguments": {"x": 1}}, "GenericError", ["ping", "'x'", "none"]),
        ({"execute": "add", "arguments": {"b-c": 2}}, "GenericError", ["add: 'a' is missing"]),
        ({"execute": "add", "arguments": {"a": None, "b-c": 2}}, "GenericError", ["'a'"]),
        ({"execute": "add", "arguments": {"a": "1", "b-c": 2}}, "GenericError", ["'1'", "int"]),
        ({"execute": "add", "arguments": {"a": True, "b-c": 2}}, "GenericError", ["True", "int"]),
        ({"execute": "add", "arguments": {"a": 1.0, "b-c": 2}}, "GenericError", ["1.0", "int"]),
        ({"execute": "add", "arguments": {"a": 1, "b_c": 2}}, "GenericError", ["mean 'b-c'"]),
        ({"execute": "flag", "arguments": {"on": 1}}, "GenericError", ["1, not bool"]),
        ({"execute": "refuse", "arguments": {"number": errno.EBUSY}}, "GenericError", ["there"]),
        (
            {"execute": "refuse", "arguments": {"number": errno.ENOENT}},
            "DeviceNotFound",
            ["there: not today"],
        ),
        ([], "GenericError", ["object"]),
        ("ping", "GenericError", ["object"]),
        (7, "GenericError", ["object"]),
        (None, "GenericError", ["object"]),
    ],
)
def test_refusal_says_what_is_wrong(client, command, kind, words):
    found, text = error(client.ask(json.dumps(command).encode() + b"\n"))
    assert found == kind
    assert all(word in text for word in words), text
    assert client.service.calls == []
    assert client.execute("ping") == {"return": {"pong": True}}


def test_commands_and_schema_agree(client):
    names = [each["name"] for each in client.execute("query-commands")["return"]]
    assert names == sorted(names)
    service = {"add", "feed", "flag", "large", "ping", "quit", "refuse", "tell"}
    assert set(names) == {*OWN, "qmp_capabilities"} | service
    schema = {info["name"]: info for info in client.execute("query-schema")["return"]}
    commands = {name for name, info in schema.items() if info["meta-type"] == "command"}
    assert commands == set(names) - {"qmp_capabilities"}
    for name in commands:
        assert schema[schema[name]["arg-type"]]["meta-type"] == "object"
        assert schema[name]["ret-type"] in schema
        for member in schema[schema[name]["arg-type"]]["members"]:
            assert schema[member["type"]]["meta-type"] == "builtin"
    assert schema["add-arg"]["members"] == [
        {"name": "a", "type": "int"},
        {"name": "b-c", "type": "int"},
        {"name": "why", "type": "str", "default": None},
    ]


# Streams of bytes.

PRETTY = json.dumps({"execute": "add", "arguments": {"a": 1, "b-c": 2}, "id": "{"}, indent=4)
REPLY = {"return": 3, "id": "{"}


@pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n", b"   ", b"\n\n\r\n\t"])
def test_command_may_be_followed_by_white_space(client, ending):
    for _ in range(3):
        client.send(b'{"execute": "ping"}' + ending)
    assert client.messages() == [{"return": {"pong": True}}] * 3


@pytest.mark.parametrize("step", [1, 2, 7, 64])
def test_command_over_several_lines_may_come_in_pieces(client, step):
    data = PRETTY.encode()
    for at in range(0, len(data), step):
        assert client.messages() == []
        client.send(data[at : at + step])
    assert client.messages() == [REPLY]


@pytest.mark.parametrize("at", range(1, len(PRETTY)))
def test_command_may_be_cut_anywhere(client, at):
    client.send(PRETTY[:at].encode())
    assert client.messages() == []
    client.send(PRETTY[at:].encode())
    assert client.messages() == [REPLY]


@pytest.mark.parametrize(
    "value", ['"\\u00fc\\n\\\\"', "-1.5e3", "true", "null", '["{", "}", "\\""]', '"ü"']
)
def test_command_may_be_cut_within_any_value(client, value):
    data = f'{{"id":\n {value},\n"execute": "ping"}}'.encode()
    for at in range(1, len(data)):
        client.send(data[:at])
        assert client.messages() == []
        client.send(data[at:])
        assert client.messages() == [{"return": {"pong": True}, "id": json.loads(value)}]


def test_many_commands_in_one_piece_are_answered_in_order(client):
    client.send(
        b"".join(
            b'{"execute":"add","arguments":{"a":%d,"b-c":0}}' % number for number in range(500)
        )
    )
    assert client.messages() == [{"return": number} for number in range(500)]


GARBAGE = [
    b"hello\n",
    b"{hello}\n",
    b'{"execute": ping}\n',
    b'{"execute"; "ping"}\n',
    b"]\n",
    b"\xff\xfe\x00\n",
    b'{"execute": "pi\nng"}\n',
    b"\0\n",
    b'{"id": "\xff"}\n',
    b"9" * 5000 + b"\n",
    b'{"id": ' + b"9" * 5000 + b"}\n",
    b"[" * 5000 + b"\n",
    b'{"a":' * 2000 + b"\n",
    b'{"execute": "ping",}\n',
    b"GET / HTTP/1.1\r\n",
    b"'single'\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_and_the_next_line_understood(client, garbage):
    client.send(garbage)
    replies = client.messages()
    assert replies
    assert {error(reply)[0] for reply in replies} == {"GenericError"}
    assert client.execute("ping") == {"return": {"pong": True}}


def deep(levels):
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize("levels", [10, 100, *range(900, 1010)])
def test_id_of_any_depth_is_answered_or_refused(client, levels):
    reply = client.ask(b'{"execute": "ping", "id": %s}\n' % deep(levels))
    assert ("id" in reply) == ("return" in reply)
    reply = client.ask(b'{"execute": "flag", "arguments": {"on": %s}}\n' % deep(levels))
    assert error(reply)[0] == "GenericError"
    reply = client.ask(b'{"execute": "qmp_capabilities", "arguments": {"e": %s}}\n' % deep(levels))
    assert "error" in reply


def test_line_that_never_ends_is_cut_off_and_others_are_served(service):
    greedy, other = service.client(), service.client()
    sent = 0
    while not greedy.closed and sent < 4 * MAX_LINE:
        greedy.send(b'"' + b"x" * 65536 if not sent else b"x" * 65536)
        sent += 65536
        if sent % (1 << 18) == 0:
            assert other.execute("ping") == {"return": {"pong": True}}
    assert greedy.messages() == []
    assert greedy.closed
    assert sent <= MAX_LINE + (1 << 20)


def test_long_command_that_ends_is_carried_out(client):
    why = "y" * (MAX_LINE - 1000)
    assert client.execute("add", a=1, b_c=1, why=why) == {"return": 2}


def test_client_that_does_not_read_is_dropped_and_delays_nobody(service):
    slow, other = service.client(), service.client()
    asked = 0
    while len(service.control._clients) == 2:
        slow.send(b'{"execute": "large"}')
        asked += 1
        assert asked <= 3 * MAX_BACKLOG >> 20
        begun = time.monotonic()
        assert other.execute("ping") == {"return": {"pong": True}}
        assert time.monotonic() - begun < 1
    assert MAX_BACKLOG >> 20 <= asked <= (MAX_BACKLOG >> 20) + 2
    service.control.event("HAPPENED", {})
    assert [message["event"] for message in other.messages()] == ["HAPPENED"]
    slow.messages()
    assert slow.closed


def test_client_that_reads_late_gets_everything(client):
    for _ in range(5):
        client.send(b'{"execute": "large"}')
    client.service.control.event("HAPPENED", {})
    replies = client.messages()
    assert [len(reply.get("return", [])) for reply in replies] == [1024] * 5 + [0]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.binary(max_size=40)
        | st.sampled_from([NEGOTIATE, b'{"execute": "ping"}', b"{", b"}", b'"', b"\n", b"[", b"\\"])
        | st.text(max_size=20).map(lambda text: json.dumps({"execute": text}).encode()),
        max_size=12,
    )
)
def test_no_bytes_of_a_client_escape_or_disturb_another(tmp_path_factory, pieces):
    service = Service(tmp_path_factory.mktemp("control"))
    hostile, other = service.client(negotiate=False), service.client()
    hostile.messages()
    for piece in pieces:
        hostile.send(piece)
        for message in hostile.messages():
            assert "return" in message or "error" in message
    assert other.execute("ping") == {"return": {"pong": True}}
    hostile.close()
    other.close()
    service.close()


# QMP's own client.


def test_qemu_s_client_understands_us(tmp_path):
    service = Service(tmp_path)
    thread = threading.Thread(target=service.loop.run, daemon=True)
    thread.start()

    async def converse():
        client = QMPClient("test")
        await client.connect(str(service.path))
        assert client.greeting.QMP.version["package"] == "mdevemu"
        assert await client.execute("add", {"a": 20, "b-c": 22}) == 42
        with pytest.raises(ExecuteError) as caught:
            await client.execute("pong")
        assert caught.value.error.error.class_ == "CommandNotFound"
        with pytest.raises(ExecuteError, match="not today"):
            await client.execute("refuse", {"number": errno.ENOENT})
        results = await asyncio.gather(
            *(client.execute("add", {"a": n, "b-c": 1}) for n in range(50))
        )
        assert results == [n + 1 for n in range(50)]
        with client.listener("HAPPENED") as events:
            service.control.event("HAPPENED", {"n": 5})
            event = await events.get()
            assert event["data"] == {"n": 5}
        await client.execute("quit")
        await client.disconnect()

    asyncio.run(asyncio.wait_for(converse(), 20))
    thread.join(5)
    assert not thread.is_alive()
    service.close()


# Feeds.


def fed(messages):
    return [each["data"]["number"] for each in messages if each.get("event") == "FED"]


def test_reply_comes_before_what_it_feeds_and_all_of_that_in_order(service, client):
    client.send(b'{"execute": "feed", "arguments": {"count": 3}}')
    first, *rest = client.messages()
    assert first == {"return": {"fed": 3}}
    assert fed(rest) == [1, 2, 3]
    assert set(rest[0]) == {"event", "data", "timestamp"}


def test_feed_goes_on_when_it_wakes_its_client(service, client):
    client.execute("feed", count=0)
    assert client.messages() == []
    (feed,) = service.feeds
    feed.left = 2
    assert client.messages() == []
    feed.wake()
    assert fed(client.messages()) == [1, 2]


def test_client_that_does_not_read_is_fed_no_more_than_its_socket_holds(service):
    slow, other = service.client(), service.client()
    slow.send(b'{"execute": "feed", "arguments": {"count": 3000}}')
    service.pump(500)
    (feed,) = service.feeds
    taken = feed.taken
    assert 0 < taken < 1000
    service.pump(100)
    assert feed.taken == taken
    assert other.execute("ping") == {"return": {"pong": True}}
    assert fed(slow.messages())[:2] == [1, 2]
    assert feed.taken > taken


def test_feed_is_for_the_client_that_asked(service, client):
    other = service.client()
    client.send(b'{"execute": "feed", "arguments": {"count": 1}}')
    assert fed(client.messages()) == [1]
    assert other.messages() == []


def test_feed_is_closed_when_its_client_goes_or_asks_for_another(service, client):
    client.execute("feed", count=0)
    client.execute("feed", count=0)
    first, second = service.feeds
    assert (first.closed, second.closed) == (True, False)
    client.close()
    service.pump()
    assert second.closed
    second.left = 1
    second.wake()  # too late, and harmless
    service.pump()
    assert second.taken == 0


def test_refused_feed_leaves_the_one_before(service, client):
    client.execute("feed", count=0)
    assert error(client.execute("feed", count="many"))[0] == "GenericError"
    assert not service.feeds[0].closed
