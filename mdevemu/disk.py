"""Waiting for a disk, which a loop must not do: a thread does it, and nothing else.

It computes nothing, so that it takes no turns of the interpreter from the loop; what it is
given is done in order.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[], None]


class Disk:
    """Jobs that may wait for a disk, and what is to be done in the loop after each.

    The thread is started by the first job.
    """

    def __init__(self) -> None:
        self._ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._jobs: SimpleQueue[tuple[Job, Job] | None] = SimpleQueue()
        self._done: deque[Job] = deque()
        self._thread: threading.Thread | None = None

    def fileno(self) -> int:
        """A descriptor that can be read when ``settle`` has something to do."""
        return self._ended

    def do(self, job: Job, then: Job = lambda: None) -> None:
        """Have a job done, which raises nothing; ``settle`` calls ``then`` afterwards."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="disk", daemon=True)
            self._thread.start()
        self._jobs.put((job, then))

    def settle(self) -> None:
        """Do in the loop what comes after jobs that are over."""
        os.eventfd_read(self._ended)
        while self._done:
            self._done.popleft()()

    def close(self) -> None:
        """No more jobs come; those there are end by themselves, and nobody hears of it."""
        if self._thread is None:
            os.close(self._ended)
        else:
            self._jobs.put(None)

    def _work(self) -> None:
        while task := self._jobs.get():
            job, then = task
            job()
            self._done.append(then)
            os.eventfd_write(self._ended, 1)
        os.close(self._ended)  # nobody but this thread used it any more
