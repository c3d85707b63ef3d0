"""Malformed messages by the million against a real emulator with neighbours.

    python -m tests.hostile [--seed N] [--messages N] [--first CONVERSATION]

Exit status 1 if the emulator failed, kept descriptors or memory, or was slower to its
neighbours than twice what it is when nobody attacks.
"""

import argparse
import random
import statistics
import sys
import time

from tests.hostile.site import Site, site

BATCH = 200
"""Conversations that are made while nobody else is connected, and then had."""

SLOWER = 2.0
"""How much the neighbours' 99th percentile may grow: the median of one per batch."""

WARM = 100_000
"""Messages before which memory may grow: rings of events and free lists fill up."""

GROWTH = 8 << 20
"""Bytes that a process which leaks nothing may still come to differ by."""


def attack(place: Site, messages: int, first: int) -> list[str]:
    """Send so many messages; what went wrong that is not the end of everything."""
    quiet: list[float] = []
    hostile: list[float] = []
    resident: list[int] = []
    begun, number = time.monotonic(), first
    while place.messages < messages:
        batch = place.make(range(number, number + BATCH))
        quiet.append(place.neighbours.slowest())
        place.attack(batch)
        hostile.append(place.neighbours.slowest())
        place.check()
        number += BATCH
        if place.messages >= min(WARM, messages // 2):
            resident.append(place.resident())
        ratio = statistics.median(hostile) / statistics.median(quiet)
        print(
            f"{place.messages} messages in {time.monotonic() - begun:.0f} s,"
            f" neighbours' p99 x{ratio:.2f} ({statistics.median(quiet) / 1000:.0f} us when quiet),"
            f" {place.resident() >> 20} MiB, {place.descriptors} descriptors",
            flush=True,
        )
    wrong = []
    tenth = len(resident) // 10 + 1
    grown = statistics.median(resident[-tenth:]) - statistics.median(resident[:tenth])
    if grown > GROWTH:
        wrong.append(f"memory grew by {grown} bytes, at most {GROWTH} are accepted")
    if ratio > SLOWER:
        wrong.append(f"neighbours' p99 grew to {ratio:.2f} of its quiet value, not {SLOWER}")
    return wrong


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--first", type=int, default=0, help="conversation to begin with")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    try:
        with site(given.seed) as place:
            wrong = attack(place, given.messages, given.first)
    except AssertionError as failed:
        wrong = [str(failed)]
    for each in wrong:
        print(f"failed: {each}")
    print(f"seed {given.seed}: {'failed' if wrong else 'nothing failed'}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
