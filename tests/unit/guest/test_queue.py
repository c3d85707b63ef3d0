"""The driver's rings, against a device that is a few lines of Python."""

import os
import signal
import struct
import threading

import pytest

from guest import native
from guest.driver import Device
from guest.errors import DeviceError, DeviceTimeout
from guest.native import Operation
from guest.queue import Command, Queue
from tests.unit.guest.model import Model

NOP = Command(Operation.NOP)


@pytest.fixture
def model():
    model = Model()
    yield model
    model.close()


@pytest.fixture
def device(model):
    return Device(model)


def test_device_reads_what_it_is(device):
    assert (device.queues, device.max_entries, device.max_transfer) == (2, 256, 1 << 20)
    assert device.operations == [Operation.NOP]
    assert device.event_index


def test_device_wrong_magic_is_refused(model):
    model.write(0, native.MAGIC, 0xFFFFFFFF, 4)
    with pytest.raises(DeviceError, match="0xffffffff"):
        Device(model)


def test_device_version_from_the_future_is_refused(model):
    model.write(0, native.VERSION, 2 << 16, 4)
    with pytest.raises(DeviceError, match="version 2"):
        Device(model)


def test_fault_record_is_read_whole(model, device):
    assert device.fault() is None
    model.write(0, native.FAULT_STATUS, 1 | 1 << 1 | 4 << 8 | 3 << 16, 4)
    model.write(0, native.FAULT_CAUSE, 13, 4)
    model.write(0, native.FAULT_ADDRESS, 1 << 40, 8)
    model.write(0, native.FAULT_INDEX, 7, 8)
    assert device.fault() == (4, 3, 13, 1 << 40, 7, True)


@pytest.mark.parametrize("event_index", [False, True])
def test_run_many_times_round_the_ring_completes_each_with_its_cookie(device, event_index):
    with Queue(device, 1, log2_entries=2, vector=2, event_index=event_index) as queue:
        for cookie in range(20):
            assert queue.run(NOP._replace(cookie=cookie)).cookie == cookie
        assert queue.interrupts == 20
        assert queue.outstanding == 0


def test_indices_beyond_32_bits_wrap(device, model):
    with Queue(device, 0, log2_entries=2) as queue:
        start = (1 << 32) - 8
        queue._tail = queue._head = queue._rung = start
        model._heads[0] = model._tails[0] = start
        for cookie in range(10):
            assert queue.run(NOP._replace(cookie=cookie)).cookie == cookie
        assert queue._tail == 2


def test_submit_batch_rings_one_doorbell(device, model):
    with Queue(device, 0, log2_entries=3) as queue:
        for _ in range(5):
            queue.put(NOP)
        queue.kick()
        assert len(queue.poll()) == 5
        doorbells = [entry for entry in model.doorbells if entry[0] == native.DOORBELL_SQ_TAIL]
        assert doorbells == [(native.DOORBELL_SQ_TAIL, 5)]


def test_event_index_busy_device_is_not_rung_again(device, model):
    model.lazy = True
    with Queue(device, 0, log2_entries=3, event_index=True) as queue:
        for _ in range(4):
            queue.submit(NOP)
        # The device asked to be told of index 0 and has not come by since.
        assert queue.doorbells == 1
        model.work(0)
        assert len(queue.poll()) == 4
        queue.submit(NOP)
        assert queue.doorbells == 2


def test_device_that_looks_at_any_time_sees_an_index_old_or_new(device):
    with Queue(device, 0, log2_entries=3, event_index=True) as queue:
        queue.submit(NOP)
        at = queue.rings.shadow - queue.memory.iova + native.SHADOW_SQ_TAIL
        driver = os.fork()
        if not driver:
            while True:
                queue.kick()
        try:
            seen = {bytes(queue.memory.view[at : at + 4]) for _ in range(1_000_000)}
        finally:
            os.kill(driver, signal.SIGKILL)
            os.waitpid(driver, 0)
        assert seen == {(1).to_bytes(4, "little")}


def test_event_index_consumption_goes_to_the_shadow_area(device, model):
    with Queue(device, 0, log2_entries=3, event_index=True) as queue:
        queue.run(NOP)
        assert all(offset & 0xFFF != native.DOORBELL_CQ_HEAD for offset, _ in model.doorbells)
        at = queue.rings.shadow - queue.memory.iova + native.SHADOW_CQ_HEAD
        assert struct.unpack_from("<I", queue.memory.view, at)[0] == 1


def test_put_full_ring_is_a_bug_of_the_caller(device, model):
    model.lazy = True
    with Queue(device, 0, log2_entries=1) as queue:
        queue.put(NOP)
        queue.put(NOP)
        with pytest.raises(AssertionError):
            queue.put(NOP)


def test_wait_silent_device_times_out_with_its_state(device, model):
    model.lazy = True
    with Queue(device, 1, vector=1) as queue:
        queue.submit(NOP)
        with pytest.raises(DeviceTimeout, match=r"queue 1 .* 0\.05 s.*SQ_HEAD 0 of 1"):
            queue.wait(0.05)


def test_wait_sleeps_until_the_interrupt(device, model):
    model.lazy = True
    with Queue(device, 0, vector=1) as queue:
        queue.submit(NOP._replace(cookie=9))
        timer = threading.Timer(0.05, lambda: model.work(0))
        timer.start()
        (completion,) = queue.wait(10)
        timer.join()
        assert completion.cookie == 9


def test_poll_completion_that_nobody_asked_for_is_the_devices_fault(device, model):
    with Queue(device, 0, log2_entries=2) as queue:
        queue.run(NOP)
        model._tails[0] += 1
        model.work(0)
        with pytest.raises(DeviceError, match="more than it was given"):
            queue.poll()


def test_no_interrupt_flag_is_waited_for_without_one(device):
    with Queue(device, 0, vector=1) as queue:
        queue.run(NOP._replace(flags=native.Flag.NO_INTERRUPT))
        assert queue.interrupts == 0
