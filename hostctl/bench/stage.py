"""An emulator for the bench: a slice for every client, and C programs that are the clients."""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from hostctl.bench.accelerator import Cores, pick_cores, running
from hostctl.bench.player import Player, Playing

CLIENTS = 8
"""How many clients there are where there are several."""

_WITHOUT_END = 1 << 22
"""Turns of a client that is stopped when the others are done."""

_TYPE = "mdevemu-bench"
_ACCELERATOR = f"""
[accelerator]
name = "bench"
hbm = 0

[[engine]]
name = "dma0"
operations = ["nop", "copy"]

[[type]]
name = "bench"
description = "no HBM, one queue"
personality = "native"
hbm = 0
queues = 1
instances = {CLIENTS}
"""


class Stage:
    """The emulator's mdevs, and players that are their clients or talk to themselves.

    Times are in nanoseconds: of each client when its first turn began, and when each was over.
    With ``ours`` clients talk to the emulator, otherwise to mirrors of themselves, which run
    on the emulator's core instead.
    """

    def __init__(self, player: Player, cores: Cores, sockets: Sequence[str]) -> None:
        """``sockets`` are those of the mdevs."""
        self._player = player
        self._cores = cores
        self._sockets = sockets

    def play(self, script: str, turns: int, clients: int, *, ours: bool) -> list[list[int]]:
        """Several clients at once, all on the core of the server."""
        core = self._cores.server
        with contextlib.ExitStack() as started:
            players = []
            for client in range(clients):
                players.append(self._start(client, script, turns, core, ours))
                started.callback(players[-1].stop)
            for each in players:
                each.go()
            return [each.times() for each in players]

    def beside(self, busy: str | None, script: str, turns: int, *, ours: bool) -> list[int]:
        """One client while another is ``busy`` without end, both on the clients' core."""
        core = self._cores.clients
        with contextlib.ExitStack() as started:
            if busy is not None:
                neighbour = self._start(1, busy, _WITHOUT_END, core, ours)
                started.callback(neighbour.stop)
                neighbour.go()
            quiet = self._start(0, script, turns, core, ours)
            started.callback(quiet.stop)
            quiet.go()
            return quiet.times()

    def _start(self, client: int, script: str, turns: int, core: int, ours: bool) -> Playing:
        if ours:
            return self._player.against(self._sockets[client], script, turns, core)
        return self._player.alone(script, turns, core, self._cores.server)


@contextlib.contextmanager
def stage(compiler: str) -> Iterator[Stage]:
    """A stage for the length of a block.

    Raises:
        MdevError: the player cannot be compiled, or the emulator does not start.
    """
    cores = pick_cores()
    with tempfile.TemporaryDirectory(prefix="mdevemu-bench-") as name:
        player = Player(Path(name), compiler)
        with running(_ACCELERATOR, cores.server) as emulator:
            control = emulator.control
            made = [
                control.create(_TYPE, name=None, uuid=None, weight=None) for _ in range(CLIENTS)
            ]
            yield Stage(player, cores, [mdev.socket for mdev in made])
