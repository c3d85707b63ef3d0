"""A process that runs short of descriptors."""

import os
import resource
from contextlib import contextmanager


@contextmanager
def few_descriptors(left):
    """Only ``left`` more descriptors can be opened, and none of them may stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The kernel gives out the lowest numbers that are free.
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(left + 1)]
    for number in free:
        os.close(number)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor was left open"
