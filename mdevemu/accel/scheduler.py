"""Who works next: start-time fair queueing over mdevs, then round robin over the queues of each.

A command is a generator that yields after each bounded piece of work what the piece
is reckoned to cost, in copy-bytes: the bytes a plain copy moves in the same time.  That
is what is counted and limited.  Turns are for the time that the piece did take, in
nanoseconds of the clock, so shares of that are right whatever the reckoning is worth.

Each piece has a start on a clock of its own, virtual time: that of the flow's piece
before plus the time that took over the flow's weight, or now if the flow had no work
meanwhile.  The piece with the lowest start is next, and its start is what "now" means.
So a flow that wakes up waits for one piece, however heavy the others are, and one
that slept saves up nothing.

Source: P. Goyal, H. Vin and H. Cheng, "Start-time fair queueing" (1996)
"""

import heapq
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from typing import Protocol

from mdevemu.accel.limits import Limits
from mdevemu.alarms import Alarm, Alarms
from mdevemu.errors import GuestFault
from mdevemu.units import KIB

Work = Generator[int, None, None]
"""Yields the cost of each finished piece, in copy-bytes."""

PIECE = 64 * KIB
"""Cost that one piece should not exceed, in copy-bytes: about 100 us."""

LONGEST_NS = 10**6
"""The most that a piece counts for, ten times what it should take: while it takes longer, the
machine does something else, which is no flow's doing."""

FASTEST = 32
"""Copy-bytes that no machine does in less than a nanosecond: a piece counts for no less, also
where the clock stands still.  So with such a clock turns depend on nothing but the commands."""

_UNIT = 1 << 20
"""Virtual time of a nanosecond at weight 1: large, so that division by a weight loses nothing."""


class Meter(Protocol):
    """Somebody whose time is counted: an engine."""

    busy_ns: int


def _cannot() -> bool:
    """The command under way has to end by itself."""
    return False


class Lane:
    """Work of one queue, done in the order in which it was submitted.

    Work may be closed where it stands if no command is under way there, which it says
    by ``between``; work that never says so is one command from its begin to its end.

    Attributes:
        meter: the engine that the piece at hand runs on; its time is counted there.
        undo: makes the command under way one that has not begun, and says if it could.
        queue: number of the queue whose work it does, None if it is nobody's in particular.
        pasid: of the command at hand.
    """

    def __init__(self, flow: "Flow", failed: Callable[[GuestFault], None]) -> None:
        """``failed`` hears of a GuestFault that ended a piece of this lane's work."""
        self.queue: int | None = None
        self.pasid: int | None = None
        self._flow = flow
        self._failed = failed
        self._work: deque[Work] = deque()
        self._parked = False
        self._between = True
        self._rested: Callable[[], None] | None = None
        self.meter: Meter | None = None
        self.undo: Callable[[], bool] = _cannot

    @property
    def busy(self) -> bool:
        """There is work that has not ended."""
        return bool(self._work)

    def submit(self, work: Work) -> None:
        """Do this after everything submitted before; a lane that was halted forgets it."""
        if self._rested is not None and self._between:
            work.close()
            return
        self._work.append(work)
        if not self._parked:
            self._flow.ready(self)

    def cancel(self) -> None:
        """Forget all work; what runs is closed where it stands."""
        work, self._work = list(self._work), deque()
        for each in work:
            each.close()
        self.meter, self.undo, self._parked, self._between = None, _cannot, False, True
        if work and self._rested is not None:
            self._rested()

    def begun(self) -> None:
        """A command of this lane begins on an engine: it counts against the flow's limits."""
        self._flow.commands += 1

    # Coming to rest.

    def between(self, cost: int) -> int:
        """What work yields once a command is over and the next has not begun: its ``cost``."""
        self._between = True
        return cost

    def halt(self, rested: Callable[[], None]) -> None:
        """End the command under way, if there is one, and take no other.

        ``rested`` is called whenever work ended; the lane rests once it is not busy.
        """
        self._rested = rested
        if self._between:
            self.cancel()

    def put_back(self) -> None:
        """Make the command under way one that has not begun, if that can be."""
        if self.undo():
            self.cancel()

    def commit(self) -> None:
        """From here on the command under way has to end by itself: somebody may have seen it."""
        self.undo = _cannot

    def release(self) -> None:
        """Take commands again."""
        self._rested = None

    def park(self) -> None:
        """Do nothing after the piece at hand, until ``wake``."""
        self._parked = True

    def wake(self) -> None:
        """Go on."""
        self._parked = False
        if self._work:
            self._flow.ready(self)

    def wait(
        self, ask: Callable[[Callable[[bytes | None], None]], None], limit: int
    ) -> Generator[int, None, bytes | None]:
        """Part of this lane's work: ask, and do nothing until the answer is there.

        ``ask`` is given whom to tell the answer, now or later; it is None after
        ``limit`` nanoseconds.  What comes when nobody waits any more means nothing.
        """
        answers: list[bytes | None] = []
        over = False

        def answered(answer: bytes | None) -> None:
            if not over and not answers:
                answers.append(answer)
                self.wake()

        alarm = self._flow.after(limit, partial(answered, None))
        try:
            ask(answered)
            while not answers:
                self.park()
                yield KIB
            return answers[0]
        finally:
            over = True
            alarm.cancel()

    @property
    def runnable(self) -> bool:
        """There is work, and it waits for nothing but its turn."""
        return bool(self._work) and not self._parked

    def step(self) -> int:
        """Do one piece of the oldest work; return its cost in copy-bytes."""
        work, self._between = self._work[0], False
        try:
            cost = next(work)
        except StopIteration:
            cost = 0
            self._ended(work)
        except GuestFault as fault:
            cost = KIB
            self._failed(fault)
            self._ended(work)
        if self._rested is not None and self._between:
            self.cancel()
        return cost

    def _ended(self, work: Work) -> None:
        """Forget work that is over; a fault may have had all of it cancelled before."""
        if self._work and self._work[0] is work:
            self._work.popleft()
            if not self._work and self._rested is not None:
                self._rested()
        self.meter, self.undo, self._between = None, _cannot, True


class Flow:
    """One mdev at the scheduler.

    Attributes:
        weight: its share against the other flows.
        busy_ns: time spent on its work, in nanoseconds.
        work: what all of its pieces cost, in copy-bytes.
        commands: how many it has begun on engines.
        limits: what it may do in a second, however idle the others are.
        start: of its next piece, in virtual time.
        queued: the scheduler knows that it has work.
        pace: if it is set, tells how many nanoseconds to rest after a piece of a cost.
    """

    def __init__(self, scheduler: "Scheduler", weight: int) -> None:
        self._scheduler = scheduler
        self.weight = weight
        self.busy_ns = 0
        self.work = 0
        self.commands = 0
        self.limits = Limits()
        self.start = 0
        self.pace: Callable[[int], int] | None = None
        self.queued = False
        self._rest: Alarm | None = None
        self._lanes: deque[Lane] = deque()

    def lane(self, failed: Callable[[GuestFault], None]) -> Lane:
        """A new lane of this flow."""
        return Lane(self, failed)

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call ``ring`` once ``delay`` nanoseconds have passed."""
        return self._scheduler.after(delay, ring)

    def ready(self, lane: Lane) -> None:
        """A lane has work; its turn comes."""
        if lane not in self._lanes:
            self._lanes.append(lane)
            self._scheduler.ready(self)

    def step(self) -> int | None:
        """Do one piece of the next lane: the nanoseconds it counts for; None if there is none."""
        while self.waiting:
            lane = self._lanes.popleft()
            if not lane.runnable:
                continue
            clock, meter_before, begun = self._scheduler.clock, lane.meter, self.commands
            start = clock()
            cost = lane.step()
            spent = max(cost // FASTEST, min(clock() - start, LONGEST_NS))
            self.busy_ns += spent
            self.work += cost
            if meter := lane.meter or meter_before:
                meter.busy_ns += spent
            if lane.runnable and lane not in self._lanes:
                self._lanes.append(lane)
            rest = self.limits.rest(cost, self.commands - begun, start)
            if self.pace is not None:
                rest = max(rest, self.pace(cost))
            if rest:
                self._rest = self.after(rest, self.resume)
            return spent
        return None

    @property
    def waiting(self) -> bool:
        """There is work whose turn may come."""
        return bool(self._lanes) and self._rest is None

    def resume(self) -> None:
        """End a rest."""
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
            if self._lanes:
                self._scheduler.ready(self)

    def end(self) -> None:
        """Do nothing any more: its mdev is gone."""
        for lane in self._lanes:
            lane.cancel()
        self._lanes.clear()
        self.resume()


class Scheduler:
    """Gives each flow with work its turns.

    Attributes:
        alarms: what is to be done at a time.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        """``clock`` returns nanoseconds."""
        self.clock = clock
        self._ready: list[tuple[int, int, int, Flow]] = []
        self._turns = 0
        self._now = 0
        self.alarms = Alarms(clock)

    def flow(self, weight: int) -> Flow:
        """A new flow; ``weight`` is at least 1."""
        assert weight >= 1
        return Flow(self, weight)

    def ready(self, flow: Flow) -> None:
        """A flow has work; it comes before others that would start when it does."""
        if not flow.queued:
            flow.start = max(flow.start, self._now)
            self._queue(flow, 0)

    def drop(self, flow: Flow) -> None:
        """Forget a flow whose mdev is gone, with all that it has to do."""
        flow.end()
        flow.queued = False
        self._ready = [entry for entry in self._ready if entry[-1] is not flow]
        heapq.heapify(self._ready)

    @property
    def busy(self) -> bool:
        """Some flow has work."""
        return bool(self._ready)

    def _queue(self, flow: Flow, rank: int) -> None:
        self._turns += 1
        flow.queued = True
        heapq.heappush(self._ready, (flow.start, rank, self._turns, flow))

    def after(self, delay: int, ring: Callable[[], None]) -> Alarm:
        """Call ``ring`` once ``delay`` nanoseconds have passed."""
        return self.alarms.after(delay, ring)

    def ring_due(self) -> int | None:
        """Do what is due; the nanoseconds until the next alarm, None if there is none."""
        return self.alarms.ring_due()

    def step(self) -> bool:
        """Do one piece of whoever's turn it is; False when there is no work."""
        while self._ready:
            flow = heapq.heappop(self._ready)[-1]
            self._now = flow.start
            spent = flow.step()
            # Not before the piece is paid for, whoever had more work for the flow meanwhile.
            flow.queued = False
            if spent is None:
                continue
            flow.start += spent * _UNIT // flow.weight
            if flow.waiting:
                self._queue(flow, 1)
            return True
        return False
