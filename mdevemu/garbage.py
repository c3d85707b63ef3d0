"""Python's search for dead cycles, kept away from mdevs: it stops the loop for as long as it takes.

A full search goes through everything there is, a tenth of a second for a thousand mdevs, and
comes whenever there is a quarter more than at the last.  So what is there once an mdev was
created is taken out of what is searched.  An mdev is a cycle itself, so everything is searched
when as many were removed as are left, and another is created.

What is young is searched seldom: a session that is over leaves nothing to be found, and a
neighbour may wait for each search.
"""

import gc

from mdevemu.trace import Event, Trace

FEW = 16
"""Removed mdevs that are not worth a search."""

YOUNG = 10_000
"""Objects more than before after which what is young is searched; Python's own number is 700."""


class Residents:
    """The mdevs of this process's accelerator, as far as garbage goes.

    Attributes:
        there: how many there are.
        gone: how many were removed since everything was searched.
    """

    def __init__(self, trace: Trace, there: int) -> None:
        """All that is there now stays, ``there`` mdevs too."""
        self.there = there
        self.gone = 0
        gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
        self._settle()
        trace.listen(self._heard)

    def _heard(self, event: Event) -> None:
        if event.name == "mdev.created":
            self.there += 1
            self._settle()
        elif event.name == "mdev.removed":
            self.there -= 1
            self.gone += 1

    def _settle(self) -> None:
        """Search what is young, or everything if that is worth it; what is left stays."""
        if self.gone >= max(self.there, FEW):
            self.gone = 0
            gc.unfreeze()
            gc.collect()
        else:
            gc.collect(1)
        gc.freeze()
