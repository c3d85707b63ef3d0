"""Check: an I/OAT function is what it says, in config space and in its registers."""

from guest import ioat
from guest.arguments import Arguments
from guest.benches import Run
from guest.checks.function import look_at_config, try_register
from guest.driver import field
from guest.ioat import ChannelState
from guest.ioat_bench import IoatBench
from guest.ioat_driver import BAR
from guest.protocol import Message

_STORED = ~0x7 & (1 << 64) - 1  # bits of CHANCMP: what it points to is aligned


def run(bench: IoatBench, arguments: Arguments, run: Run) -> Message:
    """Facts of config space, and ``wrong``: a sentence for each thing that is not as it must be.

    The channels are reset.
    """
    arguments.finish()
    device, access, wrong = bench.device, bench.access, list[str]()
    device.start()
    config = look_at_config(access, (ioat.VENDOR, ioat.DEVICE), ioat.CLASS, wrong)
    if access.vectors not in (0, device.channels):
        wrong.append(f"{access.vectors} vectors for {device.channels} channels")
    for number in range(device.channels):
        block = ioat.CHANNEL_BASE + number * ioat.CHANNEL_STRIDE
        state = field(device.read(block + ioat.CHANNEL_STATUS, 8), ioat.CHANNEL_STATUS_STATE)
        if state != ChannelState.HALTED:
            wrong.append(f"channel {number} has the state {state} after its reset")
        version2 = device.read(block + ioat.CHANNEL_COMPATIBILITY, 2)
        if not field(version2, ioat.CHANNEL_COMPATIBILITY_VERSION2):
            wrong.append(f"channel {number} is of version 1")
        name = f"CHANCMP{number}"
        try_register(access, name, BAR, block + ioat.CHANNEL_COMPLETION, _STORED, wrong)
    return {**bench.facts(), **config, "wrong": wrong}
