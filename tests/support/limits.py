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


@contextmanager
def no_descriptors():
    """Not one more descriptor can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    plugs = [os.dup(0) for _ in range(highest + 2)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(plugs) + 1, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in plugs:
            os.close(fd)
