"""Those who mean well, beside a hostile client: is all theirs as they left it, and how quickly."""

import time
from collections.abc import Sequence

from mdevemu.vfio_user import Client

SCRATCH = 0x28


class Neighbours:
    """A client of each mdev, by turns."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._clients = [Client(path) for path in paths]
        for number, client in enumerate(self._clients):
            client.write_u64(0, SCRATCH, 0xC0FFEE00 + number)
        self._took: list[int] = []

    def look(self) -> None:
        """Read the next one's register."""
        number = len(self._took) % len(self._clients)
        begun = time.perf_counter_ns()
        value = self._clients[number].read_u64(0, SCRATCH)
        self._took.append(time.perf_counter_ns() - begun)
        assert value == 0xC0FFEE00 + number, f"neighbour {number} reads {value:#x}"

    def slowest(self) -> float:
        """The 99th percentile of what reads took since the last call, in nanoseconds."""
        took = sorted(self._took)
        self._took.clear()
        return took[len(took) * 99 // 100]

    def close(self) -> None:
        """Let them go."""
        for client in self._clients:
            client.close()
