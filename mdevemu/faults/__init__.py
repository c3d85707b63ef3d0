"""Faults that an operator injects: what drivers must survive, when he wants it and not by chance.

Each kind is declared beside the seam where it acts: an access to memory, a finished command, an
interrupt, a guest's access, a piece of work.  A seam without faults is not there at all.
"""

from mdevemu.faults.commands import Faults

__all__ = ["Faults"]
