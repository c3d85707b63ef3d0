"""How a device comes to rest: each lane ends the command under way, and takes no other."""

import errno
from collections.abc import Callable, Iterable

from mdevemu.accel.scheduler import Flow, Lane
from mdevemu.alarms import Alarm
from mdevemu.errors import RequestError

PATIENCE_NS = 100 * 10**6
"""How long a command may take to end by itself; then it is put back if it can be."""
LIMIT_NS = 2 * 10**9
"""How long one more that cannot be put back may take; then the device runs on."""

Done = Callable[[RequestError | None], None]


class Rest:
    """Whether the lanes of one device work.

    Attributes:
        wanted: they do not, or end what they are at.
    """

    def __init__(
        self,
        flow: Flow,
        lanes: Callable[[], Iterable[Lane]],
        pause: Callable[[], None],
        resume: Callable[[], None],
    ) -> None:
        """``pause`` stops what is no work of lanes; ``resume`` submits again what is to do."""
        self._flow = flow
        self._lanes = lanes
        self._pause = pause
        self._resume = resume
        self._alarm: Alarm | None = None
        self._done: Done | None = None
        self.wanted = False

    def stop(self, done: Done) -> None:
        """Come to rest; ``done`` is called once, now or later.

        It gets None, or what kept the device from it: then it runs on.
        """
        assert self._done is None, "told to stop twice at once"
        self.wanted, self._done = True, done
        self._alarm = self._flow.after(PATIENCE_NS, self._hurry)
        for lane in self._lanes():
            lane.halt(self.look)
        self.look()

    def run(self) -> None:
        """Work again."""
        assert self._done is None, "told to run before it had stopped"
        if self.wanted:
            self.wanted = False
            for lane in self._lanes():
                lane.release()
            self._resume()

    def adopt(self, lane: Lane) -> None:
        """A new lane works if the others do."""
        if self.wanted:
            lane.halt(self.look)

    def look(self) -> None:
        """See whether all lanes rest now."""
        if self._done is not None and not any(lane.busy for lane in self._lanes()):
            self._pause()
            self._end()

    def _hurry(self) -> None:
        self._alarm = self._flow.after(LIMIT_NS, self._give_up)
        for lane in self._lanes():
            lane.put_back()
        self.look()

    def _give_up(self) -> None:
        done, self._done = self._done, None
        self.run()
        assert done is not None
        done(RequestError(errno.EBUSY, "a command that cannot be begun again takes too long"))

    def _end(self) -> None:
        done, self._done = self._done, None
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        assert done is not None
        done(None)
