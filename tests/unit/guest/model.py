"""A native device in a few lines, to drive the driver with: it executes nops, and can misbehave."""

import mmap
import os
import struct

from guest import native
from guest.access import Interrupt, IovaSpace, whole_pages
from guest.driver import field


class PlainBuffer:
    def __init__(self, iova, size):
        self.iova = iova
        self.size = size
        self.view = memoryview(mmap.mmap(-1, size))  # a process that is forked has it too


class Model:
    """An ``Access`` whose device is here; it works when a doorbell rings or ``work`` is called.

    Attributes:
        lazy: a doorbell does nothing; only ``work`` does.
        statuses: what the next commands end with instead of success.
    """

    name = "model"

    def __init__(self, queues=2, vectors=3, log2_max_entries=8, memory=0):
        self.vectors = vectors
        self.registers = bytearray(0x10000)
        self.lazy = False
        self.statuses = []
        self.doorbells = []
        self._hbm = bytearray(memory)
        self._iovas = IovaSpace(1 << 32)
        self._buffers = {}
        self._eventfds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(vectors)]
        self._interrupts = {}
        self._heads = [0] * queues
        self._tails = [0] * queues
        self.closed = False
        self._put(native.MAGIC, native.MAGIC_VALUE, 4)
        self._put(native.VERSION, 1 << 16, 4)
        capabilities = queues | log2_max_entries << 8 | 20 << 13 | 1 << 18
        self._put(native.CAPABILITIES, capabilities, 8)
        self._put(native.OPERATIONS, 1, 8)
        self._put(native.HBM_SIZE, memory, 8)

    def _put(self, offset, value, size):
        self.registers[offset : offset + size] = value.to_bytes(size, "little")

    def _get(self, offset, size):
        return int.from_bytes(self.registers[offset : offset + size], "little")

    def size(self, bar):
        return {0: 0x10000, 2: 0x10000, 4: len(self._hbm)}.get(bar, 0)

    def read(self, bar, offset, size):
        return int.from_bytes(self.dump(bar, offset, size), "little")

    def dump(self, bar, offset, length):
        return bytes(self.registers[offset : offset + length]) if bar == 0 else bytes(length)

    def write(self, bar, offset, value, size):
        if bar == native.DOORBELLS_BAR:
            self.doorbells.append((offset, value))
            if offset & 0xFFF == native.DOORBELL_SQ_TAIL:
                self._tails[offset >> 12] = value
                if not self.lazy:
                    self.work(offset >> 12)
            return
        self._put(offset, value, size)
        if offset == native.CONTROL:
            self._put(native.STATUS, value & 1, 4)
        queue, register = divmod(offset - native.QUEUE_BASE, native.QUEUE_STRIDE)
        if 0 <= queue < len(self._heads) and register == native.QUEUE_CONTROL:
            self._heads[queue] = self._tails[queue] = 0
            self._put(native.QUEUE_BASE + queue * native.QUEUE_STRIDE + 0x20, value & 1, 4)

    def work(self, queue):
        """Complete everything that was announced."""
        block = native.QUEUE_BASE + queue * native.QUEUE_STRIDE
        entries = 1 << self._get(block + native.QUEUE_SIZE, 4)
        control = self._get(block + native.QUEUE_CONTROL, 4)
        lazy = field(control, native.QUEUE_CONTROL_EVENT_INDEX)
        if lazy:
            shadow = self._at(self._get(block + native.QUEUE_SHADOW, 8), native.SHADOW.size)
            self._tails[queue] = struct.unpack_from("<I", shadow)[0]
        while self._heads[queue] != self._tails[queue]:
            self._complete(queue, block, entries, control)
        if lazy:
            struct.pack_into("<I", shadow, native.SHADOW_SQ_EVENT, self._heads[queue])

    def _complete(self, queue, block, entries, control):
        index = self._heads[queue]
        slot, turn = index % entries, index // entries
        ring = self._at(self._get(block + native.QUEUE_SQ_BASE, 8) + slot * 64, 64)
        flags, cookie = ring[1], struct.unpack_from("<Q", ring, 40)[0]
        status = self.statuses.pop(0) if self.statuses else 0
        record = native.COMPLETION.pack(cookie, 0, 0, index & 0xFFFF, 0, status, (turn + 1) & 1)
        self._at(self._get(block + native.QUEUE_CQ_BASE, 8) + slot * 32, 32)[:] = record
        self._heads[queue] = (index + 1) % (1 << 32)
        wanted = field(control, native.QUEUE_CONTROL_INTERRUPT)
        if wanted and not flags & native.Flag.NO_INTERRUPT:
            vector = field(control, native.QUEUE_CONTROL_VECTOR)
            os.eventfd_write(self._eventfds[vector], 1)

    def _at(self, iova, size):
        for buffer in self._buffers.values():
            if buffer.iova <= iova and iova + size <= buffer.iova + buffer.size:
                return buffer.view[iova - buffer.iova : iova - buffer.iova + size]
        raise AssertionError(f"the device reads {iova:#x}")

    def config(self, offset, length):
        space = struct.pack("<HH", native.VENDOR, native.DEVICE).ljust(4096, b"\0")
        return space[offset : offset + length]

    def aperture(self, bar):
        return memoryview(self._hbm) if bar == native.HBM_BAR and self._hbm else None

    def allocate(self, size):
        size = whole_pages(size)
        buffer = PlainBuffer(self._iovas.take(size), size)
        self._buffers[buffer.iova] = buffer
        return buffer

    def buffers(self):
        return list(self._buffers.values())

    def unmap(self, buffer):
        del self._buffers[buffer.iova]

    def map(self, buffer):
        self._buffers[buffer.iova] = buffer

    def release(self, buffer):
        self._buffers.pop(buffer.iova, None)

    def interrupt(self, vector):
        if vector not in self._interrupts:
            self._interrupts[vector] = Interrupt(self._eventfds[vector])
        return self._interrupts[vector]

    def reset(self):
        pass

    def close(self):
        self.closed = True
        for fileno in self._eventfds:
            os.close(fileno)
        self._eventfds = []
