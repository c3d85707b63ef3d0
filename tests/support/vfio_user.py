"""A simple real device and address space behind a session, and a server of them on a real loop."""

import os
import select
import socket
import struct
import threading
import time
from collections import deque
from contextlib import contextmanager

from mdevemu.alarms import Alarm
from mdevemu.errors import RequestError
from mdevemu.fds import Fd, close_all
from mdevemu.loop import Loop
from mdevemu.trace import Trace
from mdevemu.units import KIB, MIB
from mdevemu.vfio_user import Function, Message, Region, Server, Session, Windows
from mdevemu.vfio_user.framing import Framer

QEMU_JSON = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, '
    b'"max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, '
    b'"pgsize": 4096}, "write_multiple": true}}\0'
)
"""What QEMU 11.1.3 says it can do, byte for byte."""

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, GET_REGION_INFO = 1, 2, 3, 4, 5
GET_IRQ_INFO, SET_IRQS, READ, WRITE, RESET, WRITE_MULTI = 7, 8, 9, 10, 13, 15
NO_REPLY = 0x10
OK, REFUSED = 0x01, 0x21


def frame(number, command, payload=b"", flags=0):
    """A message as a client sends it, put together without the code under test."""
    return struct.pack("<HHIII", number, command, 16 + len(payload), flags, 0) + payload


def hello(number=0, json=QEMU_JSON, minor=0):
    return frame(number, VERSION, struct.pack("<HH", 0, minor) + json)


def dma_map(iova, size, offset=0, flags=3, argsz=32):
    return struct.pack("<IIQQQ", argsz, flags, offset, iova, size)


def dma_unmap(iova, size, flags=0, argsz=24):
    return struct.pack("<IIQQ", argsz, flags, iova, size)


def access(region, offset, count, data=b""):
    return struct.pack("<QII", offset, region, count) + data


def irqs(flags, index, start=0, count=0, data=b"", argsz=20):
    return struct.pack("<IIIII", argsz, flags, index, start, count) + data


def split(stream):
    """(id, command, flags, errno, payload) of each message in a byte string."""
    found = []
    while stream:
        number, command, size, flags, error = struct.unpack_from("<HHIII", stream)
        assert 16 <= size <= len(stream)
        found.append((number, command, flags, error, stream[16:size]))
        stream = stream[size:]
    return found


def refused(number):
    """(flags, errno, payload) of an error reply."""
    return REFUSED, number, b""


def eventfds(count):
    """Counters at zero, to be given away."""
    return [Fd(os.eventfd(0)) for _ in range(count)]


def open_fds():
    """How many descriptors this process has."""
    return len(os.listdir("/proc/self/fd"))


def memfd(size=MIB, name="memory"):
    fd = Fd(os.memfd_create(name))
    os.ftruncate(fd.fileno(), size)
    return fd


class Device(Function):
    """BAR0 is 4 KiB of plain bytes, BAR2 is memory, BAR4 is memory in part, config is bytes."""

    regions = ()
    interrupts = (1, 0, 40, 1, 1)

    def __init__(self):
        self.memory = memfd()
        self.regions = [Region()] * 9
        self.regions[0] = Region(4 * KIB, readable=True, writable=True)
        self.regions[2] = Region(64 * KIB, True, True, self.memory, 4 * KIB)
        areas = [(0, 8 * KIB), (64 * KIB, 4 * KIB)]
        self.regions[4] = Region(MIB, True, True, self.memory, 128 * KIB, areas)
        self.regions[6] = Region(4 * KIB, readable=True)
        self.regions[7] = Region(4 * KIB, readable=True, writable=True)
        self.bytes = {n: bytearray(region.size) for n, region in enumerate(self.regions)}
        self.eventfds = {}
        self.masked = set()
        self.log = []

    def read(self, region, offset, length):
        self.log.append(("read", region, offset, length))
        return bytes(self.bytes[region][offset : offset + length])

    def write(self, region, offset, data):
        self.log.append(("write", region, offset, data))
        if region == 0 and offset == 0xF00:
            raise RequestError(5, "this register is broken")
        self.bytes[region][offset : offset + len(data)] = data

    def reset(self):
        self.log.append(("reset",))

    def assign(self, index, start, eventfds):
        self.log.append(("assign", index, start, [fd is not None for fd in eventfds]))
        for vector, fd in enumerate(eventfds, start):
            close_all([self.eventfds.pop((index, vector), None)])
            if fd is not None:
                self.eventfds[index, vector] = fd

    def disable(self, index):
        self.log.append(("disable", index))
        for key in [key for key in self.eventfds if key[0] == index]:
            self.eventfds.pop(key).close()

    def trigger(self, index, start, count):
        self.log.append(("trigger", index, start, count))
        for vector in range(start, start + count):
            if fd := self.eventfds.get((index, vector)):
                os.eventfd_write(fd.fileno(), 1)

    def mask(self, index, start, count):
        self.log.append(("mask", index, start, count))

    def unmask(self, index, start, count):
        self.log.append(("unmask", index, start, count))

    def disconnect(self):
        self.log.append(("disconnect",))
        close_all(self.eventfds.values())
        self.eventfds.clear()

    def close(self):
        self.disconnect()
        self.memory.close()


class Space(Windows):
    """Windows that can be read and written through."""

    def __init__(self):
        self.windows = {}
        self.refuse = None
        self.client = None

    def attach(self, client):
        self.client = client

    def map(self, iova, size, file, offset, *, readable, writable):
        if self.refuse:
            close_all([file])
            raise RequestError(self.refuse, "not today")
        self.windows[iova] = (size, file, offset, readable, writable)

    def unmap(self, iova, size):
        found, file, *_ = self.windows.pop(iova)
        assert found == size
        close_all([file])

    def clear(self):
        close_all(file for _, file, *_ in self.windows.values())
        self.windows.clear()

    def read(self, iova, length):
        for start, (size, file, offset, *_) in self.windows.items():
            if start <= iova and iova + length <= start + size:
                return os.pread(file.fileno(), length, offset + iova - start)
        raise LookupError(hex(iova))


class Courier:
    """Carries for a session and does nothing by itself: the test reads, rings and fires."""

    def __init__(self, session):
        self.session = session
        self.sent = []
        self.late = []
        self.alarms = []
        self.watched = {}
        self.pair = None

    def send(self, data):
        self.sent.append(data)

    def ready(self):
        self.late.append(self.session.collect())

    def after(self, delay, ring):
        alarm = Alarm(delay, 0, ring)
        self.alarms.append(alarm)
        return alarm

    def ring(self):
        """Let all the time pass."""
        for alarm in self.alarms:
            if alarm.ring:
                alarm.ring()

    def watch(self, fileno, readable):
        self.watched[fileno] = readable

    def forget(self, fileno):
        self.watched.pop(fileno, None)

    def fire(self):
        """Call back for everything that can be read now."""
        ready, _, _ = select.select(list(self.watched), [], [], 0)
        for fileno in ready:
            self.watched[fileno]()
        return len(ready)

    def twin(self):
        return self.pair


class Desk:
    """A session without a socket: bytes in, bytes out."""

    def __init__(self, device=None, space=None):
        self.device = device or Device()
        self.space = space or Space()
        self.trace = Trace(time.monotonic_ns)
        self.session = Session(self.device, self.space, self.trace, "desk")
        self.courier = self.session.carrier = Courier(self.session)
        self.framer = Framer()

    def tell(self, data, fds=()):
        """Give the session bytes as one read brought them; (reply bytes, reply descriptors)."""
        sent, passed = b"", []
        while data:
            space = self.framer.space()
            count = min(len(space), len(data))
            space[:count] = data[:count]
            data = data[count:]
            self.framer.received(count, [] if data else list(fds))
            while message := self.framer.next():
                try:
                    reply, along = self.session.answer(message)
                finally:
                    message.close()
                sent += reply
                passed += along
        return sent, passed

    def ask(self, command, payload=b"", fds=(), flags=0, number=7):
        """One request; (flags, errno, payload) of its reply, or None."""
        stream, _ = self.tell(frame(number, command, payload, flags), fds)
        if not stream:
            return None
        [(echoed, same, flags, error, payload)] = split(stream)
        assert (echoed, same) == (number, command)
        return flags, error, payload

    def close(self):
        self.framer.close()
        self.session.close()
        self.device.close()


def message(command, payload=b"", fds=(), flags=0):
    return Message(1, command, flags, 0, payload, list(fds))


class Host:
    """A server on a loop that runs in a thread of its own, as clients that block need it."""

    def __init__(self, path, device=None, space=None):
        self.path = path
        self.device = device or Device()
        self.space = space or Space()
        self.trace = Trace(time.monotonic_ns)
        self.loop = Loop()
        self.server = Server(path, self.device, self.space, self.loop, self.trace, "host")
        self._wake = Fd(os.eventfd(0))
        self._done = False
        self.loop.watch(self._wake.fileno(), self._stop)
        # Wakes the loop, so that it looks at alarms that another thread set, and acts.
        self.nudge = Fd(os.eventfd(0))
        self._acts = deque()
        self.loop.watch(self.nudge.fileno(), self._nudged)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        self.loop.run()

    def _stop(self):
        self._done = True
        self.loop.stop()

    def later(self, act):
        """Have the loop's thread do something."""
        self._acts.append(act)
        os.eventfd_write(self.nudge.fileno(), 1)

    def _nudged(self):
        os.eventfd_read(self.nudge.fileno())
        while self._acts:
            self._acts.popleft()()

    def halt(self):
        """Stop the loop; what arrives from now on waits."""
        if not self._done:
            os.eventfd_write(self._wake.fileno(), 1)
            self._thread.join()

    def close(self):
        self.halt()
        self.server.close()
        self.loop.close()
        self._wake.close()
        self.nudge.close()
        self.device.close()

    def names(self):
        return [event.name for event in self.trace.events]


@contextmanager
def served(path):
    """A host that is closed at the end, whatever happens."""
    host = Host(path)
    try:
        yield host
    finally:
        host.close()


def connect(path, timeout=5.0):
    """A plain socket to a server."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(timeout)
    sock.connect(str(path))
    return sock


class Raw:
    """A client that sends any bytes it likes."""

    def __init__(self, path):
        self.sock = connect(path)
        self.fds = []

    def send(self, data, fds=()):
        if fds:
            socket.send_fds(self.sock, [data], [fd.fileno() for fd in fds])
        else:
            self.sock.sendall(data)

    def read(self, count):
        """Exactly ``count`` bytes, or what came before the end."""
        got = b""
        while len(got) < count:
            piece = self.sock.recv(count - len(got))
            if not piece:
                break
            got += piece
        return got

    def reply(self):
        """The next (id, command, flags, errno, payload), or None at the end."""
        head = self.read(16)
        if len(head) < 16:
            return None
        return split(head + self.read(struct.unpack_from("<I", head, 4)[0] - 16))[0]

    def ask(self, command, payload=b"", fds=(), number=1):
        self.send(frame(number, command, payload), fds)
        return self.reply()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def eventually(condition, timeout=5.0):
    """Wait until something that another thread does has come true."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.002)
