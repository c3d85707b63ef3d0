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

    Several may want the device at rest at once, and it works again when none does.

    Attributes:
        holders: who wants it.
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
        self._told: list[Done] = []
        self.holders: set[str] = set()

    def stop(self, holder: str, done: Done) -> None:
        """Come to rest; ``done`` is called once, now or later.

        It gets None, or what kept the device from it: then it runs on, for everybody.
        """
        working = not self.holders
        self.holders.add(holder)
        if not working and self._alarm is None:
            done(None)
            return
        self._told.append(done)
        if working:
            self._alarm = self._flow.after(PATIENCE_NS, self._hurry)
            for lane in self._lanes():
                lane.halt(self.look)
            self.look()

    def run(self, holder: str) -> None:
        """Work again, unless somebody else wants rest; one who did not want it changes nothing."""
        if holder in self.holders:
            self.holders.remove(holder)
            if not self.holders:
                self._work(RequestError(errno.ECANCELED, "it was told to work on"))

    def adopt(self, lane: Lane) -> None:
        """A new lane works if the others do."""
        if self.holders:
            lane.halt(self.look)

    def look(self) -> None:
        """See whether all lanes rest now."""
        if self._alarm is not None and not any(lane.busy for lane in self._lanes()):
            self._pause()
            self._tell(None)

    def _hurry(self) -> None:
        self._alarm = self._flow.after(LIMIT_NS, self._give_up)
        for lane in self._lanes():
            lane.put_back()
        self.look()

    def _give_up(self) -> None:
        self.holders.clear()
        wrong = "a command that cannot be begun again takes too long"
        self._work(RequestError(errno.EBUSY, wrong))

    def _work(self, error: RequestError) -> None:
        for lane in self._lanes():
            lane.release()
        self._resume()
        self._tell(error)

    def _tell(self, error: RequestError | None) -> None:
        """Coming to rest is over."""
        told, self._told = self._told, []
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        for done in told:
            done(error)
