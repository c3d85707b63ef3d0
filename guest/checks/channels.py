"""Check: each channel of an I/OAT function copies what it should, and tells once of each end."""

import random
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import NamedTuple

from guest import ioat
from guest.access import PAGE, allocated
from guest.arguments import Arguments
from guest.benches import Run
from guest.checks.channel_mistakes import make_mistakes
from guest.checks.places import Output, Place, in_memory, offset_for
from guest.ioat import ChannelState, Flag
from guest.ioat_bench import IoatBench
from guest.ioat_driver import RESET, SUSPEND, Channel, Outcome, Transfer
from guest.protocol import Message

_SIZES = (1, 15, 4095, 4097, 64 * 1024 + 17)  # bytes
_ROOM = (_SIZES[-1] // PAGE + 4) * PAGE  # bytes of a place
_LINKS = 12  # descriptors of a chain: three chains go more than twice round a ring
_LINK = 256  # bytes that each of them copies
_REGION = 2 * PAGE  # bytes of a place for one channel, when all work at once
_SETTLE = 0.05  # seconds for work that should not happen


class _Trial(NamedTuple):
    """What a channel works on.

    Attributes:
        most: bytes that one descriptor copies at most.
    """

    chance: random.Random
    source: Place
    destination: Place
    most: int

    def transfer(self, length: int, case: int = 0) -> tuple[Transfer, bytes, Output]:
        """A copy of random data, the data, and where it goes."""
        data = self.chance.randbytes(length)
        source = self.source.part(offset_for(length, case), length)
        source.view[:] = data
        output = Output(self.destination, offset_for(length, case + 1), length)
        return Transfer(length, source.address, output.place.address), data, output


def run(bench: IoatBench, arguments: Arguments, run: Run) -> Message:
    """Every case on each channel, with data from ``seed``; then what concerns the function.

    Facts: per channel its ``vector`` and what is wrong with each of its ``cases``, or None;
    what is wrong when all work ``together``; ``errors``, how mistakes were answered; what is
    wrong after a ``reset`` of the function.
    """
    seed = arguments.number("seed", 1)
    arguments.finish()
    bench.device.start()
    with allocated(bench.access, _ROOM) as source, allocated(bench.access, _ROOM) as destination:
        places = in_memory(source), in_memory(destination)
        trial = _Trial(random.Random(seed), *places, bench.device.max_transfer)
        channels = []
        for number in range(bench.device.channels):
            with Channel(bench.device, number) as channel:
                cases = {
                    name: case(trial, channel) for name, case in CASES.items() if not run.stopped()
                }
                vector = None if channel.interrupt is None else number
            channels.append({"channel": number, "vector": vector, "cases": cases})
            run.tell({"channel": number})
        together = _together(bench, trial)
        reset = _reset(bench, trial)
    errors = make_mistakes(bench)
    return {
        "seed": seed,
        "channels": channels,
        "together": together,
        "reset": reset,
        "errors": errors,
    }


def _go(channel: Channel, *transfers: Transfer) -> str | None:
    """Run transfers; what is wrong with how the channel tells of their end."""
    before = channel.interrupts
    at, outcome = channel.run(transfers)
    return _ended(channel, before, at, outcome)


def _ended(channel: Channel, before: int, at: int, outcome: Outcome) -> str | None:
    """What is wrong with the end of the descriptor ``at``, after ``before`` interrupts."""
    expected = Outcome(ChannelState.IDLE, at, at | ChannelState.IDLE, 0)
    if outcome != expected:
        return f"{outcome}, not {expected}"
    interrupts = channel.interrupts - before
    if channel.interrupt is not None and interrupts != 1:
        return f"{interrupts} interrupts, not 1"
    return None


def copy(trial: _Trial, channel: Channel) -> str | None:
    """Destination equals source, nothing around it changes."""
    for case, length in enumerate(min(size, trial.most) for size in _SIZES):
        transfer, data, output = trial.transfer(length, case)
        if wrong := _go(channel, transfer) or output.differs(data):
            return f"{length} bytes: {wrong}"
    return None


def null(trial: _Trial, channel: Channel) -> str | None:
    """A descriptor that is to do nothing ends like any other."""
    transfer, _, output = trial.transfer(_LINK)
    wrong = _go(channel, transfer._replace(flags=Flag.NULL))
    return wrong or (None if output.untouched else "it wrote")


def chain(trial: _Trial, channel: Channel) -> str | None:
    """Descriptors are done in order of their links; only the last one tells."""
    for _ in range(3):
        data = trial.chance.randbytes(_LINK)
        if wrong := _go(channel, *_linked(trial.destination, data)) or _passed(
            trial.destination, data
        ):
            return wrong
    return None


def _linked(place: Place, data: bytes) -> list[Transfer]:
    """Copies of ``data`` from piece to piece of the place."""
    length = len(data)
    place.view[: (_LINKS + 1) * length] = data.ljust((_LINKS + 1) * length, b"\0")
    pieces = range(place.address, place.address + _LINKS * length, length)
    return [Transfer(length, at, at + length) for at in pieces]


def _passed(place: Place, data: bytes) -> str | None:
    """What is wrong with the pieces after the copies."""
    for number in range(_LINKS + 1):
        if place.view[number * len(data) : (number + 1) * len(data)] != data:
            return f"the data did not come to piece {number} of {_LINKS}"
    return None


def suspension(trial: _Trial, channel: Channel) -> str | None:
    """A suspended channel does nothing, and goes on when it is let."""
    _go(channel, trial.transfer(_LINK)[0])
    transfer, data, output = trial.transfer(_LINK)
    before = channel.interrupts
    channel.command(SUSPEND)
    at = channel.put(transfer._replace(flags=Flag.COMPLETION | Flag.INTERRUPT))
    channel.announce()
    time.sleep(_SETTLE)
    if channel.state != ChannelState.SUSPENDED or not output.untouched:
        return f"suspended with work to do, it has the state {channel.state}, or wrote"
    channel.command(0)
    return _ended(channel, before, at, channel.wait()) or output.differs(data)


def reset(trial: _Trial, channel: Channel) -> str | None:
    """A channel that was reset has forgotten its chain, and takes a new one."""
    transfer, data, output = trial.transfer(_LINK)
    channel.command(RESET)
    channel.put(transfer)
    channel.announce()
    time.sleep(_SETTLE)
    now = channel.outcome()
    if (now.state, now.completed) != (ChannelState.HALTED, 0) or not output.untouched:
        return f"reset, it is {now}, or wrote"
    channel.begin()
    return _go(channel, transfer) or output.differs(data)


CASES: Mapping[str, Callable[[_Trial, Channel], str | None]] = {
    "copy": copy,
    "null": null,
    "chain": chain,
    "suspension": suspension,
    "reset": reset,
}


def _together(bench: IoatBench, trial: _Trial) -> str | None:
    """What is wrong when every channel has a chain at the same time."""
    with ExitStack() as stack:
        channels = [
            stack.enter_context(Channel(bench.device, number))
            for number in range(bench.device.channels)
        ]
        work = []
        for channel in channels:
            place = trial.destination.part(channel.number * _REGION, _REGION)
            data = trial.chance.randbytes(_LINK)
            *others, last = _linked(place, data)
            for transfer in others:
                channel.put(transfer)
            at = channel.put(last._replace(flags=Flag.COMPLETION | Flag.INTERRUPT))
            work.append((channel, channel.interrupts, at, place, data))
        for channel in channels:
            channel.announce()
        for channel, before, at, place, data in work:
            wrong = _ended(channel, before, at, channel.wait()) or _passed(place, data)
            if wrong:
                return f"channel {channel.number}: {wrong}"
    return None


def _reset(bench: IoatBench, trial: _Trial) -> str | None:
    """What is wrong after the function was reset, while a channel had halted by an error."""
    device = bench.device
    transfer, data, output = trial.transfer(_LINK)
    with Channel(device, 0) as channel:
        channel.run([transfer._replace(size=0)])
        bench.access.reset()
        left = {
            "INTRCTRL": device.read(ioat.INTERRUPT_CONTROL, 1),
            "CHANERR": channel.errors,
            "CHANERR_INT": int.from_bytes(bench.access.config(ioat.ERROR_STATUS, 4), "little"),
            "DMACOUNT": device.read(ioat.CHANNEL_BASE + ioat.CHANNEL_DESCRIPTORS, 2),
        }
        if any(left.values()) or channel.state != ChannelState.HALTED:
            return f"the function has the state {channel.state} after its reset, and {left}"
        device.start()
        channel.begin()
        return _go(channel, transfer) or output.differs(data)
