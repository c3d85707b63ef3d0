"""Check: every operation gives what the processor itself computes, and errors are told right."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from guest.access import PAGE
from guest.arguments import Arguments
from guest.bench import Bench, Run, operation_name
from guest.checks.cases import CASES, Trial
from guest.checks.completions import look_at_queues, stall
from guest.checks.mistakes import make_mistakes
from guest.checks.places import GUARD, Place, in_hbm, in_memory
from guest.protocol import Message

_LARGEST = 64 * 1024 + 17  # bytes
_ROOM = (_LARGEST // PAGE + 8) * PAGE  # bytes of a place: for deflate's growth and for guards
_SIZES = (0, 1, 15, 4095, 4097, _LARGEST)
_LATER = 3  # sizes of each further round
_REPORTED = 5  # mismatches told in full, per operation
_OTHERS = (("memory", "hbm"), ("hbm", "memory"), ("hbm", "hbm"))

assert _ROOM > 2 * PAGE + _LARGEST + _LARGEST // 1000 + 2 * GUARD


class _Tally:
    """How one operation did."""

    def __init__(self) -> None:
        self.runs = 0
        self.equal = 0
        self.bytes = 0
        self.mismatches: list[Message] = []

    def count(self, trial: Trial, wrong: str | None) -> None:
        self.runs += 1
        self.bytes += trial.length
        if wrong is None:
            self.equal += 1
        elif len(self.mismatches) < _REPORTED:
            places = {"from": trial.source.kind, "to": trial.destination.kind}
            self.mismatches.append({"length": trial.length, **places, "wrong": wrong})

    def facts(self) -> Message:
        return {
            "runs": self.runs,
            "equal": self.equal,
            "bytes": self.bytes,
            "mismatches": self.mismatches,
        }


def run(bench: Bench, arguments: Arguments, run: Run) -> Message:
    """Every operation over ``rounds`` of sizes and places, with data from ``seed``.

    The first round has the sizes 0, 1, 15, 4095, 4097 and 65553 bytes, later ones random
    sizes.  ``operations`` names those to run; none is all.

    Facts: per operation ``runs``, ``equal``, ``bytes`` and the first ``mismatches``; commands
    and interrupts; every queue's own; a stall; ``errors``, how mistakes were answered.
    """
    seed, rounds = arguments.number("seed", 1), arguments.number("rounds", 1, least=1)
    only = arguments.texts("operations", [])
    arguments.finish()
    names = {code: operation_name(code) for code in bench.device.operations}
    tallies = {
        name: _Tally() for name in names.values() if name in CASES and (not only or name in only)
    }
    chance = random.Random(seed)
    with ExitStack() as stack:
        lanes = [stack.enter_context(bench.open_queue(0))]
        if bench.device.queues > 1 and bench.device.event_index:
            lanes.append(stack.enter_context(bench.open_queue(1, event_index=True)))
        places = _places(bench, stack)
        for turn in range(rounds):
            for name, tally in tallies.items():
                lengths = (
                    _SIZES if not turn else [chance.randrange(_LARGEST) for _ in range(_LATER)]
                )
                for trial in _trials(places, lengths, chance):
                    if not run.stopped():
                        tally.count(trial, CASES[name](trial, lanes[tally.runs % len(lanes)]))
                run.tell({"operation": name, "runs": tally.runs})
        interrupts = sum(lane.interrupts for lane in lanes)
        commands = sum(lane.submitted for lane in lanes)
    return {
        "seed": seed,
        "operations": {name: tally.facts() for name, tally in tallies.items()},
        "unchecked": [name for name in names.values() if name not in CASES],
        "reference": "this processor: zlib, hashlib; CRC-32C and AES-GCM in Python",
        "deflate": "held to inflate back to its source, not to be byte-equal to zlib's output",
        "hbm": "hbm" in places,
        "commands": commands,
        "interrupts": interrupts,
        "queues": look_at_queues(bench),
        "stall": stall(bench),
        "errors": make_mistakes(bench),
    }


def _places(bench: Bench, stack: ExitStack) -> dict[str, list[Place]]:
    """A source and a destination of each kind, and memory for parameters."""
    memory = [in_memory(stack.enter_context(bench.memory(_ROOM))) for _ in range(2)]
    places = {
        "memory": memory,
        "parameters": [in_memory(stack.enter_context(bench.memory(2 * PAGE)))],
    }
    source, destination = in_hbm(bench, 0, _ROOM), in_hbm(bench, _ROOM, _ROOM)
    if source is not None and destination is not None:
        places["hbm"] = [source, destination]
    return places


def _trials(
    places: dict[str, list[Place]], lengths: Sequence[int], chance: random.Random
) -> Iterator[Trial]:
    """Each length in memory; each but the largest also from, to or within HBM in turn."""
    number = 0
    for turn, length in enumerate(lengths):
        for source, destination in (("memory", "memory"), _OTHERS[turn % len(_OTHERS)]):
            wanted = source == destination == "memory" or length < _LARGEST
            if wanted and source in places and destination in places:
                yield Trial(
                    chance,
                    places[source][0],
                    places[destination][1],
                    places["parameters"][0],
                    length,
                    number,
                )
                number += 1
