"""Descriptors of I/OAT as a bad driver writes them: the channel halts, and says why."""

from typing import NamedTuple

from guest import ioat
from guest.access import PAGE, allocated
from guest.checks.places import Output, Place, in_memory
from guest.ioat import ChannelError, ChannelState, Flag
from guest.ioat_bench import IoatBench
from guest.ioat_driver import RESET, SUSPEND, Channel, Transfer
from guest.protocol import Message

_LENGTH = 64  # bytes of each copy
_XOR = 0x87  # an operation of other versions
_RESERVED = 1 << 11  # no flag
_SETTLE = 2.0  # seconds for an interrupt


class _Mistake(NamedTuple):
    """Three descriptors in a chain, and what must become of them.

    Attributes:
        done: how many are done before the channel halts.
        chain: where the chain is to begin; None for the first of them.
        status: where the status is to be written; None for the driver's own memory.
    """

    name: str
    error: ChannelError
    transfers: list[Transfer]
    done: int = 1
    chain: int | None = None
    status: int | None = None


class _Ground:
    """Where the descriptors copy: from one page to three places of the next.

    Attributes:
        end: the first Iova behind our memory, where nothing is.
        good: copies without a mistake.
    """

    def __init__(self, memory: Place) -> None:
        self.end = memory.address + len(memory.view)
        self.source, self._target = memory.part(0, PAGE), memory.part(PAGE, PAGE)
        self.source.view[:] = b"\x5a" * PAGE
        self.outputs = self.guard()
        self.good = [
            Transfer(_LENGTH, self.source.address, output.place.address) for output in self.outputs
        ]

    def guard(self) -> list[Output]:
        """Make the outputs of the three descriptors untouched."""
        self.outputs = [
            Output(self._target, at, _LENGTH) for at in range(PAGE // 4, PAGE, PAGE // 4)
        ]
        return self.outputs

    def with_(self, number: int, transfer: Transfer) -> list[Transfer]:
        """The good descriptors with another one in the place of one."""
        return [*self.good[:number], transfer, *self.good[number + 1 :]]


def make_mistakes(bench: IoatBench) -> list[Message]:
    """Each mistake with what was expected and what came; ``ok`` if they agree."""
    device = bench.device
    with (
        allocated(bench.access, 2 * PAGE) as memory,
        Channel(device, device.channels - 1) as channel,
    ):
        ground = _Ground(in_memory(memory))
        mistakes = _mistakes(ground, device.max_transfer)
        found = [_make(bench, channel, ground, mistake) for mistake in mistakes]
        return [*found, _command(channel), _works(channel, ground)]


def _mistakes(ground: _Ground, most: int) -> list[_Mistake]:
    """``most`` is the bytes that one descriptor copies at most."""
    end, good = ground.end, ground.good
    first, second = good[0], good[1]
    of_descriptors = [
        ("source nowhere", ChannelError.READ_DATA, second._replace(source=end)),
        ("source over the end", ChannelError.READ_DATA, second._replace(source=end - 8)),
        ("destination nowhere", ChannelError.WRITE_DATA, second._replace(destination=end)),
        ("no bytes", ChannelError.LENGTH, second._replace(size=0)),
        ("more bytes than it may have", ChannelError.LENGTH, second._replace(size=most + 1)),
        ("another version's operation", ChannelError.CONTROL, second._replace(operation=_XOR)),
        ("reserved flag", ChannelError.CONTROL, second._replace(flags=_RESERVED)),
    ]
    beyond = [
        ("link nowhere", ChannelError.NEXT_ADDRESS, first._replace(next=end)),
        ("link not aligned", ChannelError.NEXT_ADDRESS, first._replace(next=first.source + 8)),
    ]
    chains = [("chain nowhere", end), ("chain not aligned", first.source + 8)]
    told = first._replace(flags=Flag.COMPLETION)
    return [
        *(_Mistake(name, error, ground.with_(1, bad)) for name, error, bad in of_descriptors),
        *(_Mistake(name, error, ground.with_(0, bad)) for name, error, bad in beyond),
        *(
            _Mistake(name, ChannelError.CHAIN_ADDRESS, good, done=0, chain=at)
            for name, at in chains
        ),
        _Mistake(
            "status nowhere", ChannelError.COMPLETION_ADDRESS, ground.with_(0, told), status=end
        ),
    ]


def _make(bench: IoatBench, channel: Channel, ground: _Ground, mistake: _Mistake) -> Message:
    outputs = ground.guard()
    channel.begin(mistake.chain, mistake.status)
    places = [channel.put(transfer) for transfer in mistake.transfers]
    before = channel.interrupts
    channel.announce()
    outcome = channel.wait()
    last = places[mistake.done - 1] if mistake.done else 0
    copied = ground.source.view[:_LENGTH]
    written = 0 if mistake.status is not None else last | ChannelState.HALTED
    in_config = int.from_bytes(bench.access.config(ioat.ERROR_STATUS, 4), "little")
    wrong = {
        "state": outcome.state != ChannelState.HALTED,
        "errors": outcome.errors != mistake.error,
        "in-config": not in_config & mistake.error,
        "completed": outcome.completed != last,
        "written-back": outcome.written != written,
        "interrupts": channel.interrupt is not None and channel.interrupts - before != 1,
        "copies-before": any(output.place.view != copied for output in outputs[: mistake.done]),
        "copies-after": not all(output.untouched for output in outputs[mistake.done :]),
    }
    return {
        "mistake": mistake.name,
        "expected": _names(mistake.error),
        "errors": _names(outcome.errors),
        "wrong": [name for name, is_wrong in wrong.items() if is_wrong],
        "ok": not any(wrong.values()),
    }


def _command(channel: Channel) -> Message:
    """Two commands at once."""
    channel.begin()
    channel.command(SUSPEND | RESET)
    interrupted = channel.interrupt is None or channel.interrupt.wait(_SETTLE) == 1
    outcome = channel.outcome()
    halted = outcome.state == ChannelState.HALTED
    return {
        "mistake": "suspend and reset at once",
        "expected": _names(ChannelError.COMMAND),
        "errors": _names(outcome.errors),
        "ok": halted and interrupted and outcome.errors == ChannelError.COMMAND,
    }


def _works(channel: Channel, ground: _Ground) -> Message:
    """No mistake."""
    channel.begin()
    at, outcome = channel.run(ground.good)
    return {
        "mistake": "none, after all of these",
        "expected": "none",
        "errors": _names(outcome.errors),
        "ok": outcome == (ChannelState.IDLE, at, at | ChannelState.IDLE, 0),
    }


def _names(errors: int) -> str:
    """Bits of CHANERR in words."""
    names = [str(error.name).lower().replace("_", "-") for error in ChannelError if error & errors]
    unknown = errors & ~sum(ChannelError)
    return ", ".join([*names, *([hex(unknown)] if unknown else [])]) or "none"
