"""A follower of an accelerator that has no sockets."""

import pytest

from mdevemu.following import Following
from tests.support.victims import ALL, Native


class Follower:
    """What one control client is told.

    Attributes:
        wakes: how often there was something to take again.
    """

    def __init__(self, parent, **filters):
        self.following = Following(parent)
        self.commands = {command.name: command for command in self.following.commands()}
        self.parent, self.feed, self.wakes = parent, None, 0
        self.follow(**filters)

    def follow(self, **filters):
        self.leave()
        fed = self.commands["trace-follow"].run(**filters, wake=self._wake)
        self.feed = fed.feed
        return fed.reply

    def leave(self):
        """Hang up."""
        if self.feed:
            self.feed.close()
            self.feed = None

    def _wake(self):
        self.wakes += 1

    def events(self, kind=""):
        """Everything that was told since the last look, of kinds that begin so."""
        found = []
        while self.feed.waiting:
            name, data = self.feed.take()
            assert name == "TRACE"
            found += data["events"]
        return [each for each in found if each["kind"].startswith(kind)]

    def kept(self, **given):
        return self.commands["query-trace"].run(**given)


@pytest.fixture(params=ALL, ids=lambda kind: kind.kind)
def victim(request):
    """A driver of each personality."""
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def native():
    made = Native()
    yield made
    made.close()


@pytest.fixture
def follow():
    """Makes followers."""
    made = []

    def one(device, **filters):
        made.append(Follower(device.bench.parent, **filters))
        return made[-1]

    yield one
    for each in made:
        each.leave()
    for each in made:
        assert not each.parent.trace.wanted
        assert all(not mdev.function.observers for mdev in each.parent.mdevs.values())
