"""DMA by message: what a client is asked, what it may answer, and how much it is asked at all."""

import errno
import struct

import pytest

from mdevemu.errors import ProtocolError
from mdevemu.trace import Trace
from mdevemu.vfio_user import Client
from mdevemu.vfio_user.lender import LARGEST, MOST, Asked
from mdevemu.vfio_user.messages import Message
from mdevemu.vfio_user.wire import MapFlags
from tests.support.native import CONTROL, DATA, FAILED, WRITE_FAULT, Guest, descriptor
from tests.support.serving import Serving, short_folder
from tests.support.vfio_user import OK, REFUSED, Desk, Raw, dma_map, eventually, frame, hello, split

DMA_READ, DMA_WRITE = 11, 12


class Talk:
    """What one client was asked, and what became of it."""

    def __init__(self, largest=1 << 20):
        self.sent = []
        self.answers = []
        self.trace = Trace(iter(range(10**9)).__next__)
        self.asked = Asked(self.sent.append, largest, self.trace, "talk")

    def next(self):
        [(number, command, flags, error, payload)] = split(self.sent.pop(0))
        assert (flags, error) == (0, 0)
        return number, command, payload

    def reply(self, number, command, payload=b"", flags=OK, error=0):
        self.asked.answered(Message(number, command, flags, error, payload, []))

    def trust(self):
        """Be a client that has answered a read."""
        self.asked.fetch(0, 1, lambda _: None)
        number, command, payload = self.next()
        self.reply(number, command, payload + b"x")

    def refusals(self):
        return [event.facts["reason"] for event in self.trace.events if event.name == "dma.refused"]


@pytest.fixture
def talk():
    return Talk()


def test_read_is_asked_and_answered(talk):
    talk.asked.fetch(0x1234, 4, talk.answers.append)
    number, command, payload = talk.next()
    assert (command, payload) == (DMA_READ, struct.pack("<QQ", 0x1234, 4))
    assert talk.answers == []
    talk.reply(number, DMA_READ, payload + b"abcd")
    assert talk.answers == [b"abcd"]


def test_write_waits_until_a_read_has_shown_the_layout(talk):
    talk.asked.store(0x1000, b"data", talk.answers.append)
    number, command, payload = talk.next()
    assert (command, payload) == (DMA_READ, struct.pack("<QQ", 0x1000, 1))
    assert talk.sent == []
    talk.reply(number, DMA_READ, payload + b"?")
    number, command, payload = talk.next()
    assert (command, payload) == (DMA_WRITE, struct.pack("<QQ", 0x1000, 4) + b"data")
    talk.reply(number, DMA_WRITE, payload[:16])
    assert talk.answers == [b""]


def test_client_with_its_data_four_bytes_early_is_never_sent_a_write(talk):
    talk.asked.store(0x1000, b"data", talk.answers.append)
    number, _, _ = talk.next()
    talk.reply(number, DMA_READ, struct.pack("<QI", 0x1000, 1) + b"?")
    assert talk.answers == [None]
    assert talk.sent == []
    assert talk.refusals() == ["answered with 13 bytes"]


@pytest.mark.parametrize("length", [0, 12, 16])
def test_each_known_answer_to_a_write_is_taken(talk, length):
    talk.trust()
    talk.asked.store(0x1000, b"data", talk.answers.append)
    number, command, payload = talk.next()
    talk.reply(number, command, payload[:length])
    assert talk.answers == [b""]


@pytest.mark.parametrize("payload", [b"x", bytes(16), struct.pack("<QQ", 0x1000, 3)])
def test_other_answers_to_a_write_are_a_refusal(talk, payload):
    talk.trust()
    talk.asked.store(0x1000, b"data", talk.answers.append)
    number, command, _ = talk.next()
    talk.reply(number, command, payload)
    assert talk.answers == [None]


@pytest.mark.parametrize("payload", [b"", bytes(20), struct.pack("<QQ", 0x1000, 4) + b"abcde"])
def test_answer_to_a_read_that_is_not_what_was_asked_is_a_refusal(talk, payload):
    talk.asked.fetch(0x1000, 4, talk.answers.append)
    number, command, _ = talk.next()
    talk.reply(number, command, payload)
    assert talk.answers == [None]


def test_refusal_of_the_client_is_told_with_its_name(talk):
    talk.asked.fetch(0x1000, 4, talk.answers.append)
    number, command, _ = talk.next()
    talk.reply(number, command, flags=REFUSED, error=errno.ENODEV)
    assert talk.answers == [None]
    assert talk.refusals() == ["ENODEV"]


@pytest.mark.parametrize("command", [DMA_WRITE, 99])
def test_answer_to_another_command_ends_the_session(talk, command):
    talk.asked.fetch(0x1000, 4, talk.answers.append)
    number, _, _ = talk.next()
    with pytest.raises(ProtocolError, match="a reply to nothing"):
        talk.reply(number, command)


@pytest.mark.parametrize("command", [0, DMA_READ, DMA_WRITE])
def test_answer_to_what_was_never_asked_ends_the_session(talk, command):
    with pytest.raises(ProtocolError, match="a reply to nothing"):
        talk.reply(1, command)


def test_second_answer_ends_the_session(talk):
    talk.asked.fetch(0x1000, 4, talk.answers.append)
    number, command, payload = talk.next()
    talk.reply(number, command, payload + bytes(4))
    with pytest.raises(ProtocolError):
        talk.reply(number, command, payload + bytes(4))
    assert talk.answers == [bytes(4)]


def test_client_that_never_answers_is_asked_so_much_and_no_more(talk):
    for _ in range(MOST + 1):
        talk.asked.fetch(0, 4, talk.answers.append)
    assert len(talk.sent) == MOST
    assert talk.answers == [None]
    talk.reply(*talk.next()[:2], flags=REFUSED, error=errno.EFAULT)
    talk.asked.fetch(0, 4, talk.answers.append)
    assert len(talk.sent) == MOST


def test_number_of_an_open_question_is_not_used_again(talk):
    talk.asked.fetch(0, 4, talk.answers.append)
    held = talk.next()[0]
    seen = set()
    for _ in range(1 << 16):
        talk.asked.fetch(0, 1, lambda _: None)
        number, command, payload = talk.next()
        seen.add(number)
        talk.reply(number, command, payload + b"x")
    assert held not in seen


def test_everybody_who_waits_hears_that_the_client_is_gone(talk):
    talk.asked.fetch(0, 4, talk.answers.append)
    talk.asked.fetch(4, 4, talk.answers.append)
    talk.asked.close()
    assert talk.answers == [None, None]
    talk.asked.fetch(8, 4, talk.answers.append)
    assert talk.answers == [None, None, None]
    assert len(talk.sent) == 2


@pytest.mark.parametrize(("told", "largest"), [(1 << 20, LARGEST), (4096, 4096), (1, 1)])
def test_messages_are_as_large_as_the_client_takes(told, largest):
    assert Talk(told).asked.largest == largest


# A session


def test_session_without_a_way_to_send_offers_nobody():
    desk = Desk()
    desk.session.carrier = None
    desk.tell(hello())
    assert desk.space.client is None
    desk.close()


def test_session_offers_its_client_once_agreed_and_takes_it_back():
    desk, answers = Desk(), []
    sent = desk.courier.sent
    assert desk.space.client is None
    desk.tell(hello())
    client = desk.space.client
    client.fetch(0x2000, 2, answers.append)
    [(number, command, _, _, payload)] = split(sent.pop())
    reply = bytearray(frame(number, command, payload + b"ok"))
    reply[8] = OK
    assert desk.tell(bytes(reply)) == (b"", [])
    assert answers == [b"ok"]
    client.fetch(0x2000, 2, answers.append)
    desk.close()
    assert answers == [b"ok", None]
    assert desk.space.client is None


def test_reply_before_anything_was_asked_ends_the_session():
    desk = Desk()
    desk.tell(hello())
    with pytest.raises(ProtocolError, match="a reply to nothing"):
        desk.tell(frame(0, DMA_READ, flags=OK))
    desk.close()


def test_question_goes_out_between_replies_over_a_socket(host):
    answers = []
    with Raw(host.path) as raw:
        raw.send(hello())
        raw.reply()
        assert raw.ask(2, dma_map(0x10000, 0x1000))[2] == OK
        # The loop's own thread asks, as the device would.
        host.device.reset = lambda: host.space.client.fetch(0x10000, 3, answers.append)
        raw.send(frame(5, 13))
        number, command, flags, _, payload = raw.reply()
        assert (command, flags) == (DMA_READ, 0)
        assert raw.reply()[:3] == (5, 13, OK)
        raw.send(frame(number, command, payload + b"abc", OK))
        eventually(lambda: answers == [b"abc"])
        raw.send(frame(6, 13))
        raw.reply()
    eventually(lambda: answers == [b"abc", None])


# Our client, and an emulator in another process


class Mapped:
    """A driver's memory, and its way to the device: all DMA is by message."""

    def __init__(self, client, size):
        self.client = client
        self.memory = bytearray(size)
        self.asked = 0
        client.write_u16(7, 4, 6)

    def read(self, at, length, data=None):
        """Of a BAR if there is ``data`` or a third number, of memory otherwise."""
        if data is None:
            return bytes(self.memory[at : at + length])
        return self.client.region_read(at, length, data)

    def write(self, at, data, more=None):
        if more is None:
            self.memory[at : at + len(data)] = data
        else:
            self.client.region_write(at, data, more)

    def close(self):
        self.client.close()


class Remote(Guest):
    """A driver in front of a socket."""

    def work(self):
        self.ram.asked += self.ram.client.attend(0.2)


@pytest.fixture(scope="module")
def socket():
    with short_folder() as folder:
        serving = Serving(folder)
        mdev = serving.control()("create-mdev", type="mdevemu-native")
        yield mdev["socket"]
        code, _, err = serving.stop()
        assert (code, err) == (0, "")


@pytest.fixture
def remote(socket):
    client = Client(socket)
    memory = Mapped(client, 0x40_0000)
    client.keep_dma(0, memory.memory)
    driver = Remote(memory, memory)
    driver.write(CONTROL, 1, 4)
    yield driver
    client.reset()
    client.close()


def test_driver_over_a_socket_keeps_all_its_memory_to_itself(remote):
    remote.ram.write(DATA, bytes(range(256)) * 800)
    done = remote.run("copy", source=DATA, destination=DATA + 0x10_0000, length=256 * 800)
    assert done.status == 0
    assert remote.ram.read(DATA + 0x10_0000, 256 * 800) == bytes(range(256)) * 800
    assert remote.ram.asked > 10


def test_registers_answer_while_the_device_waits_for_memory(remote):
    queue = remote.queue(0)
    queue.submit(descriptor("nop"))
    assert remote.read(0) & 0xFFFFFFFF == 0x31434341  # the request for the descriptor came first
    remote.work()
    assert len(queue.reap()) == 1


def test_memory_that_the_client_took_back_is_a_fault(remote):
    remote.ram.client.unmap_dma(0, 0x40_0000)
    queue = remote.queue(0)
    queue.submit(descriptor("nop"))
    remote.work()
    assert queue.state == FAILED


def test_memory_that_may_not_be_written_is_not(remote):
    memory = bytearray(0x1000)
    remote.ram.client.keep_dma(0x100_0000, memory, MapFlags.READ)
    done = remote.run("fill", destination=0x100_0000, length=8, operand=1)
    assert done.status == WRITE_FAULT
    assert not any(memory)


def test_next_client_finds_a_device_that_asks_it(socket):
    for _ in range(2):
        with Client(socket) as client:
            memory = Mapped(client, 0x40_0000)
            driver = Remote(memory, memory)
            client.keep_dma(0, memory.memory)
            driver.write(CONTROL, 1, 4)
            driver.queue(0).submit(descriptor("nop"))  # its question is never answered
    with Client(socket) as client:
        client.reset()
        memory = Mapped(client, 0x40_0000)
        client.keep_dma(0, memory.memory)
        driver = Remote(memory, memory)
        driver.write(CONTROL, 1, 4)
        assert driver.run("nop").status == 0
