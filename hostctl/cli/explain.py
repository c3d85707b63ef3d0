"""Why a slice does not fit, for people and as JSON."""

import dataclasses

from hostctl.control import Explanation
from hostctl.errors import FINDING, OK
from hostctl.output import Output


def show_explanation(found: Explanation, output: Output) -> int:
    """Print it; returns the exit status: 0 if the slice fits."""
    if output.json:
        output.record("mdev.explain", dataclasses.asdict(found))
    else:
        for line in _lines(found):
            output.line(line)
    return OK if found.fits else FINDING


def _lines(found: Explanation) -> list[str]:
    """What people read."""
    if found.fits:
        where = "" if found.hbm is None else f", its HBM at {found.hbm:#x}"
        return [f"{found.type} fits{where}"]
    lines = [f"{found.type} does not fit"]
    lines += [f"  lacking: {each}" for each in found.lacking]
    lines.append(f"  blocked by: {', '.join(found.blocking) or 'nothing that slices hold'}")
    rooms = ", ".join(f"{name} ({count})" for name, count in found.fitting.items())
    lines.append(f"  fits now: {rooms or 'no type'}")
    if found.moves is None:
        why = "none found before the search was given up" if found.exhausted else "none would do"
        return [*lines, f"  moves: {why}"]
    for move in found.moves:
        vm = " (a VMM is attached)" if move.attached else ""
        lines.append(f"  move {move.name} from {move.source:#x} to {move.target:#x}{vm}")
    return lines
